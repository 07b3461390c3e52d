package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
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

	document document // the body, as far as tests look at it
	noJSON   error    // why the body is none
}

// viaHeader is set by the receiver's listener, on hosts that are network namespaces.
const viaHeader = "X-Via"

// receiver is a webhook receiver that remembers what arrived.
type receiver struct {
	url string
	// answer decides the status; nil is 200.
	answer func(a arrival) int

	mu  sync.Mutex
	all []arrival // guarded by mu; it only grows
}

// startReceiver starts a receiver that ends with the test.
func startReceiver(t *testing.T, answer func(arrival) int) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
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
	a.noJSON = json.Unmarshal(body, &a.document)
	status := http.StatusOK
	if r.answer != nil {
		status = r.answer(a)
	}
	a.answered = time.Now()
	r.mu.Lock()
	r.all = append(r.all, a)
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

// arrivals returns what has arrived so far. The caller must not change it.
func (r *receiver) arrivals() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.all)
}

// await waits until what has arrived satisfies a condition, and returns it. The condition
// is checked when more has arrived, but not for every arrival: under load the check would take
// more time than the relay does.
func (r *receiver) await(t *testing.T, within time.Duration, what string, holds func([]arrival) bool) []arrival {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for asked := -1; ; {
		all := r.arrivals()
		if len(all) != asked && holds(all) {
			return all
		}
		asked = len(all)
		select {
		case <-tick.C:
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
