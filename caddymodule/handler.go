package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/intake"
)

func init() { caddy.RegisterModule(Handler{}) }

// Handler accepts feedback: POST creates it, PATCH and PUT on `…/{id}` change it. When
// the client gets 202, the event and its deliveries are on disk. Errors are answered in
// the format of RFC 9457.
type Handler struct {
	// The project whose feedback this handler creates, reads and changes. A submission
	// without projectId gets this one, and a submission with another projectId is
	// refused. The value may contain placeholders of the request, such as
	// `{http.request.host.labels.2}`. If one of them is empty for a request, the request
	// is refused. Default: each submission names its project.
	Project string `json:"project,omitempty"`

	// The widgetId of submissions that have none. It may contain the same placeholders as
	// `project`. Default: none.
	Widget string `json:"widget,omitempty"`

	// The origins whose pages may submit feedback and read the answer, such as
	// `https://app.example.com`, or `*` for all. Only browsers enforce this, and not for
	// forms and beacons, so it does not protect against unwanted submissions.
	// Default: only pages of the site itself.
	AllowOrigins []string `json:"allow_origins,omitempty"`

	// The largest request body in bytes, from 1 to 1048576 (1 MiB). A larger body is
	// answered 413. Default: 65536 (64 KiB).
	MaxBody int64 `json:"max_body,omitempty"`

	// Lets the next handler answer. If its answer is 2xx, the submission becomes an
	// event, and the client gets the answer when the event is on disk. The next handler
	// also decides who may update. Other requests pass unchanged. Default: false.
	Passthrough bool `json:"passthrough,omitempty"`

	// The request header field that contains the visitor's country as two letters, such
	// as `CF-IPCountry`. It is used for submissions without context.country. Set this only
	// if a proxy before Caddy sets the field. Default: none.
	CountryHeader string `json:"country_header,omitempty"`

	// The bearer token that allows PATCH and PUT. Write it as a placeholder, such as
	// `{env.UPDATE_TOKEN}`. If `project` contains a placeholder of the request, the token
	// must contain one too; otherwise the token of one project could change the feedback
	// of all. Not used with `passthrough`. Default: none, so only users whom Caddy has
	// authenticated may update.
	UpdateAuth string `json:"update_auth,omitempty"`

	// The file of a MaxMind database, such as GeoLite2-Country.mmdb. The visitor's country
	// is looked up there by address if neither context.country nor `country_header` gives
	// it. The file is read into memory. If it changes, it is read again at a submission, at
	// most once a minute. Default: none.
	GeoIP string `json:"geoip,omitempty"`

	// The most submissions from one client address. Above the limit the answer is 429.
	// Default: no limit.
	RateLimit *Limit `json:"rate_limit,omitempty"`

	// The most submissions for one project. Above the limit the answer is 429.
	// Default: no limit.
	ProjectRateLimit *Limit `json:"project_rate_limit,omitempty"`

	// The name of a form field that people do not see and robots fill in. A submission in
	// which it is not empty gets the usual answer, but makes no event. The last 1,000 of
	// these submissions are kept for 24 hours and shown in the console. Choose a name that
	// browsers do not fill in, such as `hp_topic`, not `website` or `phone`.
	// Default: none.
	Honeypot string `json:"honeypot,omitempty"`

	app     *App
	intake  *intake.Handler
	project setting
	widget  setting
	token   setting // UpdateAuth
	geo     *geoip
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.userhero",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the app. If the configuration has none, Caddy makes one with its
// defaults.
func (h *Handler) Provision(ctx caddy.Context) error {
	var err error
	if h.app, err = appOf(ctx); err != nil {
		return err
	}
	if h.MaxBody == 0 {
		h.MaxBody = intake.DefaultMaxBody
	}
	if err := h.provisionSettings(); err != nil {
		return err
	}
	if h.Project != "" && !h.project.perRequest {
		h.app.projects = append(h.app.projects, h.project.text)
	}
	if h.geo, err = openGeoIP(h.GeoIP); err != nil {
		return err
	}
	return h.provisionIntake()
}

// provisionIntake makes the intake's handler.
func (h *Handler) provisionIntake() error {
	c := intake.Config{
		Relay:         h.app,
		Observer:      h.app.engine.metrics,
		Log:           h.app.intakeLog,
		Memory:        h.app.engine.memory,
		Project:       h.project.of,
		Widget:        h.widget.of,
		Token:         h.token.of,
		User:          authenticated,
		Client:        clientAddr,
		AllowOrigins:  h.AllowOrigins,
		MaxBody:       h.MaxBody,
		CountryHeader: h.CountryHeader,
		Honeypot:      h.Honeypot,
	}
	if h.geo != nil {
		c.Country = func(addr netip.Addr) string { return h.geo.countryOf(addr, h.app.log) }
	}
	var err error
	if c.ClientLimit, err = h.RateLimit.resolve(); err != nil {
		return fmt.Errorf("rate_limit: %w", err)
	}
	if c.ProjectLimit, err = h.ProjectRateLimit.resolve(); err != nil {
		return fmt.Errorf("rate_limit project: %w", err)
	}
	h.intake, err = intake.New(c)
	return err
}

// Validate checks the settings.
func (h *Handler) Validate() error {
	if h.MaxBody < 1 || h.MaxBody > intake.LargestMaxBody {
		return fmt.Errorf("max_body must be between 1 and %d bytes, is %d", intake.LargestMaxBody, h.MaxBody)
	}
	if h.project.perRequest && h.UpdateAuth != "" && !h.token.perRequest { // Promise 6: a token is worth nothing for other projects.
		return errors.New("update_auth: with this token anybody who holds it could change the feedback of every project;" +
			" project depends on the request, so the token must too: use a placeholder that a map directive sets for each project")
	}
	return nil
}

// provisionSettings reads the options that may contain placeholders.
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

// Cleanup releases the GeoIP database.
func (h *Handler) Cleanup() error { return h.geo.close() }

// ServeHTTP answers the request, or lets the next handler answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	defer cutOffBody(h.app.engine.cutoff, w, r)()
	if h.Passthrough {
		return h.intake.Pass(w, r, next.ServeHTTP)
	}
	h.intake.ServeHTTP(w, r)
	return nil
}

// clientAddr returns the client's address, which Caddy has found behind trusted proxies. It
// returns the zero value if there is no valid address.
func clientAddr(r *http.Request) netip.Addr {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
