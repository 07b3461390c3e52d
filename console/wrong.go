package console

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// wrongField is what is wrong with a field of a form.
type wrongField struct {
	Name, Text string
	First      bool // the browser goes there
}

// wrongFields are the wrong fields of a form by name.
type wrongFields map[string]wrongField

// formFields are the fields of forms, in their order, and the settings they hold
// if those have another name.
var formFields = []struct{ field, setting string }{
	{"url", "url"}, {"name", "name"}, {"secret", "secret"}, {"events", "events"}, {"filter", "filter"}, {"retry", "retry"},
	{"timeout", "timeout"}, {"concurrency", "concurrency"}, {"rate", "rate"}, {"headers", "header"}, {"tls", "tls"},
}

// wrongIn reads from an error which fields of a form are wrong; nil if it is an
// error of another kind.
func wrongIn(err error) wrongFields {
	wrong := make(wrongFields)
	wrong.read(err)
	for _, f := range formFields {
		if w, ok := wrong[f.field]; ok {
			w.First = true
			wrong[f.field] = w
			return wrong
		}
	}
	return nil
}

// read takes in an error and those that it joins or wraps.
func (w wrongFields) read(err error) {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case *deliver.SettingError:
		w.add(e.Setting, e.Err.Error())
	case *event.Problem:
		for _, field := range e.Errors {
			w.add(strings.TrimPrefix(field.Pointer, "/"), field.Detail)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			w.read(inner)
		}
	case interface{ Unwrap() error }:
		w.read(e.Unwrap())
	default:
		if err == relay.ErrExists { //nolint:errorlint // the same
			w.add("name", err.Error())
		}
	}
}

func (w wrongFields) add(setting, text string) {
	for _, f := range formFields {
		if f.setting == setting || f.field == setting {
			if f.field == "filter" {
				text = filterText(text)
			}
			if before, ok := w[f.field]; ok {
				if before.Text == text {
					return
				}
				text = before.Text + " " + text
			}
			w[f.field] = wrongField{Name: f.field, Text: text}
		}
	}
}

// flash says above the form how many fields are wrong.
func (w wrongFields) flash(happened string) *flash {
	n := counted(int64(len(w)), "field is", "fields are")
	return bad("%s %s wrong; see what is said there.", happened, n)
}

var (
	// filterPlace begins what an error of a filter says of one place: line:column.
	filterPlace = regexp.MustCompile(`(?:^|; )(\d+):(\d+): `)
	// parserNoise is what CEL's parser adds that helps nobody.
	parserNoise = regexp.MustCompile(` (expecting \{.*|\(in container '[^']*'\))\s*$`)
)

// filterText is an error of a filter as people read it: where it is and what is
// wrong there, without what only the parser knows.
func filterText(text string) string {
	places := filterPlace.FindAllStringSubmatchIndex(text, -1)
	if len(places) == 0 || places[0][0] != 0 {
		return text
	}
	parts := make([]string, len(places))
	for i, p := range places {
		end := len(text)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		where := "At character " + text[p[4]:p[5]]
		if line := text[p[2]:p[3]]; line != "1" {
			where += " of line " + line
		}
		what, _ := strings.CutPrefix(text[p[1]:end], "Syntax error: ")
		what = strings.ReplaceAll(parserNoise.ReplaceAllString(what, ""), "'<EOF>'", "the end of the filter")
		parts[i] = fmt.Sprintf("%s: %s.", where, strings.TrimSuffix(what, "."))
	}
	return strings.Join(parts, " ")
}
