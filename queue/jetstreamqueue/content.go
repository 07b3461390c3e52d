package jetstreamqueue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// Export implements queue.Exported.
func (q *Queue) Export(ctx context.Context, to queue.Sink) error {
	if err := q.isClosed(); err != nil {
		return err
	}
	s, err := q.info(ctx, q.names.events(), "")
	if err != nil {
		return err
	}
	x := export{q: q, to: to, logs: make(map[uint64]map[uint64]attemptEntry)}
	for _, step := range []func(context.Context, streamState) error{x.webhooks, x.events, x.keys, x.rest} {
		if err := step(ctx, s); err != nil {
			return fmt.Errorf("reading the streams of %s: %w", q.names.prefix, err)
		}
	}
	return nil
}

// export is one call of Export.
type export struct {
	q  *Queue
	to queue.Sink
	// logs holds the logs of cursors that were read last, by the cursor's sequence number
	// and the event's. recent are the keys, oldest first.
	logs   map[uint64]map[uint64]attemptEntry
	recent []uint64
}

// keptLogs is how many cursors an export keeps in memory. Each lane needs one or two.
const keptLogs = 256

func (x *export) webhooks(ctx context.Context, _ streamState) error {
	all, err := x.q.Webhooks(ctx)
	if err != nil {
		return err
	}
	for _, w := range all {
		if err := x.to.Webhook(w); err != nil {
			return err
		}
	}
	x.q.registry.known.Lock()
	highest := x.q.registry.highest
	x.q.registry.known.Unlock()
	return x.to.LastWebhook(highest)
}

func (x *export) events(ctx context.Context, s streamState) error {
	r, _, err := x.q.lastRemoval(ctx)
	if err != nil {
		return err
	}
	first := s.first
	if r.FirstRedacted > 0 {
		first = min(first, r.FirstRedacted)
	}
	for from := first; from <= s.last; from += chunkEvents {
		chunk, err := x.chunk(ctx, from, min(from+chunkEvents-1, s.last))
		if err != nil {
			return err
		}
		records, err := x.q.recordsOf(ctx, chunk)
		if err != nil {
			return err
		}
		for _, e := range chunk {
			stored, err := x.event(ctx, e, records[e.ID.Seq()])
			if err != nil {
				return err
			}
			if err := x.to.Event(stored); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunk reads events, oldest first. What a replica does not have that lags behind, it asks
// the leader for: an event may be redacted meanwhile.
func (x *export) chunk(ctx context.Context, begin, end uint64) ([]*storedEvent, error) {
	all, free, err := x.q.section(ctx, begin, end)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	err = each(free, func(seq uint64) error {
		e, err := x.q.redactedAt(ctx, seq)
		if err != nil {
			return ignoreNotFound(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !x.q.erased.has(e.Feedback) {
			all = append(all, e)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b *storedEvent) int { return cmp.Compare(a.ID.Seq(), b.ID.Seq()) })
	return all, err
}

func (x *export) event(ctx context.Context, e *storedEvent, records map[queue.WebhookID]record) (queue.StoredEvent, error) {
	stored := queue.StoredEvent{Event: e.Event, Answer: e.answer}
	copy(stored.Origin[:], e.origin)
	all, err := x.q.deliveriesOf(ctx, e, records)
	if err != nil {
		return stored, err
	}
	for _, d := range all {
		one := queue.StoredDelivery{Delivery: d}
		kept, redacted := e.kept[d.ID.Webhook]
		switch {
		case d.Attempts == 0:
		case redacted:
			one.Log = kept.attempts()
		case records[d.ID.Webhook].seq > 0:
			if one.Log, err = x.q.Attempts(ctx, d.ID); errors.Is(err, queue.ErrNotFound) {
				err = nil // it was removed meanwhile
			}
		default:
			one.Log, err = x.logged(ctx, d.ID)
		}
		if err != nil {
			return stored, err
		}
		stored.Deliveries = append(stored.Deliveries, one)
	}
	return stored, nil
}

// logged returns the attempt of a delivery that succeeded at the first one.
func (x *export) logged(ctx context.Context, id queue.DeliveryID) ([]queue.Attempt, error) {
	seq := id.Event.Seq()
	at, err := x.q.findLogged(ctx, id.Webhook, seq)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	entries := x.logs[at.cursor]
	if entries == nil {
		m, err := x.q.get(ctx, x.q.names.state(), getRequest{Seq: at.cursor})
		if err != nil {
			return nil, ignoreNotFound(err)
		}
		_, all, err := readCursorMessage(m)
		if err != nil {
			return nil, err
		}
		entries = make(map[uint64]attemptEntry, len(all))
		for _, e := range all {
			entries[e.Seq] = e.Attempt
		}
		if x.logs[at.cursor], x.recent = entries, append(x.recent, at.cursor); len(x.recent) > keptLogs {
			delete(x.logs, x.recent[0])
			x.recent = x.recent[1:]
		}
	}
	if e, ok := entries[seq]; ok {
		return []queue.Attempt{e.attempt(1)}, nil
	}
	return nil, nil
}

// keys passes on the bound keys. Those that were bound by a version that did not store
// their names are left out, for a day.
func (x *export) keys(ctx context.Context, events streamState) error {
	return x.q.eachMessage(ctx, x.q.names.keys(), ">", func(m *message) error {
		var held heldKey
		if err := json.Unmarshal(m.data, &held); err != nil {
			return fmt.Errorf("an idempotency key cannot be read: %w", err)
		}
		if held.Name == "" || !held.Bound && !held.Erased {
			return nil
		}
		k := queue.StoredKey{
			Key: queue.Key{Name: held.Name, Hash: [32]byte(held.Hash)}, Expires: held.expires(m, x.q), Answer: held.Answer,
			Unchanged: held.Bound && held.Event == "",
		}
		if about := held.Event + held.About; about != "" {
			var err error
			if k.About, err = queue.ParseEventID(about); err != nil {
				return err
			}
			if k.About.Seq() > events.last {
				return nil // its event was accepted after the export began
			}
		}
		if k.About.IsZero() && !held.Erased {
			return nil
		}
		return x.to.Key(k)
	})
}

func (x *export) rest(ctx context.Context, _ streamState) error {
	err := x.q.eachMessage(ctx, x.q.names.state(), x.q.names.activity(), func(m *message) error {
		var d dated
		if err := json.Unmarshal(m.data, &d); err != nil {
			return fmt.Errorf("activity %d cannot be read: %w", m.seq, err)
		}
		return x.to.Activity(queue.Activity{At: d.At, Data: d.Data})
	})
	if err != nil {
		return err
	}
	caught, err := x.q.Caught(ctx)
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(caught) {
		if err := x.to.Caught(c); err != nil {
			return err
		}
	}
	for _, hash := range x.q.erased.all() {
		if err := x.to.Erased(hash); err != nil {
			return err
		}
	}
	return nil
}

// eachMessage visits the messages on a subject that the stream has now, oldest first.
func (q *Queue) eachMessage(ctx context.Context, stream, subject string, visit func(*message) error) error {
	s, err := q.info(ctx, stream, "")
	if err != nil {
		return err
	}
	for at := s.first; at <= s.last; {
		messages, err := q.rangeFrom(ctx, stream, subject, at, rangeMessages)
		if err != nil {
			return err
		}
		if len(messages) == 0 { // there are no more, or the replica lags behind
			m, err := q.get(ctx, stream, getRequest{Seq: at, Next: subject})
			if err != nil {
				return ignoreNotFound(err)
			}
			messages = []*message{m}
		}
		for _, m := range messages {
			if at = m.seq + 1; m.seq > s.last {
				return nil
			}
			if err := visit(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// expires returns when a key expires, by this machine's clock.
func (k *heldKey) expires(m *message, q *Queue) time.Time {
	if k.Until != nil {
		return *k.Until
	}
	return m.at.Add(keyWindow - time.Duration(q.ahead.Load())).UTC()
}
