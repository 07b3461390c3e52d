package console

import (
	"crypto/rand"
	"embed"
	"html/template"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
)

//go:embed templates
var templateFiles embed.FS

// templates returns the pages by file name, each with the frame and the parts that pages
// share. html/template escapes all values, so visitors' texts stay text. They are parsed at
// the first use.
var templates = sync.OnceValue(parseTemplates)

func parseTemplates() map[string]*template.Template {
	functions := template.FuncMap{
		"icon":   iconFor,
		"asset":  assetURL,
		"when":   func(t time.Time) words.When { return words.WhenOf(t, time.Now()) },
		"number": func(n any) string { return words.Number(reflect.ValueOf(n).Int()) },
		"stars":  words.Stars,
		"live":   func(happenings []string) string { return strings.Join(happenings, " ") },
		"once":   rand.Text,
		"types":  func(ticked []event.Type, wrong wrongFields) typeBoxes { return typeBoxes{ticked, wrong} },
		"sent": func(s bodyChoice, previews []preview, wrong wrongFields) sentField {
			return sentField{s, previews, wrong}
		},
		"suggested": func(name, value string, all []string) suggested { return suggested{name, value, all} },
		"tab":       func(root string, of deliveryRow, open string) tab { return tab{root, of, open} },
		"under":     func(root string, v any) under { return under{root, v} },
	}
	shared := template.Must(template.New("").Funcs(functions).ParseFS(templateFiles, "templates/frame.html", "templates/parts.html"))
	pages, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	all := make(map[string]*template.Template, len(pages))
	for _, file := range pages {
		t := template.Must(shared.Clone())
		all[path.Base(file)] = template.Must(t.ParseFS(templateFiles, file))
	}
	return all
}

// under is the data of a shared part with links: the address of the root and what it
// shows.
type under struct {
	Root string
	Of   any
}

// typeBoxes are the boxes to tick for the types of events.
type typeBoxes struct {
	Ticked []event.Type
	Wrong  wrongFields
}

// Boxes are the types of events with what they say.
func (t typeBoxes) Boxes() (boxes []typeBox) {
	for _, b := range []typeBox{
		{Type: event.Created, Means: "somebody sent feedback"},
		{Type: event.Updated, Means: "the status or another member changed"},
		{Type: event.WebhookFailing, Means: "another webhook ran out of retries"},
		{Type: event.WebhookRecovered, Means: "it works again"},
		{Type: event.WebhookDisabled, Means: "its receiver answered 410 Gone"},
	} {
		b.Ticked = slices.Contains(t.Ticked, b.Type)
		boxes = append(boxes, b)
	}
	return boxes
}

type typeBox struct {
	Type   event.Type
	Means  string
	Ticked bool
}

// sentField is the choice of what is sent, with what it makes.
type sentField struct {
	bodyChoice

	Previews []preview
	Wrong    wrongFields
}

// suggested is a field with suggestions.
type suggested struct {
	Name, Value string
	All         []string
}

// tab is a link that opens one delivery of an event.
type tab struct {
	Root string
	Of   deliveryRow
	Open string // the delivery that is open
}

// rootOf returns the relative address of the console's root from a page. Only the
// browser knows where the console is mounted.
func rootOf(inside string) string {
	if depth := strings.Count(inside, "/") - 1; depth > 0 {
		return strings.Repeat("../", depth)
	}
	return "./"
}
