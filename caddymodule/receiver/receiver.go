// Package receiver is the demonstration receiver, the directive userhero_receiver.
//
// It promises to verify signatures with package relay/signature, like any receiver in
// Go, and to keep a bounded number of requests in memory. It does not know the app or
// its store. The tests of caddymodule and e2e deliver to it.
package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/relay/signature"
)

func init() {
	caddy.RegisterModule(new(Receiver))
	httpcaddyfile.RegisterHandlerDirective("userhero_receiver", parseReceiver)
	httpcaddyfile.RegisterDirectiveOrder("userhero_receiver", httpcaddyfile.Before, "respond")
}

// The limits of what a receiver keeps in memory.
const (
	keptRequests    = 100
	keptRequestBody = 128 << 10 // bytes; an event document has at most 100 KiB
)

// Receiver is a receiver of webhooks, to try the relay with. It verifies the signature
// of each POST as your own receiver would. It keeps the last 100 requests in memory
// until the next reload. GET shows them as a page, or as JSON if the request accepts
// application/json.
type Receiver struct {
	// The secret of the webhook. Placeholders are replaced when the configuration is
	// loaded. Default: none; then no signature is verified, and every POST is
	// accepted.
	Secret string `json:"secret,omitempty"`

	// The status of the answer to every POST, from 200 to 599, such as 500 to see
	// retries. The request is still verified and shown. Default: 204, or 401 if the
	// signature is wrong.
	Reject int `json:"reject,omitempty"`

	secret string

	mu       sync.Mutex // guards received
	received []receivedRequest
}

// receivedRequest is one POST and how it was answered.
type receivedRequest struct {
	At       time.Time `json:"at"`
	Verified bool      `json:"verified"`
	Reason   string    `json:"reason,omitempty"` // why Verified is false
	Answered int       `json:"answered"`
	Event    string    `json:"event"`
	Delivery string    `json:"delivery"`
	Attempt  string    `json:"attempt"`
	Body     string    `json:"body"`
}

// CaddyModule returns the Caddy module information.
func (*Receiver) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.userhero_receiver",
		New: func() caddy.Module { return new(Receiver) },
	}
}

// Provision resolves the secret.
func (rc *Receiver) Provision(caddy.Context) (err error) {
	if rc.secret, err = secret.Resolve(caddy.NewReplacer(), rc.Secret); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	return nil
}

// Validate checks Reject.
func (rc *Receiver) Validate() error {
	if rc.Reject != 0 && (rc.Reject < 200 || rc.Reject > 599) {
		return fmt.Errorf("reject: %d is no final status; write one from 200 to 599", rc.Reject)
	}
	return nil
}

// ServeHTTP verifies and keeps a POST, and answers GET with the requests it has kept.
func (rc *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	switch r.Method {
	case http.MethodPost:
		rc.receive(w, r)
		return nil
	case http.MethodGet, http.MethodHead:
		return rc.show(w, r)
	}
	w.Header().Set("Allow", "GET, HEAD, POST")
	intake.WriteProblem(w, event.NewProblem(http.StatusMethodNotAllowed, "Deliveries come with POST; GET shows them."))
	return nil
}

// receive verifies and keeps one delivery.
func (rc *Receiver) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, keptRequestBody))
	if err != nil {
		intake.WriteProblem(w, intake.BodyProblem(err))
		return
	}
	entry := receivedRequest{
		At:       time.Now().UTC(),
		Answered: http.StatusNoContent,
		Event:    r.Header.Get("X-UserHero-Event"),
		Delivery: r.Header.Get("X-UserHero-Delivery"),
		Attempt:  r.Header.Get("X-UserHero-Attempt"),
		Body:     string(body),
	}
	if err := rc.verify(r.Header, body); err != nil {
		entry.Reason = err.Error()
		if rc.secret != "" {
			entry.Answered = http.StatusUnauthorized
		}
	} else {
		entry.Verified = true
	}
	if rc.Reject != 0 {
		entry.Answered = rc.Reject
	}
	rc.mu.Lock()
	rc.received = append(rc.received, entry)
	if extra := len(rc.received) - keptRequests; extra > 0 {
		rc.received = append(rc.received[:0], rc.received[extra:]...)
	}
	rc.mu.Unlock()
	w.WriteHeader(entry.Answered)
}

func (rc *Receiver) verify(h http.Header, body []byte) error {
	if rc.secret == "" {
		return errors.New("this receiver has no secret to verify with")
	}
	return signature.Verify(rc.secret, h, body)
}

// show answers with the requests that are kept, newest first.
func (rc *Receiver) show(w http.ResponseWriter, r *http.Request) error {
	rc.mu.Lock()
	newest := make([]receivedRequest, len(rc.received))
	for i, entry := range rc.received {
		newest[len(newest)-1-i] = entry
	}
	rc.mu.Unlock()

	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	if !intake.WantsHTML(r.Header) && strings.Contains(r.Header.Get("Accept"), "json") {
		h.Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(map[string]any{"received": newest})
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	return page.Execute(w, newest)
}

func parseReceiver(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	rc := new(Receiver)
	return rc, rc.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the receiver from Caddyfile tokens. Syntax:
//
//	userhero_receiver [<matcher>] {
//	    secret <secret>
//	    reject <status>
//	}
func (rc *Receiver) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "userhero_receiver",
		option.Text("secret", &rc.Secret),
		option.Number("reject", "a status from 200 to 599", &rc.Reject),
	)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Receiver)(nil)
	_ caddy.Validator             = (*Receiver)(nil)
	_ caddyfile.Unmarshaler       = (*Receiver)(nil)
	_ caddyhttp.MiddlewareHandler = (*Receiver)(nil)
)
