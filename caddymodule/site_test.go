package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/e2e/caddyproc"
)

// TestMain keeps Caddy's files out of the user's folders.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "userhero-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, home); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if err := os.RemoveAll(home); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// site is Caddy running in this process, on loopback, with a store in a folder
// of the test. Caddy is one per process, so tests that use it are not parallel.
type site struct {
	t       *testing.T
	dir     string
	address string // of the site
	admin   string // of the admin endpoint
}

// newSite reserves addresses and loads nothing yet.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), address: freeAddress(t), admin: freeAddress(t)}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
		engines.ends.Wait()
	})
	return s
}

// freeAddress returns a loopback address on which no process listens and from which none
// connects.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := caddyproc.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// store returns the default folder of the store.
func (s *site) store() string { return filepath.Join(s.dir, "store") }

// config returns the JSON of a Caddyfile that has the given options of the userhero
// app and the given directives in the site block. It adds a queue if the options have
// none.
func (s *site) config(options, block string) []byte {
	s.t.Helper()
	return s.serverConfig("", options, block)
}

// serverConfig is config with additional options of Caddy's servers.
func (s *site) serverConfig(servers, options, block string) []byte {
	s.t.Helper()
	if !strings.Contains(options, "queue ") {
		options += fmt.Sprintf("\nqueue badger {\npath %s\n}\n", s.store())
	}
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	source := fmt.Sprintf(`{
		admin %s
		persist_config off
		default_bind 127.0.0.1
		auto_https off
		storage file_system %s
		log default {
			output file %s
			level DEBUG
		}
		metrics
		servers {
			protocols h1 h2c
			%s
		}
		userhero {
			egress {
				allow 127.0.0.1
			}
			%s
		}
	}
	http://:%s {
		%s
	}
	`, s.admin, filepath.Join(s.dir, "caddy"), s.logFile(), servers, options, port, block)
	config, _, err := adapt(source)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, source)
	}
	return config
}

func (s *site) logFile() string { return filepath.Join(s.dir, "caddy.log") }

// log returns everything logged so far.
func (s *site) log() string {
	s.t.Helper()
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// load makes Caddy run the configuration.
func (s *site) load(options, block string) {
	s.t.Helper()
	if err := caddy.Load(s.config(options, block), true); err != nil {
		s.t.Fatal(err)
	}
	client.CloseIdleConnections() // the old server closes its connections, perhaps while a request is being sent
}

// metrics returns what Prometheus would scrape.
func (s *site) metrics() string {
	s.t.Helper()
	a, err := request(http.MethodGet, "http://"+s.admin+"/metrics", "")
	if err != nil {
		s.t.Fatal(err)
	}
	return a.Body
}

// answer is an HTTP answer with its body.
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

// do sends a request to the site. The header's names and values alternate.
func (s *site) do(method, path, body string, header ...string) answer {
	s.t.Helper()
	return s.doOver(client, method, path, body, header...)
}

// doOver is do with another client.
func (s *site) doOver(c *http.Client, method, path, body string, header ...string) answer {
	s.t.Helper()
	a, err := requestOver(c, method, "http://"+s.address+path, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// api reads from the API on the admin endpoint.
func (s *site) api(path string) answer {
	s.t.Helper()
	a, err := request(http.MethodGet, "http://"+s.admin+"/userhero"+path, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func request(method, url, body string, header ...string) (answer, error) {
	return requestOver(client, method, url, body, header...)
}

func requestOver(c *http.Client, method, url, body string, header ...string) (answer, error) {
	for tries := 0; ; tries++ {
		a, err := requestOnce(c, method, url, body, header...)
		// At a reload, the kernel resets connections that the old listener has not
		// accepted, while the client dials or when it has sent its request. No server
		// has read the request, so send it again. The old server may also close a new
		// connection before it reads from it.
		if errors.Is(err, syscall.ECONNRESET) && tries < 100 || errors.Is(err, io.EOF) && tries < 1 {
			continue
		}
		return a, err
	}
}

func requestOnce(c *http.Client, method, url, body string, header ...string) (answer, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
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
	return s.do(http.MethodPost, "/feedback", body, append(header, jsonBody...)...)
}

// hook is a receiver of webhooks on loopback.
type hook struct {
	*httptest.Server

	mu      sync.Mutex // guards arrived and status
	arrived []arrival
	status  int
	signal  chan struct{} // closed at the next arrival, then replaced
}

// arrival is a delivery attempt that the receiver has got.
type arrival struct {
	Header http.Header
	Body   []byte
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{status: http.StatusNoContent, signal: make(chan struct{})}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

// ServeHTTP keeps the request.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.arrived = append(h.arrived, arrival{r.Header.Clone(), body})
	status := h.status
	close(h.signal)
	h.signal = make(chan struct{})
	h.mu.Unlock()
	w.WriteHeader(status)
}

// await waits for at least n arrivals and returns all.
func (h *hook) await(t *testing.T, n int) []arrival {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		h.mu.Lock()
		got, signal := slices.Clone(h.arrived), h.signal
		h.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-signal:
		case <-deadline:
			t.Fatalf("%d deliveries arrived, want %d", len(got), n)
		}
	}
}

// count returns the number of arrivals.
func (h *hook) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.arrived)
}

// document returns the event document of an arrival.
func (a arrival) document(t *testing.T) (doc struct {
	Event string
	Data  map[string]any
}) {
	t.Helper()
	if err := json.Unmarshal(a.Body, &doc); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	return doc
}

// eventually waits until the condition holds. It is for conditions without a signal,
// such as a state that another goroutine writes after an answer was sent.
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
