package jetstreamqueue

import (
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// The owner of a lane tells the other relays the outcome of each attempt at once, before a
// commit stores it. If the owner dies, the next owner stores what it heard, instead of
// attempting these deliveries again. A relay that loses a lane and lives remembers the
// outcomes itself. A relay that has started since hears of them when it says that it waits
// for the lane. Such a message may be lost; then the deliveries come again.

const (
	// sayOutcomesEvery is the pause between two messages. What is settled meanwhile goes
	// together.
	sayOutcomesEvery = 2 * time.Millisecond
	// outcomesAtOnce is the most outcomes of one message.
	outcomesAtOnce = 512
	// maxOutcomes is the most outcomes of one webhook that a relay remembers. It is more
	// than a lane may settle before a commit has stored something.
	maxOutcomes = 2 * mostUnstored
	// sayAgainFor is for how long outcomes are told again: longer than the lock of a dead
	// owner lasts.
	sayAgainFor = 30 * time.Second
	// rememberOutcomes is how long an outcome is remembered if no lane takes it.
	rememberOutcomes = time.Hour
)

// outcome is what an attempt resulted in.
type outcome struct {
	Webhook queue.WebhookID  `json:"webhook"`
	Event   uint64           `json:"event"`
	Record  uint64           `json:"record,omitempty"` // the delivery's last record before the attempt; 0: it had none
	Kind    queue.SettleKind `json:"kind"`
	Due     int64            `json:"due,omitempty"` // nanoseconds since 1970 by the servers' clock, for SettleRetry
	Settled int64            `json:"settled"`       // as Due
	Attempt attemptEntry     `json:"attempt"`
}

// outcomeOf returns a settlement as an outcome.
func (l *lane) outcomeOf(s *settled) outcome {
	return outcome{
		Webhook: l.webhook, Event: s.seq, Record: s.record, Kind: s.Kind,
		Due: l.q.serverNanos(s.Settlement.At), Settled: l.q.serverNanos(s.at), Attempt: newAttemptEntry(s.Attempt),
	}
}

// settledBy returns the settlement of a delivery that an outcome describes.
func (q *Queue) settledBy(o outcome, one *lease) *settled {
	return &settled{
		lease: one, record: o.Record, at: q.localTime(o.Settled),
		Settlement: queue.Settlement{Kind: o.Kind, At: q.localTime(o.Due), Attempt: o.Attempt.attempt(0)},
	}
}

// outcomes holds outcomes that may not be stored.
type outcomes struct {
	news chan struct{} // of capacity 1: there is something to say

	mu     sync.Mutex // guards everything below
	toSay  []outcome
	unsure map[queue.WebhookID]map[uint64]outcome // of lanes that may have lost their owner, by event
}

func newOutcomes() outcomes {
	return outcomes{news: make(chan struct{}, 1), unsure: make(map[queue.WebhookID]map[uint64]outcome)}
}

// say queues an outcome for the other relays. They get neither headers nor bodies.
func (k *outcomes) say(o outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sayLocked(o)
}

func (k *outcomes) sayLocked(o outcome) {
	a := &o.Attempt
	a.Request, a.Response, a.Sent, a.Body = nil, nil, nil, nil
	k.toSay = append(k.toSay, o)
	signal(k.news)
}

// sayAgain queues the outcomes that another relay may need to take a lane, if it has
// started after they were told. since bounds their age.
func (k *outcomes) sayAgain(w queue.WebhookID, since int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range k.unsure[w] {
		if o.Settled > since {
			k.sayLocked(o)
		}
	}
}

// unsaid removes the next outcomes from the queue.
func (k *outcomes) unsaid() (some []outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := min(len(k.toSay), outcomesAtOnce)
	some, k.toSay = k.toSay[:n:n], k.toSay[n:]
	return some
}

// remember keeps outcomes for the next owner of the lane.
func (k *outcomes) remember(all ...outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range all {
		of := k.unsure[o.Webhook]
		if of == nil {
			of = make(map[uint64]outcome)
			k.unsure[o.Webhook] = of
		}
		if have, ok := of[o.Event]; (ok || len(of) < maxOutcomes) && have.Record <= o.Record {
			of[o.Event] = o
		}
	}
}

// take removes and returns the outcome of a delivery whose last record is the given one.
func (k *outcomes) take(w queue.WebhookID, event, record uint64) (o outcome, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o, ok = k.unsure[w][event]
	if !ok || o.Record != record {
		return outcome{}, false
	}
	delete(k.unsure[w], event)
	return o, true
}

// forget removes the outcomes of a webhook for which stored returns true.
func (k *outcomes) forget(w queue.WebhookID, stored func(outcome) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.unsure[w], func(_ uint64, o outcome) bool { return stored(o) })
}

// forgetRecorded removes the outcome of a delivery that has got a newer record.
func (k *outcomes) forgetRecorded(w queue.WebhookID, event, record uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if o, ok := k.unsure[w][event]; ok && o.Record < record {
		delete(k.unsure[w], event)
	}
}

// forgetOld removes what no lane has taken for a long time, because it was stored without
// this relay seeing it in time.
func (k *outcomes) forgetOld(before int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w, of := range k.unsure {
		maps.DeleteFunc(of, func(_ uint64, o outcome) bool { return o.Settled < before })
		if len(of) == 0 {
			delete(k.unsure, w)
		}
	}
}

// sayOutcomes tells the other relays the outcomes of this relay's attempts, until the queue
// is closed.
func (q *Queue) sayOutcomes() {
	for {
		select {
		case <-q.outcomes.news:
		case <-q.closed.Done():
			return
		}
		for some := q.outcomes.unsaid(); len(some) > 0; some = q.outcomes.unsaid() {
			q.sayThese(some)
			if q.pause(q.closed, sayOutcomesEvery) != nil {
				return
			}
		}
	}
}

// sayThese sends one message, again and again while there is no connection.
func (q *Queue) sayThese(some []outcome) {
	m, err := messageWith(q.names.outcomes(), some)
	if err != nil {
		q.o.Logger.Error("the outcome of an attempt cannot be encoded", "error", err)
		return
	}
	m.Header.Set(nodeHeader, q.node)
	for q.nc.PublishMsg(m) != nil {
		if q.pause(q.closed, pauseFor) != nil {
			return
		}
	}
}

// hearOutcomes remembers what another relay has said.
func (q *Queue) hearOutcomes(data []byte) {
	var all []outcome
	if err := json.Unmarshal(data, &all); err != nil {
		q.o.Logger.Warn("what another relay says about its attempts cannot be read", "error", err)
		return
	}
	for _, o := range all {
		if o.Record == 0 && q.ledger.hasPassed(o.Webhook, o.Event) {
			continue // it is stored already
		}
		q.outcomes.remember(o)
	}
}
