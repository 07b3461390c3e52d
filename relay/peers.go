package relay

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/pace"
	"github.com/userhero/relay/relay/tally"
)

// Relays on one store tell each other what each one alone knows: the owner of a lane
// knows its webhook's breaker and counts, and each relay what has happened on it. None
// of this is stored, and nothing depends on it but what people are shown. What must hold
// is in the webhooks' records.

const (
	// talkEvery is how often a relay tells what has changed on its lanes.
	talkEvery = time.Second
	// talkAll is after how many times it tells all, for relays that have come since.
	talkAll = 10
	// listensFor is how long a relay is taken to listen after it said so. It says so
	// every third time it could talk.
	listensFor = 10 * time.Second
	// lanesInMessage bounds a message.
	lanesInMessage = 200
)

// said is a message between relays.
type said struct {
	Listening bool         `json:"listening,omitempty"` // somebody follows the feed there
	Happened  *Happening   `json:"happened,omitempty"`
	Lanes     []laneStatus `json:"lanes,omitempty"`
	// Probe is a webhook of which a person has requested a delivery, and Gently one of
	// which many deliveries become due.
	Probe  queue.WebhookID `json:"probe,omitempty"`
	Gently queue.WebhookID `json:"gently,omitempty"`
}

// laneStatus is what the owner of a lane knows about its webhook.
type laneStatus struct {
	Webhook     queue.WebhookID `json:"webhook"`
	pace.Probes                 // of the breaker
	LastSuccess time.Time       `json:"last_success,omitzero"`
	LastAttempt time.Time       `json:"last_attempt,omitzero"`
	LastAnswer  Answer          `json:"last_answer,omitzero"`
	Hours       []tally.Slot    `json:"hours,omitempty"` // the present one and the one before; answers and times come with the record
}

func (r *Relay) tell(s said) {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers and times of this century always marshal
	}
	r.queue.Tell(data)
}

// talk tells other relays what they show, until the lanes end.
func (r *Relay) talk() {
	tick := time.NewTicker(talkEvery)
	defer tick.Stop()
	told := make(map[*webhook]laneStatus)
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-r.lanes.Done():
			return
		}
		if n%3 == 0 && r.feed.hasSubscriptions() {
			r.tell(said{Listening: true})
		}
		r.feed.expire(time.Now())
		if n%talkAll == 0 {
			clear(told)
		}
		var lanes []laneStatus
		for _, w := range r.all() {
			if !w.checkOwner() {
				delete(told, w)
				continue
			}
			if s := w.laneStatus(time.Now()); !reflect.DeepEqual(s, told[w]) {
				told[w] = s
				lanes = append(lanes, s)
			}
		}
		for some := range slices.Chunk(lanes, lanesInMessage) {
			r.tell(said{Lanes: some})
		}
	}
}

// hear takes in what other relays tell, until the lanes end.
func (r *Relay) hear() {
	r.queue.Hear(r.lanes, func(message []byte) {
		var s said
		if json.Unmarshal(message, &s) != nil {
			return // of a later version
		}
		if s.Listening {
			r.feed.listenedElsewhere(time.Now().Add(listensFor))
		}
		if s.Happened != nil {
			r.feed.publishHere(*s.Happened)
		}
		for _, lane := range s.Lanes {
			if w := r.withID(lane.Webhook); w != nil {
				w.hear(lane)
			}
		}
		if w := r.withID(s.Probe); w != nil {
			w.allowProbe()
		}
		if w := r.withID(s.Gently); w != nil {
			w.restartWindow()
		}
	})
}

func (r *Relay) withID(id queue.WebhookID) *webhook {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[id]
}

// owns reports whether this relay owns the webhook's lane.
func (w *webhook) owns() bool {
	w.mu.Lock()
	lane := w.lane
	w.mu.Unlock()
	return lane != nil && lane.Owned()
}

// checkOwner reports whether this relay owns the webhook's lane. If it has lost it since
// the last call, checkOwner stores what the relay has counted.
func (w *webhook) checkOwner() bool {
	owns := w.owns()
	w.mu.Lock()
	lost := w.owned && !owns
	w.owned = owns
	if owns {
		w.elsewhere = nil
	}
	if lost {
		w.endOutageLocked()
	}
	w.mu.Unlock()
	if lost {
		w.saveRecord()
	}
	return owns
}

// laneStatus returns what to tell about the webhook's lane.
func (w *webhook) laneStatus(now time.Time) laneStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return laneStatus{
		Webhook: w.id, Probes: w.breaker.Probes(),
		LastSuccess: w.record.LastSuccess, LastAttempt: w.record.LastAttempt, LastAnswer: w.record.LastAnswer,
		Hours: w.tally.Latest(now),
	}
}

// hear takes in what the owner of the lane tells. When this relay owns the lane later, it
// goes on with the owner's breaker.
func (w *webhook) hear(s laneStatus) {
	if w.owns() {
		return // it was told before the lane moved
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.elsewhere = s.Hours
	w.breaker.GoOn(s.Probes, s.LastAttempt)
	if s.LastSuccess.After(w.record.LastSuccess) {
		w.record.LastSuccess = s.LastSuccess
	}
	if s.LastAttempt.After(w.record.LastAttempt) {
		w.record.LastAttempt, w.record.LastAnswer = s.LastAttempt, s.LastAnswer
	}
}

// addDayLocked adds the webhook's hours to a day.
func (w *webhook) addDayLocked(day *tally.Day, now time.Time) {
	shown := w.shownTallyLocked()
	shown.AddTo(day, now)
}

// shownTallyLocked returns the tally to show. Of an hour in which the owner of the lane
// has counted more, its count is taken. Quarters of a day and days are as last stored.
func (w *webhook) shownTallyLocked() tally.Webhook {
	return w.tally.With(w.elsewhere)
}
