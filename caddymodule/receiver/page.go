package receiver

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
)

//go:embed page.html
var pageHTML string

// page shows a []receivedRequest, newest first. html/template escapes
// whatever a sender has put into a body or a header.
var page = template.Must(template.New("receiver").Funcs(template.FuncMap{"pretty": pretty}).Parse(pageHTML))

// pretty indents JSON for reading; anything else stays as it is.
func pretty(body string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(body), "", "  ") != nil {
		return body
	}
	return b.String()
}
