// Package pace decides when deliveries may go to a webhook: a breaker stops what would
// fail, a window bounds the attempts in flight, and events of one feedback keep their
// order.
//
// It promises that one success closes the breaker, that a hold is never shortened, and
// that the window is never smaller than one attempt. Breaker and window depend on
// nothing but the calls and times they are given. The package does not know webhooks,
// lanes or attempts, and it starts nothing: its caller makes the attempts and reports
// how they ended. Its tests call the rules with fixed times; the relay's tests and
// simulation check what receivers see.
package pace

import (
	"time"
)

const (
	// connectionFailures in a row open the breaker of an active webhook.
	connectionFailures = 10
	// maxProbeDelay bounds the time between two probes.
	maxProbeDelay = 5 * time.Minute
	// defaultProbeDelay is the first delay for a webhook without retries.
	defaultProbeDelay = time.Second
	// maxHold bounds how long Retry-After holds a webhook off (CONTRACT §2).
	maxHold = time.Hour
)

// Breaker stops a webhook whose receiver does not answer from using up the retries of
// all its waiting deliveries. While the breaker is open, only one attempt at a time
// goes out, a probe. The first success closes it.
//
//	        ladder ran out, 10 connection failures
//	closed ───────────────────────────────────────► open ──► probing
//	   ▲                                             ▲          │ │
//	   │                                             └──failure─┘ │
//	   └────────────────────────success───────────────────────────┘
//
// If a receiver answers 429 or 503 with Retry-After, its deliveries are held until
// then, redeliveries included. The first attempt after the hold goes out alone, like a
// probe. The hold ends when that attempt succeeds, or fails without a new Retry-After.
//
// The caller passes the time and serialises the calls.
type Breaker struct {
	open     bool
	probing  bool
	refused  int           // connection failures in a row
	delay    time.Duration // before the next probe after a failure
	probe    time.Time     // earliest time of the next probe
	lastTime time.Time     // when the last attempt ended
	hold     time.Time     // do not send before this time (Retry-After); zero if no hold is in force
}

// HoldOff holds deliveries for as long as the receiver asks. It never shortens a hold.
func (b *Breaker) HoldOff(now time.Time, asked time.Duration) {
	if until := now.Add(min(asked, maxHold)); until.After(b.hold) {
		b.hold = until
	}
}

// EndHold lets deliveries go out although the receiver has asked for a hold.
func (b *Breaker) EndHold() { b.hold = time.Time{} }

// HeldUntil returns the end of the hold; zero if none is in force. An end that has
// passed means that the attempt after the hold has not ended yet.
func (b *Breaker) HeldUntil() time.Time { return b.hold }

// Open reports whether the breaker is open.
func (b *Breaker) Open() bool { return b.open }

// NextProbe returns the earliest time of the next probe. It is zero while the breaker is
// closed or a probe is in flight.
func (b *Breaker) NextProbe() time.Time {
	if !b.open || b.probing {
		return time.Time{}
	}
	return b.probe
}

// ProbeNow makes the next probe due.
func (b *Breaker) ProbeNow() { b.probe = time.Time{} }

// Probes is what another relay needs to know of a breaker, to show it and to go on with
// it.
type Probes struct {
	Open  bool          `json:"open,omitempty"`
	Delay time.Duration `json:"delay,omitempty"` // before the next probe after a failure
	Probe time.Time     `json:"probe,omitzero"`  // earliest time of the next probe, UTC
}

// Probes returns what another relay needs to know.
func (b *Breaker) Probes() Probes {
	return Probes{Open: b.open, Delay: b.delay, Probe: b.probe.UTC()}
}

// GoOn goes on with a breaker of another relay, whose last attempt ended at last.
func (b *Breaker) GoOn(p Probes, last time.Time) {
	b.open, b.delay, b.probe, b.lastTime = p.Open, p.Delay, p.Probe, last
}

// OneAtATime reports whether only one attempt at a time may go out.
func (b *Breaker) OneAtATime() bool { return b.open || !b.hold.IsZero() }

// Reset closes the breaker at a person's request. It keeps a hold that the receiver
// asked for.
func (b *Breaker) Reset() { *b = Breaker{lastTime: b.lastTime, hold: b.hold} }

// probeDelays returns the bounds of the delay between probes. The first delay is the
// first rung. Each next one is twice as long, up to the longest rung or five minutes.
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

// Trip opens the breaker. If the last attempt ended at least one first rung ago, a
// probe may go out at once.
func (b *Breaker) Trip(ladder []time.Duration) {
	if b.open {
		return
	}
	first, _ := probeDelays(ladder)
	b.open, b.delay = true, first
	b.probe = b.lastTime.Add(first)
}

// TripAfter opens the breaker as Trip does, for a webhook whose last attempt ended at
// last.
func (b *Breaker) TripAfter(last time.Time, ladder []time.Duration) {
	b.lastTime = last
	b.Trip(ladder)
}

// Admits reports whether an attempt may go out now. If not, wait is how long to wait; 0
// means until the probe in flight ends.
func (b *Breaker) Admits(now time.Time) (ok bool, wait time.Duration) {
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

// Begin records that an attempt starts.
func (b *Breaker) Begin() {
	if b.open {
		b.probing = true
	}
}

// NotAttempted records that a delivery was given back without an attempt.
func (b *Breaker) NotAttempted() { b.probing = false }

// Succeeded closes the breaker. An attempt that started before the receiver sent
// Retry-After does not end the hold.
func (b *Breaker) Succeeded(now time.Time) {
	hold := b.hold
	if !now.Before(hold) {
		hold = time.Time{}
	}
	*b = Breaker{lastTime: now, hold: hold}
}

// Failed counts a failure. If no connection was made, connection is true.
func (b *Breaker) Failed(now time.Time, connection bool, ladder []time.Duration) {
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
		b.Trip(ladder)
	}
}
