package jetstreamqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

// opened opens a queue that is closed with the test.
func opened(t *testing.T, o jetstreamqueue.Options) *jetstreamqueue.Queue {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil)) // shown if the test fails
	}
	q, err := jetstreamqueue.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = q.Close(ctx)
	})
	return q
}

// leader is the server that leads a stream.
func leader(t *testing.T, all []*server, stream string) *server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		for _, s := range all {
			nc, err := nats.Connect(s.url, nats.Timeout(time.Second))
			if err != nil {
				continue
			}
			name := ""
			if js, err := jetstream.New(nc); err == nil {
				asking, done := context.WithTimeout(ctx, 2*time.Second)
				if info, err := js.Stream(asking, stream); err == nil && info.CachedInfo().Cluster != nil {
					name = info.CachedInfo().Cluster.Leader
				}
				done()
			}
			nc.Close()
			for _, s := range all {
				if s.name == name {
					return s
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("stream %s has no leader", stream)
	return nil
}

// caughtUp waits until every server holds all of a relay's streams. A server that catches
// up already votes and acknowledges, without the messages from before. If the server that
// it copies from is killed meanwhile, the stream has no leader until that one is back:
// nothing is lost, but two servers of three do not suffice.
func caughtUp(t *testing.T, all []*server, prefix string) {
	t.Helper()
	nc, err := nats.Connect(strings.Join(urls(all), ","), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"_events", "_state", "_registry", "_keys", "_locks"} {
		eventually(t, "every server holds stream "+prefix+name, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			s, err := js.Stream(ctx, prefix+name)
			if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader == "" {
				return false
			}
			current := 1
			for _, r := range s.CachedInfo().Cluster.Replicas {
				if r.Current && !r.Offline {
					current++
				}
			}
			return current == len(all)
		})
	}
}

// load is relays at work: some goroutines accept, a lane of each delivers.
type load struct {
	t          *testing.T
	hook       queue.WebhookID
	stopAccept context.CancelFunc
	stop       context.CancelFunc
	running    sync.WaitGroup

	mu        sync.Mutex // guards everything below
	accepted  map[queue.EventID]struct{}
	delivered map[queue.EventID]int
	due       map[queue.EventID][]time.Time // as each failed attempt said; every fifth delivery fails at first
	refused   int
	slowest   time.Duration // answer of Enqueue
}

// begin has relays accept and deliver.
func begin(t *testing.T, writers int, relays ...*jetstreamqueue.Queue) *load {
	t.Helper()
	hook, err := relays[0].PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	b := &load{t: t, hook: hook.ID, accepted: make(map[queue.EventID]struct{}), delivered: make(map[queue.EventID]int), due: make(map[queue.EventID][]time.Time)}
	ctx, stop := context.WithCancel(context.Background())
	accepting, stopAccept := context.WithCancel(ctx)
	b.stop, b.stopAccept = stop, stopAccept
	t.Cleanup(func() {
		stop()
		b.running.Wait()
	})
	for n, q := range relays {
		if all, err := q.Webhooks(t.Context()); err != nil || len(all) != 1 { // it has learnt of it
			t.Fatalf("a relay sees %d webhooks, error %v", len(all), err)
		}
		l, err := q.Lane(hook.ID, queue.LaneOptions{MaxInFlight: 32})
		if err != nil {
			t.Fatal(err)
		}
		b.running.Go(func() { b.deliver(ctx, l) })
		for i := range writers {
			b.running.Go(func() { b.accept(accepting, q, fmt.Sprintf("%d_%d", n, i)) })
		}
	}
	return b
}

func (b *load) deliver(ctx context.Context, l queue.Lane) {
	for {
		leases, err := l.Next(ctx, 16)
		if err != nil {
			return
		}
		for _, lease := range leases {
			id, now := lease.Event.ID, time.Now()
			fails := lease.Delivery.Rung == 0 && id[len(id)-1]%5 == 0
			due := now.Add(time.Second)
			b.mu.Lock()
			if lease.Delivery.Rung > 0 {
				b.checkDue(lease.Delivery, now)
			}
			if fails {
				b.due[id] = append(b.due[id], due)
			} else {
				b.delivered[id]++
			}
			b.mu.Unlock()
			// What is settled and lost comes again.
			if fails {
				_ = lease.Retry(due, queue.Attempt{At: now, Status: 500})
			} else {
				_ = lease.Ack(queue.Attempt{At: now, Status: 200})
			}
		}
	}
}

// checkDue checks that a retry comes when a failed attempt said, and not before. What was
// in flight when its lane moved is attempted twice. Then either attempt may be the one
// whose record is stored, and the delivery itself says which one it is. The caller holds
// b.mu.
func (b *load) checkDue(d queue.Delivery, now time.Time) {
	said := slices.ContainsFunc(b.due[d.ID.Event], func(due time.Time) bool { return due.Sub(d.Due).Abs() < time.Millisecond })
	switch {
	case !said:
		b.t.Errorf("%s was due at %v, which no attempt has said: %v", d.ID, d.Due, b.due[d.ID.Event])
	case now.Before(d.Due):
		b.t.Errorf("%s comes %v before it is due", d.ID, d.Due.Sub(now))
	}
}

func (b *load) accept(ctx context.Context, q *jetstreamqueue.Queue, name string) {
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		r, err := q.Enqueue(context.Background(), queue.Entry{
			Type: "feedback.created", Feedback: queue.FeedbackID{Project: "p", ID: fmt.Sprintf("fb_%s_%d", name, i)},
			Created: time.Now(), Body: []byte(`{"message":"x"}`), Webhooks: []queue.WebhookID{b.hook},
		})
		b.mu.Lock()
		b.slowest = max(b.slowest, time.Since(began))
		switch {
		case err == nil:
			b.accepted[r.Event.ID] = struct{}{}
		case errors.Is(err, queue.ErrClosed):
			b.mu.Unlock()
			return
		default:
			b.refused++
			if !errors.Is(err, queue.ErrUnavailable) {
				b.t.Errorf("Enqueue: %v", err)
			}
		}
		b.mu.Unlock()
	}
}

// goesOn waits until so many more have been accepted and delivered.
func (b *load) goesOn(after string, n int) {
	b.t.Helper()
	read := func() (int, int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.accepted), len(b.delivered)
	}
	accepted, delivered := read()
	for giveUp := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		a, d := read()
		if a >= accepted+n && d >= delivered+n {
			return
		}
		if time.Now().After(giveUp) {
			b.t.Fatalf("90 s after %s %d are accepted and %d delivered", after, a-accepted, d-delivered)
		}
	}
}

// missing waits until all that was accepted is delivered, or nothing more was for some
// time. It returns how many were not, and how many attempts were repeated.
func (b *load) missing() (lost, twice int) {
	b.stopAccept()
	const quiet = 40 * time.Second // another relay may have to take the lane first
	done, since := 0, time.Now()
	for ; ; time.Sleep(50 * time.Millisecond) {
		lost, twice = 0, 0
		b.mu.Lock()
		if len(b.delivered) > done {
			done, since = len(b.delivered), time.Now()
		}
		for id := range b.accepted {
			if b.delivered[id] == 0 {
				lost++
			}
		}
		for _, n := range b.delivered {
			twice += n - 1
		}
		for _, due := range b.due {
			twice += len(due) - 1
		}
		b.mu.Unlock()
		if lost == 0 || time.Since(since) > quiet {
			return lost, twice
		}
	}
}

// TestKilledLeadersLoseNothing kills, in turn, the server that leads the events and the
// one that leads the deliveries, while two relays accept and deliver: what was
// acknowledged is delivered, and nobody waits for an answer for longer than 13 s.
func TestKilledLeadersLoseNothing(t *testing.T) {
	t.Parallel()
	servers := cluster(t)
	var lanesLost atomic.Int64
	o := jetstreamqueue.Options{Servers: urls(servers), Prefix: "kill", Logger: slog.New(counted{slog.DiscardHandler, "a webhook's lane is lost", &lanesLost})}
	b := begin(t, 4, opened(t, o), opened(t, o))
	b.goesOn("the start", 100)
	for i := range 2 + 18*soak() {
		stream := []string{"kill_events", "kill_state"}[i%2]
		s := leader(t, servers, stream)
		s.Kill()
		b.goesOn("the leader of "+stream+" was killed", 100)
		s.start(t)
		s.ready(t)
		caughtUp(t, servers, "kill")
	}
	lost, twice := b.missing()
	if lost > 0 {
		t.Errorf("%d of %d acknowledged events were not delivered", lost, len(b.accepted))
	}
	if b.slowest > 13*time.Second {
		t.Errorf("somebody waited for an answer for %v", b.slowest)
	}
	// Lanes are lost only after their attempts have ended, and their outcomes are known.
	if twice > 0 {
		t.Errorf("%d attempts were repeated", twice)
	}
	t.Logf("%d accepted, %d refused, %d delivered twice, slowest answer %v, a lane was lost %d times",
		len(b.accepted), b.refused, twice, b.slowest, lanesLost.Load())
}

// counted counts the lines of a log that begin with a text.
type counted struct {
	slog.Handler
	begin string
	n     *atomic.Int64
}

func (counted) Enabled(context.Context, slog.Level) bool { return true }

func (c counted) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, c.begin) {
		c.n.Add(1)
	}
	return nil
}

// TestLaneMovesWhenItsOwnerDies: the other relay has the lane within the TTL of its
// lock; if its owner closes, at once and without a duplicate.
func TestLaneMovesWhenItsOwnerDies(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "move", LockTTL: ttl}
	first, second := opened(t, o), opened(t, o)
	hook, err := first.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Webhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	enqueue := func(q *jetstreamqueue.Queue) queue.EventID {
		t.Helper()
		r, err := q.Enqueue(t.Context(), queue.Entry{Type: "feedback.created", Created: time.Now(), Body: []byte("{}"), Webhooks: []queue.WebhookID{hook.ID}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Event.ID
	}
	lane := func(q *jetstreamqueue.Queue) queue.Lane {
		t.Helper()
		l, err := q.Lane(hook.ID, queue.LaneOptions{MaxInFlight: 8})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	next := func(l queue.Lane, within time.Duration) *queue.Lease {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		leases, err := l.Next(ctx, 1)
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		return leases[0]
	}
	const soon = 30 * time.Second
	settled, out := enqueue(first), enqueue(first)
	l := lane(first)
	lease := next(l, soon)
	if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil || lease.Event.ID != settled {
		t.Fatalf("Ack of %s: %v", lease.Event.ID, err)
	}
	next(l, soon) // is out when the lane moves
	waits := lane(second)
	ctx, cancel := context.WithTimeout(t.Context(), ttl/2)
	defer cancel()
	if leases, err := waits.Next(ctx, 1); err == nil {
		t.Fatalf("a lane that has an owner hands out %s", leases[0].Delivery.ID)
	}
	began := time.Now()
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lease = next(waits, soon); lease.Event.ID != out {
		t.Errorf("after the owner has closed %s comes, want %s, which was out", lease.Event.ID, out)
	}
	t.Logf("the lane moved within %v after its owner was closed", time.Since(began))

	// The second owner dies.
	third := opened(t, o)
	waits = lane(third)
	second.Kill()
	began = time.Now()
	if lease = next(waits, soon); lease.Event.ID != out {
		t.Errorf("after the owner has died %s comes, want %s, which was out", lease.Event.ID, out)
	}
	t.Logf("the lane moved within %v after its owner died", time.Since(began))
	if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
		t.Errorf("Ack: %v", err)
	}
}

// TestFencedOwnerSettlesNothing: an owner that was asleep for longer than its lock
// lasts settles nothing, though it does not know.
func TestFencedOwnerSettlesNothing(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "fence", LockTTL: time.Minute}
	asleep, awake := opened(t, o), opened(t, o)
	hook, err := asleep.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := awake.Webhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	var leases [2][]*queue.Lease
	for range 2 {
		if _, err := asleep.Enqueue(t.Context(), queue.Entry{Type: "feedback.created", Created: time.Now(), Body: []byte("{}"), Webhooks: []queue.WebhookID{hook.ID}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, q := range []*jetstreamqueue.Queue{asleep, awake} {
		l, err := q.Lane(hook.ID, queue.LaneOptions{MaxInFlight: 8})
		if err != nil {
			t.Fatal(err)
		}
		for len(leases[i]) < 2 {
			some, err := l.Next(t.Context(), 2)
			if err != nil {
				t.Fatal(err)
			}
			leases[i] = append(leases[i], some...)
		}
		if i == 0 { // its lock goes, and it believes for 20 s that it has it
			if err := asleep.Oversleep(hook.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What it settles is not stored, and then it knows.
	if err := leases[0][0].Ack(queue.Attempt{At: time.Now(), Status: 500}); err != nil {
		t.Errorf("an owner that does not know that it has lost its lane: %v", err)
	}
	for giveUp := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if asleep.Owns(hook.ID) {
			if time.Now().After(giveUp) {
				t.Fatal("an owner that was fenced takes itself for the owner")
			}
			continue
		}
		break
	}
	if err := leases[0][1].Ack(queue.Attempt{At: time.Now(), Status: 500}); !errors.Is(err, queue.ErrLeaseLost) {
		t.Errorf("an owner that was fenced settles: %v", err)
	}
	for _, lease := range leases[1] {
		if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 201}); err != nil {
			t.Fatalf("the new owner's Ack: %v", err)
		}
	}
	for giveUp := time.Now().Add(30 * time.Second); awake.Stats(context.Background()).Webhooks[hook.ID].Delivered < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatal("the new owner's settlements are not stored")
		}
	}
	for _, lease := range leases[1] {
		all, err := awake.Attempts(t.Context(), lease.Delivery.ID)
		if err != nil || len(all) != 1 || all[0].Status != 201 {
			t.Errorf("the attempts of %s are %+v, error %v; want one of the new owner", lease.Delivery.ID, all, err)
		}
	}
}

// TestUnavailableServersAreSaid: without a majority Enqueue says so in time, and Health
// does; it goes on when the servers are back.
func TestUnavailableServersAreSaid(t *testing.T) {
	t.Parallel()
	servers := cluster(t)
	o := jetstreamqueue.Options{Servers: urls(servers), Prefix: "down", Patience: 2 * time.Second}
	q := opened(t, o)
	entry := func(id string) queue.Entry {
		return queue.Entry{Type: "feedback.created", Feedback: queue.FeedbackID{ID: id}, Created: time.Now(), Body: []byte("{}")}
	}
	if _, err := q.Enqueue(t.Context(), entry("a")); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers[:2] {
		s.Kill()
	}
	began := time.Now()
	_, err := q.Enqueue(t.Context(), entry("b"))
	if took := time.Since(began); !errors.Is(err, queue.ErrUnavailable) || took > o.Patience+4*time.Second {
		t.Errorf("Enqueue without a majority: %v after %v, want %v", err, took, queue.ErrUnavailable)
	}
	if err := q.Health(); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("Health without a majority: %v, want %v", err, queue.ErrUnavailable)
	}
	for _, s := range servers[:2] {
		s.start(t)
	}
	for giveUp := time.Now().Add(time.Minute); ; {
		_, err := q.Enqueue(t.Context(), entry("b"))
		// It may have been stored by the call that was given up.
		if err == nil || errors.Is(err, queue.ErrExists) {
			break
		}
		if time.Now().After(giveUp) {
			t.Fatalf("a minute after the servers are back: %v", err)
		}
	}
	if _, err := q.Latest(t.Context(), queue.FeedbackID{ID: "a"}); err != nil {
		t.Errorf("what was acknowledged before: %v", err)
	}
	for giveUp := time.Now().Add(15 * time.Second); q.Health() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatalf("15 s after the servers answer again: %v", q.Health())
		}
	}
}

// cable is a network that can break: then whoever dials waits and gets no answer.
type cable struct{ broken atomic.Bool }

// Dial implements nats.CustomDialer.
func (c *cable) Dial(network, address string) (net.Conn, error) {
	if c.broken.Load() {
		time.Sleep(3 * time.Second) // as long as the client tries
		return nil, errors.New("nobody answers")
	}
	return net.Dial(network, address)
}

// TestSilentNetworkIsSaid: the client holds its lock while it dials, and behind a broken
// network each dial lasts seconds. Calls return in time nevertheless.
func TestSilentNetworkIsSaid(t *testing.T) {
	t.Parallel()
	s, c := oneServer(t), new(cable)
	const patience, calls = time.Second, 8
	q := opened(t, jetstreamqueue.Options{
		Servers: []string{s.URL()}, Prefix: "silent", Patience: patience, Connect: []nats.Option{nats.SetCustomDialer(c)},
	})
	c.broken.Store(true)
	s.Kill()
	for giveUp := time.Now().Add(20 * time.Second); q.Health() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatal("healthy without a server")
		}
	}
	var calling sync.WaitGroup
	for i := range calls {
		calling.Go(func() {
			began := time.Now()
			_, err := q.Enqueue(t.Context(), queue.Entry{
				Type: "feedback.created", Feedback: queue.FeedbackID{ID: fmt.Sprint(i)}, Created: time.Now(), Body: []byte("{}"),
			})
			if took := time.Since(began); !errors.Is(err, queue.ErrUnavailable) || took > patience+time.Second {
				t.Errorf("Enqueue: %v after %v, want %v after %v", err, took, queue.ErrUnavailable, patience)
			}
		})
	}
	calling.Wait()
	c.broken.Store(false) // so that the queue closes at once
}

// TestStreamsAreChecked: a stream that somebody has configured otherwise is refused with
// the difference and the remedy, and is not changed.
func TestStreamsAreChecked(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	nc, err := nats.Connect(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]struct {
		change func(*jetstream.StreamConfig)
		says   []string
	}{
		"age":     {func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, []string{"maximum age", "1h0m0s", "nats stream edit"}},
		"discard": {func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, []string{"discard policy", "--discard=new"}},
		"foreign": {func(c *jetstream.StreamConfig) { c.Metadata = nil }, []string{"not made by this relay", "prefix"}},
		"newer":   {func(c *jetstream.StreamConfig) { c.Metadata["userhero.format"] = "2" }, []string{"format 2", "newer version"}},
	} {
		o := jetstreamqueue.Options{Servers: []string{s.url}, Prefix: name, Logger: slog.New(slog.DiscardHandler)}
		q := opened(t, o)
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), name+"_events")
		if err != nil {
			t.Fatal(err)
		}
		c := stream.CachedInfo().Config
		spoil.change(&c)
		if _, err := js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		again, err := jetstreamqueue.Open(t.Context(), o)
		if err == nil {
			_ = again.Close(t.Context())
			t.Errorf("%s: a changed stream is taken", name)
			continue
		}
		for _, part := range spoil.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error does not say %q: %v", name, part, err)
			}
		}
	}
}

// TestFullStreamIsFull: at the stream's limit Enqueue says that the queue is full, and
// what is stored flows.
func TestFullStreamIsFull(t *testing.T) {
	t.Parallel()
	q := opened(t, jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "full", MaxBytes: 256 << 10})
	hook, err := q.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil && i < 100; i++ {
		_, err = q.Enqueue(t.Context(), queue.Entry{Type: "feedback.created", Created: time.Now(), Body: make([]byte, 32<<10), Webhooks: []queue.WebhookID{hook.ID}})
	}
	if !errors.Is(err, queue.ErrFull) {
		t.Fatalf("Enqueue into a full stream: %v", err)
	}
	l, err := q.Lane(hook.ID, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leases, err := l.Next(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := leases[0].Retry(time.Now().Add(time.Hour), queue.Attempt{At: time.Now(), Status: 500}); err != nil {
		t.Fatal(err)
	}
	for giveUp := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		d, err := q.Delivery(t.Context(), leases[0].Delivery.ID)
		if err == nil && d.State == queue.Retrying {
			break
		}
		if time.Now().After(giveUp) {
			t.Fatalf("the delivery is %s, error %v", d.State, err)
		}
	}
}

// TestKeyOfADeadRelayIsResolved: a relay that dies after it has stored an event and
// before it has bound the event's key leaves a key that still answers.
func TestKeyOfADeadRelayIsResolved(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "key"}
	dies, lives := opened(t, o), opened(t, o)
	e := queue.Entry{
		Type: "feedback.created", Feedback: queue.FeedbackID{ID: "fb_1"}, Created: time.Now(), Body: []byte("{}"),
		Key: queue.Key{Name: "k", Hash: [32]byte{1}}, Answer: []byte("the first answer"),
	}
	first, err := dies.DieBeforeBinding(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	dies.Kill()
	again := e
	again.Feedback.ID = "fb_2" // drawn anew for each submission
	r, err := lives.Enqueue(t.Context(), again)
	if err != nil || !r.Replayed || r.Event.ID != first.Event.ID || string(r.Answer) != string(e.Answer) {
		t.Errorf("a repeat gets %+v, error %v; want a replay of %s", r, err, first.Event.ID)
	}
	again.Key.Hash[0]++
	if _, err := lives.Enqueue(t.Context(), again); !errors.Is(err, queue.ErrMismatch) {
		t.Errorf("another body with the same key: %v, want %v", err, queue.ErrMismatch)
	}
}

// TestRepeatTakesOverWhatADeadRelayHasBegun: a relay stops after it has claimed a key and
// before it has stored the event. A repeat at another relay is stored at once, as the
// feedback that the claim names. If the first relay goes on, there is still one event.
func TestRepeatTakesOverWhatADeadRelayHasBegun(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "begun"}
	sleeps, lives := opened(t, o), opened(t, o)
	e := queue.Entry{
		Type: "feedback.created", Feedback: queue.FeedbackID{ID: "fb_1"}, Created: time.Now(), Body: []byte(`{"first":true}`),
		Key: queue.Key{Name: "k", Hash: [32]byte{1}}, Answer: []byte("first"),
	}
	goOn, err := sleeps.BeginKey(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	again := e
	again.Feedback.ID, again.Body, again.Answer = "fb_2", []byte(`{"second":true}`), []byte("second") // made anew for each submission
	_, err = lives.Enqueue(t.Context(), again)
	var begun *queue.BegunError
	if !errors.As(err, &begun) || begun.Feedback != e.Feedback {
		t.Fatalf("a repeat: %v, want that it may be stored as %s", err, e.Feedback)
	}
	other := again
	other.Key.Hash[0]++
	if _, err := lives.Enqueue(t.Context(), other); !errors.Is(err, queue.ErrMismatch) {
		t.Errorf("another body with the same key: %v, want %v", err, queue.ErrMismatch)
	}
	again.Feedback = begun.Feedback
	stored, err := lives.Enqueue(t.Context(), again)
	if err != nil || stored.Replayed || stored.Event.Feedback != e.Feedback {
		t.Fatalf("the repeat as this feedback: %+v, %v", stored, err)
	}
	late, err := goOn()
	if err != nil || !late.Replayed || late.Event.ID != stored.Event.ID || string(late.Answer) != "second" {
		t.Errorf("the first relay, when it goes on, gets %+v, error %v; want a replay of %s", late, err, stored.Event.ID)
	}
	again.Feedback.ID = "fb_3"
	third, err := lives.Enqueue(t.Context(), again)
	if err != nil || !third.Replayed || third.Event.ID != stored.Event.ID {
		t.Errorf("a third submission gets %+v, error %v; want a replay of %s", third, err, stored.Event.ID)
	}
}

// TestUpdateOfADeadRelayIsRefusedForSomeTime: an update whose key a dead relay has claimed
// may be stored late. Until that is impossible, a repeat is refused, within the queue's
// patience, and the relay stays healthy: the servers do answer.
func TestUpdateOfADeadRelayIsRefusedForSomeTime(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "late", Patience: 3 * time.Second}
	dies, lives := opened(t, o), opened(t, o)
	first, err := lives.Enqueue(t.Context(), queue.Entry{Type: "feedback.created", Feedback: queue.FeedbackID{ID: "fb_1"}, Created: time.Now(), Body: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	update := queue.Entry{
		Type: "feedback.updated", Feedback: first.Event.Feedback, Replaces: first.Event.ID, Created: time.Now(), Body: []byte("{}"),
		Key: queue.Key{Name: "k", Hash: [32]byte{1}},
	}
	if _, err := dies.BeginKey(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	dies.Kill()
	began := time.Now()
	_, err = lives.Repeat(t.Context(), update.Key)
	if took := time.Since(began); !errors.Is(err, queue.ErrUnavailable) || took > o.Patience+4*time.Second {
		t.Errorf("a repeat: %v after %v, want %v", err, took, queue.ErrUnavailable)
	}
	if err := lives.Health(); err != nil {
		t.Errorf("a repeat turns the relay red: %v", err)
	}
	eventually(t, "the update is stored", func() bool {
		r, err := lives.Enqueue(t.Context(), update)
		return err == nil && !r.Replayed
	})
}

// TestLogIsFoundByARelayThatHasNotWrittenIt: the attempts of deliveries that succeeded
// at once, among many others', and in any order.
func TestLogIsFoundByARelayThatHasNotWrittenIt(t *testing.T) {
	t.Parallel()
	const events = 150
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, Prefix: "log"}
	writes, reads := opened(t, o), opened(t, o)
	hook, err := writes.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := writes.Lane(hook.ID, queue.LaneOptions{MaxInFlight: 16})
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[queue.DeliveryID]int)
	var out []*queue.Lease
	for i := range events {
		if _, err := writes.Enqueue(t.Context(), queue.Entry{Type: "feedback.created", Created: time.Now(), Body: []byte("{}"), Webhooks: []queue.WebhookID{hook.ID}}); err != nil {
			t.Fatal(err)
		}
		leases, err := l.Next(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		// One stays out for long, so that the floor of the lane stands still.
		if out = append(out, leases...); i%10 == 0 && len(out) < 12 {
			continue
		}
		lease := out[len(out)-1]
		out = out[:len(out)-1]
		want[lease.Delivery.ID] = 200 + i%50
		if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200 + i%50}); err != nil {
			t.Fatal(err)
		}
	}
	for giveUp := time.Now().Add(time.Minute); reads.Stats(context.Background()).Webhooks[hook.ID].Delivered < int64(len(want)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatalf("the other relay counts %+v", reads.Stats(context.Background()).Webhooks[hook.ID].Counts)
		}
	}
	for id, status := range want {
		all, err := reads.Attempts(t.Context(), id)
		if err != nil || len(all) != 1 || all[0].Status != status || all[0].Number != 1 {
			t.Fatalf("the attempts of %s are %+v, error %v; want one with status %d", id, all, err, status)
		}
		d, err := reads.Delivery(t.Context(), id)
		if err != nil || d.State != queue.Delivered || d.Ended.IsZero() || d.Attempts != 1 {
			t.Fatalf("the delivery is %+v, error %v", d, err)
		}
	}
}
