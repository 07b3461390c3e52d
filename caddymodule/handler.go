package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

func init() { caddy.RegisterModule(Handler{}) }

// Bounds of MaxBody in bytes. A finished document is at most 100 KiB
// (event.MaxDocument), so a larger submission could only be refused later.
const (
	defaultMaxBody = 64 << 10
	largestMaxBody = 1 << 20
)

// Handler takes in feedback: POST creates it, PATCH and PUT on …/{id} change
// it. The answer 202 says that the event and its deliveries are on disk.
// Problems are answered in the format of RFC 9457.
type Handler struct {
	// The projectId of submissions that have none.
	Project string `json:"project,omitempty"`

	// The widgetId of submissions that have none.
	Widget string `json:"widget,omitempty"`

	// The origins whose pages may submit and read the answer, such as
	// `https://app.example.com`, or `*` for all. Default: only pages of the site
	// itself. Browsers enforce this for their pages, and forms and beacons need
	// no permission: it keeps nobody from submitting.
	AllowOrigins []string `json:"allow_origins,omitempty"`

	// The largest body in bytes, at most 1 MiB; above it the answer is 413.
	// Default: 64 KiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// Let the next handler answer. Its 2xx makes the event, and is released
	// once the event is on disk; it is also what allows an update. Whatever
	// is no feedback passes untouched.
	Passthrough bool `json:"passthrough,omitempty"`

	// The request header field that holds the visitor's country as two
	// letters, such as `CF-IPCountry`, for submissions without
	// context.country. Set it only where a proxy in front sets the field.
	CountryHeader string `json:"country_header,omitempty"`

	// The bearer token that allows PATCH and PUT. Write it as a placeholder,
	// such as `{env.UPDATE_TOKEN}`. Default: only users whom Caddy has
	// authenticated may update. Not asked for with passthrough, where the next
	// handler decides.
	UpdateAuth string `json:"update_auth,omitempty"`

	// A MaxMind database, such as GeoLite2-Country.mmdb, that tells the
	// visitor's country from the address, for submissions without
	// context.country and where country_header tells nothing.
	GeoIP string `json:"geoip,omitempty"`

	// How much one client address may submit; beyond it the answer is 429.
	// Default: no limit.
	RateLimit *Limit `json:"rate_limit,omitempty"`

	// How much may be submitted for one project.
	ProjectRateLimit *Limit `json:"project_rate_limit,omitempty"`

	// A member that people do not see and robots fill in. A submission that
	// has it not empty is answered as if it were taken, and dropped.
	Honeypot string `json:"honeypot,omitempty"`

	app      *App
	cors     cors
	token    string // UpdateAuth, resolved
	geo      *geoip
	clients  *limiter
	projects *limiter
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.userhero",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the app, made with its defaults where the configuration has
// none.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("userhero")
	if err != nil {
		return fmt.Errorf("loading the userhero app: %w", err)
	}
	h.app = app.(*App)
	if h.MaxBody == 0 {
		h.MaxBody = defaultMaxBody
	}
	if h.token, err = resolveSecret(caddy.NewReplacer(), h.UpdateAuth); err != nil {
		return fmt.Errorf("update_auth: %w", err)
	}
	if err := h.provisionLimits(); err != nil {
		return err
	}
	if h.geo, err = openGeoIP(h.GeoIP); err != nil {
		return err
	}
	h.cors, err = newCORS(h.AllowOrigins)
	return err
}

// Validate checks the settings.
func (h *Handler) Validate() error {
	if h.MaxBody < 1 || h.MaxBody > largestMaxBody {
		return fmt.Errorf("max_body must be between 1 and %d bytes, is %d", largestMaxBody, h.MaxBody)
	}
	if h.UpdateAuth != "" && h.token == "" {
		return errors.New("update_auth: the token is empty")
	}
	return nil
}

// Cleanup closes what Provision opened.
func (h *Handler) Cleanup() error { return h.geo.close() }

// ServeHTTP answers the request, or lets the next handler answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.Passthrough {
		return h.pass(w, r, next)
	}
	h.cors.allow(w.Header(), r.Header)
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		if err := h.limitClient(r); err != nil {
			h.refuse(w, r, err)
			return nil
		}
		if r.Method == http.MethodPost {
			h.create(w, r)
		} else {
			h.update(w, r)
		}
	case http.MethodOptions:
		h.cors.preflight(w, r)
	default:
		w.Header()["Allow"] = allowedMethods
		writeProblem(w, event.NewProblem(http.StatusMethodNotAllowed, "Send feedback with POST, change it with PATCH or PUT on its id."))
	}
	return nil
}

// create answers a POST.
func (h *Handler) create(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	format, err := formatOf(r.Header)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	body, err := readBody(w, r, h.MaxBody, bodyTimeout)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer body.release()
	feedback, identity, err := format.parse(body.Bytes(), r.Header)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer feedback.Release()
	if h.trapped(feedback) {
		writeAccepted(w, r, format, feedback)
		return
	}
	receipt, err := h.submit(r, feedback, identity)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if receipt.Replayed {
		h.replay(w, r, format, receipt.Event)
		return
	}
	h.app.engine.metrics.ingested(time.Since(arrived), receipt.Event.Trace)
	writeAccepted(w, r, format, feedback)
}

// trapped tells whether a robot has filled in the honeypot. The feedback is then
// completed, for an answer that gives nothing away, and counted.
func (h *Handler) trapped(feedback *event.Feedback) bool {
	if h.Honeypot == "" {
		return false
	}
	if value, _ := feedback.Take(h.Honeypot); value == "" {
		return false
	}
	h.app.engine.metrics.Rejected("honeypot")
	feedback.Complete(time.Now(), event.NewID)
	return true
}

// submit completes the feedback and stores its event. identity is what a
// repeat of the submission must equal.
func (h *Handler) submit(r *http.Request, feedback *event.Feedback, identity []byte) (queue.Receipt, error) {
	now := time.Now()
	clientID := feedback.ID()
	feedback.Fill(h.defaults(r, feedback))
	project := feedback.ProjectID()
	if err := h.limitProject(project); err != nil {
		return queue.Receipt{}, err
	}
	keys, err := idempotencyKeys(r.Header, project, clientID, identity)
	if err != nil {
		return queue.Receipt{}, err
	}
	feedback.Complete(now, event.NewID)
	document, err := feedback.Document(event.Created, now)
	if err != nil {
		return queue.Receipt{}, err
	}
	// What was read whole is stored, also where the client has gone by now: a
	// page that closes does not wait for the answer.
	ctx := context.WithoutCancel(r.Context())
	return h.app.accept(ctx, relay.Acceptance{
		Type:       event.Created,
		FeedbackID: feedback.ID(),
		ProjectID:  project,
		Body:       document,
		Client:     h.app.engine.clientTrace(r.Header),
		Keys:       keys,
	})
}

// replay gives the answer that the first submission with the same key got.
func (h *Handler) replay(w http.ResponseWriter, r *http.Request, format format, e queue.Event) {
	first, err := event.Stored(e.Body)
	if err != nil {
		h.refuse(w, r, fmt.Errorf("reading event %s: %w", e.ID, err))
		return
	}
	defer first.Release()
	w.Header()["Idempotency-Replayed"] = headerTrue
	writeAccepted(w, r, format, first)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
