package receiver

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
)

//go:embed page.html
var pageHTML string

// page shows a []receivedRequest. html/template escapes everything that a sender has
// written into a body or a header.
var page = template.Must(template.New("receiver").Funcs(template.FuncMap{"pretty": pretty}).Parse(pageHTML))

// pretty returns JSON with indentation, and any other text unchanged.
func pretty(body string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(body), "", "  ") != nil {
		return body
	}
	return b.String()
}
