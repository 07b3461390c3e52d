package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// terminate sends SIGTERM, and returns how long the process took to end.
func (s *relayServer) terminate(within time.Duration) time.Duration {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	began := time.Now()
	if err := s.process.Stop(ctx); err != nil {
		s.t.Fatal(err)
	}
	return time.Since(began)
}

// restart stops the relay as planned, and starts it again. It returns how long the start
// took until the relay was healthy.
func (s *relayServer) restart(within time.Duration) time.Duration {
	s.t.Helper()
	s.terminate(within)
	began := time.Now()
	s.start()
	return time.Since(began)
}

// inFlight submits n events to a webhook that takes them all at once, and waits
// until each has reached the receiver.
func inFlight(t *testing.T, s *relayServer, arrived *atomic.Int64, n int) {
	t.Helper()
	for i := range n {
		s.mustSubmit(fmt.Sprintf("in flight %d", i))
	}
	eventually(t, 20*time.Second, "all attempts have begun", func() bool { return arrived.Load() == int64(n) })
}

// TestAttemptsInFlightEndAfterSIGTERM: a receiver that takes 6 s gets each event
// once, and the log says so.
func TestAttemptsInFlightEndAfterSIGTERM(t *testing.T) {
	t.Parallel()
	const events = 20
	var arrived atomic.Int64
	release := make(chan struct{})
	r := startReceiver(t, func(arrival) int {
		arrived.Add(1)
		<-release
		return http.StatusOK
	})
	s := startRelay(t, relayOptions{
		app:   fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency %d\n}", r.url, secret, events),
		grace: "none", // so 30 s
	})
	inFlight(t, s, &arrived, events)
	time.AfterFunc(6*time.Second, func() { close(release) })
	if took := s.terminate(40 * time.Second); took < 5*time.Second || took > 25*time.Second {
		t.Errorf("it took %s to end, with attempts that end after 6 s", took)
	}
	if want := fmt.Sprintf(`"attempts_ended":%d,"attempts_put_back":0`, events); !strings.Contains(s.process.Log(), want) {
		t.Errorf("the log does not say %s", want)
	}
	s.start()
	eventually(t, 10*time.Second, "everything is delivered", func() bool { return s.webhook("app").Counts.Delivered == events })
	if n := arrived.Load(); n != events {
		t.Errorf("%d requests for %d events", n, events)
	}
}

// TestAttemptsAreCutOffAtTheDeadline: those that hang at the end of grace_period
// are made anew after the start, as the attempts that they were.
func TestAttemptsAreCutOffAtTheDeadline(t *testing.T) {
	t.Parallel()
	const events = 3
	var arrived atomic.Int64
	release := make(chan struct{})
	r := startReceiver(t, func(arrival) int {
		arrived.Add(1)
		<-release
		return http.StatusOK
	})
	s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency %d\n}", r.url, secret, events), grace: "1s"})
	inFlight(t, s, &arrived, events)
	if took := s.terminate(20 * time.Second); took < time.Second || took > 10*time.Second {
		t.Errorf("it took %s to end, with a grace_period of 1 s", took)
	}
	if want := fmt.Sprintf(`"attempts_ended":0,"attempts_put_back":%d`, events); !strings.Contains(s.process.Log(), want) {
		t.Errorf("the log does not say %s", want)
	}
	close(release)
	s.start()
	eventually(t, 10*time.Second, "everything is delivered", func() bool { return s.webhook("app").Counts.Delivered == events })
	for _, a := range r.arrivals() {
		if a.attempt != "1" {
			t.Errorf("attempt %s of %s", a.attempt, a.delivery)
		}
	}
}

// TestSubmissionInFlightEndsAfterSIGTERM: a body that is on its way is taken; one
// that trickles is refused at the deadline, and does not hold the process.
func TestSubmissionInFlightEndsAfterSIGTERM(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		whole  bool
		answer string
	}{"whole": {true, "HTTP/1.1 202"}, "trickling": {false, "HTTP/1.1 503"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The delay keeps the http app from cutting the connection itself.
			s := startRelay(t, relayOptions{global: "shutdown_delay 1s", grace: "2s"})
			conn, err := net.Dial("tcp", s.site)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			const body = `{"message":"on its way"}`
			if _, err := fmt.Fprintf(conn, "POST /feedback HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", s.site, len(body), body[:10]); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(1500*time.Millisecond, func() {
				if c.whole {
					_, _ = io.WriteString(conn, body[10:])
				}
			})
			answer := make(chan string, 1)
			go func() {
				head := make([]byte, 12)
				_, _ = io.ReadFull(conn, head)
				answer <- string(head)
			}()
			if took := s.terminate(30 * time.Second); took > 15*time.Second {
				t.Errorf("it took %s to end", took)
			}
			if got := <-answer; got != c.answer {
				t.Errorf("answered %q, want %q", got, c.answer)
			}
			s.start()
		})
	}
}

// restarts is how often the relay restarts in a test; in make soak, SOAK times 100.
func restarts() int {
	if n, _ := strconv.Atoi(os.Getenv("SOAK")); n > 0 {
		return 100 * n
	}
	return 3
}

// TestRestartsUnderLoadDeliverOnce: while clients submit, and a receiver takes 5 s for
// each event, the relay is stopped and started again and again. Nothing that was
// acknowledged is lost, nothing is delivered twice, and no stop takes longer than the
// grace.
func TestRestartsUnderLoadDeliverOnce(t *testing.T) {
	t.Parallel()
	const takes, grace = 5 * time.Second, 30 * time.Second
	var during atomic.Int64
	r := startReceiver(t, func(arrival) int {
		during.Add(1)
		defer during.Add(-1)
		time.Sleep(takes) // this is the slow receiver
		return http.StatusOK
	})
	s := startRelay(t, relayOptions{
		app:   fmt.Sprintf("webhook app {\n url %s\n secret %s\n concurrency 256\n}", r.url, secret),
		grace: "none", // so 30 s
	})
	l := newLoad(t)
	l.pause = 100 * time.Millisecond
	l.start(s, 4, true)
	slowest := time.Duration(0)
	for range restarts() {
		before := l.acknowledgements()
		eventually(t, 60*time.Second, "attempts are in flight under load", func() bool {
			return l.acknowledgements() >= before+20 && during.Load() >= 5
		})
		slowest = max(slowest, s.terminate(2*grace))
		s.start()
	}
	l.end()
	if slowest > grace {
		t.Errorf("a stop took %s", slowest)
	}
	acknowledged := l.acknowledgements()
	r.await(t, time.Minute, "everything is delivered", func(all []arrival) bool { return len(all) >= acknowledged })
	eventually(t, time.Minute, "nothing waits", func() bool {
		c := s.webhook("app").Counts
		return c.Pending+c.Retrying == 0 && during.Load() == 0
	})
	times := map[string]int{}
	for _, a := range r.arrivals() {
		times[a.delivery]++
	}
	for delivery, n := range times {
		if n > 1 {
			t.Errorf("%s was delivered %d times", delivery, n)
		}
	}
	if len(times) < acknowledged {
		t.Errorf("%d deliveries of %d acknowledged events", len(times), acknowledged)
	}
	t.Logf("%d restarts: %d events, the slowest stop took %s", restarts(), acknowledged, slowest.Round(time.Millisecond))
}
