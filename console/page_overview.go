package console

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/draw"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/tally"
)

// How many rows the overview shows.
const (
	overviewEvents   = 8
	overviewWebhooks = 8
)

// overviewPage is the state of the relay.
type overviewPage struct {
	Sentence     string
	Trouble      string // why submissions are refused or deliveries are not sent
	Tiles        []tile
	Webhooks     []webhookRow
	MoreWebhooks int
	Events       []eventRow
	Submit       string // a command that submits feedback
	News         news   // of the events
	WebhookNews  news
}

// tile is one number of the last day, with a bar for each hour if it has them.
type tile struct {
	Name, Number, Note string
	Bars               *draw.Bars
}

func (p pages) overview(r *http.Request) (any, error) {
	out := p.outcome(r)
	if problem, ok := out.Of.(*event.Problem); ok {
		return problemScreen(problem), nil
	}
	all := p.relay.Webhooks()
	if len(all) == 0 && !p.relay.ReadOnly() {
		return p.wizardScreen(&wizard{Step: 1, First: true, Ticked: event.Types()}, out), nil
	}
	now := time.Now()
	stats := p.relay.Stats()
	page := overviewPage{Sentence: sentence(all, stats, api.UserOf(r), now)}
	if err := p.relay.Health(); err != nil {
		page.Sentence, page.Trouble = "The relay is not healthy.", err.Error()
	}
	page.Tiles = tiles(p.relay.Day(), stats, p.relay.Scoped())
	inTroubleFirst(all)
	for _, w := range all[:min(len(all), overviewWebhooks)] {
		page.Webhooks = append(page.Webhooks, p.webhookRow(r, w, now))
	}
	page.MoreWebhooks = len(all) - len(page.Webhooks)
	upto := uptoOf(r)
	found, err := p.queue.Events(r.Context(), queue.EventQuery{Limit: overviewEvents, Until: upto})
	if err != nil {
		return nil, err
	}
	if page.Events, err = p.eventRows(r, found.Items, now); err != nil {
		return nil, err
	}
	page.News, page.WebhookNews = newsOf(r, "rows", "./"), newsOf(r, "hooks", "./")
	if page.News.Count, err = p.newEvents(r, queue.EventQuery{}, upto); err != nil {
		return nil, err
	}
	page.Submit = submitLine(r)
	return shown{name: "overview.html", status: out.Status, screen: screen{
		Title: "Overview", Area: "overview", Page: page, Flash: out.Flash, Live: []string{"accepted", "attempt", "state"},
		Again: "?" + pinned(url.Values{}, upto, page.Events).Encode(),
	}}, nil
}

// sentence describes the state of the relay: "2 of 3 webhooks healthy; 14 deliveries
// waiting; the oldest has been due for 3 min."
func sentence(all []relay.WebhookStatus, stats queue.Stats, user string, now time.Time) string {
	var healthy, waiting int64
	for _, w := range all {
		if kind := words.WebhookMark(w, user, now).Kind; kind == "good" || kind == "none" {
			healthy++
		}
		waiting += w.Counts.Waiting()
	}
	n := int64(len(all))
	parts := []string{fmt.Sprintf("%s of %s healthy", words.Number(healthy), words.Counted(n, "webhook", "webhooks"))}
	switch {
	case healthy == n && n == 1:
		parts[0] = "The webhook is healthy"
	case healthy == n && n == 2:
		parts[0] = "Both webhooks healthy"
	case healthy == n:
		parts[0] = fmt.Sprintf("All %s webhooks healthy", words.Number(n))
	}
	end := "."
	if !stats.AsOf.IsZero() && now.Sub(stats.AsOf) > countsMayLag {
		end = fmt.Sprintf(". Counted %s ago: the store's servers do not answer.", words.Span(now.Sub(stats.AsOf).Truncate(time.Second)))
	}
	if waiting == 0 {
		return parts[0] + "; nothing waiting" + end
	}
	parts = append(parts, words.Counted(waiting, "delivery", "deliveries")+" waiting")
	var oldest time.Time
	for _, w := range stats.Webhooks {
		if !w.OldestDue.IsZero() && (oldest.IsZero() || w.OldestDue.Before(oldest)) {
			oldest = w.OldestDue
		}
	}
	if age := now.Sub(oldest); !oldest.IsZero() && age >= time.Second {
		parts = append(parts, "the oldest has been due for "+words.Span(age.Truncate(time.Second)))
	}
	return strings.Join(parts, "; ") + end
}

// countsMayLag is how far counts may lag behind before the page says so.
const countsMayLag = 10 * time.Second

// tiles returns the numbers of the last day. A console of some projects has only those
// of its webhooks: the others are about everything in the store.
func tiles(day tally.Day, stats queue.Stats, scoped bool) []tile {
	sum := day.Sum()
	accepted := draw.BarsOf(day, "Accepted events", "plain", func(h tally.Hour) int64 { return h.Accepted })
	delivered := draw.BarsOf(day, "Deliveries", "good", func(h tally.Hour) int64 { return h.Delivered })
	failed := draw.BarsOf(day, "Failed attempts", "bad", func(h tally.Hour) int64 { return h.Failed })
	first := tile{Name: "First attempt", Number: "–", Note: "from accepting the event to the answer"}
	if day.FirstAttempts > 0 {
		first.Number = words.Span(day.P50)
		first.Note = "half of them are faster; 99 % within " + words.Span(day.P99)
	}
	disk := tile{Name: "Store", Number: words.Size(stats.DiskBytes), Note: words.Counted(stats.Events, "event", "events") + " kept"}
	if stats.DiskFree >= 0 {
		disk.Note += "; " + words.Size(stats.DiskFree) + " free"
	}
	ended := []tile{
		{Name: "Delivered", Number: words.Number(sum.Delivered), Note: "deliveries in 24 h", Bars: &delivered},
		{Name: "Failed", Number: words.Number(sum.Failed), Note: "attempts in 24 h", Bars: &failed},
	}
	if scoped {
		return ended
	}
	return slices.Concat([]tile{{Name: "Accepted", Number: words.Number(sum.Accepted), Note: "events in 24 h", Bars: &accepted}}, ended, []tile{first, disk})
}
