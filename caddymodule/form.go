package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/userhero/relay/event"
)

// maxFields bounds the fields of a form: each costs more memory than the two
// bytes it takes in the body.
const maxFields = 1000

// values reads the fields of a form from its body.
func (f format) values(body []byte, h http.Header) (url.Values, error) {
	if f == formatForm {
		if bytes.Count(body, []byte{'&'}) >= maxFields {
			return nil, tooManyFields()
		}
		values, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, malformedForm(err)
		}
		return values, checkText(values)
	}
	_, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return nil, malformedForm(errors.New("multipart/form-data needs a boundary"))
	}
	values := make(url.Values)
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a body that broke off
			return values, checkText(values)
		}
		if err != nil {
			return nil, malformedForm(err)
		}
		if n >= maxFields {
			return nil, tooManyFields()
		}
		name := part.FormName()
		if part.FileName() != "" {
			return nil, event.NewProblem(http.StatusUnprocessableEntity, "Upload the file elsewhere and send its address as screenshotUrl.",
				event.FieldError{Pointer: "/" + strings.ReplaceAll(name, ".", "/"), Detail: "is a file"})
		}
		text, err := io.ReadAll(part) // of a body that is in memory already
		if err != nil {
			return nil, malformedForm(err)
		}
		values.Add(name, string(text))
	}
}

// checkText refuses what is no UTF-8, as for JSON.
func checkText(values url.Values) error {
	for name, vs := range values {
		for _, v := range append(vs, name) {
			if !utf8.ValidString(v) {
				return malformedForm(errors.New("the fields must be UTF-8"))
			}
		}
	}
	return nil
}

func malformedForm(err error) *event.Problem {
	return event.NewProblem(http.StatusBadRequest, "The body is no valid form: "+err.Error()+".")
}

func tooManyFields() *event.Problem {
	return event.NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf("A form may have at most %d fields.", maxFields))
}

// wantsHTML tells whether a browser shows the answer to a person: it names
// text/html, which scripts do not.
func wantsHTML(h http.Header) bool {
	for _, accept := range h.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			kind, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(kind), "text/html") {
				return true
			}
		}
	}
	return false
}

// writeThanks leads the browser back to the page that holds the form; where
// the page does not say where it is, the answer is a page of its own.
func writeThanks(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Cache-Control"] = noStore
	if page, err := url.Parse(r.Referer()); err == nil && page.Host != "" && (page.Scheme == "https" || page.Scheme == "http") {
		h.Set("Location", page.String())
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, "<!doctype html><meta name=viewport content=\"width=device-width\"><title>Thank you</title><p>Thank you, your feedback has arrived.</p>\n")
}
