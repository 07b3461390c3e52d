package console

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/draw"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/signature"
	"github.com/userhero/relay/relay/tally"
)

// recentDeliveries is how many deliveries a webhook's page shows.
const recentDeliveries = 15

// The tabs of a webhook's page.
const (
	tabDeliveries = ""
	tabCharts     = "/charts"
	tabSettings   = "/settings"
)

// webhookPage is one webhook.
type webhookPage struct {
	webhookRow
	Tab       string
	Tabs      []choice
	Hint      string
	Probes    bool      // it does not answer; one delivery at a time is tried
	NextProbe time.Time // the next try; zero: at once
	HeldUntil time.Time // end of the pause that the receiver asked for; zero: none
	// LastSuccess is when an attempt last succeeded; zero: none did.
	LastSuccess time.Time
	// Difference describes how the configuration file of another relay differs.
	Difference string
	// FilterErrors are the events that the filter could not judge.
	FilterErrors relay.FilterErrors
	Test         *testOutcome

	// Of the tab with deliveries.
	Ladder  draw.Ladder
	Here    *here
	Counts  relay.Counts
	Latest  []eventRow // its newest deliveries
	News    news
	Spans   []choice
	Retries bool // there are any

	// Of the tab with charts.
	Charts  *draw.Charts
	Periods []choice // what the charts can show

	// Of the tab with settings.
	Settings settings
	Headers  []string // names of the present ones
	Wrong    wrongFields
	Previews []preview
	Until    time.Time // until then the old secret works too; zero: there is none
	// Keys are the public keys of asymmetric signatures, the present one first. KeyUntil
	// is when the old one stops signing; zero if there is none, or no end.
	Keys      []signature.JWK
	KeyUntil  time.Time
	ReadOnly  bool // the settings are in the Caddyfile, or the console changes nothing
	HasSecret bool
	Secret    *secretShown
}

// here is the delivery that is shown on the ladder: the retry that is due next.
type here struct {
	Delivery, Event string
	Mark            words.Mark
	Due             time.Time
	Tries           string // "2 of 6 attempts failed"
}

// showWebhook is the page of one webhook, with the outcome of a form on it.
func (p pages) showWebhook(r *http.Request) (any, error) {
	w, page, s, err := p.webhookScreen(r, tabDeliveries)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	page.Spans, page.Retries = spans("failed"), len(w.Retry) > 0
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
	again := pinned(url.Values{}, upto, page.Latest)
	if page.Test != nil {
		again.Set(tokenName, r.URL.Query().Get(tokenName))
	}
	s.Again = webhookAt(w.Name) + "?" + again.Encode()
	page.News = newsOf(r, "rows", webhookAt(w.Name))
	page.News.Count, err = p.newDeliveries(r, query, upto, func(queue.Delivery) bool { return true })
	if err != nil {
		return nil, err
	}
	s.Live = []string{"attempt", "state", "accepted"}
	return shown{name: "webhook.html", status: s.status, screen: s.screen}, nil
}

// showCharts is the tab with charts.
func (p pages) showCharts(r *http.Request) (any, error) {
	w, page, s, err := p.webhookScreen(r, tabCharts)
	if err != nil {
		return nil, err
	}
	span := r.URL.Query().Get("span")
	back := map[string]time.Duration{"7d": tally.LastWeek, "30d": tally.LastMonth}[span]
	series, _ := p.relay.WebhookSeries(w.Name, back)
	page.Charts = draw.ChartsOf(series)
	page.Periods = []choice{{"24h", "24 hours", back == 0}, {"7d", "7 days", back == tally.LastWeek}, {"30d", "30 days", back == tally.LastMonth}}
	s.Live, s.Again = []string{"attempt", "state"}, webhookAt(w.Name)+tabCharts+"?span="+url.QueryEscape(span)
	return shown{name: "webhook.html", status: s.status, screen: s.screen}, nil
}

// showSettings is the tab with settings. It is not updated, because people type in it.
func (p pages) showSettings(r *http.Request) (any, error) {
	w, page, s, err := p.webhookScreen(r, tabSettings)
	if err != nil {
		return nil, err
	}
	page.ReadOnly, page.HasSecret, page.Until, page.Headers = w.Source == relay.FromCaddyfile || p.relay.ReadOnly(), w.HasSecret, w.PreviousUntil, w.Headers
	page.Keys, page.KeyUntil = w.PublicKeys, w.PreviousSigningUntil
	if page.Wrong == nil {
		page.Settings = settingsOf(w)
	}
	return shown{name: "webhook.html", status: s.status, screen: s.screen}, nil
}

// webhookOutcome is a screen with the status of its answer.
type webhookOutcome struct {
	screen
	status int
}

// webhookScreen returns what the tabs of a webhook's page have in common.
func (p pages) webhookScreen(r *http.Request, tab string) (relay.WebhookStatus, *webhookPage, *webhookOutcome, error) {
	w, err := p.webhookNamed(r.PathValue("name"))
	if err != nil {
		return w, nil, nil, err
	}
	now := time.Now()
	page := &webhookPage{
		webhookRow: p.webhookRow(r, w, now), Tab: tab, Counts: w.Counts, FilterErrors: w.FilterErrors, Difference: w.Difference, Probes: w.Probing, HeldUntil: w.HeldUntil, LastSuccess: w.LastSuccess,
		Tabs: []choice{{tabDeliveries, "Deliveries", tab == tabDeliveries}, {tabCharts, "Charts", tab == tabCharts}, {tabSettings, "Settings", tab == tabSettings}},
	}
	if w.LastAnswer.Error != "" {
		page.Why, page.Hint = w.LastAnswer.Error, words.HintFor(w.LastAnswer.Class)
	}
	if w.NextProbe.After(now) {
		page.NextProbe = w.NextProbe
	}
	out := p.outcome(r)
	title := w.Name
	if tab != tabDeliveries {
		title += ", " + tab[1:]
	}
	s := &webhookOutcome{screen{Title: title, Area: "webhooks", Flash: out.Flash, Page: page}, out.Status}
	switch of := out.Of.(type) {
	case *settingsForm:
		page.Settings, page.Wrong, page.Previews = of.Settings, of.Wrong, of.Previews
	case *testOutcome:
		page.Test = of
	case *secretShown:
		page.Secret = of
	}
	return w, page, s, nil
}

// whereItStands draws the ladder with the next retry among the newest deliveries.
func (p pages) whereItStands(r *http.Request, w relay.WebhookStatus, now time.Time) (*here, draw.Ladder, error) {
	found, err := p.queue.Deliveries(r.Context(), queue.DeliveryQuery{Webhook: w.ID, States: []queue.State{queue.Retrying}, Limit: 50})
	if err != nil {
		return nil, draw.Ladder{}, err
	}
	if len(found.Items) == 0 {
		return nil, draw.LadderOf(w.Retry, -1), nil
	}
	next := slices.MinFunc(found.Items, func(a, b queue.Delivery) int { return a.Due.Compare(b.Due) })
	tries := max(len(w.Retry), next.Rung) + 1 // the ladder may be shorter now
	return &here{
		Delivery: next.ID.String(), Event: next.ID.Event.String(),
		Mark:  words.DeliveryMark(next, p.relay.DeliveryState(next), &w, api.UserOf(r), now),
		Due:   next.Due,
		Tries: fmt.Sprintf("%d of %s failed", next.Rung, words.Counted(int64(tries), "attempt", "attempts")),
	}, draw.LadderOf(w.Retry, next.Rung), nil
}
