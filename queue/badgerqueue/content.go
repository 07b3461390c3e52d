package badgerqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// Export implements queue.Exported. It reads one snapshot.
func (s *Store) Export(ctx context.Context, to queue.Sink) error {
	err := s.view(ctx, func(txn *badger.Txn) error {
		x := export{walk: walk{txn: txn, tags: s.tags, bad: func(_ []byte, where string, err error) error {
			return fmt.Errorf("%s: %w; caddy userhero check says what is wrong", where, err)
		}, going: func() error { return s.going(ctx) }, met: tally{counts: make(map[queue.WebhookID]queue.Counts)}}, s: s, to: to}
		for _, step := range []func() error{x.webhookRecords, x.events, x.keys, x.rest} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the store at %s: %w", s.o.Path, err)
	}
	return nil
}

// export is one call of Export.
type export struct {
	walk
	s  *Store
	to queue.Sink
}

func (x *export) webhookRecords() error {
	if err := x.eachWebhook(x.to.Webhook); err != nil {
		return err
	}
	st, err := getState(x.txn)
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
		return err
	}
	return x.to.LastWebhook(st.Webhook)
}

func (x *export) events() error {
	return x.eachEvent(func(seq uint64, e *queue.Event) error {
		stored := queue.StoredEvent{Event: *e}
		if !e.Feedback.IsZero() {
			held, err := x.s.lookUp(x.txn, e.Feedback)
			if err == nil && held.former && held.is {
				held.Origin, err = formerOrigin(x.txn, e.Feedback)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", e.Feedback, err)
			}
			if held.is && held.Seq == seq {
				stored.Origin, stored.Answer = held.Origin, held.Answer
			}
		}
		ds, err := getDeliveries(x.txn, seq)
		if err != nil {
			return fmt.Errorf("%s: deliveries: %w", eventName(seq), err)
		}
		for _, d := range ds {
			log, err := attemptsOf(x.txn, queue.DeliveryID{Event: e.ID, Webhook: d.webhook}, d)
			if err != nil {
				return fmt.Errorf("%s: attempts: %w", eventName(seq), err)
			}
			stored.Deliveries = append(stored.Deliveries, queue.StoredDelivery{Delivery: x.s.publicDelivery(e, d), Log: log})
		}
		return x.to.Event(stored)
	})
}

func (x *export) keys() error {
	return scanItems(x.txn, []byte{layout.PrefixIdempotency}, nil, func(item *badger.Item) (bool, error) {
		if err := x.going(); err != nil {
			return false, err
		}
		expires := item.ExpiresAt()
		return visitItem(item, func(key, rec []byte) (bool, error) {
			k, err := layout.DecodeIdempotency(key, rec)
			if err != nil {
				return false, x.bad(key, "an idempotency key", err)
			}
			stored := queue.StoredKey{
				Key: queue.Key{Name: string(key[1:]), Hash: k.Hash}, Expires: time.Unix(int64(expires), 0).UTC(),
				Unchanged: k.Event() == 0, Answer: k.Answer,
			}
			if k.Seq == erasedSeq {
				stored.Unchanged = false
				return true, x.to.Key(stored)
			}
			e, err := x.s.getHeader(x.txn, k.About())
			switch {
			case errors.Is(err, queue.ErrNotFound): // a key outlives its event, and an id needs only the number
				stored.About = queue.NewEventID(time.UnixMilli(0), x.tags.Of(k.About()), k.About())
			case err != nil:
				return false, err
			default:
				stored.About = e.ID
			}
			return true, x.to.Key(stored)
		})
	})
}

func (x *export) rest() error {
	err := x.each([]byte{layout.PrefixActivity}, func(key, rec []byte) error {
		data, err := layout.Unseal(key, rec)
		if err != nil {
			return x.bad(key, "an activity", err)
		}
		return x.to.Activity(queue.Activity{At: activityTime(key), Data: data})
	})
	if err != nil {
		return err
	}
	var caught []queue.Caught
	if caught, err = caughtOf(x.txn, func(key []byte, err error) error { return x.bad(key, "what a honeypot caught", err) }); err != nil {
		return err
	}
	for i := range caught {
		if err := x.to.Caught(caught[len(caught)-1-i]); err != nil {
			return err
		}
	}
	return x.each([]byte{layout.PrefixErased}, func(key, _ []byte) error { return x.to.Erased([32]byte(key[1:])) })
}

// NewStore is a queue.Sink that makes a new store of what it gets. Finish must be called
// at the end, or Discard.
type NewStore struct {
	b        *build
	packer   codec.Packer
	path     string
	tags     storefile.Tags
	state    layout.State
	marks    marks
	counts   map[queue.WebhookID]queue.Counts
	webhooks []queue.WebhookID
	caught   uint16
}

var _ queue.Sink = (*NewStore)(nil)

// Create makes a new store, which is moved to its path when it is finished. The path must
// not exist, or be an empty folder.
func Create(path string, key []byte) (*NewStore, error) {
	if occupied, err := storefile.Occupied(path); err != nil || occupied {
		return nil, errors.Join(err, fmt.Errorf("%s is not empty: name a new folder", path))
	}
	b, err := newBuild(path+storefile.Restoring, key, false)
	if err != nil {
		return nil, err
	}
	return &NewStore{
		b: b, path: path, state: layout.State{Counted: true}, marks: make(marks), counts: make(map[queue.WebhookID]queue.Counts),
	}, nil
}

// Webhook implements queue.Sink.
func (n *NewStore) Webhook(w queue.Webhook) error {
	n.webhooks = append(n.webhooks, w.ID)
	n.state.Webhook = max(n.state.Webhook, w.ID)
	key := layout.WebhookKey(w.ID)
	return n.b.set(key, layout.EncodeWebhook(key, w), 0)
}

// LastWebhook implements queue.Sink.
func (n *NewStore) LastWebhook(id queue.WebhookID) error {
	n.state.Webhook = max(n.state.Webhook, id)
	return nil
}

// Event implements queue.Sink.
func (n *NewStore) Event(e queue.StoredEvent) error {
	seq := e.ID.Seq()
	if seq <= n.state.Seq {
		return fmt.Errorf("event %s comes after number %d", e.ID, n.state.Seq)
	}
	if len(n.tags) == 0 {
		n.tags = storefile.Tags{{Tag: e.ID.Tag()}}
	} else if n.tags.Of(seq) != e.ID.Tag() {
		n.tags = append(n.tags, storefile.Tag{From: seq, Tag: e.ID.Tag()})
	}
	n.state.Seq = seq
	n.state.Events++
	if e.Redacted {
		n.state.Redacted = 1
	}
	key := layout.EventKey(seq)
	packed := n.packer.Pack(e.Body)
	if err := n.b.set(key, layout.Seal(key, appendEvent(layout.Record(128+len(packed)), &e.Event, packed)), 0); err != nil {
		return err
	}
	n.state.Live += int64(eventSize(&e.Event, len(packed)))
	if !e.Feedback.IsZero() {
		index := layout.FeedbackKey(e.Feedback)
		if err := n.b.set(index, layout.Feedback{Seq: seq, Origin: e.Origin, Answer: e.Answer}.Encode(index), 0); err != nil {
			return err
		}
	}
	return n.deliveries(seq, e.Deliveries)
}

func (n *NewStore) deliveries(seq uint64, all []queue.StoredDelivery) error {
	if len(all) == 0 {
		return nil
	}
	ds := make(deliveries, 0, len(all))
	for _, stored := range all {
		d := delivery{
			webhook: stored.ID.Webhook, state: stored.State, rung: uint8(stored.Rung), attempts: uint16(stored.Attempts),
			at: unixNano(stored.Ended),
		}
		if d.state.Waiting() {
			d.at = unixNano(stored.Due)
			if d.at == 0 && !(d.state == queue.Pending && d.attempts == 0) {
				d.at = time.Now().UnixNano() // it has a key of its own, with a time
			}
		}
		for i := range stored.Log {
			a := &stored.Log[i]
			log := appendAttempt(nil, a, stored.ID.String())
			if d.state == queue.Delivered && d.attempts == 1 && len(log) <= maxLog && len(all) <= maxLogged {
				d.log = log
				continue
			}
			key := layout.AttemptKey(seq, d.webhook, uint16(a.Number))
			rec := layout.Seal(key, append(layout.Record(len(log)), log...))
			if err := n.b.set(key, rec, 0); err != nil {
				return err
			}
			n.state.Live += int64(attemptSize(key, rec))
		}
		c := n.counts[d.webhook]
		c.Count(d.state, 1)
		n.counts[d.webhook] = c
		if err := n.marks.wakes(n.b, seq, &d); err != nil {
			return err
		}
		ds = append(ds, d)
	}
	ds.sort()
	key := layout.DeliveriesKey(seq)
	n.state.Live += int64(ds.size())
	return n.b.set(key, ds.encode(key, layout.Record(ds.size())), 0)
}

// Key implements queue.Sink.
func (n *NewStore) Key(k queue.StoredKey) error {
	stored := layout.Idempotency{Seq: erasedSeq, Hash: k.Hash, Answer: k.Answer}
	if !k.About.IsZero() {
		stored.Seq = k.About.Seq()
		if k.Unchanged {
			stored.Seq |= layout.WithoutEvent
		}
	}
	key := layout.IdempotencyKey(k.Name)
	return n.b.set(key, stored.Encode(key), uint64(k.Expires.Unix()))
}

// Activity implements queue.Sink.
func (n *NewStore) Activity(a queue.Activity) error {
	n.state.Noted++
	key := layout.ActivityKey(a.At.UnixNano(), uint32(n.state.Noted))
	return n.b.set(key, layout.Seal(key, append(layout.Record(len(a.Data)), a.Data...)), 0)
}

// Caught implements queue.Sink.
func (n *NewStore) Caught(c queue.Caught) error {
	key := caughtKey(n.caught)
	n.caught = (n.caught + 1) % queue.MaxCaught
	return n.b.set(key, encodeCaught(key, c), uint64(c.At.Add(queue.CaughtFor).Unix()))
}

// Erased implements queue.Sink.
func (n *NewStore) Erased(hash [32]byte) error {
	key := append([]byte{layout.PrefixErased}, hash[:]...)
	at := binary.BigEndian.AppendUint64(layout.Record(8), uint64(time.Now().UnixNano()))
	return n.b.set(key, layout.Seal(key, at), 0)
}

// Finish completes the store and moves it to its path.
func (n *NewStore) Finish() error {
	for _, id := range n.webhooks {
		key := layout.LaneKey(id)
		if err := n.b.set(key, layout.EncodeLane(key, n.counts[id], n.marks.of(id, n.state.Seq)), 0); err != nil {
			return err
		}
	}
	n.tags = append(n.tags, storefile.NewTag(n.state.Seq+1)) // the other store may have given the next numbers
	if n.state.Seq == 0 {
		n.tags = storefile.Tags{storefile.NewTag(0)}
	}
	if err := errors.Join(
		n.b.set(layout.KeyState, n.state.Encode(), 0),
		n.b.set(layout.KeyFormat, layout.Format{Version: layout.FormatVersion, Tags: n.tags}.Encode(), 0),
	); err != nil {
		return err
	}
	if err := n.b.finish(n.state.Seq, n.tags); err != nil {
		return err
	}
	if err := storefile.CloseFiles(n.b.path); err != nil {
		return err
	}
	return n.b.moveTo(n.path)
}

// Discard removes the store if it is not finished.
func (n *NewStore) Discard() error { return n.b.discard() }

// marks are the low-water marks of lanes, computed from their deliveries.
type marks map[queue.WebhookID]*layout.Marks

// wakes writes the key and the marks by which a lane finds a waiting delivery. The
// deliveries of an event come after those of the event before.
func (m marks) wakes(b *build, seq uint64, d *delivery) error {
	lane := m[d.webhook]
	if lane == nil {
		lane = &layout.Marks{Due: make(map[uint8]int64)}
		m[d.webhook] = lane
	}
	if d.fresh() && lane.Fresh == 0 {
		lane.Fresh = seq
	}
	at, ok := d.waitsAt(seq)
	if !ok {
		return nil
	}
	if low, used := lane.Due[d.rung]; !used || at.Due < low {
		lane.Due[d.rung] = at.Due
	}
	return b.set(layout.WaitingKey(d.webhook, d.rung, at), nil, 0)
}

// of returns the marks of a webhook. newest is the store's newest event.
func (m marks) of(id queue.WebhookID, newest uint64) (lane layout.Marks) {
	if have := m[id]; have != nil {
		lane = *have
	}
	if lane.Fresh == 0 {
		lane.Fresh = newest + 1
	}
	return lane
}

// attemptsOf reads the attempts of a delivery, oldest first.
func attemptsOf(txn *badger.Txn, id queue.DeliveryID, d delivery) (list []queue.Attempt, err error) {
	seq, name := id.Event.Seq(), id.String()
	if d.log != nil {
		first, err := parseAttempt(layout.DeliveriesKey(seq), d.log, 1, name)
		if err != nil {
			return nil, err
		}
		list = append(list, first)
	}
	err = scan(txn, layout.AttemptPrefix(seq, d.webhook), nil, func(key, rec []byte) (bool, error) {
		a, err := decodeAttempt(key, rec, name)
		list = append(list, a)
		return err == nil, err
	})
	return list, err
}

// encodeCaught returns the record of a caught submission.
func encodeCaught(key []byte, c queue.Caught) []byte {
	rec := binary.BigEndian.AppendUint64(layout.Record(8+len(c.Body)), uint64(c.At.UnixMilli()))
	return layout.Seal(key, append(rec, c.Body...))
}

// activityTime reads the key of an activity.
func activityTime(key []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(key[1:]))).UTC()
}

// caughtOf reads what honeypots caught within queue.CaughtFor, newest first. unreadable
// gets each record that does not decode; it may return an error.
func caughtOf(txn *badger.Txn, unreadable func(key []byte, err error) error) (all []queue.Caught, err error) {
	old := time.Now().Add(-queue.CaughtFor)
	err = scan(txn, []byte{layout.PrefixCaught}, nil, func(key, rec []byte) (bool, error) {
		c, err := decodeCaught(key, rec)
		if err != nil {
			return true, unreadable(key, err)
		}
		if c.At.After(old) {
			c.Body = bytes.Clone(c.Body)
			all = append(all, c)
		}
		return true, nil
	})
	sortCaught(all)
	return all, err
}
