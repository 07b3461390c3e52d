package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
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
	Counts    relay.Counts
	// FilterErrors are the events that the filter could not judge; the zero value is none.
	FilterErrors relay.FilterErrors
	Latest    []eventRow // its newest deliveries
	Settings  settings
	ReadOnly  bool // the settings are in the Caddyfile
	HasSecret bool
	Spans     []choice
	Test      *testOutcome
	Secret    *secretShown
}

// here is the delivery that stands on the ladder: of those that are retried,
// the one that is due next.
type here struct {
	Delivery, Event string
	Mark            mark
	Due             time.Time
	Tries           string // "2 of 6 tries failed"
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

func (p pages) showWebhook(r *http.Request) (any, error) {
	return p.webhookScreen(r, nil)
}

// webhookScreen is the page of one webhook; with may add to it.
func (p pages) webhookScreen(r *http.Request, with func(*webhookPage, *screen)) (any, error) {
	w, err := p.webhookNamed(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	page := webhookPage{
		webhookRow: p.webhookRow(r, w, now), Counts: w.Counts, FilterErrors: w.FilterErrors, Settings: settingsOf(w),
		ReadOnly: w.Source == relay.FromCaddyfile, HasSecret: w.HasSecret, Spans: spans("failed"),
	}
	if w.LastAnswer.Error != "" {
		page.Why, page.Hint = w.LastAnswer.Error, hintFor(w.LastAnswer.Class)
	}
	page.Probes = w.State == relay.Failing || !w.NextProbe.IsZero()
	if w.NextProbe.After(now) {
		page.NextProbe = w.NextProbe
	}
	if page.Here, page.Ladder, err = p.whereItStands(r, w, now); err != nil {
		return nil, err
	}
	found, err := p.queue.Deliveries(r.Context(), queue.DeliveryQuery{Webhook: w.ID, Limit: recentDeliveries})
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
	if with != nil {
		with(&page, &s)
	}
	s.Page = page
	return shown{name: "webhook.html", screen: s}, nil
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
		Mark:  deliveryMark(next, p.relay.DeliveryState(next), &w, p.who(r), now),
		Due:   next.Due,
		Tries: fmt.Sprintf("%d of %s failed", next.Rung, counted(int64(tries), "try", "tries")),
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
		URL: shownURL(w.URL), Filter: w.Filter, Retry: strings.Join(rungs, " "), Timeout: rung(w.Timeout),
		Concurrency: strconv.Itoa(w.Concurrency), Rate: w.Rate.String(),
		Created: wants(event.Created), Updated: wants(event.Updated), Ordered: w.Ordered,
	}
}

// inputOf reads a form of settings. A field that the form has not is left as
// it is.
func inputOf(r *http.Request) (in webhookInput, err error) {
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
			return in, unprocessable("/concurrency", fmt.Errorf("%q is no number above zero", *text))
		}
		in.Concurrency = &n
	}
	if r.PostForm.Has("choices") { // boxes that are not ticked are not sent
		if in.Events, err = eventsOf(r); err != nil {
			return in, err
		}
		ordered := field(r, "ordered") != ""
		in.Ordered = &ordered
	}
	if text := given("headers"); text != nil && *text != "" {
		headers := make(map[string]string)
		for line := range strings.Lines(*text) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if !ok {
				return in, unprocessable("/headers", fmt.Errorf("%q is no line such as Authorization: Bearer …", strings.TrimSpace(line)))
			}
			headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		in.Headers = &headers
	}
	return in, nil
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
		return nil, unprocessable("/events", errors.New("choose at least one; to send nothing, pause the webhook"))
	case len(event.Types()):
		ticked = []event.Type{}
	}
	return &ticked, nil
}

func (p pages) changeWebhook(r *http.Request) (any, error) {
	name := r.PathValue("name")
	w, err := p.webhookNamed(name)
	if err != nil {
		return nil, err
	}
	if err := r.ParseForm(); err != nil {
		return nil, tooLarge(err)
	}
	in, err := inputOf(r)
	if err == nil {
		if in.URL != nil && *in.URL == shownURL(w.URL) {
			in.URL = nil // the form did not have what is hidden in it
		}
		err = p.relay.Change(r.Context(), name, in.apply, p.who(r))
	}
	if err != nil {
		return p.webhookScreen(r, func(page *webhookPage, s *screen) {
			s.Flash = &flash{"bad", p.problem(r, err).Error()}
			page.Settings = settings{
				URL: field(r, "url"), Filter: field(r, "filter"), Retry: field(r, "retry"), Timeout: field(r, "timeout"),
				Concurrency: field(r, "concurrency"), Rate: field(r, "rate"), Headers: field(r, "headers"),
				Created: slices.Contains(r.PostForm["events"], string(event.Created)),
				Updated: slices.Contains(r.PostForm["events"], string(event.Updated)), Ordered: field(r, "ordered") != "",
			}
		})
	}
	return webhookDone(name, "changed"), nil
}

func tooLarge(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The form has more than %d bytes.", large.Limit))
	}
	return event.NewProblem(http.StatusBadRequest, "The form could not be read.")
}

// webhookDone leads to a webhook's page, which says what was done.
func webhookDone(name, done string) seeOther {
	return seeOther("webhooks/" + url.PathEscape(name) + "?done=" + done)
}

// back leads to where the form was: the list, where it says so, or the
// webhook's page.
func back(r *http.Request, done string) seeOther {
	if field(r, "from") == "list" {
		return seeOther("webhooks?done=" + done)
	}
	return webhookDone(r.PathValue("name"), done)
}

func (p pages) pauseWebhook(r *http.Request) (any, error) {
	if err := p.relay.Disable(r.Context(), r.PathValue("name"), p.who(r)); err != nil {
		return nil, err
	}
	return back(r, "paused"), nil
}

func (p pages) enableWebhook(r *http.Request) (any, error) {
	if err := p.relay.Enable(r.Context(), r.PathValue("name"), p.who(r)); err != nil {
		return nil, err
	}
	return back(r, "enabled"), nil
}

// testOutcome is what came of a test send, as a page shows it.
type testOutcome struct {
	OK       bool
	Sentence string
	Hint     string
	exchange
}

func outcomeOf(result relay.TestResult, target string) *testOutcome {
	a := result.Attempt
	o := &testOutcome{OK: result.OK, Hint: hintFor(a.ErrorClass), exchange: exchangeOf(a, target, relay.Sample)}
	if o.OK {
		o.Sentence = fmt.Sprintf("It works: the receiver answered %d %s in %s.", a.Status, http.StatusText(a.Status), span(a.Duration))
	} else {
		o.Sentence = fmt.Sprintf("It does not work yet: %s (after %s).", a.Error, span(a.Duration))
	}
	return o
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
	return p.webhookScreen(r, func(page *webhookPage, s *screen) {
		page.Test = outcomeOf(result, shownURL(w.URL))
		s.Live = nil // what is shown is of this moment
	})
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
		return nil, unprocessable("/overlap", errors.New("is no duration such as 24h"))
	}
	secret, err := p.relay.Rotate(r.Context(), name, own, overlap, p.who(r))
	if err != nil {
		return nil, err
	}
	return p.webhookScreen(r, func(page *webhookPage, s *screen) {
		s.Live = nil // a page that holds a secret is not fetched again: it would be gone
		s.Flash = &flash{"good", "The secret is another now."}
		if overlap > 0 {
			s.Flash.Text += " The former one signs too for " + span(overlap) + "."
		}
		if own == "" {
			page.Secret = &secretShown{secret, "The new secret, shown this once", snippets()}
		}
	})
}

// recoverPage asks before much is sent again.
type recoverPage struct {
	Name, Span, Sentence string
	Count                int64
	Spans                []choice
}

// recoveryOf reads what is to be sent again.
func recoveryOf(text string, now time.Time) (relay.Recovery, error) {
	if text == "failed" || text == "" {
		return relay.Recovery{Failed: true}, nil
	}
	back, err := relay.ParseDuration(text)
	if err != nil || back <= 0 {
		return relay.Recovery{}, unprocessable("/span", fmt.Errorf("%q is no duration such as 24h", text))
	}
	return relay.Recovery{Failed: true, Missed: true, Since: now.Add(-back)}, nil
}

func (p pages) askRecover(r *http.Request) (any, error) {
	name, text := r.PathValue("name"), r.URL.Query().Get("span")
	what, err := recoveryOf(text, time.Now())
	if err != nil {
		return nil, err
	}
	what.DryRun = true
	page := recoverPage{Name: name, Span: text, Spans: spans(text)}
	if page.Count, err = p.relay.Recover(r.Context(), name, what, p.who(r)); err != nil {
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
	count, err := p.relay.Recover(r.Context(), name, what, p.who(r))
	if err != nil {
		return nil, err
	}
	return webhookDone(name, "recovered&n="+strconv.FormatInt(count, 10)), nil
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
		Name: w.Name, URL: shownURL(w.URL), Waiting: w.Counts.Pending + w.Counts.Retrying + w.Counts.Held,
	}}}, nil
}

func (p pages) deleteWebhook(r *http.Request) (any, error) {
	ended, err := p.relay.Delete(r.Context(), r.PathValue("name"), p.who(r))
	if err != nil {
		return nil, err
	}
	if ended == 0 {
		return seeOther("webhooks?done=deleted"), nil
	}
	return seeOther("webhooks?done=ended&n=" + strconv.FormatInt(ended, 10)), nil
}

// redeliver sends one delivery again, and comes back to where it was asked for.
func (p pages) redeliver(r *http.Request) (any, error) {
	id, err := queue.ParseDeliveryID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	done := "redelivered"
	if err := p.relay.Redeliver(r.Context(), id, p.who(r)); errors.Is(err, queue.ErrConflict) {
		done = "busy"
	} else if err != nil {
		return nil, err
	}
	if name := field(r, "webhook"); name != "" {
		return webhookDone(name, done), nil
	}
	return seeOther("events/" + id.Event.String() + "?delivery=" + id.String() + "&done=" + done), nil
}
