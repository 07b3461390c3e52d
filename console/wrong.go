package console

import (
	"strings"

	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// wrongField is what is wrong with a field of a form.
type wrongField struct {
	Name, Text string
	First      bool // the first one, which gets the focus
}

// wrongFields are the wrong fields of a form by name.
type wrongFields map[string]wrongField

// formFields are the fields of forms in their order, and the names of their settings.
var formFields = []struct{ field, setting string }{
	{"url", "url"}, {"name", "name"}, {"secret", "secret"}, {"projects", "projects"}, {"events", "events"}, {"filter", "filter"}, {"body", "body"}, {"notify", "notify"}, {"retry", "retry"},
	{"timeout", "timeout"}, {"concurrency", "concurrency"}, {"rate", "rate"}, {"headers", "header"}, {"tls", "tls"},
}

// wrongIn returns the wrong fields of a form that an error names; nil if the error
// names none.
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

// read adds the fields that an error names, or the errors that it joins or wraps.
func (w wrongFields) read(err error) {
	switch e := err.(type) { //nolint:errorlint // it follows the tree itself
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
			switch f.field {
			case "filter":
				text = words.Expression(text, "the end of the filter")
			case "body":
				text = words.Expression(text, "the end of the expression")
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

// flash returns the message above the form.
func (w wrongFields) flash(happened string) *words.Flash {
	n := words.Counted(int64(len(w)), "field is", "fields are")
	return words.Bad("%s %s wrong; see the messages there.", happened, n)
}
