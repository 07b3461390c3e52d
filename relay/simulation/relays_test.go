package simulation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	eventpkg "github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

// cluster is some relays on one store, whose lanes are lost, whose answers come late,
// and whose calls are made although they are reported as failed. It runs beside the
// worlds, which have one relay and a ledger that knows everything about it.
type cluster struct {
	dice   *rand.Rand // what happens
	config relay.Config
	breaks func(queue.Queue) queue.Queue // nil: nothing is broken
	relays []*member
	paused string

	mu       sync.Mutex // guards everything below
	rnd      *rand.Rand // how receivers and servers answer
	wrong    string
	well     bool // receivers answer 204 at once
	accepted map[queue.EventID]bool
	requests map[string][]arrival // by delivery and attempt
	reached  map[queue.EventID]map[string]bool
	// disturbed is when a lane was lost last, by host: what was in flight then may come
	// again.
	disturbed map[string]time.Time
	count     int
}

// member is one relay.
type member struct {
	node  *memqueue.Queue
	relay *relay.Relay
	dead  *atomic.Bool
}

// arrival is one request that a receiver saw.
type arrival struct{ came, answered time.Time }

var clusterHosts = []string{"alpha.example", "beta.example", "gamma.example"}

// ladder is that of every webhook.
var clusterLadder = []time.Duration{time.Second, 10 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute}

func (c *cluster) fault(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong == "" {
		c.wrong = fmt.Sprintf(format, args...)
	}
}

// dial connects to a receiver, by a pipe.
func (c *cluster) dial(_ context.Context, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go c.receive(host, far)
	return near, nil
}

// receive is a receiver: it answers one request.
func (c *cluster) receive(host string, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	delivery, err := queue.ParseDeliveryID(r.Header.Get("X-UserHero-Delivery"))
	if err != nil {
		c.fault("a request has no delivery's id: %v", err)
		return
	}
	attempt, err := strconv.Atoi(r.Header.Get("X-UserHero-Attempt"))
	if err != nil {
		c.fault("a request has no attempt's number: %v", err)
		return
	}
	name := func(attempt int) string { return fmt.Sprintf("%s/%d", delivery, attempt) }
	now := time.Now()
	c.mu.Lock()
	if before := c.requests[name(attempt)]; len(before) > 0 && c.disturbed[host].Before(before[0].came) {
		c.mu.Unlock()
		c.fault("%s comes to %s a second time, and its lane was not lost since the first", name(attempt), host)
		c.mu.Lock()
	}
	if attempt > 1 {
		first := time.Time{}
		for _, a := range c.requests[name(attempt-1)] {
			if !a.answered.IsZero() && (first.IsZero() || a.answered.Before(first)) {
				first = a.answered
			}
		}
		if early := clusterLadder[attempt-2] - now.Sub(first); !first.IsZero() && early > 0 {
			c.mu.Unlock()
			c.fault("%s comes %v early on its rung", name(attempt), early)
			c.mu.Lock()
		}
	}
	seen := len(c.requests[name(attempt)])
	c.requests[name(attempt)] = append(c.requests[name(attempt)], arrival{came: now})
	status, takes := http.StatusNoContent, time.Duration(0)
	if !c.well {
		takes = time.Duration(c.rnd.Int64N(int64(5 * time.Second)))
		if c.rnd.IntN(3) == 0 {
			status = http.StatusInternalServerError
		}
	}
	c.mu.Unlock()
	time.Sleep(takes)
	c.mu.Lock()
	c.requests[name(attempt)][seen].answered = time.Now()
	if status == http.StatusNoContent {
		if c.reached[delivery.Event] == nil {
			c.reached[delivery.Event] = make(map[string]bool)
		}
		c.reached[delivery.Event][host] = true
	}
	c.mu.Unlock()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status)
}

// start starts a relay on a node.
func (c *cluster) start(node *memqueue.Queue) error {
	m := &member{node: node, dead: new(atomic.Bool)}
	var q queue.Queue = &unreliable{Queue: node, c: c, dead: m.dead}
	if c.breaks != nil {
		q = c.breaks(q)
	}
	m.relay = relay.New(relay.Options{Queue: q, Dial: c.dial, Version: "sim"})
	c.relays = append(c.relays, m)
	for {
		err := m.relay.Start(context.Background())
		if err == nil {
			_, err = m.relay.Attach(c.config)
		}
		if err == nil || !unanswered(err) {
			return err
		}
	}
}

// unanswered reports whether a call may be repeated.
func unanswered(err error) bool {
	return errors.Is(err, queue.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// unreliable is a queue whose servers answer late, or not in time though they have done
// what was asked.
type unreliable struct {
	queue.Queue
	c    *cluster
	dead *atomic.Bool // with its process
}

// late makes a call: it may take long, and be reported as failed. Repeating it must not
// matter.
func late[T any](ctx context.Context, q *unreliable, call func() (T, error)) (T, error) {
	q.c.mu.Lock()
	takes, fails := time.Duration(q.c.rnd.Int64N(int64(20*time.Millisecond))), !q.c.well && q.c.rnd.IntN(20) == 0
	if fails {
		takes = 12 * time.Second
	}
	q.c.mu.Unlock()
	var none T
	if q.dead.Load() {
		return none, queue.ErrClosed
	}
	result, err := call()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return none, ctx.Err()
	}
	if err == nil && fails {
		return none, fmt.Errorf("no answer: %w", queue.ErrUnavailable)
	}
	return result, err
}

func (q *unreliable) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	return late(ctx, q, func() (queue.Receipt, error) { return q.Queue.Enqueue(ctx, e) })
}

func (q *unreliable) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	return late(ctx, q, func() (queue.Webhook, error) { return q.Queue.PutWebhook(ctx, w) })
}

func (q *unreliable) Delivery(ctx context.Context, id queue.DeliveryID) (queue.Delivery, error) {
	return late(ctx, q, func() (queue.Delivery, error) { return q.Queue.Delivery(ctx, id) })
}

// lose takes a webhook's lane from whoever owns it.
func (c *cluster) lose(w relay.WebhookStatus) {
	c.disturb(strings.TrimSuffix(strings.TrimPrefix(w.URL, "http://"), "/"))
	for _, m := range c.relays {
		if m.node.Lose(w.ID) {
			return
		}
	}
}

func (c *cluster) disturb(hosts ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, host := range hosts {
		c.disturbed[host] = time.Now()
	}
}

// kill ends a relay as SIGKILL does, and starts another one.
func (c *cluster) kill(i int) error {
	m := c.relays[i]
	c.disturb(clusterHosts...)
	m.dead.Store(true)
	next := m.node.Crash()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.relay.Stop(gone)
	c.disturb(clusterHosts...) // its attempts have ended now
	c.relays = slices.Delete(c.relays, i, i+1)
	return c.start(next)
}

// stop ends a relay as a deployment does, and starts another one. Nothing comes twice.
func (c *cluster) stop(i int) error {
	m := c.relays[i]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.relay.Stop(ctx); err != nil {
		return err
	}
	if err := m.node.Close(ctx); err != nil {
		return err
	}
	c.relays = slices.Delete(c.relays, i, i+1)
	return c.start(c.relays[0].node.Join())
}

// accept submits one event. It repeats what was not answered, as a client does.
func (c *cluster) accept() error {
	c.count++
	a := queue.Entry{
		Type: string(eventpkg.Created), Feedback: queue.FeedbackID{ID: fmt.Sprintf("fb_%d", c.count)}, Body: []byte(`{"event":"feedback.created"}`),
		Key: queue.Key{Name: fmt.Sprint(c.count)},
	}
	for {
		receipt, err := c.relays[c.dice.IntN(len(c.relays))].relay.Accept(context.Background(), a)
		switch {
		case err == nil:
			c.mu.Lock()
			c.accepted[receipt.Event.ID] = true
			c.mu.Unlock()
			return nil
		case !unanswered(err):
			return err
		}
	}
}

// pause pauses a webhook on one relay and resumes it on another one. In between, all
// show it.
func (c *cluster) pause() error {
	for _, paused := range []bool{true, false} {
		name := oneOf(c.dice, c.config.Webhooks).Name
		if !paused {
			name = c.paused
		}
		c.paused = name
		for {
			r, do := oneOf(c.dice, c.relays).relay, (*relay.Relay).Enable
			if paused {
				do = (*relay.Relay).Disable
			}
			err := do(r, context.Background(), name, "somebody")
			if err == nil {
				break
			}
			if !unanswered(err) {
				return err
			}
		}
		time.Sleep(time.Minute) // another write may be on its way for as long
		for _, m := range c.relays {
			if w, _ := m.relay.Webhook(name); (w.State == relay.Disabled) != paused {
				return fmt.Errorf("a minute after webhook %s was paused or resumed (%t) a relay shows it %s", name, paused, w.State)
			}
		}
	}
	return nil
}

func oneOf[T any](rnd *rand.Rand, list []T) T { return list[rnd.IntN(len(list))] }

// live lives through a seed, and returns what went wrong.
func (c *cluster) live(steps int) error {
	store := memqueue.New(memqueue.Options{Shared: true, LazySettles: true})
	for _, node := range []*memqueue.Queue{store, store.Join(), store.Join()} {
		if err := c.start(node); err != nil {
			return err
		}
	}
	for range steps {
		var err error
		switch n := c.dice.IntN(100); {
		case n < 60:
			err = c.accept()
		case n < 75:
			time.Sleep(time.Duration(c.dice.Int64N(int64(time.Minute))))
		case n < 92:
			all := c.relays[0].relay.Webhooks()
			c.lose(all[c.dice.IntN(len(all))])
		case n < 95:
			err = c.pause()
		case n < 98:
			err = c.kill(c.dice.IntN(len(c.relays)))
		default:
			err = c.stop(c.dice.IntN(len(c.relays)))
		}
		if err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.well = true
	c.mu.Unlock()
	// An attempt that is out may still fail for good, and make its webhook failing. Only a
	// delivery after it shows the relay that the receiver is well.
	time.Sleep(time.Minute)
	if err := c.accept(); err != nil {
		return err
	}
	time.Sleep(90 * time.Minute)
	synctest.Wait()
	return c.judge()
}

// judge looks at what all has come to.
func (c *cluster) judge() error {
	states := make(map[string]string)
	for i, m := range c.relays {
		for _, w := range m.relay.Webhooks() {
			shown := fmt.Sprintf("%s %+v", w.State, w.Counts)
			if i > 0 && states[w.Name] != shown {
				return fmt.Errorf("of webhook %s one relay shows %s, and another one %s", w.Name, states[w.Name], shown)
			}
			states[w.Name] = shown
			if w.Counts.Pending+w.Counts.Retrying+w.Counts.Held > 0 || w.State != relay.Active {
				return fmt.Errorf("after an hour and a half in which all is well, webhook %s is %s with %+v", w.Name, w.State, w.Counts)
			}
		}
		if err := m.relay.Health(); err != nil {
			return fmt.Errorf("a relay is not well: %w", err)
		}
	}
	failed := make(map[queue.EventID]bool)
	for cursor := ""; ; {
		page, err := c.relays[0].node.Deliveries(context.Background(), queue.DeliveryQuery{States: []queue.State{queue.Failed}, Limit: 1000, Cursor: cursor})
		if err != nil {
			return err
		}
		for _, d := range page.Items {
			failed[d.ID.Event] = true
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.accepted {
		if len(c.reached[id]) < len(clusterHosts) && !failed[id] {
			return fmt.Errorf("%s was acknowledged, reached %d of %d receivers, and has not failed", id, len(c.reached[id]), len(clusterHosts))
		}
	}
	if c.wrong != "" {
		return errors.New(c.wrong)
	}
	return nil
}

// simulateCluster lives through one seed.
func simulateCluster(t *testing.T, seed uint64, steps int, breaks func(queue.Queue) queue.Queue) (report string, wrong error) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{
			dice: rand.New(rand.NewPCG(seed, 3)), rnd: rand.New(rand.NewPCG(seed, 4)), breaks: breaks,
			accepted: make(map[queue.EventID]bool), requests: make(map[string][]arrival),
			reached: make(map[queue.EventID]map[string]bool), disturbed: make(map[string]time.Time),
			config: relay.Config{Retry: clusterLadder, Egress: deliver.Egress{}},
		}
		for _, host := range clusterHosts {
			name, _, _ := strings.Cut(host, ".")
			c.config.Webhooks = append(c.config.Webhooks, relay.WebhookConfig{Name: name, URL: "http://" + host + "/"})
		}
		wrong = c.live(steps)
		twice := 0
		for _, m := range c.relays {
			gone, cancel := context.WithCancel(context.Background())
			cancel()
			m.dead.Store(true)
			_ = m.relay.Stop(gone)
			_ = m.node.Close(context.Background())
		}
		time.Sleep(time.Minute) // receivers end
		for _, all := range c.requests {
			twice += len(all) - 1
		}
		report = fmt.Sprintf("%d events, %d attempts, %d of them twice", len(c.accepted), len(c.requests), twice)
	})
	return report, wrong
}

// clusterSteps is how long a life is.
func clusterSteps() int {
	if underRace {
		return 60
	}
	return 200
}

// TestRelaysOnOneStore lives through seeds with three relays.
func TestRelaysOnOneStore(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), *seedsFlag
	switch {
	case *seedFlag > 0:
		first, last = *seedFlag, *seedFlag
	case underRace:
		last = min(last, 2)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			report, wrong := simulateCluster(t, seed, clusterSteps(), nil)
			if wrong != nil {
				t.Fatalf("%v\nagain: go test ./relay/simulation -run TestRelaysOnOneStore -seed %d", wrong, seed)
			}
			t.Log(report)
		})
	}
}

// TestRelaysOnOneStoreControls breaks what the relays rely on.
func TestRelaysOnOneStoreControls(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(queue.Queue) queue.Queue{
		"an acknowledged event is dropped":      func(q queue.Queue) queue.Queue { return &drops{Queue: q} },
		"a delivery is handed out twice":        func(q queue.Queue) queue.Queue { return &twice{Queue: q} },
		"retries come early":                    settlements(func(s *queue.Settlement) { s.At = s.At.Add(-time.Second) }),
		"nobody hears what others have changed": func(q queue.Queue) queue.Queue { return &deaf{q} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 6; seed++ {
				if _, wrong := simulateCluster(t, seed, 200, breaks); wrong != nil {
					t.Logf("seed %d: %v", seed, wrong)
					return
				}
			}
			t.Error("six seeds do not notice it")
		})
	}
}

// deaf does not hear what other relays have changed.
type deaf struct{ queue.Queue }

func (*deaf) Watch(ctx context.Context, _ func(queue.Webhook, bool)) { <-ctx.Done() }
