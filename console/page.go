package console

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// pages serves the console's pages. They work with links and forms alone; script
// keeps them up to date. A page has no state but its address, which holds what is
// open, filtered or chosen.
type pages struct {
	relay    *scope.View
	queue    *scope.Reader
	version  string
	log      *slog.Logger
	outcomes *outcomes
	resends  *resend.All
}

// screen is the data of a page's template.
type screen struct {
	Root  string // relative address of the console's root
	Title string
	Area  string // the current entry of the navigation
	Flash *words.Flash
	// Live are the kinds of stream events that update the page; without any, the page
	// is not updated.
	Live []string
	// Every is how many milliseconds pass at most between two updates; 0 is the script's
	// default.
	Every int
	// Again is the address from which the page is updated, relative to the console's
	// root. Default: the page's own, without query.
	Again string
	// Pictures is the origin of a picture on the page, which the policy then allows.
	Pictures string
	// Failing is how many webhooks fail.
	Failing int
	// Resends are the actions on many deliveries that run.
	Resends []resend.Status
	// ReadOnly: the console changes nothing.
	ReadOnly bool
	// Empty: there is no webhook yet.
	Empty   bool
	Version string
	Page    any
}

// shown is a page as an answer.
type shown struct {
	name   string // of the template
	status int    // 0 is 200
	screen screen
}

// seeOther is an answer that redirects the browser to another page, relative to the
// console's root.
type seeOther string

// plainText is an answer without a page.
type plainText []byte

// done is the outcome of a form, and the page that shows it, relative to the
// console's root.
type done struct {
	to string
	outcome
}

// answer makes a handler that writes what do returns: a page, a redirect or an error.
// A form is always answered with a redirect, so that neither a reload nor the back
// button sends it again.
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
		case plainText:
			h := w.Header()
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("Cache-Control", "no-store")
			h.Set("X-Content-Type-Options", "nosniff")
			_, _ = w.Write(v) // the client may have disconnected
		}
	})
}

// checkPath ends the path of the only form that changes nothing.
const checkPath = "check"

// answerForm does what a form says, once for each time that the form was shown.
func (p pages) answerForm(w http.ResponseWriter, r *http.Request, do func(*http.Request) (any, error)) {
	if p.relay.ReadOnly() && path.Base(r.URL.Path) != checkPath {
		p.fail(w, r, scope.ErrReadOnly)
		return
	}
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
		return // the client has disconnected
	}
	redirect(w, r, to)
}

// refused leads back to the page of a form, which shows the error.
func (p pages) refused(r *http.Request, err error) done {
	to := ""
	if name := r.PathValue("name"); name != "" {
		if w, gone := p.webhookNamed(name); gone == nil {
			to = webhookAt(w.Name)
		} else if errors.Is(err, queue.ErrNotFound) {
			err = gone
		}
	}
	problem := api.Problem(r, err, p.log)
	if to == "" {
		return done{to, outcome{Once: true, Status: problem.Status, Of: problem}}
	}
	return done{to, outcome{Once: true, Status: problem.Status, Flash: &words.Flash{Kind: "bad", Text: problem.Error()}}}
}

// tokenName is the parameter that holds the token of an outcome.
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

// Policy allows pages only the scripts and styles that the console serves. Inline
// code does not run, even if a page contains a visitor's text unescaped.
var Policy = policyWith("")

// policyWith is the policy of a page that also shows a picture from an origin.
func policyWith(pictures string) string {
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src " + strings.TrimSpace("'self' "+pictures) +
		"; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}

func redirect(w http.ResponseWriter, r *http.Request, to string) {
	w.Header().Set("Location", rootOf(r.URL.Path)+to)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther)
}

// outcome returns the outcome that a request's address names, or the zero value. Call
// it once in a request: a secret can be read only once.
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
	s.Root, s.Version, s.ReadOnly = rootOf(r.URL.Path), p.version, p.relay.ReadOnly()
	s.Resends = p.resends.Running(p.relay)
	for _, w := range p.relay.Webhooks() {
		if w.State == relay.Failing {
			s.Failing++
		}
	}
	if s.Again == "" {
		s.Again = strings.TrimPrefix(r.URL.Path, "/")
	}
	var b bytes.Buffer
	if err := templates()[v.name].ExecuteTemplate(&b, "frame.html", s); err != nil {
		p.log.Error("showing a page", "page", v.name, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if s.Pictures != "" {
		h.Set("Content-Security-Policy", policyWith(s.Pictures))
	}
	w.WriteHeader(cmp.Or(v.status, http.StatusOK))
	_, _ = w.Write(b.Bytes()) // the client may have disconnected
}

// fail shows an error on a page.
func (p pages) fail(w http.ResponseWriter, r *http.Request, err error) {
	p.show(w, r, problemScreen(api.Problem(r, err, p.log)))
}

func problemScreen(problem *event.Problem) shown {
	s := screen{Title: problem.Title, Page: problem}
	if problem.Status == http.StatusNotFound {
		s.Title = "Not found"
	}
	return shown{"problem.html", problem.Status, s}
}

// field reads a field of a form, without white space around it.
func field(r *http.Request, name string) string { return strings.TrimSpace(r.PostFormValue(name)) }

// webhookNamed returns the current state of a webhook.
func (p pages) webhookNamed(name string) (relay.WebhookStatus, error) {
	w, ok := p.relay.Webhook(name)
	if !ok {
		return w, event.NewProblem(http.StatusNotFound, fmt.Sprintf("There is no webhook named %q. It may have been deleted.", name))
	}
	return w, nil
}

// webhookAt is the address of a webhook's page.
func webhookAt(name string) string { return "webhooks/" + url.PathEscape(name) }

// said leads to a page that shows a message once.
func said(to string, f *words.Flash) done { return done{to, outcome{Flash: f, Once: true}} }

// tooLarge explains why a form could not be read.
func tooLarge(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The form has more than %d bytes.", large.Limit))
	}
	return event.NewProblem(http.StatusBadRequest, "The form could not be read.")
}
