package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue/seal"
)

const (
	// publishAtOnce is how many messages of a restore may wait for their acknowledgement.
	publishAtOnce = 256
	// restoredGaps is how many waiting deliveries a restored cursor lists. The lane takes
	// further ones in order.
	restoredGaps = 200
	// restoring is the metadata of a stream that is not restored completely. No relay
	// opens it.
	restoring = "userhero.restoring"
)

// NewStore is a queue.Sink that fills new streams with what it gets. Events keep their
// sequence numbers: numbers without an event are passed over. Finish must be called at the
// end, or Discard.
type NewStore struct {
	q        *Queue
	ctx      context.Context //nolint:containedctx // of the whole restore
	began    bool            // the stream of events exists
	readable bool            // all events are stored
	last     uint64          // the last message in the stream of events
	waiting  []published
	lanes    map[queue.WebhookID]*restoredLane
	webhooks []queue.Webhook
	highest  queue.WebhookID
	tags     tags
}

var _ queue.Sink = (*NewStore)(nil)

// published is a message whose acknowledgement is awaited. seq is the sequence number that
// it must have; 0 is any.
type published struct {
	jetstream.PubAckFuture
	seq uint64
}

// restoredLane is the cursor of a webhook as it is restored.
type restoredLane struct {
	cursor
	full  bool // the cursor lists as many gaps as it may, so it stands still
	log   []logged
	bytes int
}

// Create connects to the servers and makes the streams of a new store. Streams with these
// names must not exist, unless another restore made them and did not finish: then they are
// made anew. No relay opens them before Finish, and one that starts meanwhile makes none.
// Before that, Create calls await, which may wait for further servers.
func Create(ctx context.Context, o Options, await ...func(context.Context) error) (*NewStore, error) {
	o.defaults()
	q := newQueue(o)
	var err error
	if q.sealer, err = seal.New(o.EncryptionKey); err != nil {
		return nil, err
	}
	if err := q.connect(); err != nil {
		return nil, err
	}
	n := &NewStore{q: q, ctx: ctx, lanes: make(map[queue.WebhookID]*restoredLane)}
	_, err = q.nc.Subscribe(q.names.restoring(), func(m *nats.Msg) { _ = m.Respond(nil) })
	for _, ready := range await {
		if err == nil {
			err = ready(ctx)
		}
	}
	if err == nil {
		err = n.prepare()
	}
	if err != nil {
		return nil, errors.Join(err, n.Discard())
	}
	return n, nil
}

func (n *NewStore) prepare() error {
	if err := n.q.checkServer(); err != nil {
		return err
	}
	for _, want := range n.q.streams() {
		err := n.q.insist(n.ctx, "looking for stream "+want.Name, func(ctx context.Context) error {
			s, err := n.q.js.Stream(ctx, want.Name)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			if s.CachedInfo().Config.Metadata[restoring] == "" {
				return fmt.Errorf("%w: stream %s exists already; restore with another prefix, or remove the streams that begin with %s_", errStream, want.Name, n.q.names.prefix)
			}
			return n.q.js.DeleteStream(ctx, want.Name)
		})
		if err != nil {
			return err
		}
	}
	all := n.q.streams()
	for _, want := range all[:len(all)-1] { // the stream of events is made with its first event
		if err := n.make(want); err != nil {
			return err
		}
	}
	return n.q.measureClock(n.ctx)
}

func (n *NewStore) make(want jetstream.StreamConfig) error {
	want.Metadata[restoring] = "true"
	return n.q.insist(n.ctx, "making stream "+want.Name, func(ctx context.Context) error {
		_, err := n.q.js.CreateStream(ctx, want)
		return err
	})
}

// begin makes the stream of events. Its first message gets a sequence number.
func (n *NewStore) begin(first uint64) error {
	all := n.q.streams()
	events := all[len(all)-1]
	events.FirstSeq, n.began, n.last = first, true, first-1
	return n.make(events)
}

// publish sends a message without waiting for its acknowledgement. seq is as in published.
func (n *NewStore) publish(m *nats.Msg, seq uint64) error {
	if len(n.waiting) >= publishAtOnce {
		if err := n.await(1); err != nil {
			return err
		}
	}
	future, err := n.q.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
	if err != nil {
		return storeError(err)
	}
	n.waiting = append(n.waiting, published{future, seq})
	return nil
}

// await waits for the oldest acknowledgements.
func (n *NewStore) await(most int) error {
	for ; most > 0 && len(n.waiting) > 0; most-- {
		one := n.waiting[0]
		n.waiting = n.waiting[1:]
		select {
		case ack := <-one.Ok():
			if one.seq != 0 && ack.Sequence != one.seq {
				return fmt.Errorf("event %d was stored as number %d, because the servers did not take the one before; restore again", one.seq, ack.Sequence)
			}
		case err := <-one.Err():
			return fmt.Errorf("storing a message: %w; restore again", storeError(err))
		case <-time.After(n.q.o.Patience):
			return fmt.Errorf("%w: no answer from NATS for %v; restore again", queue.ErrUnavailable, n.q.o.Patience)
		case <-n.ctx.Done():
			return n.ctx.Err()
		}
	}
	return nil
}

func (n *NewStore) publishJSON(subject string, v any) error {
	m, err := messageWith(subject, v)
	if err != nil {
		return err
	}
	return n.publish(m, 0)
}

// Webhook implements queue.Sink.
func (n *NewStore) Webhook(w queue.Webhook) error {
	w.Data = append([]byte(nil), w.Data...)
	n.webhooks = append(n.webhooks, w)
	n.highest = max(n.highest, w.ID)
	return nil
}

// LastWebhook implements queue.Sink.
func (n *NewStore) LastWebhook(id queue.WebhookID) error {
	n.highest = max(n.highest, id)
	return nil
}

// Event implements queue.Sink.
func (n *NewStore) Event(e queue.StoredEvent) error {
	seq := e.ID.Seq()
	if !n.began {
		if err := n.begin(seq); err != nil {
			return err
		}
	}
	if seq <= n.last {
		return fmt.Errorf("event %s comes after number %d", e.ID, n.last)
	}
	for n.last+1 < seq { // an event with this number was removed
		n.last++
		if err := n.publish(nats.NewMsg(n.q.names.passedOver()), n.last); err != nil {
			return err
		}
	}
	n.last = seq
	n.tags = n.tags.with(seq, e.ID.Tag())
	webhooks := make([]queue.WebhookID, len(e.Deliveries))
	for i, d := range e.Deliveries {
		webhooks[i] = d.ID.Webhook
	}
	subject := n.q.names.ownEvent()
	if !e.Feedback.IsZero() {
		subject = n.q.names.event(e.Feedback)
	}
	var origin []byte
	if e.Origin != [32]byte{} {
		origin = e.Origin[:]
	}
	m, err := newEventMessage(subject, e.Event, webhooks, origin, e.Answer)
	if err == nil {
		err = n.publish(m, seq)
	}
	for i := range e.Deliveries {
		if err == nil {
			err = n.delivery(seq, &e.Deliveries[i])
		}
	}
	return err
}

// delivery restores one delivery: in the gaps or the log of its lane's cursor, or as
// records.
func (n *NewStore) delivery(seq uint64, d *queue.StoredDelivery) error {
	w := d.ID.Webhook
	l := n.lanes[w]
	if l == nil {
		l = &restoredLane{cursor: cursor{By: "restore"}}
		n.lanes[w] = l
	}
	fresh := d.State == queue.Pending && d.Attempts == 0 && d.Due.IsZero()
	if fresh && !l.full && len(l.Gaps) == restoredGaps {
		l.full, l.Head = true, seq-1
	}
	if !l.full {
		l.Head, l.Taken = seq, l.Taken+1
	}
	switch {
	case fresh && l.full:
		return nil
	case fresh:
		l.Gaps = append(l.Gaps, seq)
		return nil
	case !l.full && d.State == queue.Delivered && d.Attempts == 1 && len(d.Log) == 1:
		l.Delivered++
		l.log = append(l.log, logged{Seq: seq, Ended: n.q.serverNanos(d.Ended), Attempt: newAttemptEntry(d.Log[0])})
		if l.bytes += size(d.Log[0]); len(l.log) < cursorEntries && l.bytes < cursorBytes {
			return nil
		}
		return n.storeCursor(w, l)
	}
	return n.records(seq, d)
}

func (n *NewStore) storeCursor(w queue.WebhookID, l *restoredLane) error {
	m := nats.NewMsg(n.q.names.cursor(w))
	if len(l.log) > 0 {
		var err error
		if m.Data, err = json.Marshal(l.log); err != nil {
			return err
		}
	}
	l.log, l.bytes = nil, 0
	if err := setHead(m, headerCursor, l.cursor); err != nil {
		return err
	}
	return n.publish(m, 0)
}

// records restores a delivery as one record for each attempt. The last one is its state.
func (n *NewStore) records(seq uint64, d *queue.StoredDelivery) error {
	state := recordHead{
		State: d.State, Origin: originFresh, Rung: d.Rung, Attempts: d.Attempts,
		Due: n.q.serverNanos(d.Due), Ended: n.q.serverNanos(d.Ended), By: "restore",
	}
	log, was := d.Log, queue.State(0)
	one := func(head recordHead, a *queue.Attempt) error {
		m := nats.NewMsg(n.q.names.record(d.ID.Webhook, seq))
		head.Was, was = was, head.State
		if a != nil {
			var err error
			if m.Data, err = json.Marshal(newAttemptEntry(*a)); err != nil {
				return err
			}
		}
		if err := setHead(m, headerRecord, head); err != nil {
			return err
		}
		return n.publish(m, 0)
	}
	var last *queue.Attempt
	if k := len(log) - 1; k >= 0 && log[k].Number == d.Attempts {
		last, log = &log[k], log[:k]
	}
	for i := range log {
		if err := one(recordHead{State: queue.Retrying, Origin: originFresh, Rung: i + 1, Attempts: log[i].Number, By: "restore"}, &log[i]); err != nil {
			return err
		}
	}
	return one(state, last)
}

// Key implements queue.Sink.
func (n *NewStore) Key(k queue.StoredKey) error {
	held := heldKey{Name: k.Name, Hash: k.Hash[:], Claim: newToken(), Bound: true, Answer: k.Answer, Until: &k.Expires}
	switch {
	case k.About.IsZero():
		held = heldKey{Name: k.Name, Hash: k.Hash[:], Erased: true, Until: &k.Expires}
		return n.publishJSON(n.q.names.erasedKey(k.Name), held)
	case k.Unchanged:
		held.About = k.About.String()
	default:
		held.Event = k.About.String()
	}
	if !n.readable {
		if err := n.await(len(n.waiting)); err != nil {
			return err
		}
		n.readable = true
	}
	switch e, err := n.q.eventAt(n.ctx, k.About.Seq()); {
	case err == nil:
		held.Project, held.Feedback = e.Feedback.Project, e.Feedback.ID
	case !errors.Is(err, queue.ErrNotFound):
		return err
	}
	return n.publishJSON(n.q.names.key(k.Name), held)
}

// Activity implements queue.Sink.
func (n *NewStore) Activity(a queue.Activity) error {
	return n.publishJSON(n.q.names.activity(), dated{a.At, a.Data})
}

// Caught implements queue.Sink.
func (n *NewStore) Caught(c queue.Caught) error {
	return n.publishJSON(n.q.names.caught(), dated{c.At, c.Body})
}

// Erased implements queue.Sink.
func (n *NewStore) Erased(hash [32]byte) error {
	return n.publish(nats.NewMsg(n.q.names.erased(hash)), 0)
}

// Finish completes the store, so that relays can open it.
func (n *NewStore) Finish() error {
	if !n.began {
		if err := n.begin(1); err != nil {
			return err
		}
	}
	for _, w := range n.webhooks {
		if n.lanes[w.ID] == nil {
			n.lanes[w.ID] = &restoredLane{cursor: cursor{By: "restore"}}
		}
	}
	for w, l := range n.lanes {
		if !l.full {
			l.Head = n.last
		}
		if err := n.storeCursor(w, l); err != nil {
			return err
		}
	}
	if err := n.registry(); err != nil {
		return err
	}
	if err := n.await(len(n.waiting)); err != nil {
		return err
	}
	if err := n.q.purge(n.ctx, n.q.names.events(), purge{Subject: n.q.names.passedOver()}); err != nil {
		return err
	}
	for _, want := range n.q.streams() {
		err := n.q.insist(n.ctx, "completing stream "+want.Name, func(ctx context.Context) error {
			s, err := n.q.js.Stream(ctx, want.Name)
			if err != nil {
				return err
			}
			config := s.CachedInfo().Config
			delete(config.Metadata, restoring)
			_, err = n.q.js.UpdateStream(ctx, config)
			return err
		})
		if err != nil {
			return err
		}
	}
	return n.Discard()
}

// registry restores the webhooks and the tags.
func (n *NewStore) registry() error {
	if err := n.publishJSON(n.q.names.tag(), append(n.tags, newTag(n.last+1))); err != nil {
		return err
	}
	exists := false
	for _, w := range n.webhooks {
		head := webhookHead{Name: w.Name, Revision: w.Revision, Expires: w.Expires}
		head.Data, head.Sealed = n.q.sealer.Seal(number(w.ID), w.Data)
		if err := n.publishJSON(n.q.names.webhook(w.ID), head); err != nil {
			return err
		}
		exists = exists || w.ID == n.highest
	}
	if exists || n.highest == 0 {
		return nil
	}
	return n.publishJSON(n.q.names.webhook(n.highest), webhookHead{Deleted: true}) // its id is not given again
}

// Discard ends the connection. If the store is not finished, its streams stay, and no
// relay opens them; another restore makes them anew.
func (n *NewStore) Discard() error {
	n.q.end()
	n.q.nc.Close()
	return nil
}
