package notify

import "time"

// dampWithin is the shortest time between two messages about a webhook that fails and
// recovers over and over.
const dampWithin = time.Hour

// damping holds what one mailbox has sent, by recipient and webhook. Only the mailbox's
// goroutine uses it. It does not survive a restart.
type damping map[damped]*sentNotices

type damped struct {
	to      string
	webhook subject
}

// sentNotices is the state of one webhook in a mailbox.
type sentNotices struct {
	at      time.Time // of the last message about it
	thread  string    // thread of that message
	seen    time.Time // the time of the last notice
	damped  bool      // the webhook fails and recovers over and over
	changes int       // changes of state since, not in any message
}

func (d damping) of(n Notice) *sentNotices {
	key := damped{n.To, n.subject()}
	s := d[key]
	if s == nil {
		s = new(sentNotices)
		d[key] = s
	}
	return s
}

// skipped counts a notice that a later one has replaced.
func (d damping) skipped(n Notice) {
	s := d.of(n)
	s.changes++
	if n.At.After(s.seen) {
		s.seen = n.At
	}
}

// sent records the notices of a message. It drops webhooks that have had no notice for
// a long time.
func (d damping) sent(notices []Notice) {
	now := time.Now()
	for key, s := range d {
		if now.Sub(s.at) > 2*dampWithin && now.Sub(s.seen) > 2*dampWithin {
			delete(d, key)
		}
	}
	for _, n := range notices {
		s := d.of(n)
		s.at, s.thread, s.changes = now, n.Thread, 0
	}
}

// hold records a notice and returns the time until which it must wait. A time in the
// past means that it need not wait.
//
// Notices of the same episode do not wait: a recovery is sent at once. A new episode
// waits if it begins within dampWithin of the last message.
func (s *sentNotices) hold(n Notice, now time.Time) time.Time {
	if n.At.Sub(s.seen) > dampWithin {
		s.damped = false
	}
	s.seen = n.At
	if s.at.IsZero() || n.Kind == Disabled || !s.damped && n.Thread == s.thread {
		return now
	}
	until := s.at.Add(dampWithin)
	if until.After(now) {
		s.damped = true
	}
	return until
}
