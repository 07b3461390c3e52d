package jetstreamqueue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

const (
	// pageEvents is the most events that one page of a list reads.
	pageEvents = 5000
	// chunkEvents is how many events are read at a time for a list.
	chunkEvents = 128
)

// eventAt reads one event by its sequence number, from the leader.
func (q *Queue) eventAt(ctx context.Context, seq uint64) (*storedEvent, error) {
	m, err := q.get(ctx, q.names.events(), getRequest{Seq: seq})
	if err == nil && m.header.Get(headerHold) == "" {
		return q.event(m)
	}
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return nil, err
	}
	return q.redactedAt(ctx, seq)
}

// storedEvent reads one event by its id.
func (q *Queue) storedEvent(ctx context.Context, id queue.EventID) (*storedEvent, error) {
	if id.Seq() == 0 {
		return nil, fmt.Errorf("event %s: %w", id, queue.ErrNotFound)
	}
	e, err := q.eventAt(ctx, id.Seq())
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", id, err)
	}
	if e.ID != id || q.erased.has(e.Feedback) {
		return nil, fmt.Errorf("event %s: %w", id, queue.ErrNotFound)
	}
	return e, nil
}

// Event implements queue.Queue.
func (q *Queue) Event(ctx context.Context, id queue.EventID) (queue.Event, error) {
	if err := q.isClosed(); err != nil {
		return queue.Event{}, err
	}
	e, err := q.storedEvent(ctx, id)
	if err != nil {
		return queue.Event{}, err
	}
	return e.Event, nil
}

// Latest implements queue.Queue.
func (q *Queue) Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error) {
	if err := q.isClosed(); err != nil {
		return queue.Event{}, err
	}
	if id.IsZero() {
		return queue.Event{}, fmt.Errorf("no feedback: %w", queue.ErrNotFound)
	}
	if q.erased.has(id) {
		return queue.Event{}, errErased(id)
	}
	e, err := q.latest(ctx, id)
	if err != nil {
		return queue.Event{}, err
	}
	return e.Event, nil
}

// Projects implements queue.Queue.
func (q *Queue) Projects(ctx context.Context, id string, limit int) ([]string, error) {
	if err := q.isClosed(); err != nil {
		return nil, err
	}
	s, err := q.info(ctx, q.names.events(), q.names.anyProject(id))
	if err != nil {
		return nil, err
	}
	projects := []string{}
	for _, subject := range slices.Sorted(maps.Keys(s.subjects)) {
		if len(projects) >= limit {
			break
		}
		m, err := q.last(ctx, q.names.events(), subject)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		e, err := q.event(m)
		if err != nil {
			return nil, err
		}
		if !q.erased.has(e.Feedback) {
			projects = append(projects, e.Feedback.Project)
		}
	}
	return projects, nil
}

// Delivery implements queue.Queue.
func (q *Queue) Delivery(ctx context.Context, id queue.DeliveryID) (queue.Delivery, error) {
	d, _, err := q.deliveryOf(ctx, id)
	return d, err
}

// deliveryOf reads a delivery with its event.
func (q *Queue) deliveryOf(ctx context.Context, id queue.DeliveryID) (d queue.Delivery, e *storedEvent, err error) {
	if err := q.isClosed(); err != nil {
		return d, nil, err
	}
	if e, err = q.storedEvent(ctx, id.Event); err != nil {
		return d, nil, err
	}
	r, err := q.readRecord(ctx, id.Webhook, id.Event.Seq())
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return d, nil, err
	}
	if r.seq == 0 && !e.isFor(id.Webhook) {
		return d, nil, fmt.Errorf("delivery %s: %w", id, queue.ErrNotFound)
	}
	d, err = q.delivery(ctx, e, id.Webhook, r)
	return d, e, err
}

// delivery returns the state of a delivery. A zero record means that it has no record.
func (q *Queue) delivery(ctx context.Context, e *storedEvent, w queue.WebhookID, r record) (queue.Delivery, error) {
	d := queue.Delivery{
		ID: queue.DeliveryID{Event: e.ID, Webhook: w}, Type: e.Type, Feedback: e.Feedback, Created: e.Created, State: queue.Pending,
	}
	seq := e.ID.Seq()
	if kept, ok := e.kept[w]; r.seq > 0 {
		q.fill(&d, r)
	} else if ok {
		q.fill(&d, record{recordHead: kept.recordHead})
	} else if c := q.ledger.cursor(w); c.has(seq) {
		ended, err := q.endedAt(ctx, w, seq)
		if err != nil && !errors.Is(err, queue.ErrNotFound) {
			return d, err
		}
		d.State, d.Attempts, d.Ended = queue.Delivered, 1, ended
	}
	if _, ok := q.registry.get(w); !ok && d.State.Waiting() {
		d.State, d.Due = queue.Failed, time.Time{} // it was cancelled when its webhook was deleted
	}
	return d, nil
}

// EventDeliveries implements queue.Queue.
func (q *Queue) EventDeliveries(ctx context.Context, id queue.EventID) ([]queue.Delivery, error) {
	if err := q.isClosed(); err != nil {
		return nil, err
	}
	e, err := q.storedEvent(ctx, id)
	if err != nil {
		return nil, err
	}
	records, err := q.readRecords(ctx, id.Seq())
	if err != nil {
		return nil, err
	}
	return q.deliveriesOf(ctx, e, records)
}

// readRecords reads the records of an event from the leader.
func (q *Queue) readRecords(ctx context.Context, seq uint64) (map[queue.WebhookID]record, error) {
	ids, err := q.webhooksWithRecord(ctx, seq)
	if err != nil {
		return nil, err
	}
	records := make(map[queue.WebhookID]record)
	for _, w := range ids {
		if records[w], err = q.readRecord(ctx, w, seq); err != nil && !errors.Is(err, queue.ErrNotFound) {
			return nil, err
		}
	}
	return records, nil
}

// deliveriesOf returns the deliveries of an event, sorted by webhook.
func (q *Queue) deliveriesOf(ctx context.Context, e *storedEvent, records map[queue.WebhookID]record) ([]queue.Delivery, error) {
	ids := slices.Clone(e.webhooks)
	for w := range records {
		if !slices.Contains(ids, w) {
			ids = append(ids, w)
		}
	}
	slices.Sort(ids)
	list := make([]queue.Delivery, 0, len(ids))
	for _, w := range ids {
		d, err := q.delivery(ctx, e, w, records[w])
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// Attempts implements queue.Queue.
func (q *Queue) Attempts(ctx context.Context, id queue.DeliveryID) ([]queue.Attempt, error) {
	d, e, err := q.deliveryOf(ctx, id)
	if err != nil {
		return nil, err
	}
	if d.Attempts == 0 {
		return []queue.Attempt{}, nil
	}
	if kept, ok := e.kept[id.Webhook]; ok {
		return kept.attempts(), nil
	}
	records, err := q.history(ctx, id.Webhook, id.Event.Seq())
	if err != nil {
		return nil, err
	}
	return q.attemptsIn(ctx, id.Webhook, id.Event.Seq(), records)
}

// attemptsIn returns the attempts of a delivery that has these records and has been
// attempted.
func (q *Queue) attemptsIn(ctx context.Context, w queue.WebhookID, seq uint64, records []*message) (list []queue.Attempt, err error) {
	list = []queue.Attempt{}
	for i, m := range records {
		var head recordHead
		if err := m.head(headerRecord, &head); err != nil {
			return nil, err
		}
		if i == 0 && head.Origin == originDelivered {
			if list, err = q.appendLogged(ctx, list, w, seq); err != nil {
				return nil, err
			}
		}
		if len(m.data) == 0 {
			continue
		}
		var entry attemptEntry
		if err := json.Unmarshal(m.data, &entry); err != nil {
			return nil, fmt.Errorf("attempt %d of event %d cannot be read: %w", head.Attempts, seq, err)
		}
		list = append(list, entry.attempt(head.Attempts))
	}
	if len(records) == 0 {
		return q.appendLogged(ctx, list, w, seq)
	}
	return list, nil
}

// history reads all records of a delivery, oldest first, from the leader.
func (q *Queue) history(ctx context.Context, w queue.WebhookID, seq uint64) (all []*message, err error) {
	for from := uint64(1); ; {
		m, err := q.get(ctx, q.names.state(), getRequest{Seq: from, Next: q.names.record(w, seq)})
		if errors.Is(err, queue.ErrNotFound) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
		from = m.seq + 1
	}
}

func (q *Queue) appendLogged(ctx context.Context, list []queue.Attempt, w queue.WebhookID, seq uint64) ([]queue.Attempt, error) {
	one, err := q.readLogged(ctx, w, seq)
	if errors.Is(err, queue.ErrNotFound) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	return append(list, one.Attempt.attempt(1)), nil
}

// backward calls visit with events, newest first, from the event from on, until visit
// returns a stop or an error. It reads at most pageEvents events. It returns where it
// stopped; 0 means the beginning of the stream.
func (q *Queue) backward(ctx context.Context, from uint64, limit int, visit func([]*storedEvent) (stop uint64, err error)) (uint64, error) {
	s, err := q.info(ctx, q.names.events(), "")
	if err != nil {
		return 0, err
	}
	end, first := min(from, s.last), q.ledger.firstEvent(s.first)
	width := uint64(min(queue.PageSize(limit)+1, chunkEvents))
	for looked := uint64(0); end >= first && end > 0; looked += width {
		if looked >= pageEvents {
			return end, nil
		}
		if looked > 0 {
			width = chunkEvents // few events match, so read larger chunks
		}
		begin := max(first, end-min(end, width)+1)
		chunk, err := q.chunk(ctx, begin, end)
		if err != nil {
			return 0, err
		}
		stop, err := visit(chunk)
		if err != nil || stop > 0 {
			return stop, err
		}
		end = begin - 1
	}
	return 0, nil
}

// chunk reads the events from begin to end, newest first, without those of erased feedback.
func (q *Queue) chunk(ctx context.Context, begin, end uint64) ([]*storedEvent, error) {
	all, _, err := q.section(ctx, begin, end)
	return all, err
}

// section is chunk that also returns the numbers for which it has found nothing.
func (q *Queue) section(ctx context.Context, begin, end uint64) (all []*storedEvent, free []uint64, err error) {
	all, err = q.places(ctx, begin, end)
	if err != nil {
		return nil, nil, err
	}
	free = missing(all, begin, end)
	all = slices.DeleteFunc(all, (*storedEvent).isHold)
	if q.ledger.hasRedacted(end) {
		redacted, err := q.redactedOf(ctx, free)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range redacted {
			i, _ := slices.BinarySearch(free, e.ID.Seq())
			free = slices.Delete(free, i, i+1)
		}
		all = append(all, redacted...)
	}
	all = slices.DeleteFunc(all, func(e *storedEvent) bool { return q.erased.has(e.Feedback) })
	slices.SortFunc(all, func(a, b *storedEvent) int { return cmp.Compare(b.ID.Seq(), a.ID.Seq()) })
	return all, free, nil
}

// missing returns the numbers from begin to end that neither an event nor a hold has.
func missing(events []*storedEvent, begin, end uint64) (seqs []uint64) {
	have := make(map[uint64]bool, len(events))
	for _, e := range events {
		if e.isHold() {
			have[e.place] = true
		} else {
			have[e.ID.Seq()] = true
		}
	}
	for seq := begin; seq <= end; seq++ {
		if !have[seq] {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// places reads the messages from begin to end in the stream of events: events and holds,
// oldest first.
func (q *Queue) places(ctx context.Context, begin, end uint64) (all []*storedEvent, err error) {
	for at := begin; at <= end; {
		messages, err := q.rangeFrom(ctx, q.names.events(), ">", at, int(end-at+1))
		if err != nil {
			return nil, err
		}
		if len(messages) == 0 { // the events were removed, or the replica lags behind
			m, err := q.get(ctx, q.names.events(), getRequest{Seq: at, Next: ">"})
			if errors.Is(err, queue.ErrNotFound) {
				break
			}
			if err != nil {
				return nil, err
			}
			messages = []*message{m}
		}
		for _, m := range messages {
			if at = m.seq + 1; m.seq > end {
				break
			}
			e, err := q.event(m)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
	}
	return all, nil
}

// Events implements queue.Queue.
func (q *Queue) Events(ctx context.Context, want queue.EventQuery) (page queue.Page[queue.Event], err error) {
	if err := q.isClosed(); err != nil {
		return page, err
	}
	from, err := queue.ParseCursor(want.Cursor)
	if err != nil {
		return page, err
	}
	stop, err := q.backward(ctx, from.Seq, want.Limit, func(chunk []*storedEvent) (uint64, error) {
		for _, e := range chunk {
			if !want.Selects(&e.Event) || want.Match != nil && !want.Match(e.Body) {
				continue
			}
			if len(page.Items) == queue.PageSize(want.Limit) {
				return e.ID.Seq(), nil
			}
			page.Items = append(page.Items, e.Event)
		}
		return 0, nil
	})
	if stop > 0 {
		page.Next = queue.Cursor{Seq: stop}.String()
	}
	return page, err
}

// Deliveries implements queue.Queue. It reads records from any replica, so a delivery that
// was just settled may show its previous state.
func (q *Queue) Deliveries(ctx context.Context, want queue.DeliveryQuery) (page queue.Page[queue.Delivery], err error) {
	if err := q.isClosed(); err != nil {
		return page, err
	}
	from, err := queue.ParseCursor(want.Cursor)
	if err != nil {
		return page, err
	}
	var at queue.Cursor
	stop, err := q.backward(ctx, from.Seq, want.Limit, func(chunk []*storedEvent) (uint64, error) {
		shown := slices.DeleteFunc(chunk, func(e *storedEvent) bool { return !want.Selects(&e.Event) })
		records, err := q.recordsOf(ctx, shown)
		if err != nil {
			return 0, err
		}
		for _, e := range shown {
			all, err := q.deliveriesOf(ctx, e, records[e.ID.Seq()])
			if err != nil {
				return 0, err
			}
			for _, d := range all {
				switch {
				case e.ID.Seq() == from.Seq && d.ID.Webhook < from.Webhook,
					want.Webhook != 0 && want.Webhook != d.ID.Webhook,
					len(want.States) > 0 && !slices.Contains(want.States, d.State):
					continue
				}
				if len(page.Items) == queue.PageSize(want.Limit) {
					at = queue.Cursor{Seq: e.ID.Seq(), Webhook: d.ID.Webhook}
					return at.Seq, nil
				}
				page.Items = append(page.Items, d)
			}
		}
		return 0, nil
	})
	switch {
	case at.Seq > 0:
		page.Next = at.String()
	case stop > 0:
		page.Next = queue.Cursor{Seq: stop}.String()
	}
	return page, err
}

// recordsOf reads the records of several events.
func (q *Queue) recordsOf(ctx context.Context, events []*storedEvent) (map[uint64]map[queue.WebhookID]record, error) {
	subjects := make([]string, len(events))
	for i, e := range events {
		subjects[i] = q.names.recordsOf(e.ID.Seq())
	}
	messages, err := q.lastOf(ctx, q.names.state(), subjects)
	if err != nil {
		return nil, err
	}
	all := make(map[uint64]map[queue.WebhookID]record)
	for _, m := range messages {
		w, seq, ok := q.names.delivery(m.subject)
		if !ok {
			continue
		}
		r := record{seq: m.seq}
		if err := m.head(headerRecord, &r.recordHead); err != nil {
			return nil, err
		}
		if all[seq] == nil {
			all[seq] = make(map[queue.WebhookID]record)
		}
		all[seq][w] = r
	}
	return all, nil
}

// attemptCache remembers which cursors carry the logs of recent deliveries.
type attemptCache struct {
	mu     sync.Mutex // guards everything below
	places map[loggedID]loggedAt
	order  []loggedID // oldest first, as a ring
	oldest int
}

type loggedID struct {
	webhook queue.WebhookID
	event   uint64
}

type loggedAt struct {
	cursor uint64 // the sequence number of the cursor that carries the log
	ended  int64
}

// cachedAttempts is how many deliveries are remembered, at about 100 bytes each.
const cachedAttempts = 50_000

// add remembers the entries of the log that a cursor carries.
func (c *attemptCache) add(w queue.WebhookID, cursor uint64, entries []logged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.places == nil {
		c.places = make(map[loggedID]loggedAt)
	}
	for _, e := range entries {
		id := loggedID{w, e.Seq}
		if _, ok := c.places[id]; !ok {
			if len(c.order) < cachedAttempts {
				c.order = append(c.order, id)
			} else {
				delete(c.places, c.order[c.oldest])
				c.order[c.oldest] = id
				c.oldest = (c.oldest + 1) % len(c.order)
			}
		}
		c.places[id] = loggedAt{cursor, e.Ended}
	}
}

// forget forgets deliveries whose log is stored elsewhere now.
func (c *attemptCache) forget(w queue.WebhookID, entries []logged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		c.places[loggedID{w, e.Seq}] = loggedAt{}
	}
}

func (c *attemptCache) get(w queue.WebhookID, event uint64) (loggedAt, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.places[loggedID{w, event}]
	return at, at.cursor > 0
}

// endedAt returns when a delivery succeeded at its first attempt.
func (q *Queue) endedAt(ctx context.Context, w queue.WebhookID, event uint64) (time.Time, error) {
	at, err := q.findLogged(ctx, w, event)
	return q.localTime(at.ended), err
}

// readLogged reads from the log a delivery that succeeded at its first attempt.
func (q *Queue) readLogged(ctx context.Context, w queue.WebhookID, event uint64) (one logged, err error) {
	at, err := q.findLogged(ctx, w, event)
	if err != nil {
		return one, err
	}
	m, err := q.get(ctx, q.names.state(), getRequest{Seq: at.cursor})
	if errors.Is(err, queue.ErrNotFound) { // an erasure has stored the log elsewhere
		q.attempts.forget(w, []logged{{Seq: event}})
		if at, err = q.findLogged(ctx, w, event); err == nil {
			m, err = q.get(ctx, q.names.state(), getRequest{Seq: at.cursor})
		}
	}
	if err != nil {
		return one, err
	}
	_, entries, err := readCursorMessage(m)
	if err != nil {
		return one, err
	}
	for _, e := range entries {
		if e.Seq == event {
			return e, nil
		}
	}
	return one, queue.ErrNotFound
}

func readCursorMessage(m *message) (c cursor, entries []logged, err error) {
	if err := m.head(headerCursor, &c); err != nil {
		return c, nil, err
	}
	if len(m.data) > 0 {
		if err := json.Unmarshal(m.data, &entries); err != nil {
			return c, nil, fmt.Errorf("the log of message %d cannot be read: %w", m.seq, err)
		}
	}
	return c, entries, nil
}

// findLogged finds the cursor that carries a delivery's log. The heads of a webhook's
// cursors never decrease, so a binary search finds the first cursor whose head has reached
// the event. The log is in that cursor or in one of the next.
func (q *Queue) findLogged(ctx context.Context, w queue.WebhookID, event uint64) (loggedAt, error) {
	if at, ok := q.attempts.get(w, event); ok {
		return at, nil
	}
	subject := q.names.cursor(w)
	last, err := q.last(ctx, q.names.state(), subject)
	if err != nil {
		return loggedAt{}, err
	}
	low, high := uint64(1), last.seq // the cursor is at low or later, but not after high
	for low < high {
		middle := low + (high-low)/2
		m, err := q.get(ctx, q.names.state(), getRequest{Seq: middle, Next: subject})
		if err != nil {
			return loggedAt{}, err
		}
		c, _, err := readCursorMessage(&message{seq: m.seq, subject: subject, header: m.header})
		if err != nil {
			return loggedAt{}, err
		}
		if c.Head >= event {
			high = middle
		} else {
			low = m.seq + 1
		}
	}
	for at := low; ; {
		messages, err := q.rangeFrom(ctx, q.names.state(), subject, at, rangeMessages)
		if err != nil {
			return loggedAt{}, err
		}
		for _, m := range messages {
			at = m.seq + 1
			c, entries, err := readCursorMessage(m)
			if err != nil {
				return loggedAt{}, err
			}
			q.attempts.add(w, m.seq, entries)
			if found, ok := q.attempts.get(w, event); ok {
				return found, nil
			}
			if c.floor() >= event {
				return q.findKept(ctx, w, event)
			}
		}
		if len(messages) == 0 {
			return q.findKept(ctx, w, event)
		}
	}
}

// findKept finds a delivery's log among those that erasures have stored again.
func (q *Queue) findKept(ctx context.Context, w queue.WebhookID, event uint64) (loggedAt, error) {
	err := q.eachMessage(ctx, q.names.state(), q.names.keptLogs(w)+".*", func(m *message) error {
		_, entries, err := readCursorMessage(m)
		q.attempts.add(w, m.seq, entries)
		return err
	})
	if err != nil {
		return loggedAt{}, err
	}
	if found, ok := q.attempts.get(w, event); ok {
		return found, nil
	}
	return loggedAt{}, fmt.Errorf("the attempt at event %d: %w", event, queue.ErrNotFound)
}
