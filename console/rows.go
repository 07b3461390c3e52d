package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// excerpt is how many characters of a message a list shows.
const excerpt = 160

// eventRow is an event in a list, with the state of its deliveries.
type eventRow struct {
	ID, Feedback string
	Address      string // of the page of the feedback
	What         string // what happened: "created", "updated", "is failing" …
	At           time.Time
	Message      string
	Category     string
	Status       string
	Rating       int
	Deliveries   []deliveryRow // failed ones first
	Arrivals     []arrival
	Only         string // id of the only delivery of the row; empty: all of the event
	Choose       bool   // the row can be chosen, to send its delivery again
}

// arrival is the state of a delivery, or of several in the same state.
type arrival struct {
	Webhook  string // its name, or how many webhooks
	Mark     words.Mark
	Delivery string // its id; empty for several
}

// mostArrivals is how many deliveries the row of an event names. If there are more,
// it shows how many are in each state.
const mostArrivals = 3

// arrivalsOf returns the arrivals of deliveries that troubledFirst has sorted.
func arrivalsOf(deliveries []deliveryRow) (all []arrival) {
	for from := 0; from < len(deliveries); {
		to := from + 1
		if len(deliveries) > mostArrivals {
			for to < len(deliveries) && deliveries[to].State == deliveries[from].State {
				to++
			}
		}
		a := arrival{deliveries[from].Webhook, deliveries[from].Mark, deliveries[from].ID}
		if n := to - from; n > 1 {
			state := deliveries[from].State
			a = arrival{words.Number(int64(n)) + " webhooks", words.Mark{Kind: a.Mark.Kind, Text: strings.ToUpper(state[:1]) + state[1:]}, ""}
		}
		all = append(all, a)
		from = to
	}
	return all
}

// troubledFirst sorts deliveries: those that need attention come first.
func troubledFirst(deliveries []deliveryRow) {
	rank := []string{api.StateFailed, api.StateRetrying, api.StatePending, api.StateHeld, api.StateDelivered}
	slices.SortStableFunc(deliveries, func(a, b deliveryRow) int {
		return cmp.Compare(slices.Index(rank, a.State), slices.Index(rank, b.State))
	})
}

// deliveryRow is a delivery in a list.
type deliveryRow struct {
	ID, Event, Webhook string
	State              string
	Mark               words.Mark
	Tries              int
	At                 time.Time // when the event was accepted
	CanRedeliver       bool
}

// document holds the members of an event's body that a page shows.
type document struct {
	Data struct {
		Webhook       string `json:"webhook"` // of operational events
		ProjectID     string `json:"projectId"`
		WidgetID      string `json:"widgetId"`
		Message       string `json:"message"`
		Category      string `json:"category"`
		Status        string `json:"status"`
		Rating        int    `json:"rating"`
		ScreenshotURL string `json:"screenshotUrl"`
		Context       struct {
			PageURL        string `json:"pageUrl"`
			Referrer       string `json:"referrer"`
			Browser        string `json:"browser"`
			BrowserVersion string `json:"browserVersion"`
			OS             string `json:"os"`
			DeviceType     string `json:"deviceType"`
			Viewport       struct{ Width, Height float64 }
			Timezone       string `json:"timezone"`
			Locale         string `json:"locale"`
			Country        string `json:"country"`
		} `json:"context"`
	} `json:"data"`
}

func (p pages) eventRow(r *http.Request, e queue.Event, deliveries []queue.Delivery, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) eventRow {
	row := eventRow{ID: e.ID.String(), Feedback: e.Feedback.ID, Address: feedbackAt(e.Feedback), At: e.Created}
	var d document
	if json.Unmarshal(e.Body, &d) == nil { // the relay stores no other documents
		row.Message = shorten(d.Data.Message, excerpt)
		row.Category, row.Status, row.Rating = shorten(d.Data.Category, 40), shorten(d.Data.Status, 40), d.Data.Rating
		if row.What = whatOf(event.Type(e.Type)); event.Type(e.Type).Operational() {
			row.Message = fmt.Sprintf("Webhook %q %s", d.Data.Webhook, row.What)
			row.Address = "events/" + row.ID
		}
	}
	for _, d := range deliveries {
		row.Deliveries = append(row.Deliveries, p.deliveryRow(r, d, webhookOf(byID, d.ID.Webhook), now))
	}
	troubledFirst(row.Deliveries)
	row.Arrivals = arrivalsOf(row.Deliveries)
	return row
}

// whatOf returns what an event of this type says.
func whatOf(t event.Type) string {
	switch t {
	case event.WebhookFailing:
		return "is failing"
	case event.WebhookRecovered:
		return "works again"
	case event.WebhookDisabled:
		return "is disabled"
	case event.Updated:
		return "updated"
	}
	return "created"
}

// rowOf returns the row of one delivery.
func (p pages) rowOf(r *http.Request, d queue.Delivery, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) (eventRow, error) {
	e, err := p.queue.Event(r.Context(), d.ID.Event)
	if errors.Is(err, queue.ErrNotFound) { // retention has deleted it in the meantime
		e, err = queue.Event{ID: d.ID.Event, Type: d.Type, Feedback: d.Feedback, Created: d.Created}, nil
	}
	row := p.eventRow(r, e, []queue.Delivery{d}, byID, now)
	row.Only = d.ID.String()
	return row, err
}

func webhookOf(byID map[queue.WebhookID]relay.WebhookStatus, id queue.WebhookID) *relay.WebhookStatus {
	if w, ok := byID[id]; ok {
		return &w
	}
	return nil
}

func (p pages) deliveryRow(r *http.Request, d queue.Delivery, w *relay.WebhookStatus, now time.Time) deliveryRow {
	state := p.relay.DeliveryState(d)
	row := deliveryRow{
		ID: d.ID.String(), Event: d.ID.Event.String(), Webhook: api.DeletedName(d.ID.Webhook), State: state,
		Mark: words.DeliveryMark(d, state, w, api.UserOf(r), now), Tries: d.Attempts, At: d.Created, CanRedeliver: w != nil && !p.relay.ReadOnly(),
	}
	if w != nil {
		row.Webhook = w.Name
	}
	return row
}

func (p pages) webhooksByID() map[queue.WebhookID]relay.WebhookStatus {
	byID := make(map[queue.WebhookID]relay.WebhookStatus)
	for _, w := range p.relay.Webhooks() {
		byID[w.ID] = w
	}
	return byID
}

// eventRows returns the rows of events with all their deliveries.
func (p pages) eventRows(r *http.Request, events []queue.Event, now time.Time) ([]eventRow, error) {
	byID := p.webhooksByID()
	rows := make([]eventRow, 0, len(events))
	for _, e := range events {
		row, err := p.wholeRow(r, e, byID, now)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// wholeRow returns the row of an event with all its deliveries.
func (p pages) wholeRow(r *http.Request, e queue.Event, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) (eventRow, error) {
	deliveries, err := p.queue.EventDeliveries(r.Context(), e.ID)
	if err != nil && !errors.Is(err, queue.ErrNotFound) { // retention may have deleted them in the meantime
		return eventRow{}, err
	}
	return p.eventRow(r, e, deliveries, byID, now), nil
}
