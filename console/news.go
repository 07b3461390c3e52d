package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/userhero/relay/queue"
)

// mostNews bounds how many new rows are counted.
const mostNews = 100

// news announces rows that were added after a list was shown. The list itself does
// not change, so nothing moves while a person reads.
type news struct {
	List  string // id of its element
	Count int    // at most Most+1
	Most  int
	Href  string // shows the list with its new rows
}

// newsOf returns the news of a list, whose address is relative to the console's root.
func newsOf(r *http.Request, list, address string) news {
	return news{List: list, Most: mostNews, Href: rootOf(r.URL.Path) + address}
}

// uptoName is the parameter that keeps a list as it was first shown: the list has
// only events accepted before that time.
const uptoName = "upto"

// uptoOf reads the parameter; zero if it is absent or not a time.
func uptoOf(r *http.Request) time.Time {
	t, err := time.Parse(time.RFC3339Nano, r.URL.Query().Get(uptoName))
	if err != nil {
		return time.Time{}
	}
	return t
}

// pinned returns the parameters with which a list that begins with the first of the
// rows shows the same events again.
func pinned(address url.Values, upto time.Time, rows []eventRow) url.Values {
	if upto.IsZero() && len(rows) > 0 {
		upto = rows[0].At.Add(time.Millisecond)
	}
	if !upto.IsZero() {
		address.Set(uptoName, upto.UTC().Format(time.RFC3339Nano))
	}
	return address
}

// newEvents counts the events that match a query and are newer than upto.
func (p pages) newEvents(r *http.Request, q queue.EventQuery, upto time.Time) (int, error) {
	if upto.IsZero() {
		return 0, nil
	}
	q.Since, q.Until, q.Cursor, q.Limit = upto, time.Time{}, "", mostNews+1
	found, err := p.queue.Events(r.Context(), q)
	return len(found.Items), err
}

// newDeliveries counts the deliveries that match a query, are newer than upto and
// wanted.
func (p pages) newDeliveries(r *http.Request, q queue.DeliveryQuery, upto time.Time, wanted func(queue.Delivery) bool) (int, error) {
	if upto.IsZero() {
		return 0, nil
	}
	q.Since, q.Until, q.Cursor, q.Limit = upto, time.Time{}, "", mostNews+1
	found, err := p.queue.Deliveries(r.Context(), q)
	n := 0
	for _, d := range found.Items {
		if wanted(d) {
			n++
		}
	}
	return n, err
}
