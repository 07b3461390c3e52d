package api

import (
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/userhero/relay/event"
)

// webhooks lists webhooks by name. A cursor is the last name of the page before, so
// webhooks may be added and deleted between two pages.
func (s *server) webhooks(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	limit := p.limitOr(maxWebhooks, maxWebhooks)
	cursor, err := s.relay.Unbind(p.text("cursor"))
	var after []byte
	if err == nil {
		after, err = base64.RawURLEncoding.DecodeString(cursor)
	}
	if err != nil {
		p.bad("cursor", "this API did not return it; start again without it")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	page := Page[Webhook]{Items: []Webhook{}}
	for _, w := range s.relay.Webhooks() {
		if w.Name <= string(after) {
			continue
		}
		if len(page.Items) == limit {
			page.Next = s.relay.Bind(base64.RawURLEncoding.EncodeToString([]byte(page.Items[limit-1].Name)))
			break
		}
		page.Items = append(page.Items, viewWebhook(w))
	}
	return page, nil
}

func (s *server) webhook(r *http.Request) (any, error) { return s.named(r.PathValue("name")) }

// named returns one webhook as it is now.
func (s *server) named(name string) (Webhook, error) {
	w, ok := s.relay.Webhook(name)
	if !ok {
		return Webhook{}, event.NewProblem(http.StatusNotFound, fmt.Sprintf("There is no webhook named %q.", name))
	}
	return viewWebhook(w), nil
}
