package intake

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// codingOf returns the content coding of a message, in lower case. It is empty if there is
// none.
func codingOf(h http.Header) string {
	switch coding := strings.ToLower(strings.TrimSpace(strings.Join(h["Content-Encoding"], ","))); coding {
	case "identity":
		return ""
	case "x-gzip": // RFC 9110 §8.4.1.3
		return "gzip"
	default:
		return coding
	}
}

// acceptsGzip reports whether a client takes an answer in gzip (RFC 9110 §12.5.3).
func acceptsGzip(h http.Header) bool {
	for item := range strings.SplitSeq(strings.Join(h["Accept-Encoding"], ","), ",") {
		coding, weight, _ := strings.Cut(item, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		if _, text, ok := strings.Cut(weight, "="); ok {
			q, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			return err != nil || q > 0
		}
		return true
	}
	return false
}

// inflate reads at most max bytes of a gzip text. With an error it returns the text before
// the error.
func inflate(coded []byte, max int64) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(coded))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, max))
}
