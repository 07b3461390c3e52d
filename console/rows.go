package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// excerpt is how many characters of a message a list shows.
const excerpt = 160

// eventRow is an event in a list, with where its deliveries are.
type eventRow struct {
	ID, Feedback string
	Created      bool
	At           time.Time
	Message      string
	Category     string
	Status       string
	Rating       int
	Deliveries   []deliveryRow // in trouble first
	Arrivals     []arrival
	Only         string // the one delivery that is meant; empty where all are
}

// arrival says where a delivery of an event is, or several that are in one state.
type arrival struct {
	Webhook string // or how many webhooks
	Mark    mark
}

// mostArrivals is how many deliveries an event's row names; of more it says how
// many are in which state.
const mostArrivals = 3

// arrivalsOf are those of deliveries, which come in trouble first.
func arrivalsOf(deliveries []deliveryRow) (all []arrival) {
	for from := 0; from < len(deliveries); {
		to := from + 1
		if len(deliveries) > mostArrivals {
			for to < len(deliveries) && deliveries[to].State == deliveries[from].State {
				to++
			}
		}
		a := arrival{deliveries[from].Webhook, deliveries[from].Mark}
		if n := to - from; n > 1 {
			state := deliveries[from].State
			a = arrival{number(int64(n)) + " webhooks", mark{a.Mark.Kind, strings.ToUpper(state[:1]) + state[1:]}}
		}
		all = append(all, a)
		from = to
	}
	return all
}

// troubledFirst sorts deliveries by how much they want to be looked at.
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
	Mark               mark
	Tries              int
	At                 time.Time // of the event's acceptance
	CanRedeliver       bool
}

// document is what a page shows of an event's body besides the whole.
type document struct {
	Data struct {
		Message       string `json:"message"`
		Category      string `json:"category"`
		Status        string `json:"status"`
		Rating        int    `json:"rating"`
		ScreenshotURL string `json:"screenshotUrl"`
		Context       struct {
			PageURL string `json:"pageUrl"`
		} `json:"context"`
	} `json:"data"`
}

func (p pages) eventRow(r *http.Request, e queue.Event, deliveries []queue.Delivery, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) eventRow {
	row := eventRow{ID: e.ID.String(), Feedback: e.Feedback.ID, Created: e.Type == string(event.Created), At: e.Created}
	var d document
	if json.Unmarshal(e.Body, &d) == nil { // what the relay stores is such a document
		row.Message = shorten(d.Data.Message, excerpt)
		row.Category, row.Status, row.Rating = d.Data.Category, d.Data.Status, d.Data.Rating
	}
	for _, d := range deliveries {
		row.Deliveries = append(row.Deliveries, p.deliveryRow(r, d, webhookOf(byID, d.ID.Webhook), now))
	}
	troubledFirst(row.Deliveries)
	row.Arrivals = arrivalsOf(row.Deliveries)
	return row
}

// rowOf is the row of one delivery, with its event.
func (p pages) rowOf(r *http.Request, d queue.Delivery, byID map[queue.WebhookID]relay.WebhookStatus, now time.Time) (eventRow, error) {
	e, err := p.queue.Event(r.Context(), d.ID.Event)
	if errors.Is(err, queue.ErrNotFound) { // retention came in between
		e, err = queue.Event{ID: d.ID.Event, Type: d.Type, Feedback: d.Feedback, Created: d.Created}, nil
	}
	row := p.eventRow(r, e, []queue.Delivery{d}, byID, now)
	row.Only = d.ID.String()
	return row, err
}

// shorten cuts a text to n characters, white space put together.
func shorten(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
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
		Mark: deliveryMark(d, state, w, api.UserOf(r), now), Tries: d.Attempts, At: d.Created, CanRedeliver: w != nil,
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

// eventRows are the rows of events with all their deliveries.
func (p pages) eventRows(r *http.Request, events []queue.Event, now time.Time) ([]eventRow, error) {
	byID := p.webhooksByID()
	rows := make([]eventRow, 0, len(events))
	for _, e := range events {
		deliveries, err := p.queue.EventDeliveries(r.Context(), e.ID)
		if err != nil && !errors.Is(err, queue.ErrNotFound) { // retention may have come in between
			return nil, err
		}
		rows = append(rows, p.eventRow(r, e, deliveries, byID, now))
	}
	return rows, nil
}
