package intake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/unicode"

	"github.com/userhero/relay/event"
)

// maxFields bounds the fields of a form: each costs more memory than the two
// bytes it takes in the body.
const maxFields = 1000

// values reads the fields of a form from its body, as browsers write and read
// them. What is no UTF-8 becomes U+FFFD.
func (f format) values(body []byte, h http.Header) (url.Values, error) {
	if f == formatForm {
		return urlencoded(string(body))
	}
	media, _ := parseMediaType(h.Get("Content-Type"))
	boundary := media.parameters["boundary"]
	if boundary == "" {
		return nil, malformedForm(errors.New("multipart/form-data needs a boundary"))
	}
	values := make(url.Values)
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a body that broke off
			return values, nil
		}
		if err != nil {
			return nil, malformedForm(err)
		}
		if n >= maxFields {
			return nil, tooManyFields()
		}
		name := textOf(unescapeName.Replace(part.FormName()))
		if part.FileName() != "" {
			if f == formatUpload {
				continue
			}
			return nil, event.NewProblem(http.StatusUnprocessableEntity, "Upload the file elsewhere and send its address as screenshotUrl.",
				event.FieldError{Pointer: "/" + strings.ReplaceAll(name, ".", "/"), Detail: "is a file"})
		}
		text, err := io.ReadAll(part) // of a body that is in memory already
		if err != nil {
			return nil, malformedForm(err)
		}
		values.Add(name, textOf(string(text)))
	}
}

// unescapeName undoes what browsers do to a field's name in multipart/form-data
// (https://html.spec.whatwg.org/#multipart-form-data).
var unescapeName = strings.NewReplacer("%22", `"`, "%0D", "\r", "%0A", "\n")

// urlencoded parses application/x-www-form-urlencoded
// (https://url.spec.whatwg.org/#urlencoded-parsing). Nothing is malformed: a % that
// no two digits follow is text, and so is a semicolon, which url.ParseQuery refuses.
func urlencoded(body string) (url.Values, error) {
	values := make(url.Values)
	n := 0
	for field := range strings.SplitSeq(body, "&") {
		if field == "" {
			continue
		}
		if n++; n > maxFields {
			return nil, tooManyFields()
		}
		name, value, _ := strings.Cut(field, "=")
		values.Add(percentDecoded(name), percentDecoded(value))
	}
	return values, nil
}

// percentDecoded is a name or value of an urlencoded form as text.
func percentDecoded(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%' && i+2 < len(s):
			if decoded, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				c = byte(decoded)
				i += 2
			}
		}
		b = append(b, c)
	}
	return textOf(string(b))
}

// textOf decodes UTF-8 as browsers do
// (https://encoding.spec.whatwg.org/#utf-8-decoder): each longest sequence that is
// none becomes one U+FFFD. (strings.ToValidUTF8 makes one of a whole run.)
func textOf(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	text, err := unicode.UTF8.NewDecoder().String(s)
	if err != nil {
		return strings.ToValidUTF8(s, "\ufffd") // the decoder knows no errors
	}
	return text
}

func malformedForm(err error) *event.Problem {
	return event.NewProblem(http.StatusBadRequest, "The body is no valid form: "+err.Error()+".")
}

func tooManyFields() *event.Problem {
	return event.NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf("A form may have at most %d fields.", maxFields))
}

// wantsHTML tells whether a browser shows the answer to a person: it names
// text/html, which scripts do not.
func WantsHTML(h http.Header) bool {
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
	h.Set("Cache-Control", "no-store")
	if page, err := url.Parse(r.Referer()); err == nil && page.Host != "" && (page.Scheme == "https" || page.Scheme == "http") {
		h.Set("Location", page.String())
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, "<!doctype html><meta name=viewport content=\"width=device-width\"><title>Thank you</title><p>Thank you, your feedback has arrived.</p>\n")
}
