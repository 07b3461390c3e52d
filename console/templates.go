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

// templates are the pages by file name, each with the frame and the parts that
// pages share. html/template escapes what is put in by where it stands: whatever
// people have written is text.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	functions := template.FuncMap{
		"asset":  assetURL,
		"when":   func(t time.Time) when { return whenOf(t, time.Now()) },
		"number": number,
		"live":   func(happenings []string) string { return strings.Join(happenings, " ") },
		"once":   rand.Text,
		"types":  func(created, updated bool, wrong wrongFields) typeBoxes { return typeBoxes{created, updated, wrong} },
		"tab":    func(root string, of deliveryRow, open string) tab { return tab{root, of, open} },
		"under":  func(root string, v any) under { return under{root, v} },
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

// under is what a shared part gets that holds links: the way to the root, and
// what it shows.
type under struct {
	Root string
	Of   any
}

// typeBoxes are the boxes to tick for the types of events.
type typeBoxes struct {
	Created, Updated bool
	Wrong            wrongFields
}

// tab is one delivery of an event to open.
type tab struct {
	Root string
	Of   deliveryRow
	Open string // the delivery that is open
}

// rootOf is the way from a page to the console's root: the browser knows where
// that is mounted, we do not have to.
func rootOf(inside string) string {
	if depth := strings.Count(inside, "/") - 1; depth > 0 {
		return strings.Repeat("../", depth)
	}
	return "./"
}
