package notify

import "time"

// dampWithin is how far apart messages about a webhook are that fails and recovers
// over and over.
const dampWithin = time.Hour

// damping is what one mailbox knows of the webhooks it has sent messages about, by
// name. The mailbox's goroutine owns it; a restart forgets it.
type damping map[string]*sentNotices

// sentNotices is what is known of one webhook.
type sentNotices struct {
	at      time.Time // of the last message about it
	thread  string    // of that
	seen    time.Time // the time of the last notice
	damped  bool      // it fails and recovers over and over
	changes int       // that no message said since
}

func (d damping) of(webhook string) *sentNotices {
	s := d[webhook]
	if s == nil {
		s = new(sentNotices)
		d[webhook] = s
	}
	return s
}

// skipped counts a notice that a later one has overtaken.
func (d damping) skipped(n Notice) {
	s := d.of(n.Webhook)
	s.changes++
	if n.At.After(s.seen) {
		s.seen = n.At
	}
}

// sent notes what a message has said, and forgets webhooks that have been quiet for
// long.
func (d damping) sent(notices []Notice) {
	now := time.Now()
	for webhook, s := range d {
		if now.Sub(s.at) > 2*dampWithin && now.Sub(s.seen) > 2*dampWithin {
			delete(d, webhook)
		}
	}
	for _, n := range notices {
		s := d.of(n.Webhook)
		s.at, s.thread, s.changes = now, n.Thread, 0
	}
}

// hold notes that a notice has come and returns until when it waits; a time that
// has passed means that it does not wait.
//
// Notices of one episode do not wait for each other: a recovery is sent at once. A
// new episode within dampWithin of the last message waits.
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
