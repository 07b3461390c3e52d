package simulation

import (
	"bytes"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// connectionFailures in a row open a breaker.
const connectionFailures = 10

// maxHold bounds how long Retry-After holds a webhook off.
const maxHold = time.Hour

// webhook is one webhook as people know it; the ledger's lock guards it.
type webhook struct {
	name, host string
	id         queue.WebhookID
	receiver   *receiver
	ledger     *ledger
	api        bool
	deleted    bool
	ended      time.Time // when it was deleted

	config relay.WebhookConfig
	// others are configurations that are being put in force, or that somebody gave
	// up to put in force.
	others []relay.WebhookConfig
	parked bool
	// rotated says that somebody has given it another secret.
	rotated bool
	// mayExpire says that it was parked, for however short, since the ledger and
	// the store were compared: retention may have taken what waited.
	mayExpire bool
	// state is what the relay said when everything was quiet.
	state string
	// unsure says that the state is changing: people are at it, or a 410 came.
	unsure bool
	// taking is since when it takes deliveries; zero if it does not.
	taking time.Time
	// stopped is since when it takes none.
	stopped time.Time

	waiting map[*delivery]bool
	out     map[*lease]bool
	counts  queue.Counts
	lastEnd time.Time // of an attempt

	// What the webhook surely lets out: the rules of the relay's window and
	// breaker, on their safe side.
	window   int
	narrowed time.Time // when an answer narrowed it last
	refused  int
	open     bool // the breaker may be
	// lastFailed is when a delivery failed for good last, which opens the breaker
	// once the webhook's state can be stored.
	lastFailed time.Time
	// surely counts refused connections and nothing that is in doubt; from ten
	// on, or while the webhook is failing, the breaker is open for sure.
	surely      int
	surelySince time.Time // when it came to ten; the relay hears of it in this moment
	// heldUntil is until when the webhook may be held off by Retry-After, and after
	// that alone until an attempt has ended; zero if it is not. heldSince is when it
	// surely was; zero after a restart, which may have forgotten it.
	heldSince, heldUntil time.Time
	// bound is how many attempts may be under way: more than concurrency says
	// only while those of other settings end.
	bound int
	// since is when the settings came into force.
	since   time.Time
	begun   []time.Time // of attempts, lately
	lastOut time.Time   // when something was handed out
}

// passes are the filters people use, with what they let through.
var passes = map[string]func(body []byte) bool{
	"":                       func([]byte) bool { return true },
	`data.category == "bug"`: func(b []byte) bool { return bytes.Contains(b, []byte(`"category":"bug"`)) },
	`data.rating <= 2`: func(b []byte) bool {
		return bytes.Contains(b, []byte(`"rating":1`)) || bytes.Contains(b, []byte(`"rating":2`))
	},
	`data.status != "working"`: func(b []byte) bool { return !bytes.Contains(b, []byte(`"status":"working"`)) },
}

// wants reports whether an event must get a delivery, and whether that is sure.
func (h *webhook) wants(typ string, body []byte) (wants, sure bool) {
	one := func(c relay.WebhookConfig) bool {
		listed := len(c.Events) == 0
		for _, e := range c.Events {
			listed = listed || string(e) == typ
		}
		return listed && passes[c.Filter](body)
	}
	wants = slices.ContainsFunc(h.configs(), one)
	if len(h.others) > 0 || h.unsure {
		return wants, false
	}
	return wants && h.enabled(), true
}

// enabled reports whether deliveries go out.
func (h *webhook) enabled() bool { return !h.parked && !h.deleted && h.state != relay.Disabled }

// configs are those that may be in force.
func (h *webhook) configs() []relay.WebhookConfig {
	return append([]relay.WebhookConfig{h.config}, h.others...)
}

// mayGet enters that other settings may come into force. They may be those of an attempt
// that has not begun, although its delivery is leased.
func (h *webhook) mayGet(c relay.WebhookConfig) {
	h.others = append(h.others, c)
	for l := range h.out {
		if len(l.visits) == 0 {
			l.configs = append(l.configs, c)
		}
	}
}

// count is the counter of a state.
func (h *webhook) count(s queue.State) *int64 {
	switch s {
	case queue.Pending:
		return &h.counts.Pending
	case queue.Retrying:
		return &h.counts.Retrying
	case queue.Delivered:
		return &h.counts.Delivered
	}
	return &h.counts.Failed
}

// hold enters that the receiver asked to be left alone.
func (h *webhook) hold(asked time.Duration) {
	now := time.Now()
	if until := now.Add(min(asked, maxHold)); until.After(h.heldUntil) {
		if h.heldSince.IsZero() || !now.Before(h.heldUntil) {
			h.heldSince = now
		}
		h.heldUntil = until
	}
}

// tried enters that an attempt has ended: after a hold that ends it.
func (h *webhook) tried() {
	if !time.Now().Before(h.heldUntil) {
		h.heldSince, h.heldUntil = time.Time{}, time.Time{}
	}
}

// surelyAlone reports whether the webhook, after a hold, lets out one attempt.
func (h *webhook) surelyOneAtATime() bool {
	return !h.heldSince.IsZero() && !time.Now().Before(h.heldUntil)
}

// mayArrive holds a request that came to what the webhook allows.
func (h *webhook) mayArrive(l *lease) {
	b, d := h.ledger, l.of
	if !h.heldSince.IsZero() && l.at.After(h.heldSince) && time.Now().Before(h.heldUntil) {
		b.faultLocked("%s comes to %s, which asked at %v to be left alone until %v", l.id, h.name, h.heldSince, h.heldUntil)
	}
	if !h.stopped.IsZero() && !h.unsure && l.at.After(h.stopped) {
		b.faultLocked("%s was taken and comes to %s, which takes nothing since %v", l.id, h.name, h.stopped)
	}
	underWay := 1
	for other := range h.out {
		if n := len(other.visits); other != l && n > 0 && other.visits[n-1].answer == nil {
			underWay++
		}
	}
	if l.open && underWay > 1 {
		b.faultLocked("%s comes to %s, whose breaker is open, as number %d at once", l.id, h.name, underWay)
	}
	if underWay > h.bound {
		b.faultLocked("%s comes to %s as number %d at once; %d are allowed", l.id, h.name, underWay, h.bound)
	}
	h.settleBound()
	h.keepRate(l)
	if l.configs[0].Ordered && len(l.configs) == 1 {
		if o := d.before(); o != nil && !o.again && o.since.Before(l.at) {
			b.faultLocked("%s overtakes %s at %s, which keeps order", l.id, o.id, h.name)
		}
	}
}

// settleBound narrows the bound to what is configured, once nothing is out that
// began before.
func (h *webhook) settleBound() {
	if len(h.others) > 0 {
		return
	}
	for l := range h.out {
		if !l.at.After(h.since) {
			return
		}
	}
	h.bound = h.config.Concurrency
}

// keepRate counts the attempts of the last ten seconds.
func (h *webhook) keepRate(l *lease) {
	r := h.config.Rate
	if r.Events == 0 || len(h.others) > 0 || len(l.visits) > 0 {
		h.begun = nil
		return
	}
	const span = 10 * time.Second
	h.begun = append(h.begun, l.at)
	for len(h.begun) > 0 && time.Since(h.begun[0]) > span {
		h.begun = h.begun[1:]
	}
	per := float64(r.Events) / r.Per.Seconds()
	// A tenth of a second's worth may go at once; one wait within an attempt for
	// a connection can make those of a second meet.
	if most := per*span.Seconds() + per/10 + per + float64(h.bound) + 2; float64(len(h.begun)) > most {
		h.ledger.faultLocked("%d attempts in %v at %s, whose rate is %s", len(h.begun), span, h.name, r)
	}
}

// answeredWell closes the breaker and widens the window. While the state is
// changing the breaker may be open after it: what failed for good opens it only
// when the store has time for that.
func (h *webhook) answeredWell() {
	open := h.open && h.unsure
	switch {
	case h.open || !h.heldUntil.IsZero():
		h.window = 1
	case !h.narrowed.Equal(time.Now()): // else the relay may have widened it first
		h.window = min(h.window+1, h.config.Concurrency)
	}
	h.open, h.refused, h.surely = open, 0, 0
	h.unsure = h.unsure || h.state == relay.Failing
}

// answeredBadly narrows the window, and may open the breaker.
func (h *webhook) answeredBadly(last *visit, class string) {
	connected := last != nil
	busy := !connected || class == "timeout" || class == "http_429" || class == "http_503"
	if busy {
		h.window, h.narrowed = 1, time.Now()
	}
	if h.refused++; connected {
		h.refused = 0
	}
	if h.surely++; connected || class != "refused" && class != "dns" && class != "timeout" {
		h.surely = 0
	}
	if h.surely == connectionFailures {
		h.surelySince = time.Now()
	}
	if h.refused >= connectionFailures {
		h.open = true
	}
}

// surelyOpen reports whether the breaker lets out one attempt at a time, as far as
// everybody must know.
func (h *webhook) surelyOpen() bool {
	return h.surely >= connectionFailures && time.Now().After(h.surelySince) || h.state == relay.Failing && !h.unsure
}

// ranOut: a ladder came to its end.
func (h *webhook) ranOut() {
	h.open, h.unsure, h.lastFailed = true, true, time.Now()
}

// restarted: the relay begins anew, with the state that was stored last. That it
// was failing nobody may have seen.
func (h *webhook) restarted() {
	h.window, h.refused, h.surely, h.open = 1, 0, 0, true
	h.heldSince = time.Time{}
	h.begun = nil
	if h.enabled() {
		h.taking, h.stopped = time.Now(), time.Time{}
	}
}

// inForce puts other settings in force.
func (h *webhook) inForce(c relay.WebhookConfig) {
	h.config, h.others = c, nil
	h.window = min(h.window, c.Concurrency)
	h.since, h.begun = time.Now(), nil
}

// stand takes over, while all is quiet, the state the relay shows.
func (h *webhook) stand(s relay.WebhookStatus) {
	h.state, h.unsure = s.State, false
	if s.State == relay.Failing {
		h.open = true
	}
	now := time.Now()
	if h.enabled() {
		h.stopped = time.Time{}
		if h.taking.IsZero() {
			h.taking = now
		}
		return
	}
	h.taking = time.Time{}
	if h.stopped.IsZero() {
		h.stopped = now
	}
}
