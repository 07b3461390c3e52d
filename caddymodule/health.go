package caddymodule

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Health{})
	httpcaddyfile.RegisterHandlerDirective("userhero_health", parseHealth)
	// Before authentication: a load balancer has no password.
	httpcaddyfile.RegisterDirectiveOrder("userhero_health", httpcaddyfile.Before, "basic_auth")
}

// Health answers the checks of load balancers and orchestrators with 200 or 503. The
// answer contains nothing of the relay's data and needs no authentication.
type Health struct {
	// If true, the answer is always 200, for a check that restarts a process that does
	// not answer. If false, the answer is 200 only if the store accepts events,
	// deliveries are sent and Caddy is not stopping, for a check that decides whether
	// requests are sent here. Default: false.
	Live bool `json:"live,omitempty"`

	app *App
}

// CaddyModule returns the Caddy module information.
func (Health) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.userhero_health",
		New: func() caddy.Module { return new(Health) },
	}
}

// Provision finds the app. If the configuration has none, Caddy makes one with its
// defaults.
func (h *Health) Provision(ctx caddy.Context) (err error) {
	h.app, err = appOf(ctx)
	return err
}

// ServeHTTP answers every request that reaches it.
func (h *Health) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	status, word := http.StatusOK, "ok\n"
	if !h.Live && !h.ready() {
		status, word = http.StatusServiceUnavailable, "not ready\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, word)
	return nil
}

func (h *Health) ready() bool {
	if caddy.Exiting() || h.app.attach() != nil {
		return false
	}
	relay, err := h.app.engine.use()
	if err != nil {
		return false
	}
	defer h.app.engine.users.Done()
	return relay.Health() == nil
}

func parseHealth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	health := new(Health)
	return health, health.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	userhero_health [<matcher>] [live|ready]
func (h *Health) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		switch d.Val() {
		case "live":
			h.Live = true
		case "ready":
		default:
			return d.Errf("unrecognized check '%s' of userhero_health; known are live and ready", d.Val())
		}
	}
	if d.NextArg() || d.NextBlock(0) {
		return d.ArgErr()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddyfile.Unmarshaler       = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
)
