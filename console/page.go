package console

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// pages are the console for people. Everything works with links and forms
// alone; script keeps what is shown up to date. A page has no state but its
// address: what is open, filtered or chosen is in there.
type pages struct {
	relay    *relay.Relay
	queue    queue.Queue
	version  string
	log      *slog.Logger
	outcomes *outcomes
}

// screen is what a page hands to its template.
type screen struct {
	Root  string // the way to the console's root
	Title string
	Area  string // of the navigation
	Flash *flash
	// Live is which happenings change the page; it is kept up to date if there are
	// any.
	Live []string
	// Again is the address at which the page is fetched again, relative to the
	// console's root. Default: the page's own, without query.
	Again string
	// Empty says that there is no webhook yet.
	Empty   bool
	Version string
	Page    any
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

// done is what a form did, and the page that shows it, relative to the console's
// root.
type done struct {
	to string
	outcome
}

// answer writes what a page is: a screen, a way to another, or what went wrong. A
// form is always answered with a way to another page, so that neither a reload nor
// the way back sends it again.
func (p pages) answer(do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, api.MaxRequest)
		if r.Method == http.MethodPost {
			p.answerForm(w, r, do)
			return
		}
		value, err := do(r)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		switch v := value.(type) {
		case seeOther:
			redirect(w, r, string(v))
		case shown:
			p.show(w, r, v)
		}
	})
}

// answerForm does what a form says, once for each time that it was shown.
func (p pages) answerForm(w http.ResponseWriter, r *http.Request, do func(*http.Request) (any, error)) {
	var formErr error
	if formErr = r.ParseForm(); formErr != nil {
		formErr = tooLarge(formErr)
	}
	user := api.UserOf(r)
	to, err := p.outcomes.once(r.Context(), user, field(r, "once"), func() string {
		value, err := any(nil), formErr
		if err == nil {
			value, err = do(r)
		}
		d, ok := value.(done)
		if err != nil {
			d, ok = p.refused(r, err), true
		}
		if !ok {
			return string(value.(seeOther))
		}
		return withToken(d.to, p.outcomes.put(user, d.outcome))
	})
	if err != nil {
		return // whoever sent the form has gone
	}
	redirect(w, r, to)
}

// refused leads to where a form was, which says why it did nothing.
func (p pages) refused(r *http.Request, err error) done {
	problem := api.Problem(r, err, p.log)
	to := ""
	if w, ok := p.relay.Webhook(r.PathValue("name")); ok {
		to = webhookAt(w.Name)
	}
	if to == "" {
		return done{to, outcome{Once: true, Status: problem.Status, Of: problem}}
	}
	return done{to, outcome{Once: true, Status: problem.Status, Flash: &flash{"bad", problem.Error()}}}
}

// tokenName is the name of an outcome's token in an address.
const tokenName = "shown"

// withToken adds a token to an address, before its fragment.
func withToken(to, token string) string {
	to, fragment, found := strings.Cut(to, "#")
	sep := "?"
	if strings.Contains(to, "?") {
		sep = "&"
	}
	to += sep + tokenName + "=" + token
	if found {
		to += "#" + fragment
	}
	return to
}

func redirect(w http.ResponseWriter, r *http.Request, to string) {
	w.Header().Set("Location", rootOf(r.URL.Path)+to)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther)
}

// outcome is what a form did that led to this page; nothing if none did. It is
// looked at once in a request: a secret is gone then.
func (p pages) outcome(r *http.Request) outcome {
	token := r.URL.Query().Get(tokenName)
	if token == "" || r.Method != http.MethodGet {
		return outcome{}
	}
	out, _ := p.outcomes.look(api.UserOf(r), token)
	return out
}

// show renders a page.
func (p pages) show(w http.ResponseWriter, r *http.Request, v shown) {
	s := v.screen
	s.Root, s.Version = rootOf(r.URL.Path), p.version
	if s.Again == "" {
		s.Again = strings.TrimPrefix(r.URL.Path, "/")
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
	p.show(w, r, problemScreen(api.Problem(r, err, p.log)))
}

func problemScreen(problem *event.Problem) shown {
	s := screen{Title: problem.Title, Page: problem}
	if problem.Status == http.StatusNotFound {
		s.Title = "Not here"
	}
	return shown{"problem.html", problem.Status, s}
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

// webhookAt is the address of a webhook's page.
func webhookAt(name string) string { return "webhooks/" + url.PathEscape(name) }

// said leads to a page that says one thing, once.
func said(to string, f *flash) done { return done{to, outcome{Flash: f, Once: true}} }

func tooLarge(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The form has more than %d bytes.", large.Limit))
	}
	return event.NewProblem(http.StatusBadRequest, "The form could not be read.")
}
