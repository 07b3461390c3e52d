package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is a number of clients that submit one event after the other.
type load struct {
	stop    chan struct{}
	running sync.WaitGroup
	pause   time.Duration // of each client, between two submissions
	clients int           // that were started so far
	// patience is how long clients wait for an answer. Default: that of relayServer.newClient.
	patience time.Duration
	name     string // begins its idempotency keys; no other load has it

	mu sync.Mutex
	// mu guards everything declared below.
	acknowledged map[string]bool // feedback ids
	refused      []string        // answers that were not 202
	broken       int             // submissions that got no answer
	reasons      map[string]int  // why, and how many
	repeated     int             // submissions sent again
	slowest      time.Duration   // the longest wait for an answer
}

var loads atomic.Int64

func newLoad(t *testing.T) *load {
	t.Helper()
	l := &load{
		stop: make(chan struct{}), name: fmt.Sprintf("load-%d", loads.Add(1)), acknowledged: map[string]bool{}, reasons: map[string]int{},
	}
	t.Cleanup(l.end)
	return l
}

// start adds clients; they end at end(), or with the test. Those that repeat
// send a submission that got no answer again, under the same Idempotency-Key:
// nobody can tell from a closed connection whether the submission arrived. They try the
// other relays in turn, as a load balancer does.
func (l *load) start(s *relayServer, clients int, repeat bool, others ...*relayServer) {
	relays := append([]*relayServer{s}, others...)
	for range clients {
		client := l.clients
		l.clients++
		l.running.Go(func() {
			clients := make([]*http.Client, len(relays))
			for i, relay := range relays {
				clients[i] = relay.newClient()
				clients[i].Timeout = cmp.Or(l.patience, clients[i].Timeout)
				defer clients[i].CloseIdleConnections()
			}
			for n := 0; l.goesOn(l.pause); n++ {
				body := fmt.Appendf(nil, `{"message":"client %d, submission %d"}`, client, n)
				key := fmt.Sprintf("%s-%d-%d", l.name, client, n)
				err := l.submit(clients[0], s, body, key)
				for tries := 1; err != nil && repeat && tries < 1000; tries++ {
					l.mu.Lock()
					l.repeated++
					l.mu.Unlock()
					l.goesOn(time.Millisecond)
					err = l.submit(clients[tries%len(relays)], relays[tries%len(relays)], body, key)
				}
				if err != nil {
					l.unanswered(err)
					l.goesOn(10 * time.Millisecond) // the server may be away
				}
			}
		})
	}
}

// submit posts one body and notes the answer; an error is a missing answer.
func (l *load) submit(c *http.Client, s *relayServer, body []byte, key string) error {
	request, err := http.NewRequest(http.MethodPost, "http://"+s.site+"/feedback", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	// By its own name, net/http would repeat the request by itself.
	request.Header["idempotency-key"] = []string{key}
	began := time.Now()
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	took := time.Since(began)
	var accepted struct{ ID string }
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, took)
	if response.StatusCode != http.StatusAccepted || json.Unmarshal(answer, &accepted) != nil || accepted.ID == "" {
		l.refused = append(l.refused, fmt.Sprintf("%s: %s", response.Status, answer))
		return nil
	}
	l.acknowledged[accepted.ID] = true
	return nil
}

// unanswered counts a submission that got no answer.
func (l *load) unanswered(err error) {
	reason := err.Error()
	var asked *url.Error
	var broken *net.OpError
	switch { // a reason has no address and no port, so that equal ones count as one
	case errors.As(err, &broken):
		reason = broken.Op + ": " + broken.Err.Error()
	case errors.As(err, &asked):
		reason = asked.Err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken++
	l.reasons[reason]++
}

// goesOn tells, after a pause, whether the load has not been ended.
func (l *load) goesOn(pause time.Duration) bool {
	if pause == 0 {
		select {
		case <-l.stop:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-l.stop:
		return false
	case <-timer.C:
		return true
	}
}

// end stops the clients and waits for them; twice is fine.
func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.running.Wait()
}

// acknowledgements counts what was acknowledged so far.
func (l *load) acknowledgements() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acknowledged)
}

// refusals counts the answers that were not 202 so far.
func (l *load) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.refused)
}

// missing counts the acknowledged feedback that has not arrived.
func (l *load) missing(arrived map[string]int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for id := range l.acknowledged {
		if arrived[id] == 0 {
			n++
		}
	}
	return n
}
