package caddymodule

import (
	"context"
	"crypto/sha256"
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
	// The project whose feedback is taken, read and changed here: the projectId of
	// submissions that have none; those that name another are refused. It may hold
	// placeholders of the request, such as `{http.request.host.labels.2}`; a request
	// for which one is empty is refused. Default: submissions name their own.
	Project string `json:"project,omitempty"`

	// The widgetId of submissions that have none. It may hold placeholders as
	// project may.
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
	// such as `{env.UPDATE_TOKEN}`. If project holds a placeholder of the request,
	// so must the token, or one project's token would change feedback of all.
	// Default: only users whom Caddy has authenticated may update. Not asked for
	// with passthrough, where the next handler decides.
	UpdateAuth string `json:"update_auth,omitempty"`

	// A MaxMind database, such as GeoLite2-Country.mmdb. It gives the visitor's
	// country by the address if neither context.country nor country_header does.
	// It is read into memory, and again within a minute after the file has changed.
	GeoIP string `json:"geoip,omitempty"`

	// How much one client address may submit; beyond it the answer is 429.
	// Default: no limit.
	RateLimit *Limit `json:"rate_limit,omitempty"`

	// How much may be submitted for one project.
	ProjectRateLimit *Limit `json:"project_rate_limit,omitempty"`

	// A member that people do not see and robots fill in. A submission in which it
	// is not empty is answered as if it were taken, and makes no event: it is kept
	// for 24 hours, the last 1,000 of them, and shown in the console. Take a name
	// that browsers do not fill in, such as `hp_topic`, not `website` or `phone`.
	Honeypot string `json:"honeypot,omitempty"`

	app      *App
	cors     cors
	project  setting
	widget   setting
	token    setting // UpdateAuth
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
	if err := h.provisionSettings(); err != nil {
		return err
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
	if h.project.perRequest && h.UpdateAuth != "" && !h.token.perRequest { // Promise 6: a token is worth nothing for other projects.
		return errors.New("update_auth: with this token anybody who holds it could change the feedback of every project;" +
			" project depends on the request, so the token must too: use a placeholder that a map directive sets for each project")
	}
	return nil
}

// provisionSettings reads the options that may hold placeholders.
func (h *Handler) provisionSettings() (err error) {
	for _, option := range []struct {
		name, text string
		to         *setting
	}{
		{"project", h.Project, &h.project},
		{"widget", h.Widget, &h.widget},
		{"update_auth", h.UpdateAuth, &h.token},
	} {
		if *option.to, err = newSetting(option.text); err != nil {
			return fmt.Errorf("%s: %w", option.name, err)
		}
	}
	return nil
}

// Cleanup gives back what Provision opened.
func (h *Handler) Cleanup() error { return h.geo.close() }

// ServeHTTP answers the request, or lets the next handler answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	defer h.app.engine.boundBody(w, r)()
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
		w.Header().Set("Allow", allowedMethods)
		refuseUnread(w, r, event.NewProblem(http.StatusMethodNotAllowed, "Send feedback with POST, change it with PATCH or PUT on its id."), lingering)
	}
	return nil
}

// create answers a POST.
func (h *Handler) create(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	s, err := h.scopeOf(r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
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
		if err := h.keepCaught(r, s, feedback); err != nil {
			h.refuse(w, r, err)
			return
		}
		writeAccepted(w, r, format, feedback)
		return
	}
	receipt, err := h.submit(r, s, feedback, identity)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if receipt.Replayed {
		h.replay(w, r, format, receipt)
		return
	}
	h.app.engine.metrics.ingested(time.Since(arrived), receipt.Event.Trace)
	writeAccepted(w, r, format, feedback)
}

// submit completes the feedback and stores its event. identity is what a
// repeat of the submission must equal.
func (h *Handler) submit(r *http.Request, s scope, feedback *event.Feedback, identity []byte) (queue.Receipt, error) {
	now := time.Now()
	chosen := feedback.ID() != "" // by the client
	feedback.Fill(h.defaults(r, s, feedback))
	project := feedback.ProjectID()
	if err := s.admit(project); err != nil {
		return queue.Receipt{}, err
	}
	if err := h.limitProject(project); err != nil {
		return queue.Receipt{}, err
	}
	key, err := idempotencyKey(r.Header, identity, project)
	if err != nil {
		return queue.Receipt{}, err
	}
	feedback.Complete(now, event.NewID)
	document, err := feedback.Document(event.Created, now)
	if err != nil {
		return queue.Receipt{}, err
	}
	a := relay.Acceptance{
		Type:     event.Created,
		Feedback: queue.FeedbackID{Project: project, ID: feedback.ID()},
		Body:     document,
		Client:   h.app.engine.clientTrace(r.Header),
		Key:      key,
	}
	if chosen {
		a.Origin = sha256.Sum256(identity)
	}
	if chosen || key.Name != "" {
		a.Answer = appendAnswer(nil, feedback)
	}
	// What was read whole is stored, also where the client has gone by now: a
	// page that closes does not wait for the answer.
	return h.app.accept(context.WithoutCancel(r.Context()), a)
}

// replay gives the answer that the first submission got.
func (h *Handler) replay(w http.ResponseWriter, r *http.Request, format format, receipt queue.Receipt) {
	answer := receipt.Answer
	if len(answer) == 0 { // stored before answers were
		if receipt.Event.ID.IsZero() {
			h.refuse(w, r, event.NewProblem(http.StatusGone, "This submission was accepted before, and its feedback has been removed since."))
			return
		}
		first, err := event.Stored(receipt.Event.Body)
		if err != nil {
			h.refuse(w, r, fmt.Errorf("reading event %s: %w", receipt.Event.ID, err))
			return
		}
		answer = appendAnswer(nil, first)
		first.Release()
	}
	w.Header().Set("Idempotency-Replayed", "true")
	writeAnswer(w, r, format, answer)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
