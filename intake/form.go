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
	"golang.org/x/text/language"

	"github.com/userhero/relay/event"
)

// maxFields bounds the fields of a form. A field takes two bytes of the body and much more
// memory.
const maxFields = 1000

// parse reads a submission. identity is what a repeat must equal: the bytes, or for forms
// their values, because browsers choose a new boundary each time.
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

// values reads the fields of a form from its body, as browsers do. Bytes that are not UTF-8
// become U+FFFD.
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
		text, err := io.ReadAll(part) // the body is in memory already
		if err != nil {
			return nil, malformedForm(err)
		}
		values.Add(name, textOf(string(text)))
	}
}

// unescapeName undoes the escapes that browsers write in a field's name in multipart/form-data
// (https://html.spec.whatwg.org/#multipart-form-data).
var unescapeName = strings.NewReplacer("%22", `"`, "%0D", "\r", "%0A", "\n")

// urlencoded parses application/x-www-form-urlencoded
// (https://url.spec.whatwg.org/#urlencoded-parsing). No body is malformed: a % without two
// digits after it is text, and so is a semicolon, which url.ParseQuery refuses.
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

// percentDecoded decodes a name or value of an urlencoded form.
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
// (https://encoding.spec.whatwg.org/#utf-8-decoder): each maximal invalid sequence becomes
// one U+FFFD. (strings.ToValidUTF8 makes one of a whole run.)
func textOf(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	text, err := unicode.UTF8.NewDecoder().String(s)
	if err != nil {
		return strings.ToValidUTF8(s, "\ufffd") // the decoder returns no errors
	}
	return text
}

func malformedForm(err error) *event.Problem {
	return event.NewProblem(http.StatusBadRequest, "The body is not a valid form: "+err.Error()+".")
}

func tooManyFields() *event.Problem {
	return event.NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf("A form may have at most %d fields.", maxFields))
}

// thanks are what a browser without script shows after it has sent a form, by
// language. The first is for visitors who read none of them.
var thanks = []struct {
	language language.Tag
	sentence string
}{
	{language.English, "Thank you, your feedback has arrived."},
	{language.German, "Danke, Ihr Feedback ist angekommen."},
	{language.French, "Merci, votre avis est bien arrivé."},
	{language.Spanish, "Gracias, hemos recibido sus comentarios."},
	{language.Japanese, "ありがとうございます。ご意見を受け取りました。"},
}

var thanksLanguages = func() language.Matcher {
	var tags []language.Tag
	for _, t := range thanks {
		tags = append(tags, t.language)
	}
	return language.NewMatcher(tags)
}()

const thanksPage = `<!doctype html>
<html lang="%s"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>%[2]s</title><main><h1>%[2]s</h1></main></html>
`

// writeThanks leads the browser back to the page that holds the form. If the
// Referer field does not name that page, the answer is a page of its own, in the
// visitor's language.
func writeThanks(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if page, err := url.Parse(r.Referer()); err == nil && page.Host != "" && (page.Scheme == "https" || page.Scheme == "http") {
		h.Set("Location", page.String())
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	_, i := language.MatchStrings(thanksLanguages, hint(r.Header, "Accept-Language"))
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", thanks[i].language.String())
	w.WriteHeader(http.StatusAccepted)
	_, _ = fmt.Fprintf(w, thanksPage, thanks[i].language, thanks[i].sentence)
}
