package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// check holds the world to what must be true whenever nothing happens.
func (w *world) check(counters bool) error {
	w.quiet()
	if err := w.verdict(); err != nil {
		return err
	}
	if err := w.relay.Health(); err != nil {
		return fmt.Errorf("the relay is not well: %w", err)
	}
	b := w.ledger
	b.mu.Lock()
	defer b.mu.Unlock()
	open, most := w.wire.open(), 0
	for _, h := range b.webhooks {
		if err := h.idles(); err != nil {
			return err
		}
		most += max(h.bound, h.config.Concurrency)
		if counters {
			if err := w.countersAgree(h); err != nil {
				return err
			}
		}
	}
	if open > 2*most+16 {
		return fmt.Errorf("%d connections are open; the webhooks may have %d attempts under way", open, most)
	}
	return nil
}

// idles tells of a delivery that is due and could go, and does not. It is how
// nobody is starved and no retry is late.
func (h *webhook) idles() error {
	const moment = time.Millisecond // timers of this instant may not have run
	now := time.Now()
	if !h.enabled() || h.unsure || h.mayExpire || len(h.others) > 0 || now.Sub(h.taking) <= moment || !now.After(h.heldUntil) {
		return nil
	}
	var first *delivery
	for d := range h.waiting {
		if d.lease != nil || now.Sub(d.due) <= moment || h.config.Ordered && d.before() != nil {
			continue
		}
		if first == nil || d.due.Before(first.due) {
			first = d
		}
	}
	if first == nil {
		return nil
	}
	since := first.due
	for _, t := range []time.Time{h.taking, h.lastEnd, h.heldUntil, first.since} {
		if t.After(since) {
			since = t
		}
	}
	waited := now.Sub(since)
	var per time.Duration // between two attempts
	if r := h.config.Rate; r.Events > 0 {
		per = r.Per / time.Duration(r.Events)
	}
	switch {
	case h.open: // what is given back, for it must keep order, takes its turn in the rate too
		if len(h.out) == 0 && waited > 5*time.Minute+moment && now.Sub(h.lastOut) > 2*per+moment {
			return fmt.Errorf("%s is due since %v, nothing is under way to %s, and no probe went out for %v", first.id, now.Sub(first.due), h.name, waited)
		}
	case per > 0:
		if len(h.out) == 0 && min(waited, now.Sub(h.lastOut)) > 2*per+moment {
			return fmt.Errorf("%s is due since %v, nothing is under way to %s, and its rate is %s", first.id, now.Sub(first.due), h.name, h.config.Rate)
		}
	case !h.heldUntil.IsZero() && len(h.out) > 0: // alone, after a hold
	case len(h.out) < h.window:
		return fmt.Errorf("%s is due since %v, and only %d are under way to %s", first.id, now.Sub(first.due), len(h.out), h.name)
	}
	return nil
}

// before is the delivery that this one must not overtake: that of the last event
// of the same feedback which is for the same webhook, while it waits. Where
// retention took one in between, which was for others, nobody knows any more.
func (d *delivery) before() *delivery {
	for e := d.event.before; e != nil && !e.expired(); e = e.before {
		if o := e.deliveries[d.webhook]; o != nil {
			if o.state.Waiting() {
				return o
			}
			return nil
		}
	}
	return nil
}

// countersAgree compares the engine's counters with the ledger's.
func (w *world) countersAgree(h *webhook) error {
	for d := range w.ledger.unsure {
		if d.webhook == h && time.Since(d.since) <= w.engine.settling() {
			return nil // on its way to the disk
		}
	}
	got := w.disk.Stats(context.Background()).Webhooks[h.id].Counts
	want := h.counts
	// What retention takes it takes from these two; how much, the end shows.
	if h.mayExpire {
		got.Pending, got.Retrying = want.Pending, want.Retrying // retention takes of these too
	}
	if got.Delivered > want.Delivered || got.Failed > want.Failed || got.Pending != want.Pending || got.Retrying != want.Retrying {
		return fmt.Errorf("webhook %s counts %+v, want %+v", h.name, got, want)
	}
	return nil
}

// compare holds what a process has left to the ledger: every acknowledged event
// with its bytes, every delivery as it stood, or as it stood at a moment since
// the last commit. After a crash that is how it stands from now on.
func (b *ledger) compare(q queue.Queue, crashed bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx := context.Background()
	for id, e := range b.events {
		stored, err := q.Event(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			if e.acked && !e.expired() {
				return fmt.Errorf("%s was acknowledged, and is gone", id)
			}
			b.drop(e)
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", id, err)
		}
		if string(stored.Body) != string(e.body) {
			return fmt.Errorf("%s has other bytes than were accepted", id)
		}
		for h, d := range e.deliveries {
			if h.deleted {
				continue
			}
			if err := b.compareOne(q, d, crashed); err != nil {
				return err
			}
		}
	}
	for _, h := range b.webhooks {
		h.mayExpire = h.parked || h.mayExpire && b.w.disk.busy.Load() > 0
	}
	return nil
}

func (b *ledger) compareOne(q queue.Queue, d *delivery, crashed bool) error {
	ctx := context.Background()
	got, err := q.Delivery(ctx, d.id)
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.id, err)
	}
	matches := func(s standing) bool { return s.state == got.State && s.rung == got.Rung && s.attempts == got.Attempts }
	if !matches(d.standing) {
		i := slices.IndexFunc(d.past, matches)
		if i < 0 {
			return fmt.Errorf("%s is %s on rung %d after %d attempts, and should be %s on rung %d after %d; a crash may undo %d settlements",
				d.id, got.State, got.Rung, got.Attempts, d.state, d.rung, d.attempts, len(d.past))
		}
		if !crashed {
			return nil // on its way to the disk
		}
		b.become(d, d.past[i])
	}
	if crashed {
		d.due = got.Due
	}
	attempts, err := q.Attempts(ctx, d.id)
	if err != nil {
		return fmt.Errorf("reading the attempts of %s: %w", d.id, err)
	}
	if len(attempts) != d.attempts {
		return fmt.Errorf("%s keeps %d attempts of %d", d.id, len(attempts), d.attempts)
	}
	for i, a := range attempts {
		if a.Number != i+1 {
			return fmt.Errorf("attempt %d of %s has the number %d", i+1, d.id, a.Number)
		}
	}
	return nil
}

// expired reports whether retention may have taken an event.
func (e *event) expired() bool {
	end := e.id.Created()
	for h, d := range e.deliveries {
		if d.state.Waiting() && !h.deleted && !h.mayExpire {
			return false
		}
		if d.ended.After(end) {
			end = d.ended
		}
	}
	return time.Since(end) >= retention-time.Second
}

// drop forgets an event that retention took, or that was never acknowledged.
func (b *ledger) drop(e *event) {
	delete(b.events, e.id)
	for h, d := range e.deliveries {
		delete(b.all, d.id)
		delete(b.unsure, d)
		delete(h.waiting, d)
		*h.count(d.state)--
	}
	e.deliveries = nil
	if b.newest[e.feedback] == e {
		delete(b.newest, e.feedback)
	}
}
