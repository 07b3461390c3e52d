package intake

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/userhero/relay/event"
)

// format is the format of a body. Its zero value is none.
type format uint8

const (
	formatJSON      format = iota + 1
	formatForm             // application/x-www-form-urlencoded
	formatMultipart        // multipart/form-data without files
	formatUpload           // multipart/form-data whose files are not ours to read
)

// formatOf reads Content-Type and Content-Encoding. text/plain is JSON: that is what
// navigator.sendBeacon sends without a preflight.
func formatOf(h http.Header) (format, error) {
	if coding := h.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return 0, event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("Send the body as it is, without Content-Encoding %q.", coding))
	}
	field := h.Get("Content-Type")
	switch field { // nearly all requests, without parsing
	case "application/json", "text/plain;charset=UTF-8", "application/json; charset=utf-8":
		return formatJSON, nil
	}
	media, ok := parseMediaType(field)
	if !ok {
		return 0, unsupported(field)
	}
	if charset, ok := media.parameters["charset"]; ok && !isUTF8(charset) {
		return 0, event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("Send UTF-8 instead of %q.", charset))
	}
	switch media.essence {
	case "application/json", "text/plain", "application/merge-patch+json":
		return formatJSON, nil
	case "application/x-www-form-urlencoded":
		return formatForm, nil
	case "multipart/form-data":
		return formatMultipart, nil
	}
	return 0, unsupported(field)
}

// isUTF8 reports whether a charset's name is one of UTF-8
// (https://encoding.spec.whatwg.org/#names-and-labels), or of ASCII, which is
// part of it.
func isUTF8(charset string) bool {
	switch strings.ToLower(strings.Trim(charset, httpSpace+"\f")) {
	case "utf-8", "utf8", "unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "x-unicode20utf8", "us-ascii", "ascii":
		return true
	}
	return false
}

func unsupported(field string) *event.Problem {
	detail := fmt.Sprintf("Send Content-Type: application/json, text/plain with JSON in it, or an HTML form, not %q.", field)
	if field == "" {
		detail = "Say what the body is: send Content-Type: application/json with JSON in UTF-8."
	}
	return event.NewProblem(http.StatusUnsupportedMediaType, detail)
}

// isForm reports whether a page without script may have sent it.
func (f format) isForm() bool { return f == formatForm || f == formatMultipart }
