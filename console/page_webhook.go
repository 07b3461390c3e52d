package console

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/userhero/relay/console/api"
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
	Probes    bool      // it does not answer; one delivery at a time is tried
	NextProbe time.Time // the next try; zero: at once
	HeldUntil time.Time // end of the pause that the receiver asked for; zero: none
	Counts    relay.Counts
	// Difference says how the configuration file of another relay differs.
	Difference string
	// FilterErrors are the events that the filter could not judge.
	FilterErrors relay.FilterErrors
	Latest       []eventRow // its newest deliveries
	News         news
	Settings     settings
	Wrong        wrongFields
	Until        time.Time // until then the old secret works too; zero: there is none
	ReadOnly     bool      // the settings are in the Caddyfile, or the console changes nothing
	HasSecret    bool
	Spans        []choice
	Test         *testOutcome
	Secret       *secretShown
}

// here is the delivery that stands on the ladder: of those that are retried, the one
// that is due next.
type here struct {
	Delivery, Event string
	Mark            mark
	Due             time.Time
	Tries           string // "2 of 6 attempts failed"
}

// showWebhook is the page of one webhook, with the outcome of a form on it.
func (p pages) showWebhook(r *http.Request) (any, error) {
	w, err := p.webhookNamed(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	page := webhookPage{
		webhookRow: p.webhookRow(r, w, now), Counts: w.Counts, FilterErrors: w.FilterErrors, Difference: w.Difference, Settings: settingsOf(w),
		ReadOnly: w.Source == relay.FromCaddyfile || p.relay.ReadOnly(), HasSecret: w.HasSecret, Until: w.PreviousUntil, Spans: spans("failed"),
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
		s.Live = nil // an update would remove the secret
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

// whereItStands draws the ladder with the delivery that is retried next, of the
// newest deliveries that are retried.
func (p pages) whereItStands(r *http.Request, w relay.WebhookStatus, now time.Time) (*here, ladder, error) {
	found, err := p.queue.Deliveries(r.Context(), queue.DeliveryQuery{Webhook: w.ID, States: []queue.State{queue.Retrying}, Limit: 50})
	if err != nil {
		return nil, ladder{}, err
	}
	if len(found.Items) == 0 {
		return nil, drawLadder(w.Retry, -1), nil
	}
	next := slices.MinFunc(found.Items, func(a, b queue.Delivery) int { return a.Due.Compare(b.Due) })
	tries := max(len(w.Retry), next.Rung) + 1 // the ladder may be shorter now
	return &here{
		Delivery: next.ID.String(), Event: next.ID.Event.String(),
		Mark:  deliveryMark(next, p.relay.DeliveryState(next), &w, api.UserOf(r), now),
		Due:   next.Due,
		Tries: fmt.Sprintf("%d of %s failed", next.Rung, counted(int64(tries), "attempt", "attempts")),
	}, drawLadder(w.Retry, next.Rung), nil
}
