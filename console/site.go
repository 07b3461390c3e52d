// Package console is the web console of the relay: pages over what package api
// shows and changes.
//
// It promises that everything works with links and forms alone, that a page has no
// state but its address, and that a form that is sent twice does its work once. It
// does not authenticate requests: the server that mounts it does. Its tests
// use it as a browser without script does; e2e/console tests it with a browser.
package console

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/signature"
)

// New returns the console: its pages and, below /api/, the API. Paths and links are
// relative, so it can be mounted anywhere.
func New(o api.Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", api.New(o)))
	mux.Handle("GET "+KeysPath, publicKeys(scope.New(o.Relay, o.Scope)))
	mux.Handle("/", newPages(o))
	return mux
}

// KeysPath is the path of the public keys of asymmetric signatures, as a JWK Set (RFC
// 7517). Receivers read it without authentication.
const KeysPath = "/.well-known/webhook-keys.json"

// publicKeys answers with the public keys of the webhooks of a scope. It does not say
// which webhook has which.
func publicKeys(view *scope.View) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		set := struct {
			Keys []signature.JWK `json:"keys"`
		}{[]signature.JWK{}}
		for _, hook := range view.Webhooks() {
			set.Keys = append(set.Keys, hook.PublicKeys...)
		}
		slices.SortFunc(set.Keys, func(a, b signature.JWK) int { return strings.Compare(a.KeyID, b.KeyID) })
		set.Keys = slices.Compact(set.Keys)
		written, err := json.Marshal(set)
		if err != nil {
			panic(err) // texts always marshal
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(written) // the client may have disconnected
	})
}

// newPages returns the pages.
func newPages(o api.Options) http.Handler {
	view := scope.New(o.Relay, o.Scope)
	p := pages{view, view.Reader(), o.Version, o.Logger, new(outcomes), cmp.Or(o.Resends, new(resend.All))}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	for _, route := range p.routes() {
		mux.Handle(route.pattern, p.answer(route.do))
	}
	mux.Handle("GET /assets/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ServeAsset(w, r, r.URL.Path) }))
	mux.Handle("/", p.answer(func(*http.Request) (any, error) {
		return nil, event.NewProblem(http.StatusNotFound, "There is no page at this address.")
	}))
	// A page of another origin must not act for the user who is logged in here.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, event.NewProblem(http.StatusForbidden, "This request came from a page of another origin. Use the console's own page."))
	}))
	return protection.Handler(mux)
}

// pageRoute is one page, or what one form does.
type pageRoute struct {
	pattern string
	do      func(*http.Request) (any, error)
}

func (p pages) routes() []pageRoute {
	return []pageRoute{
		{"GET /{$}", p.overview},
		{"GET /webhooks", p.listWebhooks},
		{"GET /webhooks/{name}", p.showWebhook},
		{"GET /webhooks/{name}/charts", p.showCharts},
		{"GET /webhooks/{name}/settings", p.showSettings},
		{"GET /webhooks/{name}/delete", p.askDelete},
		{"GET /webhooks/{name}/recover", p.askRecover},
		{"POST /webhooks/{name}/delete", p.deleteWebhook},
		{"POST /webhooks/{name}/recover", p.recoverWebhook},
		{"POST /webhooks/{name}/pause", p.pauseWebhook},
		{"POST /webhooks/{name}/enable", p.enableWebhook},
		{"POST /webhooks/{name}/test", p.testWebhook},
		{"POST /webhooks/{name}/rotate", p.rotateSecret},
		{"POST /webhooks/{name}/rotate-signing-key", p.rotateSigningKey},
		{"POST /webhooks/{name}/settings", p.changeWebhook},
		{"GET /add", p.add},
		{"POST /add", p.addStep},
		{"GET /feedback", p.listFeedback},
		{"GET /feedback/{id}", p.showFeedback},
		{"GET /erase", p.askErase},
		{"POST /erase", p.eraseFeedback},
		{"GET /events", p.listEvents},
		{"GET /events/caught", p.listCaught},
		{"GET /events/{id}", p.showEvent},
		{"GET /events/{id}/document", p.showDocument},
		{"GET /deliveries/{id}/attempts/{number}/{part}", p.showPart},
		{"POST /events/{id}/check", p.checkSignature},
		{"POST /deliveries/{id}/redeliver", p.redeliver},
		{"GET /resend/new", p.askResend},
		{"POST /resend", p.startResend},
		{"GET /resend/{id}", p.showResend},
		{"POST /resend/{id}/stop", p.stopResend},
		{"GET /activity", p.listActivity},
	}
}

// areas are the first segments of the console's paths.
var areas = []string{".well-known", "webhooks", "add", feedbackArea, "erase", "events", "deliveries", "resend", "activity", "api", "assets"}

const feedbackArea = "feedback"

// Locate removes the mount point from the path of a request. The result begins with
// one of the console's own segments, or is "/", its index. ok is false if the path is
// neither; with a slash at its end it would be the index.
func Locate(path string) (inside string, ok bool) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, s := range segments {
		// A mount point may well have the name of feedback. Nothing is below its pages.
		if s == feedbackArea && i+1 < len(segments) && (i+2 < len(segments) || segments[i+1] == "" || slices.Contains(areas, segments[i+1])) {
			continue
		}
		if slices.Contains(areas, s) || s == "" && i == len(segments)-1 {
			return "/" + strings.Join(segments[i:], "/"), true
		}
	}
	return "", false
}
