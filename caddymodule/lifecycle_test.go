package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue"
)

const directive = "userhero /feedback*"

func webhookTo(h *hook) string {
	return fmt.Sprintf("webhook crm {\nurl %s\nsecret s3cret\n}\n", h.URL)
}

func TestReloadsUnderLoadLoseNothing(t *testing.T) {
	const reloads, clients = 20, 8
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)

	var sent atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for c := range clients {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				submitUntilAnswered(t, s, fmt.Sprintf("client-%d-%d", c, n))
				sent.Add(1)
			}
		})
	}
	for i := range reloads {
		s.load(webhookTo(h)+fmt.Sprintf("timeout %ds\n", 10+i), directive)
	}
	close(stop)
	load.Wait()

	arrived := h.await(t, int(sent.Load()))
	deliveries, feedback := make(map[string]int), make(map[string]int)
	for _, a := range arrived {
		deliveries[a.Header.Get("X-UserHero-Delivery")]++
		feedback[a.document(t).Data["id"].(string)]++
	}
	for id, n := range deliveries {
		if n != 1 {
			t.Errorf("delivery %s came %d times", id, n)
		}
	}
	if len(feedback) != int(sent.Load()) {
		t.Errorf("%d submissions were accepted, %d arrived", sent.Load(), len(feedback))
	}
	if strings.Contains(s.log(), "panic") {
		t.Error("the log tells of a panic")
	}
}

// TestReloadsUnderLoadKeepAnswersAsTheyAre reloads with everything that edits
// headers, and overwrites a geoip database meanwhile. Nothing crashes, and all answers
// equal the first one. RELAY_RELOADS is the number of reloads.
func TestReloadsUnderLoadKeepAnswersAsTheyAre(t *testing.T) {
	reloads := 15
	if n, err := strconv.Atoi(os.Getenv("RELAY_RELOADS")); err == nil {
		reloads = n
	}
	const clients = 4
	s, h := newSite(t), newHook(t)
	database := filepath.Join(s.dir, "country.mmdb")
	writeOver(t, database, countryDatabase(t, "CH"))
	block := fmt.Sprintf(`
	encode
	templates {
		mime text/plain
	}
	header +Vary X-Added
	header -X-Nothing
	header ?X-Default yes
	header >X-Deferred yes
	header >Content-Type application/json "application/json; charset=utf-8"
	header >Cache-Control no-store "no-store, private"
	header >Access-Control-Allow-Origin https https
	@feedback path /feedback /feedback/*
	userhero @feedback {
		allow_origin https://app.example.com
		geoip %s
	}
	handle_path /relay/* {
		userhero_console {
			no_auth
		}
	}
	`, database)
	s.load(webhookTo(h), block)
	submit := func(key string) (answer, error) {
		return request(http.MethodPost, "http://"+s.address+"/feedback", `{"message":"under load"}`,
			"Idempotency-Key", key, "Origin", "https://app.example.com", "Content-Type", "application/json", "Accept-Encoding", "gzip")
	}
	fields := []string{"Content-Type", "Cache-Control", "Vary", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "X-Default", "X-Deferred"}
	first, err := submit("first")
	if err != nil || first.Status != http.StatusAccepted || first.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("the first answer: %v %+v", err, first)
	}

	var sent atomic.Int64
	sent.Add(1)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for c := range clients {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				a, err := submit(fmt.Sprintf("client-%d-%d", c, n))
				if err != nil {
					n-- // use the same key again, see submitUntilAnswered
					continue
				}
				sent.Add(1)
				if a.Status != http.StatusAccepted {
					t.Errorf("a submission during reloads: %d %s", a.Status, a.Body)
				}
				for _, name := range fields {
					if !slices.Equal(a.Header[name], first.Header[name]) {
						t.Errorf("%s was %q, is %q", name, first.Header[name], a.Header[name])
						return
					}
				}
			}
		})
	}
	for i := range reloads {
		writeOver(t, database, nil) // like programs that update the file in place
		writeOver(t, database, countryDatabase(t, []string{"CH", "AT"}[i%2]))
		s.load(webhookTo(h)+fmt.Sprintf("timeout %ds\n", 10+i), block)
		a, err := request(http.MethodGet, "http://"+s.address+"/relay/api/status", "")
		for err != nil && t.Context().Err() == nil { // the connection belonged to the old server
			a, err = request(http.MethodGet, "http://"+s.address+"/relay/api/status", "")
		}
		if a.Status != http.StatusOK || a.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("the API after reload %d: %d %s", i, a.Status, a.Header.Get("Content-Type"))
		}
	}
	close(stop)
	load.Wait()
	h.await(t, int(sent.Load()))
	if strings.Contains(s.log(), "panic") {
		t.Error("the log tells of a panic")
	}
}

// submitUntilAnswered repeats a submission until it is answered. A connection may
// break during a reload: the kernel resets connections that the old listener had not
// accepted, and an idle connection may be closed when a request is sent on it. The
// answer must be 202.
func submitUntilAnswered(t *testing.T, s *site, key string) {
	t.Helper()
	header := append([]string{"Idempotency-Key", key}, jsonBody...)
	for range 100 {
		a, err := request(http.MethodPost, "http://"+s.address+"/feedback", `{"message":"under load"}`, header...)
		if err != nil {
			continue
		}
		if a.Status != http.StatusAccepted {
			t.Errorf("a submission during reloads: %d %s", a.Status, a.Body)
		}
		return
	}
	t.Error("a submission found no connection in 100 tries")
}

func TestCountersGoOnOverReloads(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)
	for i := range 3 {
		submitUntilAnswered(t, s, fmt.Sprintf("counted-%d", i))
		h.await(t, i+1)
		s.load(webhookTo(h)+fmt.Sprintf("timeout %ds\n", 10+i), directive)
	}
	a, err := request(http.MethodGet, "http://"+s.admin+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	if want := `userhero_events_accepted_total{type="feedback.created"} 3`; !strings.Contains(a.Body, want) {
		t.Errorf("no %s in:\n%s", want, grep(a.Body, "userhero_"))
	}
}

// grep returns the lines that contain s.
func grep(text, s string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, s) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestValidateTouchesNoDisk(t *testing.T) {
	s, h := newSite(t), newHook(t)
	config := s.config(webhookTo(h), directive)
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.store()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("validating has made the store's folder (%v)", err)
	}
}

func TestRedactionIsShorterThanRetention(t *testing.T) {
	s, h := newSite(t), newHook(t)
	for options, want := range map[string]string{
		"redact_after 40d\n":                "redact_after is 40d; it must be shorter than the retention, which is 30d",
		"retention 7d\nredact_after 7d\n":   "shorter than the retention",
		"retention 90d\nredact_after 89d\n": "",
	} {
		var parsed caddy.Config
		if err := caddy.StrictUnmarshalJSON(s.config(webhookTo(h)+options, directive), &parsed); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&parsed); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", options, err, want)
		}
	}
}

func TestValidateBesideRunningServer(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(s.config(webhookTo(h), directive), &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Fatal(err)
	}
	if a := s.post(`{"message":"still here"}`); a.Status != http.StatusAccepted {
		t.Errorf("after validating: %d %s", a.Status, a.Body)
	}
	h.await(t, 1)
}

func TestFailedReloadRollsBack(t *testing.T) {
	s, before, after := newSite(t), newHook(t), newHook(t)
	s.load(webhookTo(before), directive)

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	broken := s.config(webhookTo(after), directive+"\n}\nhttp://:"+port+" {\nrespond ok\n")
	if err := caddy.Load(broken, true); err == nil {
		t.Fatal("a configuration with a taken port was loaded")
	}

	if a := s.post(`{"message":"after the failed reload"}`); a.Status != http.StatusAccepted {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	before.await(t, 1)
	if n := after.count(); n != 0 {
		t.Errorf("the webhook of the failed configuration got %d deliveries", n)
	}
	if a := s.api("/healthz"); a.Status != http.StatusOK {
		t.Errorf("healthz: %d %s", a.Status, a.Body)
	}
}

func TestChangedPathOpensOtherStore(t *testing.T) {
	s, h := newSite(t), newHook(t)
	in := func(folder string) string {
		return webhookTo(h) + fmt.Sprintf("queue badger {\npath %s\n}\n", filepath.Join(s.dir, folder))
	}
	events := func() int {
		return len(s.api("/events").json(t)["items"].([]any))
	}
	s.load(in("one"), directive)
	s.post(`{"message":"in one"}`)
	h.await(t, 1)
	if n := events(); n != 1 {
		t.Fatalf("%d events in the first store, want 1", n)
	}
	s.load(in("two"), directive)
	if n := events(); n != 0 {
		t.Fatalf("%d events in the second store, want none", n)
	}
	s.post(`{"message":"in two"}`)
	h.await(t, 2)
	s.load(in("one"), directive)
	if n := events(); n != 1 {
		t.Fatalf("%d events in the first store when it is back, want 1", n)
	}
}

// TestReloadDoesNotWaitForAttempts: a reload with another store ends the old engine,
// but does not wait for its attempts in flight. These end later and are counted.
func TestReloadDoesNotWaitForAttempts(t *testing.T) {
	s := newSite(t)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	t.Cleanup(h.Close)
	in := func(folder string) string {
		return fmt.Sprintf("webhook crm {\nurl %s\n}\nqueue badger {\npath %s\n}\n", h.URL, filepath.Join(s.dir, folder))
	}
	s.load(in("one"), directive)
	s.post(`{"message":"in flight"}`)
	<-arrived
	began := time.Now()
	s.load(in("one")+"timeout 20s\n", directive)
	s.load(in("two"), directive)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("two reloads took %s", took)
	}
	time.AfterFunc(5*time.Second-time.Since(began), func() { close(release) })
	s.load(in("one"), directive) // waits until the engine of this store has ended
	eventually(t, func() bool {
		counts, _ := s.api("/webhooks/crm").json(t)["counts"].(map[string]any)
		return counts["delivered"] == 1.0
	})
	if n := len(arrived); n != 0 {
		t.Errorf("%d more requests", n)
	}
	if want := `"attempts_ended":1,"attempts_put_back":0`; !strings.Contains(s.log(), want) {
		t.Errorf("the log does not say %s", want)
	}
}

// TestLimitsTakeEffectOnReload: retention and max_disk change with a reload, and
// change back if the old configuration is loaded again.
func TestLimitsTakeEffectOnReload(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), directive)
	for range 2 {
		if a := s.post(`{"message":"goes on"}`); a.Status != http.StatusAccepted {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		s.load(webhookTo(h)+"max_disk 1KiB\n", directive)
		if a := s.post(`{"message":"too much"}`); a.Status != http.StatusServiceUnavailable {
			t.Fatalf("at the new max_disk: %d %s", a.Status, a.Body)
		}
		s.load(webhookTo(h), directive)
	}
	if line := grep(s.log(), "restart Caddy to apply"); line != "" {
		t.Errorf("logged: %s", line)
	}
}

func TestWebhookThatLeftKeepsItsDeliveries(t *testing.T) {
	s, h := newSite(t), newHook(t)
	h.mu.Lock()
	h.status = http.StatusInternalServerError
	h.mu.Unlock()
	withRetry := webhookTo(h) + "retry 200ms 200ms 200ms 200ms 200ms 200ms 200ms 200ms\n"
	s.load(withRetry, directive)
	s.post(`{"message":"waits for its webhook"}`)
	h.await(t, 1)
	s.load("", directive)
	h.mu.Lock()
	h.status = http.StatusNoContent
	before := len(h.arrived)
	h.mu.Unlock()
	s.load(withRetry, directive)
	arrived := h.await(t, before+1)
	first, last := arrived[0].Header.Get("X-UserHero-Delivery"), arrived[len(arrived)-1].Header.Get("X-UserHero-Delivery")
	if first != last {
		t.Errorf("delivery %s became %s", first, last)
	}
}

// provisioning lets only one test at a time make a context, because Caddy then sets
// defaults of the whole process.
var provisioning sync.Mutex

// caddyContext returns the context of an empty configuration.
func caddyContext(t testing.TB) (caddy.Context, context.CancelFunc) {
	t.Helper()
	provisioning.Lock()
	defer provisioning.Unlock()
	empty, err := caddy.ProvisionContext(nil)
	if err != nil {
		t.Fatal(err)
	}
	return caddy.NewContext(empty)
}

// provisionedApp returns an app after Provision. Caddy does not run.
func provisionedApp(t testing.TB) *App {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store") // t removes it after the engine has ended
	ctx, cancel := caddyContext(t)
	app := &App{QueueRaw: fmt.Appendf(nil, `{"engine":"badger","path":%q}`, store)}
	if err := app.Provision(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	e := app.engine
	t.Cleanup(func() { cancel(); <-e.ended })
	return app
}

func entry(t *testing.T) queue.Entry {
	t.Helper()
	return queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: event.NewID(time.Now())}, Body: []byte(`{"event":"feedback.created"}`)}
}

func TestRequestBeforeStartIsAccepted(t *testing.T) {
	t.Parallel()
	app := provisionedApp(t)
	if _, err := app.Accept(t.Context(), entry(t), nil); err != nil {
		t.Errorf("before Start: %v", err)
	}
	if err := app.Start(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(app.Stop(), app.Cleanup()); err != nil {
		t.Error(err)
	}
}

// TestRequestWaitsForALargeStoreForSomeTime: opening a store may take longer than a client
// waits for its answer.
func TestRequestWaitsForALargeStoreForSomeTime(t *testing.T) {
	t.Parallel()
	app := provisionedApp(t)
	began, release := make(chan struct{}), make(chan struct{})
	go app.attaching.Do(func() { close(began); <-release })
	<-began
	if err := app.attachBy(time.Now().Add(50 * time.Millisecond)); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("while the store is being opened: %v, want %v", err, queue.ErrUnavailable)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	if err := app.attachBy(time.Now().Add(time.Minute)); err != nil {
		t.Errorf("when the store is open: %v", err)
	}
	if err := app.Cleanup(); err != nil {
		t.Error(err)
	}
}

func TestRequestAfterCleanupGetsErrClosed(t *testing.T) {
	t.Parallel()
	app := provisionedApp(t)
	if err := errors.Join(app.Start(), app.Stop(), app.Cleanup()); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Accept(t.Context(), entry(t), nil); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("after Cleanup: %v, want %v", err, queue.ErrClosed)
	}
	look := func(s intake.Store) error {
		_, err := s.Latest(t.Context(), queue.FeedbackID{ID: "fb_1"})
		return err
	}
	if err := app.WithStore(look); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("after Cleanup: %v, want %v", err, queue.ErrClosed)
	}
}

func TestCleanupWithoutStartOpensNothing(t *testing.T) {
	t.Parallel()
	app := provisionedApp(t)
	if err := app.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Accept(t.Context(), entry(t), nil); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("after Cleanup: %v, want %v", err, queue.ErrClosed)
	}
	if _, err := os.Stat(app.engine.key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the store's folder exists (%v)", err)
	}
}

func TestRequestsDuringShutdownAreAnswered(t *testing.T) {
	t.Parallel()
	app := provisionedApp(t)
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	started := make(chan struct{}, 8)
	for range cap(started) {
		clients.Go(func() {
			for first := true; ; first = false {
				_, err := app.Accept(t.Context(), entry(t), nil)
				if first {
					started <- struct{}{}
				}
				if errors.Is(err, queue.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("during shutdown: %v", err)
					return
				}
			}
		})
	}
	for range cap(started) {
		<-started
	}
	if err := errors.Join(app.Stop(), app.Cleanup()); err != nil {
		t.Error(err)
	}
	clients.Wait()
}
