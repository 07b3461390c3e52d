package simulation

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	eventpkg "github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
	"github.com/userhero/relay/relay"
)

var (
	weekFlag = flag.Bool("week", false, "run TestWeek, which takes half a minute of processor time")
	daysFlag = flag.Float64("week-days", 1.5, "how many days of events TestWeek has; at least 1.5")
	rateFlag = flag.Float64("week-rate", 0.02, "events per second in TestWeek")
)

// One of the three receivers is away for the outage, which begins after the lead.
const (
	lead   = 2 * time.Hour
	outage = 30 * time.Hour
)

// receiverCount is what one receiver of the week has seen. Events are numbered.
type receiverCount struct {
	answers time.Duration // after that long

	mu       sync.Mutex // guards everything below
	away     bool
	accepted []time.Time // shared: when event n was accepted
	attempts []uint8     // of event n
	latest   time.Duration
}

// dial is a connection to the receiver.
func (c *receiverCount) dial() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	near, far := net.Pipe()
	go c.serve(far)
	return near, nil
}

func (c *receiverCount) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for from := bufio.NewReader(conn); ; {
		r, err := http.ReadRequest(from)
		if err != nil {
			return
		}
		var n int
		if _, err := fmt.Fscanf(r.Body, `{"n":%d`, &n); err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(c.answers)
		c.mu.Lock()
		gone := c.away
		if !gone {
			c.attempts[n]++
			c.latest = max(c.latest, time.Since(c.accepted[n]))
		}
		c.mu.Unlock()
		if gone {
			return // in the middle
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
			return
		}
	}
}

// missing counts events that never came, and those that came twice.
func (c *receiverCount) missing() (never, twice int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.attempts {
		switch {
		case n == 0:
			never++
		case n > 1:
			twice++
		}
	}
	return never, twice
}

// TestWeek: one receiver of three is away for 30 hours. The others notice
// nothing; what waits for it uses up no rung but the probes'; when it is back
// everything comes, once, and what had failed meanwhile comes when asked for; and
// memory does not grow with what waits.
//
// The store is a real one. What is scaled, against a week at 50 events a second,
// are the rate and the days before and after: nothing the relay or the store
// decides by depends on them, but for the bounds of windows, and the backlog is
// more than those. -week-rate 50 is the whole outage, in an hour and a half, and
// -week-days 7 the whole week.
func TestWeek(t *testing.T) {
	if !*weekFlag {
		return // make simulation gives -week
	}
	synctest.Test(t, week) // beside no other test: it measures the heap, which all share
}

func week(t *testing.T) {
	interval := time.Duration(float64(time.Second) / *rateFlag)
	total := int(*daysFlag * float64(24*time.Hour/interval))
	accepted := make([]time.Time, total)
	receivers := make(map[string]*receiverCount)
	for host, answers := range map[string]time.Duration{"away": 5 * time.Millisecond, "quick": time.Millisecond, "slow": 200 * time.Millisecond} {
		receivers[host+".example:80"] = &receiverCount{answers: answers, accepted: accepted, attempts: make([]uint8, total)}
	}
	away := receivers["away.example:80"]
	q, err := badgerqueue.Open(context.Background(), badgerqueue.Options{Path: memoryFolder(t), Retention: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	r := relay.New(relay.Options{Queue: q, Dial: func(_ context.Context, _, address string) (net.Conn, error) { return receivers[address].dial() }})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // idle connections end
	}()
	if _, err := r.Attach(relay.Config{Webhooks: []relay.WebhookConfig{
		{Name: "away", URL: "http://away.example/"}, {Name: "quick", URL: "http://quick.example/"}, {Name: "slow", URL: "http://slow.example/", Concurrency: 64},
	}}); err != nil {
		t.Fatal(err)
	}

	start := time.Now()
	leaves, returns := start.Add(lead), start.Add(lead+outage)
	var before, during uint64
	for n, report := 0, start; n < total; n++ {
		now := time.Now()
		if !now.Before(report) {
			report = report.Add(6 * time.Hour)
			w, _ := r.Webhook("away")
			t.Logf("after %v: %d accepted; away %+v", now.Sub(start), n, w.Counts)
		}
		switch {
		case before == 0 && !now.Before(leaves):
			before = heap()
			away.leave(true)
		case during == 0 && !now.Before(returns):
			during = heap()
			w, _ := r.Webhook("away")
			if min := int64(outage/interval) * 9 / 10; w.Counts.Pending+w.Counts.Retrying < min {
				t.Errorf("after %v away only %+v wait", outage, w.Counts)
			}
			// The first ladder runs out in 26 h 36 min, where probes alone use it.
			t.Logf("after %v away: %s, %+v; heap %d KiB, before %d KiB", outage, w.State, w.Counts, during>>10, before>>10)
			away.leave(false)
		}
		away.mu.Lock()
		accepted[n] = now
		away.mu.Unlock()
		body := fmt.Appendf(nil, `{"n":%d,"event":"feedback.created","data":{"id":"fb_%d","message":%q}}`, n, n, make([]byte, 200))
		if _, err := r.Accept(t.Context(), queue.Entry{Type: string(eventpkg.Created), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", n)}, Body: body}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(interval)
	}
	time.Sleep(25 * time.Hour) // the longest rung, and an hour
	w, _ := r.Webhook("away")
	if w.State != relay.Active || w.Counts.Pending+w.Counts.Retrying != 0 {
		t.Errorf("in the end the one that was away is %s and counts %+v", w.State, w.Counts)
	}
	never, twice := away.missing()
	if int64(never) != w.Counts.Failed || twice > 0 {
		t.Errorf("of %d events %d never came and %d came twice; %d are shown as failed", total, never, twice, w.Counts.Failed)
	}
	// A probe every five minutes, of which each uses one rung of a delivery.
	if most := int64(outage/(5*time.Minute)) + 20; w.Counts.Failed > most {
		t.Errorf("%d deliveries failed for good, by at most %d probes", w.Counts.Failed, most)
	}
	for _, host := range []string{"quick.example:80", "slow.example:80"} {
		c := receivers[host]
		if never, twice := c.missing(); never+twice > 0 || c.latest > c.answers+time.Second {
			t.Errorf("%s: %d events never came, %d twice, the last after %v", host, never, twice, c.latest)
		}
	}
	if during > before+(32<<20) { // caches, whose bounds are reached meanwhile; not what waits
		t.Errorf("with %d waiting the heap has %d KiB, before %d", outage/interval, during>>10, before>>10)
	}
}

// leave is the beginning of an outage, or its end.
func (c *receiverCount) leave(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

// heap is what lives on it.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
