package badgerqueue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// crashEnv makes the test binary a process that fills a store until it is
// killed, and prints every acknowledged event.
const crashEnv = "BADGERQUEUE_CRASH_DIR"

// children are what the test binary does instead of testing where a variable of
// the environment names a store's folder.
var children = map[string]func(dir string) error{crashEnv: fill}

func TestMain(m *testing.M) {
	for env, child := range children {
		dir := os.Getenv(env)
		if dir == "" {
			continue
		}
		switch err := child(dir); {
		case errors.Is(err, queue.ErrFull):
			os.Exit(3)
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func fill(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: dir})
	if err != nil {
		return err
	}
	w, err := onlyWebhook(ctx, s)
	if err != nil {
		return err
	}
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 32})
	if err != nil {
		return err
	}
	go func() {
		for i := 0; ; i++ {
			leases, err := l.Next(ctx, 8)
			if err != nil {
				return
			}
			for _, lease := range leases {
				if i%3 == 0 {
					_ = lease.Retry(time.Now().Add(time.Millisecond), queue.Attempt{At: time.Now(), Status: 500})
				} else {
					_ = lease.Ack(queue.Attempt{At: time.Now(), Status: 200})
				}
			}
		}
	}()
	var out sync.Mutex
	for n := range 16 {
		go func() {
			for i := 0; ; i++ {
				e := entry(n<<32|i, w)
				e.Body = fmt.Appendf(nil, `{"pid":%d,"n":%d,"pad":%q}`, os.Getpid(), n<<32|i, strings.Repeat("x", i%3000))
				r, err := s.Enqueue(ctx, e)
				if err != nil {
					return
				}
				out.Lock()
				fmt.Printf("ack %s %08x\n", r.Event.ID, crc32.ChecksumIEEE(e.Body))
				out.Unlock()
			}
		}()
	}
	select {}
}

// onlyWebhook is the store's one webhook, made where it is missing.
func onlyWebhook(ctx context.Context, s *Store) (queue.WebhookID, error) {
	ws, err := s.Webhooks(ctx)
	if err != nil {
		return 0, err
	}
	if len(ws) > 0 {
		return ws[0].ID, nil
	}
	w, err := s.PutWebhook(ctx, queue.Webhook{Name: "w"})
	return w.ID, err
}

// TestAcknowledgedEventsSurviveKill kills the process with SIGKILL while
// sixteen writers and a lane are at work, again and again on one store: every
// acknowledged event is there with its bytes, and the counters agree with the
// records.
func TestAcknowledgedEventsSurviveKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acked := make(map[string]string)
	rounds, least := 5, 200
	if n := soak(); n > 0 {
		rounds, least = 200*n, 800
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+dir)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for n := 0; lines.Scan(); n++ {
			var id, sum string
			if _, err := fmt.Sscanf(lines.Text(), "ack %s %s", &id, &sum); err != nil {
				t.Fatalf("the process said %q", lines.Text())
			}
			acked[id] = sum
			if n == least*(round%5+1) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
	}
	s := openAt(t, Options{Path: dir})
	for id, sum := range acked {
		eid, err := queue.ParseEventID(id)
		if err != nil {
			t.Fatal(err)
		}
		e, err := s.Event(context.Background(), eid)
		if err != nil {
			t.Errorf("acknowledged, and lost: %v", err)
		} else if got := fmt.Sprintf("%08x", crc32.ChecksumIEEE(e.Body)); got != sum {
			t.Errorf("event %s has other bytes: %s, acknowledged %s", id, got, sum)
		}
	}
	checkCounters(t, s)
	t.Logf("%d acknowledged events, %d stored", len(acked), s.Stats(context.Background()).Events)
}

// checkCounters compares every counter with the records it counts.
func checkCounters(t *testing.T, s *Store) {
	t.Helper()
	counts := make(map[queue.WebhookID]queue.Counts)
	for c := ""; ; {
		page, err := s.Deliveries(context.Background(), queue.DeliveryQuery{Limit: 1000, Cursor: c})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Items {
			n := counts[d.ID.Webhook]
			n.Count(d.State, 1)
			counts[d.ID.Webhook] = n
		}
		if c = page.Next; c == "" {
			break
		}
	}
	for w, st := range s.Stats(context.Background()).Webhooks {
		if st.Counts != counts[w] {
			t.Errorf("webhook %d counts %+v, the records say %+v", w, st.Counts, counts[w])
		}
	}
}
