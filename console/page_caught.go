package console

import (
	"encoding/json"
	"net/http"
	"time"
)

// caughtRow is one submission that a honeypot caught.
type caughtRow struct {
	At                time.Time
	Message, Document string
}

// listCaught shows what honeypots caught: a browser may have filled the field in
// for a person.
func (p pages) listCaught(r *http.Request) (any, error) {
	all, err := p.queue.Caught(r.Context())
	if err != nil {
		return nil, err
	}
	rows := make([]caughtRow, 0, len(all))
	for _, c := range all {
		var document struct{ Data struct{ Message string } }
		_ = json.Unmarshal(c.Body, &document) // the document is shown as well
		rows = append(rows, caughtRow{At: c.At, Message: document.Data.Message, Document: string(c.Body)})
	}
	return shown{name: "caught.html", screen: screen{Title: "Caught by a honeypot", Area: "events", Page: rows}}, nil
}
