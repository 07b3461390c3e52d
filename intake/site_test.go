package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// site is a server on loopback with handlers that share a store in memory.
type site struct {
	t       *testing.T
	address string
	mux     *http.ServeMux
	store   *store
	counts  *counts
	output  *output
	logs    *Log
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, mux: http.NewServeMux(), store: newStore(), counts: newCounts(), output: new(output)}
	s.logs = NewLog(slog.New(slog.NewJSONHandler(s.output, nil)))
	server := httptest.NewUnstartedServer(s.mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	s.address = server.Listener.Addr().String()
	return s
}

// handler makes a handler of the site.
func (s *site) handler(c Config) *Handler {
	s.t.Helper()
	c.Relay, c.Observer, c.Log = s.store, s.counts, s.logs
	c.Client = func(r *http.Request) netip.Addr {
		at, _ := netip.ParseAddrPort(r.RemoteAddr)
		return at.Addr()
	}
	h, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// handle answers requests for a path and those below it.
func (s *site) handle(path string, c Config) {
	s.t.Helper()
	h := s.handler(c)
	s.mux.Handle(path, h)
	if !strings.HasSuffix(path, "/") {
		s.mux.Handle(path+"/", h)
	}
}

// watch has an application answer all requests.
func (s *site) watch(app http.Handler, c Config) {
	s.t.Helper()
	upstream := httptest.NewServer(app)
	s.t.Cleanup(upstream.Close)
	target, err := url.Parse(upstream.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	h := s.handler(c)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if err := h.Pass(w, r, func(w http.ResponseWriter, r *http.Request) error {
			proxy.ServeHTTP(w, r)
			return nil
		}); err != nil {
			s.t.Error(err)
		}
	})
}

// fixed returns a value of a Config that is the same for each request.
func fixed(value string) func(*http.Request) (string, error) {
	return func(*http.Request) (string, error) { return value, nil }
}

// store is a Relay without webhooks.
type store struct {
	*memqueue.Queue
	begun string // the next Accept returns a BegunError with this id; empty: none
}

func newStore() *store { return &store{Queue: memqueue.New(memqueue.Options{})} }

// Accept implements Relay.
func (s *store) Accept(ctx context.Context, e queue.Entry, _ http.Header) (queue.Receipt, error) {
	if begun := s.begun; begun != "" {
		s.begun = ""
		return queue.Receipt{}, &queue.BegunError{Feedback: queue.FeedbackID{Project: e.Feedback.Project, ID: begun}}
	}
	e.Created = time.Now()
	return s.Enqueue(ctx, e)
}

// WithStore implements Relay.
func (s *store) WithStore(f func(Store) error) error { return f(s.Queue) }

// stored returns the events, oldest first.
func (s *site) stored() []stored {
	s.t.Helper()
	var all []stored
	for cursor := ""; ; {
		page, err := s.store.Events(s.t.Context(), queue.EventQuery{Limit: 1000, Cursor: cursor})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range page.Items {
			all = append(all, stored{e})
		}
		if cursor = page.Next; cursor == "" {
			slices.Reverse(all)
			return all
		}
	}
}

// await returns the events, oldest first, and fails if there are fewer than n.
func (s *site) await(n int) []stored {
	s.t.Helper()
	all := s.stored()
	if len(all) < n {
		s.t.Fatalf("%d events, want %d", len(all), n)
	}
	return all
}

// events is how many events are stored.
func (s *site) events() int { return len(s.stored()) }

// latest is the newest event's data, as stored.
func (s *site) latest() map[string]any {
	s.t.Helper()
	all := s.stored()
	return all[len(all)-1].document(s.t).Data
}

// stored is an event in the store.
type stored struct{ queue.Event }

// document is the event's document.
func (e stored) document(t *testing.T) (doc struct {
	Event string
	Data  map[string]any
}) {
	t.Helper()
	if err := json.Unmarshal(e.Body, &doc); err != nil {
		t.Fatalf("%v in %s", err, e.Body)
	}
	return doc
}

// counts is an Observer.
type counts struct {
	mu               sync.Mutex // guards everything below
	ingested         int
	rejected, missed map[string]int
}

func newCounts() *counts {
	return &counts{rejected: make(map[string]int), missed: make(map[string]int)}
}

// Ingested implements Observer.
func (c *counts) Ingested(time.Duration, queue.TraceContext) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ingested++
}

// Rejected implements Observer.
func (c *counts) Rejected(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rejected[reason]++
}

// Missed implements Observer.
func (c *counts) Missed(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed[reason]++
}

// missed are the counters of what made no event that are not zero.
func (s *site) missed() string {
	c := s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(c.missed)) {
		reasons = append(reasons, fmt.Sprint(reason, " ", c.missed[reason]))
	}
	return strings.Join(reasons, ", ")
}

// log is what was logged up to now.
func (s *site) log() string {
	s.output.mu.Lock()
	defer s.output.mu.Unlock()
	return s.output.out.String()
}

// output is what a log wrote, from any goroutine.
type output struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.Write(b)
}

// take returns what was written since the last call.
func (o *output) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.out.Reset()
	return o.out.String()
}

// answer is a whole HTTP answer.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// json reads the body into an object.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.Body), &v); err != nil {
		t.Fatalf("%v in %q", err, a.Body)
	}
	return v
}

var client = &http.Client{
	Timeout:       30 * time.Second,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// client2 speaks HTTP/2 without TLS.
var client2 = func() *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{
		Timeout:       client.Timeout,
		Transport:     &http.Transport{Protocols: &protocols},
		CheckRedirect: client.CheckRedirect,
	}
}()

// do sends a request to the site; header fields are name, value, name, value.
func (s *site) do(method, path, body string, header ...string) answer {
	s.t.Helper()
	return s.doOver(client, method, path, body, header...)
}

// doOver is do with a client of one's own.
func (s *site) doOver(c *http.Client, method, path, body string, header ...string) answer {
	s.t.Helper()
	a, err := requestOver(c, method, "http://"+s.address+path, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func request(method, url, body string, header ...string) (answer, error) {
	return requestOver(client, method, url, body, header...)
}

func requestOver(c *http.Client, method, url, body string, header ...string) (answer, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{res.StatusCode, res.Header, string(b)}, nil
}

// jsonBody is the header of a JSON submission.
var jsonBody = []string{"Content-Type", "application/json"}

// post submits JSON to /feedback.
func (s *site) post(body string, header ...string) answer {
	s.t.Helper()
	return s.submit("/feedback", body, header...)
}

// eventually waits until the condition holds; for what gives no signal, such
// as a state that another goroutine writes after an answer has gone out.
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
