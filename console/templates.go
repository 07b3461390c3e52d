package console

import (
	"embed"
	"html/template"
	"strings"
)

//go:embed templates
var templateFiles embed.FS

var noticeTemplate = parse("notice.html")

// parse reads a page and the frame around it.
func parse(name string) *template.Template {
	t := template.New(name).Funcs(template.FuncMap{"asset": assetURL})
	return template.Must(t.ParseFS(templateFiles, "templates/"+name))
}

// rootOf is the way from a page to the console's root: the browser knows where
// that is mounted, we do not have to.
func rootOf(inside string) string {
	if depth := strings.Count(inside, "/") - 1; depth > 0 {
		return strings.Repeat("../", depth)
	}
	return "./"
}
