package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
)

func init() { caddy.RegisterModule(AdminAPI{}) }

// AdminAPI serves the relay's API on Caddy's admin endpoint, below /userhero/,
// for scripts and for the command line.
//
// It has no state. Caddy replaces the admin endpoint before it provisions apps,
// and does not restore the old one if they fail. So each request looks up the
// engine that runs at that moment.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.userhero",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes returns a single route, because Caddy uses the pattern as a metrics label.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: api.AdminPath + "/", Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	e := engines.current()
	if e == nil {
		intake.WriteProblem(w, event.NewProblem(http.StatusServiceUnavailable, "The running configuration has no userhero app, or it has not started yet."))
		return nil
	}
	if r.URL.Path == pathBackup || r.URL.Path == pathCheck {
		e.serveStore(w, r)
		return nil
	}
	if r.URL.Path == pathCluster || strings.HasPrefix(r.URL.Path, pathCluster+"/") {
		e.serveCluster(w, r)
		return nil
	}
	http.StripPrefix(api.AdminPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := e.serveAPI(w, r); err != nil {
			problem := intake.Unavailable(err)
			problem.Detail = err.Error() // who may use the admin endpoint may know the reason
			intake.WriteProblem(w, problem)
		}
	})).ServeHTTP(w, r)
	return nil
}

// Interface guards
var (
	_ caddy.Module      = AdminAPI{}
	_ caddy.AdminRouter = AdminAPI{}
)
