package relay

import (
	"time"
)

const (
	// connectionFailures in a row open the breaker of an active webhook.
	connectionFailures = 10
	// maxProbeDelay bounds the time between two probes.
	maxProbeDelay = 5 * time.Minute
	// defaultProbeDelay is the first if a webhook has no ladder.
	defaultProbeDelay = time.Second
	// maxHold bounds how long Retry-After holds a webhook off (CONTRACT §2).
	maxHold = time.Hour
)

// breaker keeps a webhook that does not answer from using up the rungs of
// everything that waits for it. While it is open one attempt, a probe, goes out
// at a time; the first success closes it.
//
//	        ladder ran out, 10 connection failures
//	closed ───────────────────────────────────────► open ──► probing
//	   ▲                                             ▲          │ │
//	   │                                             └──failure─┘ │
//	   └────────────────────────success───────────────────────────┘
//
// A receiver that answers 429 or 503 with Retry-After also holds deliveries until then,
// even those that a person asks for. The first attempt after that goes out alone, like
// a probe. Its result ends the hold, unless the receiver asks for time again.
//
// It is a value with explicit time: its owner serialises the calls.
type breaker struct {
	open     bool
	probing  bool
	refused  int           // connection failures in a row
	delay    time.Duration // before the next probe after a failure
	probe    time.Time     // not before then
	lastTime time.Time     // when the last attempt ended
	hold     time.Time     // the receiver asked to be left alone until then; zero: it did not, or has been tried since
}

// holdOff holds deliveries for as long as the receiver asks, and never for less than it
// asked before.
func (b *breaker) holdOff(now time.Time, asked time.Duration) {
	if until := now.Add(min(asked, maxHold)); until.After(b.hold) {
		b.hold = until
	}
}

// oneAtATime reports whether only one attempt at a time may go out.
func (b *breaker) oneAtATime() bool { return b.open || !b.hold.IsZero() }

// reset closes the breaker at a person's request. A hold that the receiver asked for
// stays.
func (b *breaker) reset() { *b = breaker{lastTime: b.lastTime, hold: b.hold} }

// probeDelays are the bounds of the time between probes: the first rung, then
// twice as long each time, up to the longest rung or five minutes.
func probeDelays(ladder []time.Duration) (first, most time.Duration) {
	if len(ladder) == 0 {
		return defaultProbeDelay, maxProbeDelay
	}
	first = min(ladder[0], maxProbeDelay)
	most = first
	for _, d := range ladder {
		most = max(most, min(d, maxProbeDelay))
	}
	return first, most
}

// trip opens the breaker. A probe may go at once if the last attempt ended at least a
// first rung ago.
func (b *breaker) trip(ladder []time.Duration) {
	if b.open {
		return
	}
	first, _ := probeDelays(ladder)
	b.open, b.delay = true, first
	b.probe = b.lastTime.Add(first)
}

// admits reports whether an attempt may go out now, or how long to wait for that; 0
// is until the probe under way has ended.
func (b *breaker) admits(now time.Time) (ok bool, wait time.Duration) {
	switch {
	case now.Before(b.hold):
		return false, b.hold.Sub(now)
	case !b.open:
		return true, 0
	case b.probing:
		return false, 0
	case now.Before(b.probe):
		return false, b.probe.Sub(now)
	}
	return true, 0
}

// begin notes that an attempt goes out.
func (b *breaker) begin() {
	if b.open {
		b.probing = true
	}
}

// notAttempted notes that a delivery was given back without an attempt.
func (b *breaker) notAttempted() { b.probing = false }

// succeeded closes the breaker. An attempt that was under way when the receiver
// asked for time does not end the hold.
func (b *breaker) succeeded(now time.Time) {
	hold := b.hold
	if !now.Before(hold) {
		hold = time.Time{}
	}
	*b = breaker{lastTime: now, hold: hold}
}

// failed counts a failure; connection says that no connection was made.
func (b *breaker) failed(now time.Time, connection bool, ladder []time.Duration) {
	b.lastTime = now
	if !now.Before(b.hold) {
		b.hold = time.Time{}
	}
	if b.refused++; !connection {
		b.refused = 0
	}
	if b.open {
		_, most := probeDelays(ladder)
		b.probing = false
		b.probe = now.Add(b.delay)
		b.delay = min(2*b.delay, most)
		return
	}
	if b.refused >= connectionFailures {
		b.trip(ladder)
	}
}
