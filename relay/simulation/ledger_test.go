package simulation

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// ledger is what must be, by the contract, from what the tap, the receivers and
// the people have seen. The first thing that may not be is its fault.
type ledger struct {
	w *world

	mu       sync.Mutex // guards everything below, and what it points to
	wrong    string
	events   map[queue.EventID]*event
	all      map[queue.DeliveryID]*delivery
	webhooks map[queue.WebhookID]*webhook // those the store has
	// unsure are deliveries settled since the last commit: a crash may undo that.
	unsure map[*delivery]bool
	// newest is the last event of a feedback, in order of acceptance.
	newest map[queue.FeedbackID]*event

	attempts, delivered, failed, crashes int // for the end's report
}

// event is one event that was stored.
type event struct {
	id         queue.EventID
	typ        string
	feedback   queue.FeedbackID
	body       []byte
	before     *event // of the same feedback
	acked      bool   // somebody was told that it is stored
	deliveries map[*webhook]*delivery
}

// standing is what a delivery has come to.
type standing struct {
	state          queue.State
	rung, attempts int
	// earliest is when the ladder allows the next attempt.
	earliest time.Time
	ended    time.Time
}

// delivery is one event's way to one webhook.
type delivery struct {
	id      queue.DeliveryID
	event   *event
	webhook *webhook
	standing
	// due is when the engine was told to hand it out again.
	due time.Time
	// again says that somebody asked for it again: it is not in order any more.
	again bool
	// past are the standings that a crash may go back to.
	past  []standing
	since time.Time // when it was settled or requeued last
	lease *lease    // that is out
}

// lease is one delivery that was handed out.
type lease struct {
	id      queue.DeliveryID
	of      *delivery
	at      time.Time
	configs []relay.WebhookConfig // one of these is in force
	open    bool                  // the breaker, or after a hold, when it was handed out
	visits  []*visit
}

// visit is one request that a receiver saw.
type visit struct {
	lease    *lease
	n        int // among all the delivery's
	at       time.Time
	answer   *answer // nil: none yet
	fits     bool    // the signature
	unsigned bool    // it did not fit, and that was the only thing wrong
}

func (l *lease) timeout() time.Duration {
	t := l.configs[0].Timeout
	for _, c := range l.configs {
		t = max(t, c.Timeout)
	}
	return t
}

func newLedger(w *world) *ledger {
	return &ledger{
		w: w, events: make(map[queue.EventID]*event), all: make(map[queue.DeliveryID]*delivery),
		webhooks: make(map[queue.WebhookID]*webhook), unsure: make(map[*delivery]bool), newest: make(map[queue.FeedbackID]*event),
	}
}

// fault enters that something may not be.
func (b *ledger) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faultLocked(format, args...)
}

func (b *ledger) faultLocked(format string, args ...any) {
	if b.wrong == "" {
		b.wrong = fmt.Sprintf(format, args...)
		b.w.history.add("WRONG: %s", b.wrong)
	}
}

// stored enters an event that the engine has. Before it was told to anybody a
// crash may take it back.
func (b *ledger) stored(e queue.Event, webhooks []queue.WebhookID) {
	stored := &event{
		id: e.ID, typ: e.Type, feedback: e.Feedback, body: bytes.Clone(e.Body),
		before: b.newest[e.Feedback], deliveries: make(map[*webhook]*delivery),
	}
	b.events[e.ID] = stored
	b.newest[e.Feedback] = stored
	for _, id := range webhooks {
		if h := b.webhooks[id]; h != nil {
			b.deliver(stored, h)
		}
	}
}

// deliver makes a delivery.
func (b *ledger) deliver(e *event, h *webhook) *delivery {
	d := &delivery{id: queue.DeliveryID{Event: e.id, Webhook: h.id}, event: e, webhook: h, since: time.Now()}
	d.state = queue.Pending
	b.all[d.id], e.deliveries[h] = d, d
	h.waiting[d] = true
	h.counts.Pending++
	return d
}

// become moves a delivery to another standing.
func (b *ledger) become(d *delivery, s standing) {
	h := d.webhook
	*h.count(d.state)--
	*h.count(s.state)++
	delete(h.waiting, d)
	if s.state.Waiting() {
		h.waiting[d] = true
	}
	d.standing, d.since = s, time.Now()
}

// commit enters that everything so far is durable.
func (b *ledger) commit() {
	for d := range b.unsure {
		d.past = nil
	}
	clear(b.unsure)
}

// wanting are the webhooks that must get a delivery of an event, and those that
// may.
func (b *ledger) wanting(typ string, body []byte) (must, may map[queue.WebhookID]bool) {
	must, may = make(map[queue.WebhookID]bool), make(map[queue.WebhookID]bool)
	for id, h := range b.webhooks {
		wants, sure := h.wants(typ, body)
		if wants {
			may[id] = true
		}
		if wants && sure {
			must[id] = true
		}
	}
	return must, may
}

// handOut enters a lease.
func (b *ledger) handOut(l *queue.Lease) *lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, now := l.Delivery.ID, time.Now()
	d := b.all[id]
	if d == nil {
		b.faultLocked("%s is handed out, and nobody made it", id)
		return nil
	}
	if d.webhook.deleted {
		return nil // at this very moment
	}
	out := &lease{id: id, of: d, at: now, configs: d.webhook.configs(), open: d.webhook.surelyOpen() || d.webhook.surelyOneAtATime()}
	switch {
	case d.lease != nil:
		b.faultLocked("%s is handed out twice", id)
	case !d.state.Waiting():
		b.faultLocked("%s is handed out, and it is %s", id, d.state)
	case d.due.After(now):
		b.faultLocked("%s is handed out %v early", id, d.due.Sub(now))
	case l.Delivery.Rung != d.rung || l.Delivery.Attempts != d.attempts:
		b.faultLocked("%s is handed out on rung %d after %d attempts; it is on rung %d after %d", id,
			l.Delivery.Rung, l.Delivery.Attempts, d.rung, d.attempts)
	}
	d.lease = out
	d.webhook.out[out], d.webhook.lastOut = true, now
	return out
}

// arrive enters a request; nil is one that may not be.
func (b *ledger) arrive(h *webhook, r *http.Request, body []byte) *visit {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	id, err := queue.ParseDeliveryID(r.Header.Get("X-UserHero-Delivery"))
	if err != nil {
		b.faultLocked("a request to %s has no delivery's id: %v", h.name, err)
		return nil
	}
	d := b.all[id]
	if d != nil && d.webhook == h && h.deleted && h.ended.Equal(now) {
		return nil // at this very moment, when it was on its way
	}
	if d == nil || d.webhook != h || d.lease == nil {
		b.faultLocked("%s comes to %s, and is not out", id, h.name)
		return nil
	}
	l := d.lease
	b.w.history.add("%s ← %s attempt %s", h.name, short(id), r.Header.Get("X-UserHero-Attempt"))
	header := func(name, want string) {
		if got := r.Header[http.CanonicalHeaderKey(name)]; len(got) != 1 || got[0] != want {
			b.faultLocked("%s comes with %s %q, want %q", id, name, got, want)
		}
	}
	header("X-UserHero-Event", d.event.typ)
	header("X-UserHero-Attempt", strconv.Itoa(d.rung+1))
	header("webhook-id", id.String())
	header("Content-Type", "application/json")
	header("Accept", "*/*")
	if sent, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64); err != nil ||
		sent < l.at.Unix() || sent > now.Unix() {
		b.faultLocked("%s comes with webhook-timestamp %q, between %d and %d", id, r.Header.Get("webhook-timestamp"), l.at.Unix(), now.Unix())
	}
	if !bytes.Equal(body, d.event.body) {
		b.faultLocked("%s comes with other bytes than were accepted:\n%s\n%s", id, body, d.event.body)
	}
	if now.Before(d.earliest) {
		b.faultLocked("%s comes %v early on its rung", id, d.earliest.Sub(now))
	}
	if n := len(l.visits); n > 0 {
		switch before := l.visits[n-1].answer; {
		case before == nil:
			b.faultLocked("%s comes while it is here", id)
		case n > 1 || !mayBlameSignature(before.status) || !h.rotated:
			b.faultLocked("%s comes again within an attempt, after the answer %d", id, before.status)
		}
	}
	h.mayArrive(l)
	v := &visit{lease: l, n: d.attempts*2 + len(l.visits), at: now}
	l.visits = append(l.visits, v)
	b.attempts++
	return v
}

// mayBlameSignature reports whether an answer may mean that the signature is wrong:
// then, while a secret is rotated, the other signature is tried at once.
func mayBlameSignature(status int) bool {
	return status/100 == 4 && !slices.Contains([]int{408, 410, 413, 429}, status)
}

// answered enters what a receiver is about to say.
func (b *ledger) answered(v *visit, a answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v.answer = &a
	if a.status == http.StatusGone {
		v.lease.of.webhook.unsure = true
	}
}

// settled enters what the relay says of a lease.
func (b *ledger) settled(l *lease, s queue.Settlement) {
	d, h, now := l.of, l.of.webhook, time.Now()
	if d.lease != l {
		b.faultLocked("%s is settled, and is not out", l.id)
		return
	}
	d.lease = nil
	delete(h.out, l)
	var last *visit
	if n := len(l.visits); n > 0 {
		last = l.visits[n-1]
	}
	ok := last != nil && last.answer != nil && last.answer.ok && !last.unsigned
	if s.Kind == queue.SettleDefer {
		if last != nil && last.answer != nil {
			b.faultLocked("%s was answered (%d) and is given back as if it had not been", l.id, last.answer.status)
		}
		if d.due = now; s.At.After(now) {
			d.due = s.At
		}
		if s.At.After(now) {
			b.w.history.add("%s %s deferred for %v", h.name, short(l.id), s.At.Sub(now))
			b.mayUndo(d, d.standing)
		}
		return
	}
	// A delivery may be leased ahead, so the attempt begins after the lease.
	if took := now.Sub(s.Attempt.At); took > l.timeout() {
		b.faultLocked("an attempt of %s took %v of %v", l.id, took, l.timeout())
	}
	if last != nil && last.unsigned && !slices.ContainsFunc(l.visits, func(v *visit) bool { return v.fits }) {
		b.faultLocked("%s: neither secret's X-UserHero-Signature fits what the receiver knows", l.id)
	}
	to := d.standing
	to.attempts++
	to.earliest = time.Time{}
	h.lastEnd = now
	defer func() {
		if h.tried(); last != nil && last.answer != nil && last.answer.asked > 0 {
			h.hold(last.answer.asked)
		}
	}()
	switch s.Kind {
	case queue.SettleAck:
		if !ok {
			b.faultLocked("%s is settled as delivered, and no 2xx came in time", l.id)
		}
		to.state, to.ended = queue.Delivered, now
		b.delivered++
		h.answeredWell()
	case queue.SettleRetry, queue.SettleDead:
		if ok {
			b.faultLocked("%s is settled as failed, and a 2xx (%d) came in time", l.id, last.answer.status)
		}
		to.rung++
		h.answeredBadly(last, s.Attempt.ErrorClass)
		if s.Kind == queue.SettleDead {
			to.state, to.ended = queue.Failed, now
			b.failed++
			h.ranOut()
			if !slices.ContainsFunc(l.configs, func(c relay.WebhookConfig) bool { return d.rung >= len(c.Retry) }) {
				b.faultLocked("%s is given up after attempt %d of %d", l.id, d.rung+1, 1+len(l.configs[0].Retry))
			}
			break
		}
		to.state = queue.Retrying
		fits := func(c relay.WebhookConfig) bool {
			if d.rung >= len(c.Retry) {
				return false
			}
			rung := c.Retry[d.rung]
			most := rung
			if last != nil && last.answer != nil {
				most = max(rung, min(last.answer.asked, 24*time.Hour))
			}
			at := s.At.Sub(now)
			return at >= rung && at <= most
		}
		if !slices.ContainsFunc(l.configs, fits) {
			b.faultLocked("%s, attempt %d, is due again in %v, with a ladder of %v", l.id, d.rung+1, s.At.Sub(now), l.configs[0].Retry)
		}
		to.earliest = s.At
	}
	b.w.history.add("%s %s attempt %d: %s %s", h.name, short(l.id), d.rung+1, to.state, s.Attempt.ErrorClass)
	b.mayUndo(d, to)
	d.due = s.At
}

// mayUndo moves a delivery in a way that a crash may undo until the next commit.
func (b *ledger) mayUndo(d *delivery, to standing) {
	d.past = append(d.past, d.standing)
	b.unsure[d] = true
	b.become(d, to)
}

// requeued enters that somebody asked for a delivery again.
func (b *ledger) requeued(id queue.DeliveryID, at time.Time) {
	e, h := b.events[id.Event], b.webhooks[id.Webhook]
	if e == nil || h == nil {
		b.faultLocked("%s is requeued, and there is no such thing", id)
		return
	}
	d := b.all[id]
	if d == nil {
		d = b.deliver(e, h)
	}
	if d.lease != nil {
		b.faultLocked("%s is requeued while it is out", id)
	}
	b.become(d, standing{state: queue.Pending, attempts: d.attempts})
	d.due, d.again = at, true
	b.w.history.add("%s %s requeued", h.name, short(id))
}

// forgotten enters that a webhook was deleted.
func (b *ledger) forgotten(id queue.WebhookID, ended int64) {
	h := b.webhooks[id]
	if h == nil {
		b.faultLocked("webhook %d is deleted, and there was none", id)
		return
	}
	if n := int64(len(h.waiting)); n != ended {
		b.faultLocked("deleting %s ended %d deliveries; %d were waiting", h.name, ended, n)
	}
	for d := range h.waiting { // cancelled: no attempt ended it, and retention does not count from now
		b.become(d, standing{state: queue.Failed, rung: d.rung, attempts: d.attempts})
		d.lease = nil
	}
	clear(h.out)
	delete(b.webhooks, id)
	h.deleted, h.ended = true, time.Now()
}

// killed enters that the process has died: what was out is not out any more.
func (b *ledger) killed() {
	for _, h := range b.webhooks {
		for l := range h.out {
			l.of.lease = nil
		}
		clear(h.out)
		h.restarted()
	}
}

func short(id queue.DeliveryID) string { return fmt.Sprintf("#%d→%d", id.Event.Seq(), id.Webhook) }
