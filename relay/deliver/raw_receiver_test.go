package deliver

import (
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rawReceiver runs serve on each connection. When the test ends, it closes all
// connections, waits for serve, and checks that no goroutine of an attempt is left.
type rawReceiver struct {
	url         string
	connections atomic.Int64

	mu   sync.Mutex
	open map[net.Conn]bool
}

func newRawReceiver(t *testing.T, serve func(net.Conn)) *rawReceiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rawReceiver{url: "http://" + l.Addr().String() + "/", open: make(map[net.Conn]bool)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.connections.Add(1)
			r.mu.Lock()
			r.open[c] = true
			r.mu.Unlock()
			serving.Go(func() {
				defer func() {
					r.mu.Lock()
					delete(r.open, c)
					r.mu.Unlock()
					_ = c.Close()
				}()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for c := range r.open {
			_ = c.Close()
		}
		r.mu.Unlock()
		serving.Wait()
	})
	return r
}

// attempting counts the goroutines that attempts and their connections have started.
func attempting() (n int, stacks string) {
	buf := make([]byte, 8<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		for _, of := range []string{"net/http.(*persistConn)", "net/http.(*Transport)", "http2", "deliver.(*Receiver).Attempt", "deliver.(*egress).dial"} {
			if strings.Contains(g, of) && !strings.Contains(g, "testing.tRunner") {
				n++
				found = append(found, g)
				break
			}
		}
	}
	return n, strings.Join(found, "\n\n")
}

// awaitNoAttempts waits until no goroutine of an attempt is left.
func awaitNoAttempts(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n, stacks := attempting()
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines of attempts are left:\n%s", n, stacks)
		}
	}
}
