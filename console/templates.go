package console

import (
	"crypto/rand"
	"embed"
	"html/template"
	"io/fs"
	"path"
	"strings"
	"time"
)

//go:embed templates
var templateFiles embed.FS

// templates are the pages by file name, each with the frame and the parts that pages
// share. html/template escapes all values, so whatever people wrote is text.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	functions := template.FuncMap{
		"icon":      iconFor,
		"asset":     assetURL,
		"when":      func(t time.Time) when { return whenOf(t, time.Now()) },
		"number":    number,
		"stars":     stars,
		"live":      func(happenings []string) string { return strings.Join(happenings, " ") },
		"once":      rand.Text,
		"types":     func(created, updated bool, wrong wrongFields) typeBoxes { return typeBoxes{created, updated, wrong} },
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
	Created, Updated bool
	Wrong            wrongFields
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
