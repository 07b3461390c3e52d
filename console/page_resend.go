package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// askPage asks before deliveries are sent again.
type askPage struct {
	Sentence   string
	Count      int
	States     []string // how many are in each state
	Deliveries []string // the chosen ones; empty: all that match
	Query      string   // what they match
	Back       string
	Warning    string
}

// resendAsked reads which deliveries are meant: chosen ones, or all that match a query.
func resendAsked(v url.Values) (chosen []queue.DeliveryID, q eventsQuery, err error) {
	for _, text := range v["delivery"] {
		id, err := queue.ParseDeliveryID(text)
		if err != nil {
			return nil, q, err
		}
		chosen = append(chosen, id)
	}
	if inner, err := url.ParseQuery(v.Get("query")); err == nil {
		q = queryOf(inner, false)
	}
	q.Cursor, q.Seen, q.View = "", 0, ""
	return chosen, q, nil
}

// walk calls each for every delivery that a query selects, newest first. It stops when each
// returns false or the time is over; a zero time means no limit. It reports whether it has
// seen all deliveries.
func (p pages) walk(r *http.Request, q eventsQuery, within time.Duration, each func(queue.Delivery) bool) (all bool, err error) {
	now := time.Now()
	s := eventSearch{pages: p, r: r, query: q, page: new(eventsPage), now: now}
	if s.since, s.until, err = q.span(now); err != nil {
		return false, err
	}
	query := queue.DeliveryQuery{States: api.StoredStates(q.State), Since: s.since, Until: s.until, Limit: 500}
	if q.Webhook != "" {
		w, err := p.webhookNamed(q.Webhook)
		if err != nil {
			return false, err
		}
		query.Webhook = w.ID
	}
	wanted := s.wanted()
	for {
		found, err := p.queue.Deliveries(r.Context(), query)
		if err != nil {
			return false, err
		}
		for _, d := range found.Items {
			ok, err := wanted(d)
			if err != nil {
				return false, err
			}
			if ok && !each(d) {
				return false, nil
			}
		}
		if query.Cursor = found.Next; found.Next == "" {
			return true, nil
		}
		if within > 0 && time.Since(now) > within {
			return false, nil
		}
	}
}

// askResend counts what would be sent again.
func (p pages) askResend(r *http.Request) (any, error) {
	chosen, q, err := resendAsked(r.URL.Query())
	if err != nil {
		return nil, err
	}
	page := askPage{Query: q.values().Encode(), Back: q.address()}
	states := make(map[string]int)
	add := func(d queue.Delivery) bool {
		page.Count++
		states[p.relay.DeliveryState(d)]++
		return true
	}
	whole := true
	if len(chosen) > 0 {
		for _, id := range chosen {
			d, err := p.queue.Delivery(r.Context(), id)
			if err != nil {
				return nil, err
			}
			add(d)
			page.Deliveries = append(page.Deliveries, id.String())
		}
	} else if whole, err = p.walk(r, q, countTime, add); err != nil {
		return nil, err
	}
	for _, state := range []string{api.StateFailed, api.StateRetrying, api.StateHeld, api.StatePending, api.StateDelivered} {
		if n := states[state]; n > 0 {
			page.States = append(page.States, words.Number(int64(n))+" "+state)
		}
	}
	deliveries := words.Counted(int64(page.Count), "delivery", "deliveries")
	switch {
	case page.Count == 0 && whole:
		page.Sentence = "Nothing would be sent again."
	case whole:
		page.Sentence = "Send " + deliveries + " again?"
	default:
		page.Sentence = "Send more than " + deliveries + " again?"
		page.Warning = fmt.Sprintf("There are too many to count at once. At most %s are sent again, the newest.", words.Number(resend.Most))
	}
	if states[api.StateDelivered] > 0 {
		page.Warning = strings.TrimSpace(page.Warning + " Receivers get again what was delivered to them.")
	}
	return shown{name: "resend.html", screen: screen{Title: "Send again", Area: "events", Page: page}}, nil
}

// startResend begins to send deliveries again.
func (p pages) startResend(r *http.Request) (any, error) {
	chosen, q, err := resendAsked(r.PostForm)
	if err != nil {
		return nil, err
	}
	for _, id := range chosen {
		if _, err := p.queue.Delivery(r.Context(), id); err != nil {
			return nil, err
		}
	}
	if q.Webhook != "" {
		if _, err := p.webhookNamed(q.Webhook); err != nil {
			return nil, err
		}
	}
	if _, _, err := q.span(time.Now()); err != nil {
		return nil, err
	}
	what := "the chosen deliveries"
	if len(chosen) == 0 {
		what = "all deliveries that match"
		for _, c := range q.chips() {
			if text, found := strings.CutPrefix(c.Text, "text: "); found {
				c.Text = "a text of " + words.Counted(int64(len([]rune(text))), "character", "characters")
			}
			what += ", " + c.Text
		}
	}
	task := resend.Task{What: what, Again: "resend/new?" + askedAgain(chosen, q).Encode()}
	if q.Search != "" && len(chosen) == 0 {
		task.Again = "" // Erasing feedback does not remove its words from the activity log.
	}
	task.Find = func(ctx context.Context, found func(int64), send func([]queue.DeliveryID) error) error {
		ids := chosen
		if len(ids) == 0 {
			if _, err := p.walk(r.WithContext(ctx), q, 0, func(d queue.Delivery) bool {
				ids = append(ids, d.ID)
				found(int64(len(ids)))
				return len(ids) < resend.Most
			}); err != nil {
				return err
			}
		}
		slices.Reverse(ids) // lists begin with the newest
		return send(ids)
	}
	return p.begin(r, task)
}

// askedAgain is the query of the page that asks about the same deliveries.
func askedAgain(chosen []queue.DeliveryID, q eventsQuery) url.Values {
	v := url.Values{"query": {q.values().Encode()}}
	for _, id := range chosen {
		v.Add("delivery", id.String())
	}
	return v
}

// begin starts a resend and leads to its page.
func (p pages) begin(r *http.Request, t resend.Task) (any, error) {
	id, err := p.resends.Start(r.Context(), p.relay, api.UserOf(r), t)
	if err != nil {
		return nil, err
	}
	return seeOther("resend/" + id), nil
}

// resendPage is the progress of a resend.
type resendPage struct {
	resend.Status
	Sentence, Advice string
	Why              string // it waits
	Percent          int64
	Back             string // the address of the page that it began on
	BackName         string
}

func (p pages) showResend(r *http.Request) (any, error) {
	now, err := p.resends.Find(r.Context(), p.relay, r.PathValue("id"))
	if errors.Is(err, queue.ErrNotFound) {
		err = event.NewProblem(http.StatusNotFound, "There is no such action, or it has left the activity log.")
	}
	if err != nil {
		return nil, err
	}
	page := resendPage{Status: now, Sentence: words.Resent(now), Why: words.ResendWaits(now.Waits), Back: "events", BackName: "Events"}
	if now.State == resend.Lost {
		page.Advice = words.AfterLost(p.relay.Shared())
	}
	if _, there := p.relay.Webhook(now.Webhook); there {
		page.Back, page.BackName = webhookAt(now.Webhook), now.Webhook
	}
	if now.All > 0 {
		page.Percent = (now.Sent + now.Skipped) * 100 / now.All
	}
	s := screen{Title: page.Sentence, Area: "events", Page: page, Again: "resend/" + now.ID, Flash: p.outcome(r).Flash, Live: []string{"attempt", "activity", "state"}}
	if now.State == resend.Running {
		s.Every = 1000
	}
	return shown{name: "resending.html", screen: s}, nil
}

// stopResend ends a resend. Deliveries that were not queued yet stay unchanged.
func (p pages) stopResend(r *http.Request) (any, error) {
	id := r.PathValue("id")
	p.resends.Stop(p.relay, id)
	return seeOther("resend/" + id), nil
}
