package console

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/redact"
	"github.com/userhero/relay/relay/signature"
)

// wizard adds a webhook in steps: URL, secret, test, save. Between steps everything
// is in the posted form, so the secret is in no address and in no log.
type wizard struct {
	Step  int // 1 URL, 2 secret, 3 test
	First bool
	Name  string
	URL   string
	Projects,
	Filter,
	Secret string
	Ticked   []event.Type
	Sent     bodyChoice
	Previews []preview
	Wrong    wrongFields
	Draft    string // the same in all steps of adding one webhook
	Snippets []snippet
	Test     *testOutcome
}

// add shows the first step, or the step that a form led to.
func (p pages) add(r *http.Request) (any, error) {
	if p.relay.ReadOnly() {
		return nil, scope.ErrReadOnly
	}
	out := p.outcome(r)
	w, ok := out.Of.(*wizard)
	if !ok {
		w = &wizard{Step: 1, Ticked: event.Types()}
		if r.URL.Query().Has(tokenName) && out.Flash == nil {
			out.Flash = words.Bad("This step has expired. Start again.")
		}
	}
	w.First = len(p.relay.Webhooks()) == 0
	return p.wizardScreen(w, out), nil
}

func (p pages) wizardScreen(w *wizard, out outcome) shown {
	return shown{name: "add.html", status: out.Status, screen: screen{Title: "Add a webhook", Area: "add", Flash: out.Flash, Page: w}}
}

// addStep reads the form of a step and leads to the next step; the last one saves.
func (p pages) addStep(r *http.Request) (any, error) {
	w := &wizard{
		Name: field(r, "name"), URL: field(r, "url"), Projects: field(r, "projects"), Filter: field(r, "filter"), Secret: r.PostFormValue("secret"),
		Ticked: tickedIn(r), Sent: sentIn(r),
		Draft: cmp.Or(field(r, "draft"), rand.Text()),
	}
	if w.Name == "" {
		w.Name = p.freeName(w.URL)
	}
	show := func(step int, out outcome) done {
		if w.Step = step; step == 2 {
			w.Snippets = snippets()
		}
		out.Of, out.Draft = w, w.Draft
		return done{"add", out}
	}
	again := func(step int, err error) done {
		if w.Wrong = wrongIn(err); w.Wrong == nil {
			return show(step, outcome{Status: http.StatusUnprocessableEntity, Flash: &words.Flash{Kind: "bad", Text: api.Problem(r, err, p.log).Error()}})
		}
		return show(step, outcome{Status: http.StatusUnprocessableEntity, Flash: w.Wrong.flash("Nothing was added.")})
	}
	events, err := eventsOf(r)
	if err != nil {
		return again(1, err), nil
	}
	c := relay.WebhookConfig{Name: w.Name, Projects: linesOf(r, "projects"), Filter: w.Filter, Body: w.Sent.source(), Events: *events, Secret: strings.TrimSpace(w.Secret)}
	if c.URL, err = api.UnmaskURL(w.URL, ""); err != nil {
		return again(1, api.Unprocessable("/url", err)), nil
	}
	withoutSecret := c
	withoutSecret.Secret = ""
	err = p.relay.Prepare(&withoutSecret)
	if _, taken := p.relay.Webhook(w.Name); taken {
		err = errors.Join(err, relay.ErrExists)
	}
	if err != nil {
		return again(1, fmt.Errorf("%w: %w", relay.ErrInvalid, err)), nil
	}
	switch field(r, "go") {
	case "url": // back
		return show(1, outcome{}), nil
	case "preview":
		if w.Previews, err = p.previewsOf(r, w.Name); err != nil {
			return again(1, err), nil
		}
		return show(1, outcome{}), nil
	case "secret":
		if w.Secret == "" {
			w.Secret = signature.NewSecret()
		}
		return show(2, outcome{}), nil
	}
	if err := c.Validate(); err != nil {
		return again(2, fmt.Errorf("%w: %w", relay.ErrInvalid, err)), nil
	}
	if field(r, "go") == "save" {
		if err := p.relay.Add(r.Context(), c, api.UserOf(r)); err != nil {
			return again(1, err), nil
		}
		p.outcomes.forget(w.Draft) // they hold the secret
		added, err := p.webhookNamed(c.Name)
		if err != nil {
			return nil, err
		}
		return said(webhookAt(c.Name), words.Added(added)), nil
	}
	result, err := p.relay.Try(r.Context(), c)
	if err != nil {
		return again(1, err), nil
	}
	w.Test = outcomeOf(result, redact.Marked(c.URL))
	return show(3, outcome{}), nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// freeName makes a name from the host of a URL that no webhook has.
func (p pages) freeName(url string) string {
	_, host, _ := strings.Cut(url, "://")
	host, _, _ = strings.Cut(host, "/")
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(host), "-"), "-")
	name = name[:min(len(name), 50)]
	if name == "" {
		name = "webhook"
	}
	free := name
	for i := 2; ; i++ {
		if _, taken := p.relay.Webhook(free); !taken {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, i)
	}
}
