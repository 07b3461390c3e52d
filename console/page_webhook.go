package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/redact"
)

// recentDeliveries is how many a webhook's page shows.
const recentDeliveries = 15

// webhookPage is one webhook.
type webhookPage struct {
	webhookRow
	Ladder    ladder
	Here      *here
	Hint      string
	Probes    bool      // it does not answer, and is tried now and then
	NextProbe time.Time // when; zero is with the next delivery that waits
	HeldUntil time.Time // the receiver asked to be left alone until then; zero: it did not
	Counts    relay.Counts
	// FilterErrors are the events that the filter could not judge; the zero value is none.
	FilterErrors relay.FilterErrors
	Latest       []eventRow // its newest deliveries
	News         news
	Settings     settings
	Wrong        wrongFields
	Until        time.Time // the old secret works until then; zero if there is none
	ReadOnly     bool      // the settings are in the Caddyfile
	HasSecret    bool
	Spans        []choice
	Test         *testOutcome
	Secret       *secretShown
}

// here is the delivery that stands on the ladder: of those that are retried,
// the one that is due next.
type here struct {
	Delivery, Event string
	Mark            mark
	Due             time.Time
	Tries           string // "2 of 6 attempts failed"
}

// choice is one of a list to choose from.
type choice struct {
	Value, Name string
	Chosen      bool
}

// spans are how far back a recovery reaches.
func spans(chosen string) []choice {
	list := []choice{
		{Value: "failed", Name: "everything that failed"},
		{Value: "waiting", Name: "everything that waits for a retry"},
		{Value: "1h", Name: "failed or missed in the last hour"},
		{Value: "6h", Name: "failed or missed in the last 6 hours"},
		{Value: "24h", Name: "failed or missed in the last 24 hours"},
		{Value: "7d", Name: "failed or missed in the last 7 days"},
		{Value: "30d", Name: "failed or missed in the last 30 days"},
	}
	for i := range list {
		list[i].Chosen = list[i].Value == chosen
	}
	return list
}

// showWebhook is the page of one webhook, with what a form on it did.
func (p pages) showWebhook(r *http.Request) (any, error) {
	w, err := p.webhookNamed(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	page := webhookPage{
		webhookRow: p.webhookRow(r, w, now), Counts: w.Counts, FilterErrors: w.FilterErrors, Settings: settingsOf(w),
		ReadOnly: w.Source == relay.FromCaddyfile, HasSecret: w.HasSecret, Until: w.PreviousUntil, Spans: spans("failed"),
	}
	if w.LastAnswer.Error != "" {
		page.Why, page.Hint = w.LastAnswer.Error, hintFor(w.LastAnswer.Class)
	}
	page.Probes = w.Probing
	page.HeldUntil = w.HeldUntil
	if w.NextProbe.After(now) {
		page.NextProbe = w.NextProbe
	}
	if page.Here, page.Ladder, err = p.whereItStands(r, w, now); err != nil {
		return nil, err
	}
	upto := uptoOf(r)
	query := queue.DeliveryQuery{Webhook: w.ID, Limit: recentDeliveries, Until: upto}
	found, err := p.queue.Deliveries(r.Context(), query)
	if err != nil {
		return nil, err
	}
	byID := map[queue.WebhookID]relay.WebhookStatus{w.ID: w}
	for _, d := range found.Items {
		row, err := p.rowOf(r, d, byID, now)
		if err != nil {
			return nil, err
		}
		page.Latest = append(page.Latest, row)
	}
	s := screen{Title: w.Name, Area: "webhooks", Live: []string{"attempt", "state", "accepted"}}
	out := p.outcome(r)
	s.Flash = out.Flash
	again := pinned(url.Values{}, upto, page.Latest)
	switch of := out.Of.(type) {
	case *settingsForm:
		page.Settings, page.Wrong = of.Settings, of.Wrong
	case *testOutcome:
		page.Test = of
		again.Set(tokenName, r.URL.Query().Get(tokenName))
	case *secretShown:
		page.Secret = of
		s.Live = nil // a page that holds a secret is not fetched again: it would be gone
	}
	s.Again = webhookAt(w.Name) + "?" + again.Encode()
	page.News = newsOf(r, "rows", webhookAt(w.Name))
	page.News.Count, err = p.newDeliveries(r, query, upto, func(queue.Delivery) bool { return true })
	if err != nil {
		return nil, err
	}
	s.Page = page
	return shown{name: "webhook.html", status: out.Status, screen: s}, nil
}

// whereItStands finds the delivery that is retried next among the newest that
// are retried, and draws the ladder with it.
func (p pages) whereItStands(r *http.Request, w relay.WebhookStatus, now time.Time) (*here, ladder, error) {
	found, err := p.queue.Deliveries(r.Context(), queue.DeliveryQuery{Webhook: w.ID, States: []queue.State{queue.Retrying}, Limit: 50})
	if err != nil {
		return nil, ladder{}, err
	}
	if len(found.Items) == 0 {
		return nil, drawLadder(w.Retry, -1), nil
	}
	next := slices.MinFunc(found.Items, func(a, b queue.Delivery) int { return a.Due.Compare(b.Due) })
	tries := max(len(w.Retry), next.Rung) + 1 // the ladder may have been cut meanwhile
	return &here{
		Delivery: next.ID.String(), Event: next.ID.Event.String(),
		Mark:  deliveryMark(next, p.relay.DeliveryState(next), &w, api.UserOf(r), now),
		Due:   next.Due,
		Tries: fmt.Sprintf("%d of %s failed", next.Rung, counted(int64(tries), "attempt", "attempts")),
	}, drawLadder(w.Retry, next.Rung), nil
}

// settings are a webhook's as a form holds them.
type settings struct {
	URL, Filter, Retry, Timeout, Concurrency, Rate string
	Created, Updated, Ordered                      bool
	Headers                                        string // only what is to be set; those that are set are secrets
}

func settingsOf(w relay.WebhookStatus) settings {
	rungs := make([]string, len(w.Retry))
	for i, d := range w.Retry {
		rungs[i] = rung(d)
	}
	wants := func(t event.Type) bool { return len(w.Events) == 0 || slices.Contains(w.Events, t) }
	return settings{
		URL: redact.Marked(w.URL), Filter: w.Filter, Retry: strings.Join(rungs, " "), Timeout: rung(w.Timeout),
		Concurrency: strconv.Itoa(w.Concurrency), Rate: w.Rate.String(),
		Created: wants(event.Created), Updated: wants(event.Updated), Ordered: w.Ordered,
	}
}

// inputOf reads a form of settings. A field that the form has not is left as
// it is.
func inputOf(r *http.Request) (in api.WebhookSettings, err error) {
	var errs []error
	given := func(name string) *string {
		if !r.PostForm.Has(name) {
			return nil
		}
		v := field(r, name)
		return &v
	}
	in.URL, in.Filter, in.Rate = given("url"), given("filter"), given("rate")
	if retry := given("retry"); retry != nil {
		rungs := strings.Fields(*retry)
		in.Retry = &rungs
	}
	if timeout := given("timeout"); timeout != nil && *timeout != "" {
		in.Timeout = timeout
	}
	if text := given("concurrency"); text != nil && *text != "" {
		n, err := strconv.Atoi(*text)
		if err != nil || n < 1 {
			errs = append(errs, api.Unprocessable("/concurrency", fmt.Errorf("%q is no number above zero", *text)))
		}
		in.Concurrency = &n
	}
	if r.PostForm.Has("choices") { // boxes that are not ticked are not sent
		if in.Events, err = eventsOf(r); err != nil {
			errs = append(errs, err)
		}
		ordered := field(r, "ordered") != ""
		in.Ordered = &ordered
	}
	if text := given("headers"); text != nil && *text != "" {
		headers := make(map[string]string)
		for line := range strings.Lines(*text) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if !ok {
				errs = append(errs, api.Unprocessable("/headers", fmt.Errorf("%q is no line such as Authorization: Bearer …", strings.TrimSpace(line))))
				break
			}
			headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		in.Headers = &headers
	}
	return in, errors.Join(errs...)
}

// eventsOf reads which events are ticked: all of them are the default, which
// takes in types to come.
func eventsOf(r *http.Request) (*[]event.Type, error) {
	ticked := []event.Type{}
	for _, t := range event.Types() {
		if slices.Contains(r.PostForm["events"], string(t)) {
			ticked = append(ticked, t)
		}
	}
	switch len(ticked) {
	case 0:
		return nil, api.Unprocessable("/events", errors.New("choose at least one; to send nothing, pause the webhook"))
	case len(event.Types()):
		ticked = []event.Type{}
	}
	return &ticked, nil
}

// settingsForm is a form of settings that was refused, as it was filled in.
type settingsForm struct {
	Settings settings
	Wrong    wrongFields
}

func (p pages) changeWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	changed := false
	in, unread := inputOf(r)
	err := p.relay.Change(r.Context(), name, func(c *relay.WebhookConfig) error {
		before := *c
		err := errors.Join(unread, in.Apply(c))
		changed = !reflect.DeepEqual(before, *c)
		if err != nil {
			err = errors.Join(err, c.Validate()) // all that is wrong is said at once
		}
		return err
	}, api.UserOf(r))
	if wrong := wrongIn(err); wrong != nil {
		return done{webhookAt(name), outcome{
			Status: http.StatusUnprocessableEntity, Flash: wrong.flash("Nothing was saved."),
			Of: &settingsForm{settings{
				URL: field(r, "url"), Filter: field(r, "filter"), Retry: field(r, "retry"), Timeout: field(r, "timeout"),
				Concurrency: field(r, "concurrency"), Rate: field(r, "rate"), Headers: field(r, "headers"),
				Created: slices.Contains(r.PostForm["events"], string(event.Created)),
				Updated: slices.Contains(r.PostForm["events"], string(event.Updated)), Ordered: field(r, "ordered") != "",
			}, wrong},
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	return said(webhookAt(name), saidChanged(w, changed)), nil
}

func tooLarge(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The form has more than %d bytes.", large.Limit))
	}
	return event.NewProblem(http.StatusBadRequest, "The form could not be read.")
}

// webhookAt is the address of a webhook's page.
func webhookAt(name string) string { return "webhooks/" + url.PathEscape(name) }

// said leads to a page that says one thing, once.
func said(to string, f *flash) done { return done{to, outcome{Flash: f, Once: true}} }

// back is where the form was: the list, if it says so, or the webhook's page.
func back(r *http.Request) string {
	if field(r, "from") == "list" {
		return "webhooks"
	}
	return webhookAt(r.PathValue("name"))
}

func (p pages) pauseWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := p.relay.Disable(r.Context(), name, api.UserOf(r)); err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	return said(back(r), saidPaused(w)), nil
}

func (p pages) enableWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	before, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	if err := p.relay.Enable(r.Context(), name, api.UserOf(r)); err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	return said(back(r), saidResumed(before, w)), nil
}

// testOutcome is what came of a test send, as a page shows it.
type testOutcome struct {
	OK             bool
	Sentence, Sent string
	Hint           string
	exchange
}

func outcomeOf(result relay.TestResult, target string) *testOutcome {
	a := result.Attempt
	return &testOutcome{
		OK: result.OK, Sentence: saidTested(a, result.OK), Sent: saidSent(a), Hint: hintFor(a.ErrorClass),
		exchange: exchangeOf(a, target, relay.Sample),
	}
}

func (p pages) testWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	result, err := p.relay.Test(r.Context(), name)
	if err != nil {
		return nil, err
	}
	return done{webhookAt(name) + "#outcome", outcome{Of: outcomeOf(result, redact.Marked(w.URL))}}, nil
}

// secretShown is a secret, this once, and how to verify with it.
type secretShown struct {
	Secret   string
	Title    string
	Snippets []snippet
}

func (p pages) rotateSecret(r *http.Request) (any, error) {
	name, own := r.PathValue("name"), field(r, "secret")
	overlap, err := relay.ParseDuration(field(r, "overlap"))
	if err != nil || overlap < 0 {
		return nil, api.Unprocessable("/overlap", errors.New("is no duration such as 24h"))
	}
	before, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	secret, err := p.relay.Rotate(r.Context(), name, own, overlap, api.UserOf(r))
	if err != nil {
		return nil, err
	}
	out := outcome{Flash: saidRotated(before, overlap), Once: true}
	if own == "" {
		out.Of = &secretShown{secret, "The new secret, shown this once", snippets()}
		out.Lost = "The new secret was shown here once and is not kept. If you have not copied it, change the secret again."
	}
	return done{webhookAt(name), out}, nil
}

// recoverPage asks before much is sent again.
type recoverPage struct {
	Name, Span, Sentence, Then string
	Count                      int64
	Spans                      []choice
}

// recoveryOf reads what is to be sent again.
func recoveryOf(text string, now time.Time) (relay.Recovery, error) {
	switch text {
	case "failed", "":
		return relay.Recovery{Failed: true}, nil
	case api.StateWaiting:
		return relay.Recovery{Waiting: true}, nil
	}
	back, err := relay.ParseDuration(text)
	if err != nil || back <= 0 {
		return relay.Recovery{}, api.Unprocessable("/span", fmt.Errorf("%q is no duration such as 24h", text))
	}
	return relay.Recovery{Failed: true, Missed: true, Since: now.Add(-back)}, nil
}

func (p pages) askRecover(r *http.Request) (any, error) {
	name, text := r.PathValue("name"), r.URL.Query().Get("span")
	what, err := recoveryOf(text, time.Now())
	if err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	what.DryRun = true
	page := recoverPage{Name: name, Span: text, Spans: spans(text), Then: "They go out gently: one at first, more as the receiver answers."}
	if w.Parked || w.State == relay.Disabled {
		page.Then = "They are held until " + name + " has events sent to it again."
	}
	if page.Count, err = p.relay.Recover(r.Context(), name, what, api.UserOf(r)); err != nil {
		return nil, err
	}
	page.Sentence = "Nothing would be sent again."
	if page.Count > 0 {
		page.Sentence = counted(page.Count, "delivery", "deliveries") + " would be sent again."
	}
	return shown{name: "recover.html", screen: screen{Title: "Recover " + name, Area: "webhooks", Page: page}}, nil
}

func (p pages) recoverWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	what, err := recoveryOf(field(r, "span"), time.Now())
	if err != nil {
		return nil, err
	}
	count, err := p.relay.Recover(r.Context(), name, what, api.UserOf(r))
	if err != nil {
		return nil, err
	}
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	return said(webhookAt(name), saidRecovered(w, count, what)), nil
}

// deletePage asks before a webhook is deleted.
type deletePage struct {
	Name, URL string
	Waiting   int64
}

func (p pages) askDelete(r *http.Request) (any, error) {
	w, err := p.webhookNamed(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return shown{name: "delete.html", screen: screen{Title: "Delete " + w.Name, Area: "webhooks", Page: deletePage{
		Name: w.Name, URL: redact.Marked(w.URL), Waiting: w.Counts.Pending + w.Counts.Retrying + w.Counts.Held,
	}}}, nil
}

func (p pages) deleteWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	cancelled, err := p.relay.Delete(r.Context(), name, api.UserOf(r))
	if err != nil {
		return nil, err
	}
	return said("webhooks", saidDeleted(name, cancelled)), nil
}

// redeliver sends one delivery again, and comes back to where it was asked for.
func (p pages) redeliver(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	to := "events/" + id.Event.String() + "?delivery=" + id.String()
	if name := field(r, "webhook"); name != "" {
		to = webhookAt(name)
	}
	err = p.relay.Redeliver(r.Context(), id, api.UserOf(r))
	switch {
	case errors.Is(err, queue.ErrConflict):
		return said(to, saidBusy()), nil
	case err != nil:
		return nil, err
	}
	return said(to, saidRedelivered(webhookOf(p.webhooksByID(), id.Webhook))), nil
}
