package relay

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/feed"
	"github.com/userhero/relay/relay/pace"
	"github.com/userhero/relay/relay/tally"
)

// Relays on one store send each other what only one of them knows. The owner of a lane
// knows its webhook's breaker and counts. Each relay knows what has happened on it. These
// messages are not stored, and only the pages that people see depend on them. State that
// must not be lost is in the webhooks' records.

const (
	// talkEvery is how often a relay sends what has changed on its lanes.
	talkEvery = time.Second
	// talkAll is how many rounds pass before a relay sends the state of all its lanes, for
	// relays that have started since.
	talkAll = 10
	// listensFor is how long a relay counts as listening after its message. It sends the
	// message in every third round.
	listensFor = 10 * time.Second
	// lanesInMessage is the most lanes in one message.
	lanesInMessage = 200
)

// said is a message between relays.
type said struct {
	Listening bool            `json:"listening,omitempty"` // the sender's feed has subscriptions
	Happened  *feed.Happening `json:"happened,omitempty"`
	Lanes     []laneStatus    `json:"lanes,omitempty"`
	// Probe is a webhook for which a person has requested a delivery. Gently is a webhook
	// whose deliveries become due in large numbers.
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

// talk sends other relays what they show, until the lanes end.
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
		if n%3 == 0 && r.feed.HasSubscriptions() {
			r.tell(said{Listening: true})
		}
		r.feed.Expire(time.Now())
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

// hear handles the messages of other relays until the lanes end.
func (r *Relay) hear() {
	r.queue.Hear(r.lanes, func(message []byte) {
		var s said
		if json.Unmarshal(message, &s) != nil {
			return // the message is from a later version
		}
		if s.Listening {
			r.feed.ListenedElsewhere(time.Now().Add(listensFor))
		}
		if s.Happened != nil {
			r.feed.PublishHere(*s.Happened)
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

// laneStatus returns the status of the webhook's lane, to be sent to other relays.
func (w *webhook) laneStatus(now time.Time) laneStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return laneStatus{
		Webhook: w.id, Probes: w.breaker.Probes(),
		LastSuccess: w.record.LastSuccess, LastAttempt: w.record.LastAttempt, LastAnswer: w.record.LastAnswer,
		Hours: w.tally.Latest(now),
	}
}

// hear takes over the status that the owner of the lane has sent. If this relay owns the
// lane later, it continues with the owner's breaker.
func (w *webhook) hear(s laneStatus) {
	if w.owns() {
		return // the message was sent before this relay took the lane
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

// shownTallyLocked returns the tally to show. If the owner of the lane has counted more in
// an hour, the owner's count is used. Quarters of a day and days show the stored counts.
func (w *webhook) shownTallyLocked() tally.Webhook {
	return w.tally.With(w.elsewhere)
}
