package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

const secret = "e2e-secret"

// arrival is one request that a receiver got.
type arrival struct {
	at       time.Time // when its body had been read
	answered time.Time
	delivery string
	attempt  string
	body     string
	signed   bool   // X-UserHero-Signature fits the body
	trace    string // traceparent
	path     string
	via      string // the relay's host that it came through, if the test has said so
}

// viaHeader is set by the receiver's listener, on hosts that are network namespaces.
const viaHeader = "X-Via"

// receiver is a webhook receiver that remembers what arrived.
type receiver struct {
	url string
	// answer decides the status; nil is 200.
	answer func(a arrival) int

	mu sync.Mutex
	// mu guards everything declared below.
	all     []arrival
	changed chan struct{} // closed and replaced at each arrival
}

// startReceiver starts a receiver that ends with the test.
func startReceiver(t *testing.T, answer func(arrival) int) *receiver {
	t.Helper()
	r := &receiver{answer: answer, changed: make(chan struct{})}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // the sender was killed in the middle
	}
	a := arrival{
		at:       time.Now(),
		delivery: request.Header.Get("X-UserHero-Delivery"),
		attempt:  request.Header.Get("X-UserHero-Attempt"),
		body:     string(body),
		trace:    request.Header.Get("traceparent"),
		path:     request.URL.Path,
		via:      request.Header.Get(viaHeader),
		signed:   request.Header.Get("X-UserHero-Signature") == signature(body),
	}
	status := http.StatusOK
	if r.answer != nil {
		status = r.answer(a)
	}
	a.answered = time.Now()
	r.mu.Lock()
	r.all = append(r.all, a)
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	w.WriteHeader(status)
}

func signature(body []byte) string { return "sha256=" + hexHMAC(secret, body) }

func hexHMAC(key string, message []byte) string { return hex.EncodeToString(sum(key, message)) }

func base64HMAC(key string, message []byte) string {
	return base64.StdEncoding.EncodeToString(sum(key, message))
}

func sum(key string, message []byte) []byte {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(message)
	return mac.Sum(nil)
}

// arrivals returns what has arrived so far.
func (r *receiver) arrivals() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]arrival(nil), r.all...)
}

// await waits until what has arrived satisfies a condition, and returns it.
func (r *receiver) await(t *testing.T, within time.Duration, what string, holds func([]arrival) bool) []arrival {
	t.Helper()
	deadline := time.After(within)
	for {
		r.mu.Lock()
		all, changed := append([]arrival(nil), r.all...), r.changed
		r.mu.Unlock()
		if holds(all) {
			return all
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not within %s: %s (%d arrivals)", within, what, len(all))
		}
	}
}

// feedbackIDs returns how often each feedback arrived, and checks on the way
// that each is signed and that one delivery always has the same bytes.
func feedbackIDs(t *testing.T, all []arrival) map[string]int {
	t.Helper()
	ids := map[string]int{}
	bytesOf := map[string]string{}
	for _, a := range all {
		if !a.signed {
			t.Fatalf("delivery %s: the signature does not fit the body %s", a.delivery, a.body)
		}
		if before, ok := bytesOf[a.delivery]; ok && before != a.body {
			t.Fatalf("delivery %s came with other bytes:\n%s\n%s", a.delivery, before, a.body)
		}
		bytesOf[a.delivery] = a.body
		ids[documentOf(t, a).Data.ID]++
	}
	return ids
}
