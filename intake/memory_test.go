package intake

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestThousandBodiesAtOnceTakeBoundedMemory: a thousand clients that have each
// sent nearly 64 KiB and then stop hold less than 256 KiB each, and what they
// held serves the next ones. It runs alone, for it measures the whole process.
func TestThousandBodiesAtOnceTakeBoundedMemory(t *testing.T) {
	const clients, most = 1000, 256 << 10
	handler := newSite(t).handler(Config{})
	part := `{"message":"` + strings.Repeat("x", DefaultMaxBody-100)
	before := heap()
	var held, over sync.WaitGroup
	finish := make(chan struct{})
	statuses := make(chan int, clients)
	for range clients {
		held.Add(1)
		over.Go(func() {
			body := io.MultiReader(strings.NewReader(part), &stalled{reached: held.Done, finish: finish}, strings.NewReader(`"}`))
			r := httptest.NewRequest(http.MethodPost, "/feedback", body)
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			statuses <- w.Code
		})
	}
	held.Wait()
	if each := (heap() - before) / clients; each > most {
		t.Errorf("each body takes %d KiB", each>>10)
	} else {
		t.Logf("each of %d bodies takes %d KiB", clients, each>>10)
	}
	close(finish)
	over.Wait()
	close(statuses)
	for status := range statuses {
		if status != http.StatusAccepted && status != http.StatusServiceUnavailable {
			t.Errorf("answered %d", status)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left := heap() - before; left < 64<<20 {
			return
		} else if time.Now().After(end) {
			t.Fatalf("%d MiB are held after it", left>>20)
		}
	}
}

// stalled is the middle of a body that does not come before it may.
type stalled struct {
	reached func()
	finish  chan struct{}
	once    sync.Once
}

func (s *stalled) Read([]byte) (int, error) {
	s.once.Do(s.reached)
	<-s.finish
	return 0, io.EOF
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSubmissionsHoldBoundedMemory: bodies that have arrived in part hold the memory that
// submissions may. What comes then is refused, and the client told when to come again.
// When they are done, submissions are taken again; so they are if a client has only
// said that much will come.
func TestSubmissionsHoldBoundedMemory(t *testing.T) {
	t.Parallel()
	const size = 60_000
	memory := NewMemory(16 * size) // a body counts twice, and half of it is for those that arrive
	handler := newSite(t).handler(Config{Memory: memory})
	submit := func(body io.Reader) int {
		r := httptest.NewRequest(http.MethodPost, "/feedback", body)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
			t.Error("refused without Retry-After")
		}
		return w.Code
	}
	full := `{"message":"` + strings.Repeat("x", size) + `"}`
	hold := func(part string, clients int) (finish func()) {
		var held, over sync.WaitGroup
		end := make(chan struct{})
		for range clients {
			held.Add(1)
			over.Go(func() { submit(io.MultiReader(strings.NewReader(part), &stalled{reached: held.Done, finish: end})) })
		}
		held.Wait()
		return func() { close(end); over.Wait() }
	}
	trickle := hold("{", 100)
	if status := submit(strings.NewReader(full)); status != http.StatusAccepted {
		t.Errorf("while others have only begun: %d", status)
	}
	trickle()
	arrived := hold(full, 3)
	if status := submit(strings.NewReader(full)); status != http.StatusServiceUnavailable {
		t.Errorf("with all memory held: %d", status)
	}
	arrived()
	for range 20 {
		if status := submit(strings.NewReader(full)); status != http.StatusAccepted {
			t.Fatalf("afterwards: %d", status)
		}
	}
	if held := memory.arrived.Load(); held != 0 {
		t.Errorf("%d bytes are never given back", held)
	}
}
