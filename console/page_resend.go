package console

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// countTime bounds the count before deliveries are sent again.
const countTime = 60 * time.Millisecond

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
		page.Warning = fmt.Sprintf("There are too many to count at once. At most %s are sent again, the newest.", words.Number(mostResent))
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
			what += ", " + c.Text
		}
	}
	id, err := p.resends.start(context.WithoutCancel(r.Context()), p, what, api.UserOf(r), func(ctx context.Context, add func(queue.DeliveryID) bool) error {
		for _, id := range chosen {
			add(id)
		}
		if len(chosen) > 0 {
			return nil
		}
		_, err := p.walk(r.WithContext(ctx), q, 0, func(d queue.Delivery) bool { return add(d.ID) })
		return err
	})
	if err != nil {
		return nil, err
	}
	return seeOther("resend/" + id), nil
}

// resendPage is the progress of a resend.
type resendPage struct {
	resendStatus
	Sentence string
	Percent  int64
}

func (p pages) showResend(r *http.Request) (any, error) {
	job := p.resends.find(r.PathValue("id"))
	if job == nil {
		return nil, event.NewProblem(http.StatusNotFound, "There is no such action. It may have ended long ago, or the relay was restarted; then what had not been queued stayed as it was.")
	}
	now := job.now()
	page := resendPage{now, saidResent(now), 0}
	if now.All > 0 {
		page.Percent = (now.Sent + now.Skipped) * 100 / now.All
	}
	s := screen{Title: page.Sentence, Area: "events", Page: page, Again: "resend/" + now.ID, Flash: p.outcome(r).Flash, Live: []string{"attempt", "activity", "state"}}
	if now.State == resendRuns {
		s.Every = 1000
	}
	return shown{name: "resending.html", screen: s}, nil
}

// stopResend ends a resend. Deliveries that were not queued yet stay unchanged.
func (p pages) stopResend(r *http.Request) (any, error) {
	job := p.resends.find(r.PathValue("id"))
	if job == nil {
		return nil, event.NewProblem(http.StatusNotFound, "There is no such action any more.")
	}
	job.stop()
	return seeOther("resend/" + job.now().ID), nil
}

// saidResent describes the progress of an action on many deliveries.
func saidResent(s resendStatus) string {
	all, sent := words.Number(s.All), words.Number(s.Sent)
	rest := ""
	if s.Skipped > 0 {
		rest = fmt.Sprintf(" %s left out: being sent, queued or gone already.", were(s.Skipped))
	}
	result := fmt.Sprintf("%s delivered, %s failed again.", words.Number(s.Delivered), words.Number(s.Sent-s.Delivered))
	switch {
	case s.State == resendRuns && s.Finding:
		return fmt.Sprintf("Looking for deliveries to send again: %s found.", words.Number(s.All))
	case s.State == resendRuns:
		return fmt.Sprintf("Sending again: %s of %s sent.", sent, all)
	case s.State == resendStopped:
		queued := ""
		if s.Queued > 0 {
			queued = fmt.Sprintf(" %s queued already and will still be sent.", were(s.Queued))
		}
		return fmt.Sprintf("Stopped. %s of %s sent; %s as they were.%s%s", sent, all, stayed(s.Left()), queued, rest)
	case s.All == 0:
		return "Nothing was sent again: no delivery matched."
	}
	return fmt.Sprintf("Done: %s sent again. %s%s", words.Counted(s.Sent, "delivery was", "deliveries were"), result, rest)
}

// were returns a number with its verb: "1 was", "2 were".
func were(n int64) string { return words.Counted(n, "was", "were") }

func stayed(n int64) string { return words.Counted(n, "stayed", "stayed") }
