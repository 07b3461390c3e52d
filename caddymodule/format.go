package caddymodule

import (
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/userhero/relay/event"
)

// format is how a body is written. Its zero value is none.
type format uint8

const (
	formatJSON      format = iota + 1
	formatForm             // application/x-www-form-urlencoded
	formatMultipart        // multipart/form-data
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
	kind, params, err := mime.ParseMediaType(field)
	if err != nil {
		return 0, unsupported(field)
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return 0, event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("Send UTF-8 instead of %q.", charset))
	}
	switch kind {
	case "application/json", "text/plain", "application/merge-patch+json":
		return formatJSON, nil
	case "application/x-www-form-urlencoded":
		return formatForm, nil
	case "multipart/form-data":
		return formatMultipart, nil
	}
	return 0, unsupported(field)
}

func unsupported(field string) *event.Problem {
	return event.NewProblem(http.StatusUnsupportedMediaType, fmt.Sprintf("Send application/json, text/plain with JSON in it, or an HTML form, not %q.", field))
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
	feedback, err = event.ParseForm(values)
	return feedback, []byte(values.Encode()), err
}
