package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/caddyproc"
	"github.com/userhero/relay/e2e/natsproc"
)

// move is a store that moves, with a receiver that does not take all events yet.
type move struct {
	t        *testing.T
	app      string
	receiver *receiver
	well     atomic.Int64 // events "late n" with n below it are taken
	sent     int64        // how many "late" events were submitted

	mu    sync.Mutex // guards what follows
	taken map[string]int
}

func newMove(t *testing.T) *move {
	t.Helper()
	m := &move{t: t, taken: map[string]int{}}
	m.receiver = startReceiver(t, m.answer)
	m.app = fmt.Sprintf("webhook app {\n url %s\n secret %s\n}\nretry 1s 1h 2h", m.receiver.url, secret)
	return m
}

// answer is the receiver's.
func (m *move) answer(a arrival) int {
	var n int64
	if _, err := fmt.Sscanf(documentOf(m.t, a).Data.Message, "late %d", &n); err == nil && n >= m.well.Load() {
		return http.StatusInternalServerError
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken[a.delivery]++
	return http.StatusOK
}

// submit submits n events that are refused for now, and as many others.
func (m *move) submit(s *relayServer, n int) {
	m.t.Helper()
	for range n {
		s.mustSubmit(fmt.Sprintf("late %d", m.sent))
		s.mustSubmit("now")
		m.sent++
	}
}

// waits waits until all that is refused waits for an hour, after so many attempts or more,
// and all else is delivered. It returns the deliveries.
func (m *move) waits(s *relayServer, attempts int) map[string]deliveryView {
	m.t.Helper()
	var all map[string]deliveryView
	eventually(m.t, time.Minute, "what is refused waits for an hour", func() bool {
		all = map[string]deliveryView{}
		waiting := int64(0)
		for _, d := range s.deliveries("app") {
			all[d.ID] = d
			switch {
			case d.State == "delivered":
			case d.State != "retrying" || d.AttemptsMade < attempts || time.Until(d.NextAttemptAt) < 50*time.Minute:
				return false
			default:
				waiting++
			}
		}
		return int64(len(all)) == 2*m.sent && waiting == m.sent-m.well.Load()
	})
	return all
}

// same checks that deliveries are as they were, and due when they were.
func (m *move) same(when string, want, have map[string]deliveryView) {
	m.t.Helper()
	if len(have) != len(want) {
		m.t.Errorf("%s: %d deliveries, want %d", when, len(have), len(want))
	}
	for id, a := range want {
		b := have[id]
		if a.State != b.State || a.AttemptsMade != b.AttemptsMade || a.NextAttemptAt.Sub(b.NextAttemptAt).Abs() > 2*time.Second {
			m.t.Errorf("%s: %s is %+v, and was %+v", when, id, b, a)
		}
	}
}

// deliversAll waits until n deliveries have arrived, and checks that each was taken once.
func (m *move) deliversAll(s *relayServer, n int) {
	m.t.Helper()
	eventually(m.t, time.Minute, "everything is delivered", func() bool { return s.webhook("app").Counts.Delivered == n })
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.taken) != n {
		m.t.Errorf("the receiver has taken %d deliveries, want %d", len(m.taken), n)
	}
	for id, times := range m.taken {
		if times != 1 {
			m.t.Errorf("%s was taken %d times", id, times)
		}
	}
	feedbackIDs(m.t, m.receiver.arrivals()) // signatures, and equal bytes
}

// run runs a command of the relay's Caddy, in its folder.
func (m *move) run(s *relayServer, args ...string) {
	m.t.Helper()
	program, err := s.program()
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := caddyproc.Run(ctx, program, s.dir, append([]string{"userhero"}, args...)...); err != nil {
		m.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// restore restores a backup for a relay that does not run.
func (m *move) restore(s *relayServer, file string, to ...string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "Caddyfile"), []byte(s.caddyfile(s.options)), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.run(s, append([]string{"restore", file}, to...)...)
}

func (m *move) stop(s *relayServer) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.process.Stop(ctx); err != nil {
		m.t.Fatal(err)
	}
}

// TestStoreMovesBetweenEngines: from Badger to JetStream and back, with deliveries that wait
// on a rung. Nothing is lost, nothing is delivered twice, and due times stay.
func TestStoreMovesBetweenEngines(t *testing.T) {
	badgerOnly(t, "from there and back")
	t.Parallel()
	m := newMove(t)
	dir := t.TempDir()
	from := startRelay(t, relayOptions{app: m.app})
	m.submit(from, 4)
	before := m.waits(from, 2)
	m.stop(from)
	m.run(from, "backup", filepath.Join(dir, "first.backup"), from.store())

	moved := newRelay(t, relayOptions{app: m.app, nats: startNATS(t, 1, natsproc.Options{})})
	m.restore(moved, filepath.Join(dir, "first.backup"), "--config", "Caddyfile")
	moved.start()
	m.same("on JetStream", before, m.waits(moved, 2))
	m.submit(moved, 1)
	m.waits(moved, 2)
	m.well.Store(2)
	m.run(moved, "redeliver", "--webhook", "app", "--waiting", "--yes", "--address", moved.admin)
	before = m.waits(moved, 4)
	m.run(moved, "backup", filepath.Join(dir, "second.backup"), "--address", moved.admin)
	m.stop(moved)

	back := newRelay(t, relayOptions{app: m.app})
	m.restore(back, filepath.Join(dir, "second.backup"), back.store())
	back.start()
	m.same("back on Badger", before, m.waits(back, 4))
	m.well.Store(100)
	m.run(back, "redeliver", "--webhook", "app", "--waiting", "--yes", "--address", back.admin)
	m.deliversAll(back, 10)
}
