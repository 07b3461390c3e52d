package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	pathpkg "path"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/console"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
)

func init() {
	caddy.RegisterModule(Console{})
	httpcaddyfile.RegisterHandlerDirective("userhero_console", parseConsole)
	// After authentication and encode, with the directives that answer.
	httpcaddyfile.RegisterDirectiveOrder("userhero_console", httpcaddyfile.Before, "respond")
}

// Console serves the pages on which people watch the relay and manage its
// webhooks, and below `api/` the JSON API for scripts.
//
// It answers 403 unless one of these holds: Caddy has authenticated the user, for
// example by `basic_auth`; the request has the field of `user_header`; Caddy has
// verified a client certificate; or `no_auth` is set.
type Console struct {
	// The request header field that names the user. A login server, such as the
	// one that `forward_auth` asks, sets this field. Whoever sends the field is let
	// in, so use it only if clients cannot set it themselves. Default: none.
	UserHeader string `json:"user_header,omitempty"`

	// Lets everybody in who can reach the console. Cannot be combined with
	// `user_header`. Default: false.
	NoAuth bool `json:"no_auth,omitempty"`

	// The projects of this console. It shows and changes only their feedback and its
	// deliveries, and webhooks whose own projects are not empty and all among these.
	// A webhook that is added here gets these projects and is never sent to addresses
	// that only `egress` allows. Placeholders are replaced when the configuration is
	// loaded. Default: everything.
	Projects []string `json:"projects,omitempty"`

	// If true, the console shows everything and changes nothing. Default: false.
	ReadOnly bool `json:"read_only,omitempty"`

	app   *App
	ctx   caddy.Context // of the configuration
	scope scope.Scope
}

// CaddyModule returns the Caddy module information.
func (Console) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.userhero_console",
		New: func() caddy.Module { return new(Console) },
	}
}

// Provision finds the app. If the configuration has none, Caddy makes one with its
// defaults.
func (c *Console) Provision(ctx caddy.Context) (err error) {
	c.ctx = ctx
	c.scope.ReadOnly = c.ReadOnly
	repl := caddy.NewReplacer()
	for _, text := range c.Projects {
		project, err := secret.Resolve(repl, text)
		if err == nil && (project == "" || !utf8.ValidString(project)) { // Promise 6: it never means every project.
			err = errors.New("the project is empty or not UTF-8")
		}
		if err != nil {
			return fmt.Errorf("project %s: %w", text, err)
		}
		c.scope.Projects = append(c.scope.Projects, project)
	}
	if c.app, err = appOf(ctx); err == nil {
		c.app.projects = append(c.app.projects, c.scope.Projects...)
	}
	return err
}

// Validate checks the settings.
func (c *Console) Validate() error {
	if c.UserHeader != "" && c.NoAuth {
		return errors.New("no_auth lets in whom user_header does not name; write one of them")
	}
	return nil
}

// anybody is the user's name in the activity log if no_auth let the user in.
const anybody = "somebody"

// user returns the name of the user who sends the request, and whether that user
// may use the console.
func (c *Console) user(r *http.Request) (string, bool) {
	if user := authenticated(r); user != "" {
		return user, true
	}
	if c.UserHeader != "" {
		if user := r.Header.Get(c.UserHeader); user != "" {
			return user, true
		}
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName != "" {
			return subject.CommonName, true
		}
		return subject.String(), true
	}
	return anybody, c.NoAuth
}

// authenticated returns the id of the user that Caddy has authenticated, or an empty
// string.
func authenticated(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString("http.auth.user.id")
	return user
}

// ServeHTTP answers every request that reaches it; it never calls the next handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	h := w.Header()
	h.Set("Content-Security-Policy", console.Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")

	path, ok := consolePath(r)
	if !ok {
		// The links of the pages are relative, so the address must end with a slash.
		h.Set("Location", (&url.URL{Path: "./" + pathpkg.Base(requestedPath(r)) + "/", RawQuery: r.URL.RawQuery}).String())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	if strings.HasPrefix(path, console.AssetsPath) {
		console.ServeAsset(w, r, path) // without authentication: assets are public
		return nil
	}
	user, ok := c.user(r)
	if !ok && path != console.KeysPath { // public keys are public
		refuse(w, r, path)
		return nil
	}
	r = api.WithUser(r, user)
	target := *r.URL
	target.Path, target.RawPath = path, ""
	r.URL = &target
	if err := c.app.attach(); err != nil {
		stopped(w, r, path, err)
		return nil
	}
	if path == streamPath {
		// End the stream with this configuration: the client connects again, and the
		// new configuration checks whether it may.
		ctx, end := context.WithCancel(r.Context())
		defer end()
		defer context.AfterFunc(c.ctx, end)()
		r = r.WithContext(ctx)
	}
	if err := c.app.engine.serveConsole(w, r, c.scope); err != nil {
		stopped(w, r, path, err)
	}
	return nil
}

// streamPath is the path of the event stream, below the console's mount point. It
// is the only request that lasts.
const streamPath = "/api/stream"

// consolePath returns the request's path below the console's mount point. It works
// whether or not the site has stripped the mount point, as handle_path does. It
// reports false if the path is the mount point without a slash at its end.
func consolePath(r *http.Request) (inside string, ok bool) {
	requested := requestedPath(r)
	if requested == r.URL.Path {
		return console.Locate(requested)
	}
	inside = cmp.Or(r.URL.Path, "/")
	return inside, inside != "/" || strings.HasSuffix(requested, "/")
}

// requestedPath returns the path that the client sent, before the site rewrote it.
func requestedPath(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.URL.Path
	}
	return r.URL.Path
}

// refuse answers 403 and explains how to open the console.
func refuse(w http.ResponseWriter, r *http.Request, path string) {
	if !intake.WantsHTML(r.Header) {
		intake.WriteProblem(w, event.NewProblem(http.StatusForbidden, "The console is closed: "+
			"put authentication before userhero_console, such as basic_auth, or write user_header or no_auth into it."))
		return
	}
	console.WriteNotice(w, path, http.StatusForbidden, console.Notice{
		Title: "The console is closed",
		Text:  "It shows what people have written and can send it elsewhere, so it opens to nobody until the Caddyfile says to whom. Add one of these, and reload.",
		Samples: []console.Sample{
			{Name: "A password. caddy hash-password makes the hash:", Code: "handle_path /relay/* {\n\tbasic_auth {\n\t\tada $2a$14$…\n\t}\n\tuserhero_console\n}"},
			{Name: "Your own login, asked by forward_auth; copy_headers must name the same field:", Code: "userhero_console {\n\tuser_header Remote-User\n}"},
			{Name: "Everybody who can reach this address, which is right on loopback only:", Code: "userhero_console {\n\tno_auth\n}"},
		},
	})
}

// stopped answers that the relay is not available at this moment.
func stopped(w http.ResponseWriter, r *http.Request, path string, err error) {
	w.Header().Set("Retry-After", intake.RetryAfter(err))
	problem := intake.Unavailable(err)
	if !intake.WantsHTML(r.Header) {
		intake.WriteProblem(w, problem)
		return
	}
	console.WriteNotice(w, path, problem.Status, console.Notice{Title: "Not at this moment", Text: problem.Detail})
}

func parseConsole(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	c := new(Console)
	return c, c.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the console from Caddyfile tokens. Syntax:
//
//	userhero_console [<matcher>] {
//	    user_header <field>
//	    no_auth
//	    project     <id>
//	    read_only
//	}
func (c *Console) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "userhero_console",
		option.Text("user_header", &c.UserHeader),
		option.Flag("no_auth", &c.NoAuth),
		option.Option{Name: "project", Read: c.unmarshalProject, Repeats: true},
		option.Flag("read_only", &c.ReadOnly),
	)
}

func (c *Console) unmarshalProject(d *caddyfile.Dispenser) error {
	var project string
	if err := option.Argument(d, &project); err != nil {
		return err
	}
	c.Projects = append(c.Projects, project)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Console)(nil)
	_ caddy.Validator             = (*Console)(nil)
	_ caddyfile.Unmarshaler       = (*Console)(nil)
	_ caddyhttp.MiddlewareHandler = (*Console)(nil)
)
