package jetstreamqueue

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

// A redacted event is stored in two messages. Its remains are in the stream of state, on a
// subject with the event's number: the redacted document, and all deliveries with their
// attempts, so that neither records nor logs of it are left. Its hold takes its place in the
// stream of events, on the subject of its feedback. So a submission with the same id is
// still refused, updates must still follow the feedback's last message, and the stream
// still has one message for each event.

// hold is a message in the place of an event.
type hold struct {
	Of uint64 `json:"of"` // the event
	// Latest is the feedback's latest event: the hold may follow it and stand for an
	// earlier one.
	Latest uint64 `json:"latest"`
}

// remains is the body of the message that has what is left of a redacted event.
type remains struct {
	Document   []byte         `json:"document"`
	Deliveries []keptDelivery `json:"deliveries,omitempty"`
}

// keptDelivery is a delivery of a redacted event.
type keptDelivery struct {
	Webhook queue.WebhookID `json:"webhook"`
	recordHead
	Log []keptAttempt `json:"log,omitempty"`
}

// keptAttempt is an attempt without bodies and without response headers.
type keptAttempt struct {
	Number int `json:"number"`
	attemptEntry
}

func newKeptAttempt(a queue.Attempt) keptAttempt {
	a.RequestBody, a.ResponseHeaders, a.ResponseBody = nil, nil, nil
	return keptAttempt{a.Number, newAttemptEntry(a)}
}

// attempts returns the attempts of the delivery.
func (k *keptDelivery) attempts() []queue.Attempt {
	list := make([]queue.Attempt, len(k.Log))
	for i, one := range k.Log {
		list[i] = one.attempt(one.Number)
	}
	return list
}

// keptCounts counts the deliveries of redacted events: delivered, failed. It is short in
// JSON, because a removal has one for each webhook.
type keptCounts [2]int64

func (k keptCounts) counts() queue.Counts { return queue.Counts{Delivered: k[0], Failed: k[1]} }

// add returns the sum with n deliveries in a state.
func (k keptCounts) add(s queue.State, n int64) keptCounts {
	if s == queue.Delivered {
		k[0] += n
	} else {
		k[1] += n
	}
	return k
}

const (
	// packFrom is the length of a body that is compressed. Attempts at many webhooks are
	// much alike.
	packFrom = 64 << 10
	// headerPacked is set if the body is compressed.
	headerPacked = "Userhero-Packed"
)

// newRemains returns the message that stores what is left of an event.
func newRemains(subject string, e *storedEvent, deliveries []keptDelivery) (*nats.Msg, error) {
	body, err := json.Marshal(remains{e.Body, deliveries})
	if err != nil {
		return nil, err
	}
	packed := len(body) >= packFrom
	if packed {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write(body)
		if err = errors.Join(err, z.Close()); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	webhooks := make([]queue.WebhookID, len(deliveries))
	for i, d := range deliveries {
		webhooks[i] = d.Webhook
	}
	stored := e.Event
	stored.Body, stored.Redacted = body, true
	m, err := newEventMessage(subject, stored, webhooks, e.origin, e.answer)
	if err == nil && packed {
		m.Header.Set(headerPacked, "gzip")
	}
	return m, err
}

// redactedEvent reads a message that newRemains has made.
func (q *Queue) redactedEvent(m *message) (*storedEvent, error) {
	seq, err := strconv.ParseUint(m.subject[strings.LastIndexByte(m.subject, '.')+1:], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("message %d on %s is of no event: %w", m.seq, m.subject, err)
	}
	e, err := q.eventOf(m, seq)
	if err != nil {
		return nil, err
	}
	if m.header.Get(headerPacked) != "" {
		z, err := gzip.NewReader(bytes.NewReader(e.Body))
		if err == nil {
			e.Body, err = io.ReadAll(z)
		}
		if err != nil {
			return nil, fmt.Errorf("the redacted event %s cannot be read: %w", e.ID, err)
		}
	}
	var r remains
	if err := json.Unmarshal(e.Body, &r); err != nil {
		return nil, fmt.Errorf("the redacted event %s cannot be read: %w", e.ID, err)
	}
	e.Body, e.kept = r.Document, make(map[queue.WebhookID]keptDelivery, len(r.Deliveries))
	for _, d := range r.Deliveries {
		e.kept[d.Webhook] = d
	}
	return e, nil
}

// redactedAt reads a redacted event by its sequence number, from the leader.
func (q *Queue) redactedAt(ctx context.Context, seq uint64) (*storedEvent, error) {
	m, err := q.last(ctx, q.names.state(), q.names.redacted(seq))
	if err != nil {
		return nil, err
	}
	return q.redactedEvent(m)
}

// redactedOf reads those of some events that are redacted. Any replica may answer.
func (q *Queue) redactedOf(ctx context.Context, seqs []uint64) ([]*storedEvent, error) {
	subjects := make([]string, len(seqs))
	for i, seq := range seqs {
		subjects[i] = q.names.redacted(seq)
	}
	messages, err := q.lastOf(ctx, q.names.state(), subjects)
	if err != nil {
		return nil, err
	}
	all := make([]*storedEvent, len(messages))
	for i, m := range messages {
		if all[i], err = q.redactedEvent(m); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// resolve replaces holds by the events that they stand for.
func (q *Queue) resolve(ctx context.Context, places []*storedEvent) (all []*storedEvent, err error) {
	holds := make(map[uint64]uint64) // by the event
	for _, e := range places {
		if e.isHold() {
			holds[e.ID.Seq()] = e.place
		} else {
			all = append(all, e)
		}
	}
	redacted, err := q.redactedOf(ctx, slices.Sorted(maps.Keys(holds)))
	for _, e := range redacted {
		e.place = holds[e.ID.Seq()]
		all = append(all, e)
	}
	return all, err
}
