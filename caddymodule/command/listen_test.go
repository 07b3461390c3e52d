package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
)

// fakeDelivery is a delivery that fakeRelay shows.
type fakeDelivery struct {
	n        int // number of the event, and seconds after the relay's start
	state    string
	attempts int
	body     string // instead of the usual document
}

func (d fakeDelivery) id() string         { return fmt.Sprintf("dlv_%02d_1", d.n) }
func (d fakeDelivery) created() time.Time { return fakeStart.Add(time.Duration(d.n) * time.Second) }
func (d fakeDelivery) document() []byte {
	if d.body != "" {
		return []byte(d.body)
	}
	return fmt.Appendf(nil, `{"event":"feedback.created","data":{"id":"fb_%02d","message":"<&>"}}`, d.n)
}

func (d fakeDelivery) view() map[string]any {
	v := map[string]any{
		"id": d.id(), "event_id": fmt.Sprintf("evt_%02d", d.n), "webhook": "crm", "state": d.state,
		"attempts_made": d.attempts, "created_at": d.created(),
	}
	var attempts []any
	for i := range d.attempts {
		attempts = append(attempts, map[string]any{"number": i + 1, "request_headers": map[string]string{
			"X-Userhero-Attempt": fmt.Sprint(i + 1), "Webhook-Signature": fmt.Sprintf("v1,of-%d", d.n),
			"Content-Length": "1", "Authorization": "[redacted]",
		}})
	}
	v["attempts"] = attempts
	return v
}

// fakeStart is when fakeRelay began, by its own clock.
var fakeStart = time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)

// fakeRelay answers as the API does, from deliveries that a test may change.
type fakeRelay struct {
	*httptest.Server

	mu         sync.Mutex // guards what follows
	deliveries []fakeDelivery
	uptime     float64
	looks      int
	broken     bool
}

func newFakeRelay(t *testing.T, deliveries ...fakeDelivery) *fakeRelay {
	t.Helper()
	f := &fakeRelay{deliveries: deliveries}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET /userhero/status", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		answer(w, map[string]any{"started_at": fakeStart, "uptime_seconds": f.uptime})
	})
	mux.HandleFunc("GET /userhero/deliveries", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.looks++; f.broken {
			writeProblem(w, event.NewProblem(http.StatusServiceUnavailable, "stopping"))
			return
		}
		since, err := time.Parse(time.RFC3339, r.FormValue("since"))
		if err != nil || r.FormValue("webhook") != "crm" {
			writeProblem(w, event.NewProblem(http.StatusBadRequest, "the query is "+r.URL.RawQuery))
			return
		}
		var items []any
		page := map[string]any{}
		for _, d := range slices.Backward(f.deliveries) {
			if d.created().Before(since) || r.FormValue("cursor") != "" && d.id() >= r.FormValue("cursor") {
				continue
			}
			if len(items) == 2 { // so that there are pages
				page["next"] = fmt.Sprintf("dlv_%02d_1", d.n+1)
				break
			}
			items = append(items, d.view())
		}
		page["items"] = items
		answer(w, page)
	})
	mux.HandleFunc("GET /userhero/events/{id}", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, d := range f.deliveries {
			if v := d.view(); v["event_id"] == r.PathValue("id") {
				answer(w, map[string]any{
					"id": v["event_id"], "type": "feedback.created", "feedback_id": fmt.Sprintf("fb_%02d", d.n), "created_at": d.created(),
					"size": len(d.document()), "body": json.RawMessage(d.document()), "deliveries": []any{v},
				})
				return
			}
		}
		writeProblem(w, event.NewProblem(http.StatusNotFound, "There is no such record, or it has expired."))
	})
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRelay) change(with func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	with()
}

// awaitLooks returns once the listener has looked so many times more.
func (f *fakeRelay) awaitLooks(t *testing.T, n int) {
	t.Helper()
	var from int
	f.change(func() { from = f.looks })
	eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.looks >= from+n
	})
}

// listening is `caddy userhero listen` under way.
type listening struct {
	interrupt context.CancelFunc
	ended     chan ran
}

func (f *fakeRelay) listen(t *testing.T, state, to string, args ...string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &listening{cancel, make(chan ran, 1)}
	args = append([]string{
		"userhero", "listen", "--address", f.Listener.Addr().String(), "--to", to, "--webhook", "crm", "--state", state, "--interval", "5ms",
	}, args...)
	go func() { l.ended <- command(ctx, "", args...) }()
	return l
}

// stop interrupts and returns what was printed.
func (l *listening) stop(t *testing.T) ran {
	t.Helper()
	l.interrupt()
	select {
	case r := <-l.ended:
		if r.failed != nil {
			t.Errorf("interrupted: %v", r.failed)
		}
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("it does not stop")
		return ran{}
	}
}

func ids(arrived []arrival) string {
	var b strings.Builder
	for _, a := range arrived {
		fmt.Fprintf(&b, "%s ", a.Header.Get("X-UserHero-Delivery")[4:6])
	}
	return strings.TrimSpace(b.String())
}

func TestListenForwardsWhatIsNewAsItWasSent(t *testing.T) {
	t.Parallel()
	f := newFakeRelay(t, fakeDelivery{n: 1, state: "delivered", attempts: 1})
	f.uptime = 5.5
	h := newReceiver(t)
	l := f.listen(t, filepath.Join(t.TempDir(), "deep", "state"), h.URL)
	f.awaitLooks(t, 1)
	f.change(func() {
		f.deliveries = append(f.deliveries, fakeDelivery{n: 6, state: "retrying", attempts: 2}, fakeDelivery{n: 7, state: "pending", attempts: 0}, fakeDelivery{n: 8, state: "held", attempts: 0}, fakeDelivery{n: 9, state: "failed", attempts: 6})
	})
	h.await(t, 3)
	f.change(func() { f.deliveries[2] = fakeDelivery{n: 7, state: "delivered", attempts: 1} })
	arrived := h.await(t, 4)
	f.awaitLooks(t, 2)
	r := l.stop(t)
	if got := ids(h.await(t, 4)); got != "06 08 09 07" { // not 01, which is old; 07 once it was attempted
		t.Errorf("forwarded %s", got)
	}
	if string(arrived[0].Body) != string(fakeDelivery{n: 6}.document()) {
		t.Errorf("body %s", arrived[0].Body)
	}
	head := arrived[0].Header
	if head.Get("X-UserHero-Attempt") != "2" || head.Get("webhook-signature") != "v1,of-6" || head.Get("Authorization") != "" || head.Get("X-UserHero-Event") != "feedback.created" {
		t.Errorf("header %v", head)
	}
	if held := arrived[1].Header; held.Get("webhook-signature") != "" || held.Get("webhook-id") != "dlv_08_1" {
		t.Errorf("header of what was never attempted %v", held)
	}
	want := `2026-01-07T15:30:06Z  feedback.created  fb_06  crm  204 No Content
2026-01-07T15:30:08Z  feedback.created  fb_08  crm  204 No Content (unsigned)
2026-01-07T15:30:09Z  feedback.created  fb_09  crm  204 No Content
2026-01-07T15:30:07Z  feedback.created  fb_07  crm  204 No Content
`
	if r.out != want {
		t.Errorf("printed\n%s", r.out)
	}
}

// TestListenGoesOnBehindWhatItCannotRead: the API's answer does not hold the
// bytes that were sent, or nests deeper than any event.
func TestListenGoesOnBehindWhatItCannotRead(t *testing.T) {
	t.Parallel()
	deep := `{"data":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`
	f := newFakeRelay(t)
	f.uptime = 5.5
	h := newReceiver(t)
	l := f.listen(t, filepath.Join(t.TempDir(), "state"), h.URL)
	f.awaitLooks(t, 1)
	f.change(func() {
		f.deliveries = append(f.deliveries,
			fakeDelivery{n: 6, state: "delivered", attempts: 1, body: deep},
			fakeDelivery{n: 7, state: "delivered", attempts: 1})
	})
	if got := ids(h.await(t, 1)); got != "07" {
		t.Errorf("forwarded %s", got)
	}
	f.awaitLooks(t, 2)
	if r := l.stop(t); strings.Count(r.out, "dlv_06_1  not forwarded") != 1 {
		t.Errorf("printed\n%s", r.out)
	}
}

func TestListenLosesNothingWhenInterrupted(t *testing.T) {
	t.Parallel()
	f := newFakeRelay(t)
	h := newReceiver(t)
	state := filepath.Join(t.TempDir(), "state")
	l := f.listen(t, state, h.URL)
	f.awaitLooks(t, 1)
	l.stop(t)
	for n := range 5 { // while nobody listens
		f.deliveries = append(f.deliveries, fakeDelivery{n: n, state: "delivered", attempts: 1})
	}
	// The receiver is where the first is interrupted: that one is finished.
	begun, finish := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(slow.Close)
	l = f.listen(t, state, slow.URL)
	<-begun
	l.interrupt()
	close(finish)
	if r := l.stop(t); !strings.Contains(r.out, "fb_00") || !strings.Contains(r.err, "to continue from here") {
		t.Errorf("printed %q %q", r.out, r.err)
	}
	l = f.listen(t, state, h.URL)
	h.await(t, 5)
	// What is far newer moves the beginning up; late comers are still seen.
	f.change(func() { f.deliveries = append(f.deliveries, fakeDelivery{n: 99, state: "delivered", attempts: 1}) })
	h.await(t, 6)
	f.awaitLooks(t, 3)
	f.change(func() {
		f.deliveries = slices.Insert(f.deliveries, 5, fakeDelivery{n: 70, state: "delivered", attempts: 1})
	})
	h.await(t, 7)
	f.awaitLooks(t, 3)
	l.stop(t)
	if got := ids(h.await(t, 7)); got != "00 01 02 03 04 99 70" {
		t.Errorf("forwarded %s", got)
	}
	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("dlv_04_1")) || !bytes.Contains(text, []byte("dlv_70_1")) || !bytes.Contains(text, []byte(`"since":"2026-01-07T15:30:`)) {
		t.Errorf("the state is %s", text)
	}

	// --since begins again.
	l = f.listen(t, state, h.URL, "--since", "2026-01-07T15:30:04Z")
	h.await(t, 10)
	l.stop(t)
	if got := ids(h.await(t, 10)[7:]); got != "04 70 99" {
		t.Errorf("forwarded again %s", got)
	}
}

func TestListenWaitsForReceiverAndRelay(t *testing.T) {
	t.Parallel()
	f := newFakeRelay(t, fakeDelivery{n: 1, state: "delivered", attempts: 1}, fakeDelivery{n: 2, state: "delivered", attempts: 1})
	h := newReceiver(t)
	refuse := true
	var mu sync.Mutex // guards refuse
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if refuse {
			panic(http.ErrAbortHandler) // the connection breaks
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(flaky.Close)
	l := f.listen(t, filepath.Join(t.TempDir(), "state"), flaky.URL, "--since", "2026-01-07T15:30:00Z")
	f.awaitLooks(t, 3)
	f.change(func() { f.broken = true })
	f.awaitLooks(t, 3)
	mu.Lock()
	refuse = false
	mu.Unlock()
	h.mu.Lock()
	h.status = http.StatusTeapot // an answer, so the delivery is done
	h.mu.Unlock()
	f.change(func() { f.broken = false })
	h.await(t, 2)
	f.awaitLooks(t, 2)
	r := l.stop(t)
	if got := ids(h.await(t, 2)); got != "01 02" {
		t.Errorf("forwarded %s", got)
	}
	if strings.Count(r.err, "Waiting: nothing answers at "+flaky.URL) != 1 || strings.Count(r.err, "Waiting: stopping") != 1 || !strings.Contains(r.out, "418 I'm a teapot") {
		t.Errorf("printed %q %q", r.out, r.err)
	}
}

func TestListenEndsWhereItCannotBegin(t *testing.T) {
	t.Parallel()
	f := newFakeRelay(t)
	dir := t.TempDir()
	damaged, other := filepath.Join(dir, "damaged"), filepath.Join(dir, "other")
	for path, text := range map[string]string{damaged: "{", other: `{"address":"elsewhere:1","since":"2026-01-07T15:30:00Z"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, args := range map[string][]string{
		"is damaged":         {"--state", damaged},
		"of another address": {"--state", other},
		"with --state":       {"--state", filepath.Join(damaged, "below-a-file")},
		"the query is":       {"--webhook", "none"},
		"above zero":         {"--interval", "0s"},
	} {
		if r := <-f.listen(t, filepath.Join(dir, want), "http://localhost:1", args...).ended; r.failed == nil || !strings.Contains(r.err, want) {
			t.Errorf("%s: %v %q", want, r.failed, r.err)
		}
	}
}

func TestPendingDeliveryIsForwardedUnsignedAfterAWhile(t *testing.T) {
	t.Parallel()
	d := api.Delivery{ID: "dlv_1_1", State: "pending"}
	l := &listener{firstSeen: map[string]time.Time{}}
	for range 2 {
		if l.ready(d) {
			t.Error("it is forwarded before it can have been attempted")
		}
	}
	l.firstSeen[d.ID] = time.Now().Add(-unsignedAfter)
	if !l.ready(d) {
		t.Error("it waits for an attempt for ever")
	}
}

// receiver is where deliveries are forwarded to.
type receiver struct {
	*httptest.Server

	mu      sync.Mutex // guards what follows
	arrived []arrival
	status  int
}

// arrival is one request as it came.
type arrival struct {
	Header http.Header
	Body   []byte
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: http.StatusNoContent}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP keeps what comes.
func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	rc.arrived = append(rc.arrived, arrival{r.Header.Clone(), body})
	w.WriteHeader(rc.status)
}

// await returns what arrived when that is at least n.
func (rc *receiver) await(t *testing.T, n int) (got []arrival) {
	t.Helper()
	eventually(t, func() bool {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		got = slices.Clone(rc.arrived)
		return len(got) >= n
	})
	return got
}

// eventually waits until the condition holds.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the condition did not come true in 20 s")
		}
	}
}

func writeProblem(w http.ResponseWriter, p *event.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
