package console

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
)

// pages are the console for people. Everything works with links and forms
// alone; script keeps what is shown up to date. A page has no state but its
// address: what is open, filtered or chosen is in there.
type pages struct{ *api }

// screen is what a page hands to its template.
type screen struct {
	Root  string // the way to the console's root
	Title string
	Area  string // of the navigation
	Flash *flash
	// Live says to keep the page up to date: which happenings change it.
	Live []string
	// Empty says that there is no webhook yet.
	Empty   bool
	Version string
	Page    any
}

// flash is one line about what was just done.
type flash struct {
	Kind string // good or bad
	Text string
}

// shown is an answer of a page: a template with what it shows.
type shown struct {
	name   string // of the template
	status int    // 0 is 200
	screen screen
}

// seeOther sends the browser to another page, relative to the console's root,
// so that a reload repeats nothing.
type seeOther string

// newPages returns the pages. The paths are those of areas.
func newPages(a *api) http.Handler {
	p := pages{a}
	mux := http.NewServeMux()
	for _, route := range []struct {
		pattern string
		do      func(*http.Request) (any, error)
	}{
		{"GET /{$}", p.overview},
		{"GET /webhooks", p.listWebhooks},
		{"GET /webhooks/{name}", p.showWebhook},
		{"GET /webhooks/{name}/delete", p.askDelete},
		{"GET /webhooks/{name}/recover", p.askRecover},
		{"POST /webhooks/{name}/delete", p.deleteWebhook},
		{"POST /webhooks/{name}/recover", p.recoverWebhook},
		{"POST /webhooks/{name}/pause", p.pauseWebhook},
		{"POST /webhooks/{name}/enable", p.enableWebhook},
		{"POST /webhooks/{name}/test", p.testWebhook},
		{"POST /webhooks/{name}/rotate", p.rotateSecret},
		{"POST /webhooks/{name}/settings", p.changeWebhook},
		{"GET /add", p.add},
		{"POST /add", p.addStep},
		{"GET /events", p.listEvents},
		{"GET /events/{id}", p.showEvent},
		{"POST /events/{id}/check", p.checkSignature},
		{"POST /deliveries/{id}/redeliver", p.redeliver},
		{"GET /activity", p.listActivity},
	} {
		mux.Handle(route.pattern, p.answer(route.do))
	}
	mux.Handle("GET /assets/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ServeAsset(w, r, r.URL.Path) }))
	mux.Handle("/", p.answer(func(*http.Request) (any, error) {
		return nil, event.NewProblem(http.StatusNotFound, "There is no page at this address.")
	}))
	// A page of another origin must not act in the name of who is logged in here.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, event.NewProblem(http.StatusForbidden, "A page of another origin sent this. Do it here."))
	}))
	return protection.Handler(mux)
}

// answer writes what a page is: a screen, a way to another, or what went wrong.
func (p pages) answer(do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		value, err := do(r)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		switch v := value.(type) {
		case seeOther:
			w.Header().Set("Location", rootOf(r.URL.Path)+string(v))
			w.WriteHeader(http.StatusSeeOther)
		case shown:
			p.show(w, r, v)
		}
	})
}

// show renders a page.
func (p pages) show(w http.ResponseWriter, r *http.Request, v shown) {
	s := v.screen
	s.Root, s.Version = rootOf(r.URL.Path), p.version
	if s.Flash == nil {
		s.Flash = flashOf(r.URL.Query())
	}
	var b bytes.Buffer
	if err := templates[v.name].ExecuteTemplate(&b, "frame.html", s); err != nil {
		p.log.Error("showing a page", "page", v.name, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(cmp.Or(v.status, http.StatusOK))
	_, _ = w.Write(b.Bytes()) // the client may have gone
}

// fail says on a page what went wrong.
func (p pages) fail(w http.ResponseWriter, r *http.Request, err error) {
	problem := p.problem(r, err)
	s := screen{Title: problem.Title, Page: problem}
	if problem.Status == http.StatusNotFound {
		s.Title = "Not here"
	}
	p.show(w, r, shown{"problem.html", problem.Status, s})
}

// flashes are what a page may say was done, by the name in its address. Only
// these and numbers are taken from there, so that a link cannot put words into
// the console's mouth.
var flashes = map[string]flash{
	"added":       {"good", "The webhook is there. Every event from now on goes to it."},
	"paused":      {"good", "Paused. What comes for it waits."},
	"enabled":     {"good", "Enabled. What was waiting goes out."},
	"changed":     {"good", "The settings are changed."},
	"redelivered": {"good", "It is sent again now."},
	"busy":        {"bad", "An attempt is under way at this moment. See what comes of it."},
	"recovered":   {"good", "%s will be sent again."},
	"deleted":     {"good", "The webhook is deleted. Nothing waited for it."},
	"ended":       {"good", "The webhook is deleted, and %s that waited for it ended."},
}

// flashOf reads what was done from a page's address.
func flashOf(query url.Values) *flash {
	f, ok := flashes[query.Get("done")]
	if !ok {
		return nil
	}
	if strings.Contains(f.Text, "%s") {
		n, err := strconv.ParseInt(query.Get("n"), 10, 64)
		if err != nil || n < 0 {
			return nil
		}
		f.Text = fmt.Sprintf(f.Text, counted(n, "delivery", "deliveries"))
	}
	return &f
}

// field reads a form's field, without white space around it.
func field(r *http.Request, name string) string { return strings.TrimSpace(r.PostFormValue(name)) }

// webhookNamed is a webhook as it is now.
func (p pages) webhookNamed(name string) (relay.WebhookStatus, error) {
	w, ok := p.relay.Webhook(name)
	if !ok {
		return w, event.NewProblem(http.StatusNotFound, fmt.Sprintf("There is no webhook named %q. It may have been deleted.", name))
	}
	return w, nil
}
