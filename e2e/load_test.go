package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// load is a number of clients that submit one event after the other.
type load struct {
	stop    chan struct{}
	running sync.WaitGroup

	mu sync.Mutex
	// mu guards everything declared below.
	acknowledged map[string]bool // feedback ids
	refused      []string        // answers that were not 202
	broken       int             // submissions without an answer
}

// startLoad starts clients; they end at end(), or with the test.
func startLoad(t *testing.T, s *relayServer, clients int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{}), acknowledged: map[string]bool{}}
	for client := range clients {
		l.running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				l.one(s, fmt.Sprintf(`{"message":"client %d, submission %d"}`, client, n))
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) one(s *relayServer, body string) {
	response, answer, err := s.submit([]byte(body))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.broken++
		return
	}
	var accepted struct{ ID string }
	if response.StatusCode != http.StatusAccepted || json.Unmarshal(answer, &accepted) != nil || accepted.ID == "" {
		l.refused = append(l.refused, fmt.Sprintf("%s: %s", response.Status, answer))
		return
	}
	l.acknowledged[accepted.ID] = true
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
