package intake

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/userhero/relay/event"
)

// format is how a body is written. Its zero value is none.
type format uint8

const (
	formatJSON      format = iota + 1
	formatForm             // application/x-www-form-urlencoded
	formatMultipart        // multipart/form-data without files
	formatUpload           // multipart/form-data whose files are not ours to read
)

// formatOf reads Content-Type and Content-Encoding. text/plain is JSON: it is
// what navigator.sendBeacon sends without asking the server first.
func formatOf(h http.Header) (format, error) {
	if coding := h.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return 0, event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("Send the body as it is, without Content-Encoding %q.", coding))
	}
	field := h.Get("Content-Type")
	switch field { // what nearly all send, without parsing
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

// isForm tells whether a page may have sent it without script.
func (f format) isForm() bool { return f == formatForm || f == formatMultipart }

// parse reads a submission. identity is what a repeat must equal: the bytes,
// or for forms their values, because each sending draws a new boundary.
func (f format) parse(body []byte, h http.Header) (feedback *event.Feedback, identity []byte, err error) {
	if f == formatJSON {
		feedback, err = event.Parse(body)
		return feedback, body, err
	}
	values, err := f.values(body, h)
	if err != nil {
		return nil, nil, err
	}
	if f == formatForm && !values.Has("message") && bytes.HasPrefix(bytes.TrimLeft(body, httpSpace), []byte("{")) {
		return nil, nil, event.NewProblem(http.StatusUnsupportedMediaType, "The body is JSON, but its Content-Type says that it is a form: send Content-Type: application/json. (curl and others say so unless they are given a type.)")
	}
	feedback, err = event.ParseForm(values)
	return feedback, []byte(values.Encode()), err
}
