package jetstreamqueue

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
)

// Kill ends the queue as a killed process would: nothing more is stored.
func (q *Queue) Kill() {
	q.nc.Close()
	q.end()
	q.running.Wait()
}

// Abandon is Kill, and its locks go at once, as if their time had passed.
func (q *Queue) Abandon() error {
	q.Kill()
	nc, err := nats.Connect(joinServers(q.o.Servers))
	if err != nil {
		return err
	}
	defer nc.Close()
	_, err = nc.Request("$JS.API.STREAM.PURGE."+q.names.locks(), nil, tryFor)
	return err
}

// Oversleep removes the lock of a lane whose owner has not looked at it since.
func (q *Queue) Oversleep(w queue.WebhookID) error {
	l := q.laneOf(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	return q.purge(context.Background(), q.names.locks(), purge{Subject: q.names.lock(l.lock.name)})
}

// DieBeforeBinding claims a key and stores its event, as a relay does that dies before
// it can bind the key.
func (q *Queue) DieBeforeBinding(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	claim := heldKey{Hash: e.Key.Hash[:], Claim: newToken(), Project: e.Feedback.Project, Feedback: e.Feedback.ID}
	if _, err := q.writeKey(ctx, e.Key, claim, 0); err != nil {
		return queue.Receipt{}, err
	}
	return q.store(ctx, e, claim.Claim)
}

// BeginKey claims a key, as a relay does that then dies or sleeps. goOn stores the event.
func (q *Queue) BeginKey(ctx context.Context, e queue.Entry) (goOn func() (queue.Receipt, error), err error) {
	claim := heldKey{Hash: e.Key.Hash[:], Claim: newToken(), Project: e.Feedback.Project, Feedback: e.Feedback.ID}
	seq, err := q.writeKey(ctx, e.Key, claim, 0)
	return func() (queue.Receipt, error) { return q.storeClaimed(ctx, e, claim, seq) }, err
}

// Owns reports whether this relay takes itself for the owner of a lane.
func (q *Queue) Owns(w queue.WebhookID) bool {
	l := q.laneOf(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owned && !l.lock.lost()
}

// InMemory returns the options with streams that no disk keeps.
func (o Options) InMemory() Options {
	o.storage = jetstream.MemoryStorage
	return o
}

// Heard returns how many outcomes the relay remembers that may not be stored.
func (q *Queue) Heard(w queue.WebhookID) int {
	q.outcomes.mu.Lock()
	defer q.outcomes.mu.Unlock()
	return len(q.outcomes.unsure[w])
}

// IsErasing reports whether this relay has read of an erasure that is not complete.
func (q *Queue) IsErasing() bool { return q.ledger.isErasing() != nil }

// AcceptAsIfNotErased stores an event of an erased feedback, as a relay does that has not
// read yet that it was erased.
func (q *Queue) AcceptAsIfNotErased(ctx context.Context, e queue.Event) error {
	m, err := newEventMessage(q.names.event(e.Feedback), e, nil, nil, nil)
	if err == nil {
		_, err = q.publish(ctx, m, after(0))
	}
	return err
}

// WaitFor says that the relay waits for a lane, as it does every two seconds while it does.
func (q *Queue) WaitFor(w queue.WebhookID) error {
	data, err := json.Marshal(wanted{Node: q.node, Lanes: []queue.WebhookID{w}})
	if err != nil {
		return err
	}
	return q.nc.Publish(q.names.wanted(), data)
}

// ConnectedTo returns the URL of the server that the relay is connected to and that knows
// its subscriptions, or "".
func (q *Queue) ConnectedTo() string {
	if q.nc.FlushTimeout(time.Second) != nil { // the answer comes after the subscriptions
		return ""
	}
	return q.nc.ConnectedUrl()
}
