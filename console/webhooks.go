package console

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/redact"
)

// webhookView is a webhook without its secrets.
type webhookView struct {
	Name        string       `json:"name"`
	URL         string       `json:"url"`
	Events      []event.Type `json:"events"`
	Filter      string       `json:"filter,omitempty"`
	Retry       []string     `json:"retry"`
	Timeout     string       `json:"timeout"`
	Concurrency int          `json:"concurrency"`
	Rate        string       `json:"rate,omitempty"`
	Ordered     bool         `json:"ordered"`
	// HeaderNames are those of the headers that are sent with each request; their
	// values may be secrets.
	HeaderNames  []string   `json:"header_names,omitempty"`
	HasSecret    bool       `json:"has_secret"`
	TLS          *tlsView   `json:"tls,omitempty"`
	Source       string     `json:"source"`
	State        string     `json:"state"`
	Parked       bool       `json:"parked,omitempty"`
	FailingSince time.Time  `json:"failing_since,omitzero"`
	Reason       string     `json:"reason,omitempty"`
	LastSuccess  time.Time  `json:"last_success,omitzero"`
	LastAttempt  time.Time  `json:"last_attempt,omitzero"`
	HeldUntil    time.Time  `json:"held_until,omitzero"`
	Counts       countsView `json:"counts"`
	// FilterErrors is absent while the filter has judged every event.
	FilterErrors *filterErrorsView `json:"filter_errors,omitempty"`
}

// filterErrorsView are the events that a filter could not judge.
type filterErrorsView struct {
	Count int64     `json:"count"`
	Last  string    `json:"last"`
	At    time.Time `json:"at"`
}

func viewWebhook(w relay.WebhookStatus) webhookView {
	v := webhookView{
		Name:         w.Name,
		URL:          shownURL(w.URL),
		Events:       w.Events,
		Filter:       w.Filter,
		Retry:        make([]string, len(w.Retry)),
		Timeout:      shownDuration(w.Timeout),
		Concurrency:  w.Concurrency,
		Rate:         w.Rate.String(),
		Ordered:      w.Ordered,
		HeaderNames:  w.Headers,
		HasSecret:    w.HasSecret,
		TLS:          viewTLS(w.TLS),
		Source:       w.Source,
		State:        w.State,
		Parked:       w.Parked,
		FailingSince: moment(w.FailingSince),
		Reason:       w.Reason,
		LastSuccess:  moment(w.LastSuccess),
		LastAttempt:  moment(w.LastAttempt),
		HeldUntil:    moment(w.HeldUntil),
		Counts:       countsOf(w),
	}
	if f := w.FilterErrors; f.Count > 0 {
		v.FilterErrors = &filterErrorsView{Count: f.Count, Last: f.Last, At: moment(f.At)}
	}
	if len(v.Events) == 0 {
		v.Events = event.Types()
	}
	for i, rung := range w.Retry {
		v.Retry[i] = shownDuration(rung)
	}
	return v
}

// tlsView names the certificates of a webhook with TLS settings of its own.
type tlsView struct {
	ClientCertificate *certificateView  `json:"client_certificate,omitempty"`
	RootCA            []certificateView `json:"root_ca,omitempty"`
}

// certificateView is a certificate by its subject.
type certificateView struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

func viewTLS(s relay.TLSStatus) *tlsView {
	var v tlsView
	if c := s.Certificate; !c.Expires.IsZero() {
		v.ClientCertificate = &certificateView{c.Subject, moment(c.Expires)}
	}
	for _, c := range s.CA {
		v.RootCA = append(v.RootCA, certificateView{c.Subject, moment(c.Expires)})
	}
	if v.ClientCertificate == nil && v.RootCA == nil {
		return nil
	}
	return &v
}

// shownDuration is a duration as people write it: 5m, not 5m0s.
func shownDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// shownURL is a webhook's URL as the console and the API show it.
func shownURL(raw string) string { return redact.Marked(raw) }

// webhooks lists by name. A cursor is the last name of the page before, so that
// webhooks may come and go between two pages.
func (a *api) webhooks(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	limit := p.limitOr(maxWebhooks, maxWebhooks)
	after, err := base64.RawURLEncoding.DecodeString(p.text("cursor"))
	if err != nil {
		p.bad("cursor", "it is none that this API gave; begin again without it")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	page := list[webhookView]{Items: []webhookView{}}
	for _, w := range a.relay.Webhooks() {
		if w.Name <= string(after) {
			continue
		}
		if len(page.Items) == limit {
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(page.Items[limit-1].Name))
			break
		}
		page.Items = append(page.Items, viewWebhook(w))
	}
	return page, nil
}

func (a *api) webhook(r *http.Request) (any, error) { return a.named(r.PathValue("name")) }

// names are the webhooks' names by id. A webhook that has been deleted is shown
// by its number.
type names map[queue.WebhookID]string

func (a *api) names() names {
	n := make(names)
	for _, w := range a.relay.Webhooks() {
		n[w.ID] = w.Name
	}
	return n
}

func (n names) of(id queue.WebhookID) string {
	if name, ok := n[id]; ok {
		return name
	}
	return fmt.Sprintf("deleted-%d", id)
}
