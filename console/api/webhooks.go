package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/redact"
)

// Webhook is a webhook without its secrets.
type Webhook struct {
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
	HeaderNames  []string    `json:"header_names,omitempty"`
	HasSecret    bool        `json:"has_secret"`
	TLS          *WebhookTLS `json:"tls,omitempty"`
	Source       string      `json:"source"`
	State        string      `json:"state"`
	Parked       bool        `json:"parked,omitempty"`
	FailingSince time.Time   `json:"failing_since,omitzero"`
	Reason       string      `json:"reason,omitempty"`
	LastSuccess  time.Time   `json:"last_success,omitzero"`
	LastAttempt  time.Time   `json:"last_attempt,omitzero"`
	HeldUntil    time.Time   `json:"held_until,omitzero"`
	Counts       Counts      `json:"counts"`
	// FilterErrors is absent while the filter has judged every event.
	FilterErrors *FilterErrors `json:"filter_errors,omitempty"`
}

// FilterErrors are the events that a filter could not judge.
type FilterErrors struct {
	Count int64     `json:"count"`
	Last  string    `json:"last"`
	At    time.Time `json:"at"`
}

func viewWebhook(w relay.WebhookStatus) Webhook {
	v := Webhook{
		Name:         w.Name,
		URL:          redact.Marked(w.URL),
		Events:       w.Events,
		Filter:       w.Filter,
		Retry:        make([]string, len(w.Retry)),
		Timeout:      FormatDuration(w.Timeout),
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
		v.FilterErrors = &FilterErrors{Count: f.Count, Last: f.Last, At: moment(f.At)}
	}
	if len(v.Events) == 0 {
		v.Events = event.Types()
	}
	for i, rung := range w.Retry {
		v.Retry[i] = FormatDuration(rung)
	}
	return v
}

// WebhookTLS names the certificates of a webhook with TLS settings of its own.
type WebhookTLS struct {
	ClientCertificate *Certificate  `json:"client_certificate,omitempty"`
	RootCA            []Certificate `json:"root_ca,omitempty"`
}

// Certificate is a certificate by its subject.
type Certificate struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

func viewTLS(s deliver.TLSStatus) *WebhookTLS {
	var v WebhookTLS
	if c := s.Certificate; !c.Expires.IsZero() {
		v.ClientCertificate = &Certificate{c.Subject, moment(c.Expires)}
	}
	for _, c := range s.CA {
		v.RootCA = append(v.RootCA, Certificate{c.Subject, moment(c.Expires)})
	}
	if v.ClientCertificate == nil && v.RootCA == nil {
		return nil
	}
	return &v
}

// FormatDuration is a duration as people write it: 5m, not 5m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// webhooks lists by name. A cursor is the last name of the page before, so that
// webhooks may come and go between two pages.
func (s *server) webhooks(r *http.Request) (any, error) {
	p := parameters{values: r.URL.Query()}
	limit := p.limitOr(maxWebhooks, maxWebhooks)
	after, err := base64.RawURLEncoding.DecodeString(p.text("cursor"))
	if err != nil {
		p.bad("cursor", "it is none that this API gave; begin again without it")
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
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(page.Items[limit-1].Name))
			break
		}
		page.Items = append(page.Items, viewWebhook(w))
	}
	return page, nil
}

func (s *server) webhook(r *http.Request) (any, error) { return s.named(r.PathValue("name")) }

// names are the webhooks' names by id. A webhook that has been deleted is shown
// by its number.
type names map[queue.WebhookID]string

func (s *server) names() names {
	n := make(names)
	for _, w := range s.relay.Webhooks() {
		n[w.ID] = w.Name
	}
	return n
}

func (n names) of(id queue.WebhookID) string {
	if name, ok := n[id]; ok {
		return name
	}
	return DeletedName(id)
}

// DeletedName stands for the name of a webhook that has been deleted.
func DeletedName(id queue.WebhookID) string { return fmt.Sprintf("deleted-%d", id) }
