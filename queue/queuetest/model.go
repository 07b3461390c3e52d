package queuetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/queue"
)

// seedEnv sets the seed, to repeat a run of the random test.
const seedEnv = "QUEUETEST_SEED"

// model is what a queue must hold after the operations so far.
type model struct {
	t   *trial
	rnd *rand.Rand
	log []string // last operations

	events     []queue.Event
	deliveries map[queue.DeliveryID]*modelDelivery
	webhooks   map[queue.WebhookID]queue.Webhook
	lanes      map[queue.WebhookID]*modelLane
	keys       []queue.Entry // each accepted with its own key
	keyed      []queue.Event
	feedbacks  []queue.Entry // entries that created them
	latest     map[queue.FeedbackID]queue.Event
	names      int
}

// modelDelivery is one delivery with its history.
type modelDelivery struct {
	queue.Delivery
	lease *queue.Lease
	// moved: the delivery was deferred or requeued and has left its place in the order
	// of acceptance, or may have left it.
	moved    bool
	statuses []int // status of each attempt
	// past holds its states since the last one that was certainly durable. A crash may
	// restore any of them.
	past []modelDelivery
}

type modelLane struct {
	queue.Lane
	most, out int
}

// randomOperationsAgreeWithTheModel applies thousands of random operations to the queue
// and to a model and compares the two again and again.
func randomOperationsAgreeWithTheModel(t *trial) {
	seed := rand.Uint64() //nolint:gosec // random, not secret
	if s := os.Getenv(seedEnv); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		t.ok("reading "+seedEnv, err)
	}
	m := &model{
		t: t, rnd: rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // random, not secret
		deliveries: make(map[queue.DeliveryID]*modelDelivery),
		webhooks:   make(map[queue.WebhookID]queue.Webhook),
		lanes:      make(map[queue.WebhookID]*modelLane),
		latest:     make(map[queue.FeedbackID]queue.Event),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d (set %s to run it again); the last operations were:\n%s", seed, seedEnv, strings.Join(m.log, "\n"))
		}
	})
	m.run()
}

func (m *model) run() {
	for range 3 {
		m.newWebhook()
	}
	type operation struct {
		weight int
		do     func()
	}
	operations := []operation{
		{300, m.enqueue}, {30, m.repeat}, {30, m.replace}, {20, m.createAgain},
		{350, m.next}, {400, m.settle}, {60, m.requeue},
		{20, m.reopenLane}, {6, m.newWebhook}, {10, m.changeWebhook}, {3, m.deleteWebhook},
		{8, m.erase}, {12, m.compare}, {2, m.reopen},
	}
	if m.t.h.Crash != nil {
		operations = append(operations, operation{3, m.crash})
	}
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	for range m.t.h.Steps {
		n := m.rnd.IntN(total)
		for _, o := range operations {
			if n -= o.weight; n < 0 {
				o.do()
				break
			}
		}
		if m.t.Failed() {
			return
		}
	}
	m.compare()
	m.reopen()
	m.compare()
}

// did logs an operation.
func (m *model) did(format string, args ...any) {
	const most = 40
	m.log = append(m.log, "  "+time.Now().Format(clockFormat)+" "+fmt.Sprintf(format, args...))
	if len(m.log) > most {
		m.log = m.log[len(m.log)-most:]
	}
}

// one returns a random element of a map, chosen by the seed.
func one[K cmp.Ordered, V any](m *model, from map[K]V) (k K, v V, ok bool) {
	if len(from) == 0 {
		return k, v, false
	}
	keys := slices.Sorted(maps.Keys(from))
	k = keys[m.rnd.IntN(len(keys))]
	return k, from[k], true
}

func (m *model) someWebhooks() (ws []queue.WebhookID) {
	for _, w := range slices.Sorted(maps.Keys(m.webhooks)) {
		if m.rnd.IntN(3) > 0 {
			ws = append(ws, w)
		}
	}
	return ws
}

// accepted adds a stored event to the model.
func (m *model) accepted(e queue.Event, ws []queue.WebhookID) {
	m.events = append(m.events, e)
	m.latest[e.Feedback] = e
	for _, w := range ws {
		m.made(e, w)
	}
	m.did("enqueued %s for %v", short(e.ID), ws)
}

func (m *model) made(e queue.Event, w queue.WebhookID) *modelDelivery {
	d := &modelDelivery{Delivery: queue.Delivery{
		ID:   queue.DeliveryID{Event: e.ID, Webhook: w},
		Type: e.Type, Feedback: e.Feedback, Created: e.Created,
		State: queue.Pending,
	}}
	m.deliveries[d.ID] = d
	return d
}

func (m *model) enqueue() {
	e := m.t.entry(m.someWebhooks()...)
	if m.rnd.IntN(4) == 0 {
		e.Key = key(fmt.Sprintf("key %d", m.t.n), 1)
	}
	if m.rnd.IntN(4) == 0 {
		e.Origin, e.Answer = [32]byte{1}, e.Body[:10]
	}
	if len(m.feedbacks) > 0 && m.rnd.IntN(4) == 0 { // an id that another project has
		e.Feedback = queue.FeedbackID{
			Project: fmt.Sprintf("proj %d", m.t.n), ID: m.feedbacks[m.rnd.IntN(len(m.feedbacks))].Feedback.ID,
		}
	}
	stored := m.t.accept(e)
	m.accepted(stored, e.Webhooks)
	if e.Key.Name != "" {
		m.keys, m.keyed = append(m.keys, e), append(m.keyed, stored)
	}
	m.feedbacks = append(m.feedbacks, e)
}

// createAgain tries to create a feedback that exists.
func (m *model) createAgain() {
	if len(m.feedbacks) == 0 {
		return
	}
	e := m.feedbacks[m.rnd.IntN(len(m.feedbacks))]
	e.Key = queue.Key{}
	if e.Origin != [32]byte{} && m.rnd.IntN(2) == 0 {
		m.t.replays("a repeat of what created a feedback", e, m.latest[e.Feedback])
		return
	}
	e.Origin = [32]byte{2}
	_, err := m.t.q.Enqueue(m.t.ctx, e)
	m.t.is("Enqueue that creates a feedback that is there", err, queue.ErrExists)
	m.did("created %s again", e.Feedback)
}

// repeat uses a key again, with the same or another body.
func (m *model) repeat() {
	if len(m.keys) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.keys))
	m.t.replays("a repeat", m.keys[i], m.keyed[i])
	other := m.keys[i]
	other.Key = key(other.Key.Name, 2)
	_, err := m.t.q.Enqueue(m.t.ctx, other)
	m.t.is("Enqueue of a held key with another hash", err, queue.ErrMismatch)
	m.did("repeated %s", short(m.keyed[i].ID))
}

// replace updates a feedback, from its latest or from another event.
func (m *model) replace() {
	if len(m.feedbacks) == 0 {
		return
	}
	f := m.feedbacks[m.rnd.IntN(len(m.feedbacks))].Feedback
	e := m.t.update(m.latest[f], m.someWebhooks()...)
	if other := m.events[m.rnd.IntN(len(m.events))].ID; m.rnd.IntN(2) == 0 && other != e.Replaces {
		e.Replaces = other
		_, err := m.t.q.Enqueue(m.t.ctx, e)
		m.t.is("Enqueue that replaces what is not the latest", err, queue.ErrConflict)
		return
	}
	m.accepted(m.t.accept(e), e.Webhooks)
}

// lane returns a random webhook's lane and opens it if it is closed.
func (m *model) lane() (queue.WebhookID, *modelLane) {
	w, _, ok := one(m, m.webhooks)
	if !ok {
		return 0, nil
	}
	if m.lanes[w] == nil {
		most := 1 + m.rnd.IntN(12)
		m.lanes[w] = &modelLane{Lane: m.t.lane(w, most), most: most}
		m.did("opened the lane of %d, at most %d", w, most)
	}
	return w, m.lanes[w]
}

func (m *model) reopenLane() {
	w, l := m.lane()
	if l == nil {
		return
	}
	m.t.ok("closing a lane", l.Close())
	m.loseLeases(w)
	m.did("closed the lane of %d", w)
}

// loseLeases drops the leases of a webhook whose lane was closed.
func (m *model) loseLeases(w queue.WebhookID) {
	delete(m.lanes, w)
	for id, d := range m.deliveries {
		if id.Webhook == w && d.lease != nil {
			m.t.is("Ack of a lost lease", d.lease.Ack(made(200)), queue.ErrLeaseLost)
			d.lease = nil
		}
	}
}

// isDue reports whether a delivery may be handed out now.
func (d *modelDelivery) isDue(now time.Time) bool {
	return d.State.Waiting() && d.lease == nil && !d.Due.After(now)
}

func (m *model) next() {
	w, l := m.lane()
	if l == nil {
		return
	}
	due, now := 0, time.Now()
	for id, d := range m.deliveries {
		if id.Webhook == w && d.isDue(now) {
			due++
		}
	}
	if due == 0 || l.out == l.most {
		return // nothing must come; other subtests check that
	}
	ctx, cancel := context.WithTimeout(m.t.ctx, m.t.h.Patience)
	defer cancel()
	leases, err := l.Next(ctx, 1+m.rnd.IntN(6))
	if err != nil {
		m.t.Fatalf("Next of webhook %d, with %d due and %d of %d out: %v", w, due, l.out, l.most, err)
	}
	for _, lease := range leases {
		m.leased(w, l, lease)
	}
}

// leased checks a lease against the model and adds it.
func (m *model) leased(w queue.WebhookID, l *modelLane, lease *queue.Lease) {
	id := lease.Delivery.ID
	d := m.deliveries[id]
	m.did("leased %s/%d, %s rung %d", short(id.Event), id.Webhook, lease.Delivery.State, lease.Delivery.Rung)
	switch now := time.Now(); {
	case d == nil || id.Webhook != w:
		m.t.Fatalf("the lane of webhook %d hands out %s, which is none of its own", w, id)
	case d.lease != nil:
		m.t.Fatalf("%s is handed out while it is out", id)
	case !d.State.Waiting():
		m.t.Fatalf("%s is handed out and was %s", id, d.State)
	case d.Due.After(now):
		m.t.Fatalf("%s is handed out %v before it is due", id, d.Due.Sub(now))
	case lease.Event.ID != id.Event || lease.Delivery.State != d.State || lease.Delivery.Rung != d.Rung || lease.Delivery.Attempts != d.Attempts:
		m.t.Fatalf("%s is handed out as %s, rung %d, attempts %d, want %s, %d, %d", id,
			lease.Delivery.State, lease.Delivery.Rung, lease.Delivery.Attempts, d.State, d.Rung, d.Attempts)
	}
	if d.inPlace() {
		for _, e := range m.events {
			if e.ID == id.Event {
				if string(e.Body) != string(lease.Event.Body) {
					m.t.Fatalf("%s is handed out with the body %q, want %q", id, lease.Event.Body, e.Body)
				}
				break
			}
			if before := m.deliveries[queue.DeliveryID{Event: e.ID, Webhook: w}]; before != nil && before.inPlace() {
				m.t.Fatalf("%s is handed out before %s, both fresh", id, before.ID)
			}
		}
	}
	if l.out++; l.out > l.most {
		m.t.Fatalf("the lane of webhook %d has %d out and its bound is %d", w, l.out, l.most)
	}
	d.lease = lease
}

// inPlace reports whether a delivery waits in its place in the order of acceptance.
func (d *modelDelivery) inPlace() bool {
	return d.State == queue.Pending && d.lease == nil && d.Rung == 0 && d.Due.IsZero() && !d.moved
}

func (m *model) settle() {
	var out []*modelDelivery
	for _, d := range m.deliveries {
		if d.lease != nil {
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return
	}
	slices.SortFunc(out, func(a, b *modelDelivery) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	d := out[m.rnd.IntN(len(out))]
	lease := d.lease
	was := *d
	was.lease, was.past = nil, nil
	d.past = append(d.past, was)
	d.lease = nil
	m.lanes[d.ID.Webhook].out--
	at := time.Now().Add(time.Duration(m.rnd.IntN(25)) * time.Millisecond)
	var err error
	switch n := m.rnd.IntN(20); {
	case n < 10:
		err = lease.Ack(d.attempt(200))
		d.State, d.Due = queue.Delivered, time.Time{}
	case n < 15:
		err = lease.Retry(at, d.attempt(500))
		d.State, d.Due = queue.Retrying, at
		d.Rung++
	case n < 16:
		err = lease.Dead(d.attempt(500))
		d.State, d.Due = queue.Failed, time.Time{}
		d.Rung++
	case n < 18:
		err = lease.Defer(at)
		d.Due = at
	default:
		err = lease.Defer(time.Time{})
		d.moved = true
	}
	m.t.ok("settling", err)
	m.t.is("settling twice", lease.Ack(made(200)), queue.ErrLeaseLost)
	m.did("settled %s/%d, now %s rung %d due %s", short(d.ID.Event), d.ID.Webhook, d.State, d.Rung, d.Due.Format(clockFormat))
}

// attempt makes the next attempt of a delivery.
func (d *modelDelivery) attempt(status int) queue.Attempt {
	status += len(d.statuses) % 50
	d.statuses = append(slices.Clone(d.statuses), status)
	d.Attempts++
	return made(status)
}

func (m *model) requeue() {
	w, _, ok := one(m, m.webhooks)
	if !ok || len(m.events) == 0 {
		return
	}
	e := m.events[m.rnd.IntN(len(m.events))]
	id := queue.DeliveryID{Event: e.ID, Webhook: w}
	at := time.Now().Add(time.Duration(m.rnd.IntN(30)-10) * time.Millisecond)
	d := m.deliveries[id]
	if d != nil && d.lease != nil {
		m.t.is("Requeue of a leased delivery", m.t.q.Requeue(m.t.ctx, id, at), queue.ErrConflict)
		return
	}
	m.t.requeue(id, at)
	if d == nil {
		d = m.made(e, w)
	}
	d.State, d.Rung, d.Due, d.moved, d.past = queue.Pending, 0, at, true, nil
	m.did("requeued %s/%d for %s", short(id.Event), w, at.Format(clockFormat))
}

// erase erases a feedback of which nothing is leased.
func (m *model) erase() {
	if _, ok := m.t.q.(queue.Eraser); !ok || len(m.feedbacks) == 0 {
		return
	}
	gone := m.feedbacks[m.rnd.IntN(len(m.feedbacks))]
	id := gone.Feedback
	for _, d := range m.deliveries {
		if d.Feedback == id && d.lease != nil {
			return
		}
	}
	sum := m.t.erase(id)
	n := len(m.events)
	m.events = slices.DeleteFunc(m.events, func(e queue.Event) bool { return e.Feedback == id })
	if n -= len(m.events); sum.Events != int64(n) {
		m.t.Fatalf("Erase of %s removed %d events, want %d", id, sum.Events, n)
	}
	maps.DeleteFunc(m.deliveries, func(_ queue.DeliveryID, d *modelDelivery) bool { return d.Feedback == id })
	m.feedbacks = slices.DeleteFunc(m.feedbacks, func(e queue.Entry) bool { return e.Feedback == id })
	for i := len(m.keys) - 1; i >= 0; i-- {
		if m.keys[i].Feedback == id {
			m.keys, m.keyed = slices.Delete(m.keys, i, i+1), slices.Delete(m.keyed, i, i+1)
		}
	}
	delete(m.latest, id)
	_, err := m.t.q.Enqueue(m.t.ctx, gone)
	m.t.is("Enqueue of what was erased", err, queue.ErrErased)
	m.did("erased %s", id)
}

func (m *model) newWebhook() {
	if len(m.webhooks) > 5 {
		return
	}
	m.names++
	w, err := m.t.q.PutWebhook(m.t.ctx, queue.Webhook{Name: fmt.Sprintf("webhook %d", m.names)})
	m.t.ok("PutWebhook", err)
	if _, taken := m.webhooks[w.ID]; taken || w.ID == 0 {
		m.t.Fatalf("a new webhook got the id %d", w.ID)
	}
	m.webhooks[w.ID] = w
	m.did("made webhook %d", w.ID)
}

func (m *model) changeWebhook() {
	id, w, ok := one(m, m.webhooks)
	if !ok {
		return
	}
	w.Data = fmt.Append(nil, m.rnd.Uint64())
	stale := w
	w, err := m.t.q.PutWebhook(m.t.ctx, w)
	m.t.ok("PutWebhook", err)
	_, err = m.t.q.PutWebhook(m.t.ctx, stale)
	m.t.is("PutWebhook of an old revision", err, queue.ErrConflict)
	m.webhooks[id] = w
}

func (m *model) deleteWebhook() {
	id, w, ok := one(m, m.webhooks)
	if !ok || len(m.webhooks) < 3 {
		return
	}
	m.compare() // settlements are counted
	var waiting int64
	for _, d := range m.deliveries {
		if d.ID.Webhook == id && d.State.Waiting() {
			waiting++
		}
	}
	ended, err := m.t.q.DeleteWebhook(m.t.ctx, id, w.Revision)
	m.t.ok("DeleteWebhook", err)
	if ended != waiting {
		m.t.Fatalf("deleting webhook %d ended %d deliveries, want %d", id, ended, waiting)
	}
	m.loseLeases(id)
	delete(m.webhooks, id)
	for _, d := range m.deliveries {
		if d.ID.Webhook == id && d.State.Waiting() {
			d.State, d.Due, d.past = queue.Failed, time.Time{}, nil
		}
	}
	m.did("deleted webhook %d", id)
}

// compare waits until the queue shows what the model contains.
func (m *model) compare() {
	m.t.Helper()
	m.t.eventually("the queue agrees with the model", func() string {
		return cmp.Or(m.eventsDiffer(), m.deliveriesDiffer(), m.othersDiffer())
	})
	m.did("compared")
}

func (m *model) eventsDiffer() string {
	var want, got []string
	for _, e := range slices.Backward(m.events) {
		want = append(want, fmt.Sprintf("%s %s %s %s", e.ID, e.Type, e.Feedback, e.Body))
	}
	for _, e := range m.t.allEvents(queue.EventQuery{Limit: 20 + m.rnd.IntN(900)}) {
		got = append(got, fmt.Sprintf("%s %s %s %s", e.ID, e.Type, e.Feedback, e.Body))
	}
	return differences(got, want)
}

func (m *model) deliveriesDiffer() string {
	var want []*modelDelivery
	for _, e := range slices.Backward(m.events) {
		first := len(want)
		for _, d := range m.deliveriesOf(e.ID) {
			want = append(want, d)
		}
		slices.SortFunc(want[first:], func(a, b *modelDelivery) int { return cmp.Compare(a.ID.Webhook, b.ID.Webhook) })
	}
	got := m.t.allDeliveries(queue.DeliveryQuery{Limit: 20 + m.rnd.IntN(900)})
	byWebhook(got)
	now := time.Now()
	var gotLines, wantLines []string
	for i := range max(len(got), len(want)) {
		if i < len(got) {
			gotLines = append(gotLines, describe(got[i]))
		}
		if i < len(want) {
			wantLines = append(wantLines, describe(want[i].Delivery))
			// A delivery due at once may have a zero time or one that has passed.
			if i < len(got) && sameDelivery(got[i], want[i].Delivery, now) {
				wantLines[i] = gotLines[i]
			}
		}
	}
	return differences(gotLines, wantLines)
}

func (m *model) deliveriesOf(e queue.EventID) map[queue.WebhookID]*modelDelivery {
	of := make(map[queue.WebhookID]*modelDelivery)
	for w := queue.WebhookID(1); w <= queue.WebhookID(m.names)+1; w++ {
		if d := m.deliveries[queue.DeliveryID{Event: e, Webhook: w}]; d != nil {
			of[w] = d
		}
	}
	return of
}

func describe(d queue.Delivery) string {
	due := "at once"
	if !d.State.Waiting() {
		due = "never"
	} else if !d.Due.IsZero() {
		due = d.Due.UTC().Format(clockFormat)
	}
	return fmt.Sprintf("%s is %s, rung %d, attempts %d, due %s", d.ID, d.State, d.Rung, d.Attempts, due)
}

// sameDelivery compares a delivery of the queue with that of the model.
func sameDelivery(got, want queue.Delivery, now time.Time) bool {
	return got.ID == want.ID && got.Type == want.Type && got.Feedback == want.Feedback && got.Created.Equal(want.Created) &&
		got.State == want.State && got.Rung == want.Rung && got.Attempts == want.Attempts &&
		(got.Due.Sub(want.Due).Abs() < 5*time.Millisecond || got.State.Waiting() && !got.Due.After(now) && !want.Due.After(now))
}

// othersDiffer compares counters, webhooks and some single reads.
func (m *model) othersDiffer() string {
	var want, got []string
	counts := make(map[queue.WebhookID]queue.Counts)
	for id := range m.webhooks {
		counts[id] = queue.Counts{}
	}
	for _, d := range m.deliveries {
		if c, ok := counts[d.ID.Webhook]; ok {
			c.Count(d.State, 1)
			counts[d.ID.Webhook] = c
		}
	}
	ws, err := m.t.q.Webhooks(m.t.ctx)
	m.t.ok("Webhooks", err)
	for _, w := range ws {
		got = append(got, fmt.Sprintf("webhook %d %q revision %d data %s", w.ID, w.Name, w.Revision, w.Data))
	}
	st := m.t.q.Stats(m.t.ctx)
	for _, id := range slices.Sorted(maps.Keys(st.Webhooks)) {
		got = append(got, fmt.Sprintf("webhook %d counts %+v", id, st.Webhooks[id].Counts))
	}
	got = append(got, fmt.Sprintf("%d events", st.Events))
	ids := slices.Sorted(maps.Keys(m.webhooks))
	for _, id := range ids {
		w := m.webhooks[id]
		want = append(want, fmt.Sprintf("webhook %d %q revision %d data %s", id, w.Name, w.Revision, w.Data))
	}
	for _, id := range ids {
		want = append(want, fmt.Sprintf("webhook %d counts %+v", id, counts[id]))
	}
	want = append(want, fmt.Sprintf("%d events", len(m.events)))
	for range min(20, len(m.events)) {
		e := m.events[m.rnd.IntN(len(m.events))]
		got = append(got, fmt.Sprintf("latest of %s is %s", e.Feedback, m.t.latest(e.Feedback).ID))
		want = append(want, fmt.Sprintf("latest of %s is %s", e.Feedback, m.latest[e.Feedback].ID))
		for _, d := range m.deliveriesOf(e.ID) {
			got = append(got, fmt.Sprintf("attempts of %s: %v", d.ID, statuses(m.t.attempts(d.ID))))
			want = append(want, fmt.Sprintf("attempts of %s: %v", d.ID, d.numbered()))
		}
	}
	return differences(got, want)
}

func (d *modelDelivery) numbered() []string {
	lines := make([]string, len(d.statuses))
	for i, s := range d.statuses {
		lines[i] = fmt.Sprintf("%d: %d", i+1, s)
	}
	return lines
}

func statuses(as []queue.Attempt) []string {
	lines := make([]string, len(as))
	for i, a := range as {
		lines[i] = fmt.Sprintf("%d: %d", a.Number, a.Status)
	}
	return lines
}

// reopen closes the queue, which commits all settlements, and opens it again.
func (m *model) reopen() {
	m.t.reopen()
	m.restarted("reopened")
}

// restarted drops all lanes and leases.
func (m *model) restarted(how string) {
	clear(m.lanes)
	for _, d := range m.deliveries {
		if d.lease != nil {
			if err := d.lease.Ack(made(200)); !errors.Is(err, queue.ErrLeaseLost) && !errors.Is(err, queue.ErrClosed) {
				m.t.Fatalf("Ack of a lease from before the restart: got error %v, want %v or %v", err, queue.ErrLeaseLost, queue.ErrClosed)
			}
			d.lease = nil
		}
		d.past = nil
	}
	m.did("%s", how)
	m.compare()
	// A delivery may be due at once because its due time has passed. It has then left
	// its place in the order of acceptance.
	for _, shown := range m.t.allDeliveries(queue.DeliveryQuery{Limit: 1000}) {
		d := m.deliveries[shown.ID]
		d.Due, d.moved = shown.Due, !shown.Due.IsZero()
	}
}

// crash kills the queue. Settlements may be lost. The model takes each delivery's state
// from the queue if the delivery was really in that state before.
func (m *model) crash() {
	m.t.crash()
	now := time.Now()
	for _, shown := range m.t.allDeliveries(queue.DeliveryQuery{Limit: 1000}) {
		d := m.deliveries[shown.ID]
		if d == nil {
			m.t.Fatalf("after a crash there is a delivery %s that nobody made", shown.ID)
		}
		if sameDelivery(shown, d.Delivery, now) {
			continue
		}
		i := slices.IndexFunc(d.past, func(was modelDelivery) bool { return sameDelivery(shown, was.Delivery, now) })
		if i < 0 {
			m.t.Fatalf("after a crash, %s, which it never was; before, %s", describe(shown), describe(d.Delivery))
		}
		was := d.past[i]
		was.lease = d.lease
		*d = was
	}
	m.restarted("crashed")
}

// short returns a part of an id that usually identifies an event within one queue.
func short(id queue.EventID) string {
	s := id.String()
	return s[len(s)-6:]
}
