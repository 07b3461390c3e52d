package console

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay"
)

// wizard adds a webhook in steps: URL, secret, test, save. It keeps nothing
// between them but in the form, which is posted: the secret is in no address
// and in no log.
type wizard struct {
	Step  int // 1 URL, 2 secret, 3 test
	First bool
	Name  string
	URL   string
	Filter,
	Secret string
	Created, Updated bool
	Problem          string
	Snippets         []snippet
	Test             *testOutcome
}

func (p pages) add(r *http.Request) (any, error) {
	return p.addWizard(r, wizard{Step: 1, First: len(p.relay.Webhooks()) == 0})
}

// addWizard shows a step.
func (p pages) addWizard(_ *http.Request, w wizard) (any, error) {
	title := "Add a webhook"
	if w.Step == 1 && w.Problem == "" && !w.Created && !w.Updated {
		w.Created, w.Updated = true, true
	}
	if w.Step == 2 {
		w.Snippets = snippets()
	}
	status := http.StatusOK
	if w.Problem != "" {
		status = http.StatusUnprocessableEntity
	}
	return shown{name: "add.html", status: status, screen: screen{Title: title, Area: "add", Page: w}}, nil
}

// addStep takes the form of a step and shows the next one; the last saves.
func (p pages) addStep(r *http.Request) (any, error) {
	if err := r.ParseForm(); err != nil {
		return nil, tooLarge(err)
	}
	w := wizard{
		Name: field(r, "name"), URL: field(r, "url"), Filter: field(r, "filter"), Secret: r.PostFormValue("secret"),
		Created: slices.Contains(r.PostForm["events"], string(event.Created)),
		Updated: slices.Contains(r.PostForm["events"], string(event.Updated)),
	}
	if w.Name == "" {
		w.Name = p.freeName(w.URL)
	}
	again := func(step int, err error) (any, error) {
		w.Step, w.Problem = step, p.problem(r, err).Error()
		return p.addWizard(r, w)
	}
	events, err := eventsOf(r)
	if err != nil {
		return again(1, err)
	}
	c := relay.WebhookConfig{Name: w.Name, URL: w.URL, Filter: w.Filter, Events: *events, Secret: strings.TrimSpace(w.Secret)}
	if _, taken := p.relay.Webhook(w.Name); taken {
		return again(1, fmt.Errorf("name: %w", relay.ErrExists))
	}
	withoutSecret := c
	withoutSecret.Secret = ""
	if err := withoutSecret.Validate(); err != nil {
		return again(1, fmt.Errorf("%w: %w", relay.ErrInvalid, err))
	}
	switch field(r, "go") {
	case "url": // back
		w.Step = 1
		return p.addWizard(r, w)
	case "secret":
		w.Step = 2
		if w.Secret == "" {
			w.Secret = relay.NewSecret()
		}
		return p.addWizard(r, w)
	}
	if err := c.Validate(); err != nil {
		return again(2, fmt.Errorf("%w: %w", relay.ErrInvalid, err))
	}
	if field(r, "go") == "save" {
		if err := p.relay.Add(r.Context(), c, p.who(r)); err != nil {
			return again(3, err)
		}
		return webhookDone(c.Name, "added"), nil
	}
	result, err := p.relay.Try(r.Context(), c)
	if err != nil {
		return again(2, err)
	}
	w.Step, w.Test = 3, outcomeOf(result, shownURL(c.URL))
	return p.addWizard(r, w)
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// freeName makes a name of the URL's host that no webhook has.
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
