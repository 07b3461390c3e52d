package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/caddyproc"
	"github.com/userhero/relay/e2e/natsproc"
)

// relayServer is one running Caddy with the relay in it.
type relayServer struct {
	t       *testing.T
	dir     string
	admin   string // host:port
	site    string // host:port
	options relayOptions
	process *caddyproc.Process
	client  *http.Client
	nats    []*natsproc.Server // the queue's servers; none on Badger
}

// onJetStream says that the tests run on queue jetstream: `ENGINE=jetstream make e2e`.
var onJetStream = os.Getenv("ENGINE") == "jetstream"

// takeover is how long a relay may keep the others, and itself when it starts again,
// from its webhooks after it was killed.
var takeover = func() time.Duration {
	if onJetStream {
		return 15 * time.Second
	}
	return 0
}()

// badgerOnly leaves a test out that is about Badger's own files, and says why.
func badgerOnly(t *testing.T, reason string) {
	t.Helper()
	if onJetStream {
		t.Skip("about queue badger: " + reason)
	}
}

// relayOptions are the parts of the Caddyfile that tests vary.
type relayOptions struct {
	// binary is run instead of the Caddy under test: one that runs that, or another Caddy.
	binary string
	// app is written into the userhero global option: webhook and retry lines.
	app string
	// noEgress leaves out the permission to dial 127.0.0.1.
	noEgress bool
	// intake is written into the userhero directive.
	intake string
	// queue is written into the queue's block.
	queue string
	// store is the store's folder; default: one beside Caddy's own.
	store string
	// nats are the servers of queue jetstream. Default: one of the relay's own if all
	// tests run on JetStream.
	nats []*natsproc.Server
	// embedded is the block of the NATS server in the relay, whose Caddy is binary.
	embedded string
	// grace is the grace_period; "none" leaves it out, empty is 5s.
	grace string
	// global is written into the global options, beside userhero.
	global string
	// env is added to the environment.
	env []string
	// site is written into the site, after the userhero directive.
	site string
	// host is where the relay runs. Default: this machine.
	host host
}

// host is another host than this machine, such as a network namespace.
type host interface {
	// Command begins the command line of a program that runs there.
	Command() []string
	// DialContext connects from there.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// startRelay starts a relay with a store of its own, and stops it with the
// test; its log is shown when the test failed.
func startRelay(t *testing.T, o relayOptions) *relayServer {
	t.Helper()
	s := newRelay(t, o)
	s.start()
	return s
}

// newRelay is startRelay for a relay that the caller starts.
func newRelay(t *testing.T, o relayOptions) *relayServer {
	t.Helper()
	s := &relayServer{
		t: t, dir: t.TempDir(), admin: freeAddress(t), site: freeAddress(t), options: o,
	}
	s.client = s.newClient()
	if s.nats = o.nats; s.nats == nil && o.embedded == "" && onJetStream {
		s.nats = startNATS(t, 1, natsproc.Options{})
	}
	t.Cleanup(func() {
		if s.process == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.process.Stop(ctx); err != nil {
			t.Errorf("stopping the relay: %v", err)
		}
		showLog(t, "relay-"+strings.TrimPrefix(s.admin, "127.0.0.1:"), s.process.Log())
		s.client.CloseIdleConnections()
	})
	return s
}

// newClient returns a client with connections of its own, on the relay's host.
func (s *relayServer) newClient() *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	if s.options.host != nil {
		transport.DialContext = s.options.host.DialContext
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// program is the Caddy that is run. On another host it is a script that runs it there.
func (s *relayServer) program() (string, error) {
	path := cmp.Or(s.options.binary, binary(s.t))
	if s.options.host == nil {
		return path, nil
	}
	script := filepath.Join(s.dir, "caddy-there")
	line := strings.Join(append(s.options.host.Command(), path), " ")
	return script, os.WriteFile(script, []byte("#!/bin/sh\nexec "+line+" \"$@\"\n"), 0o700)
}

// startNATS starts NATS servers that end with the test.
func startNATS(t *testing.T, n int, o natsproc.Options) []*natsproc.Server {
	t.Helper()
	if _, err := natsproc.Binary(); err != nil {
		t.Skip(err)
	}
	o.Dir = t.TempDir()
	servers, err := natsproc.Cluster(t.Context(), o, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		natsproc.End(servers)
		for _, s := range servers {
			showLog(t, "nats-server-"+s.Name, s.Log())
		}
	})
	return servers
}

func (s *relayServer) start() {
	s.t.Helper()
	if err := s.launch(); err != nil {
		s.t.Fatal(err)
	}
}

// launch is start for a goroutine of the test.
func (s *relayServer) launch() error {
	program, err := s.program()
	if err != nil {
		return err
	}
	var dial func(ctx context.Context, network, address string) (net.Conn, error)
	if s.options.host != nil {
		dial = s.options.host.DialContext
	}
	p, err := caddyproc.Start(s.t.Context(), caddyproc.Options{
		Site: s.site, Dial: dial,
		Binary: program, Dir: s.dir, Caddyfile: s.caddyfile(s.options), Client: s.client,
		Ready: "http://" + s.admin + "/userhero/healthz", Env: s.options.env, Within: 40 * time.Second,
	})
	if err == nil {
		s.process = p
	}
	return err
}

// reload has the process take another Caddyfile over. Caddy closes the connections that it
// has, each at a time of its own, so that the client makes new ones.
func (s *relayServer) reload(caddyfile string) error {
	err := s.process.Reload(s.t.Context(), caddyfile, s.admin)
	s.client.CloseIdleConnections()
	return err
}

// killAndRestart ends the process with SIGKILL and starts it again on the same
// store and ports.
func (s *relayServer) killAndRestart() {
	s.t.Helper()
	s.process.Kill()
	s.start()
}

// abandon ends the process with SIGKILL. That it does not stop in order is no failure of the
// test.
func (s *relayServer) abandon() {
	s.process.Kill()
	s.process = nil
}

// store is the folder that holds what the queue keeps.
func (s *relayServer) store() string {
	if s.nats != nil {
		return s.nats[0].Dir
	}
	return cmp.Or(s.options.store, filepath.Join(s.dir, "store"))
}

func (s *relayServer) caddyfile(o relayOptions) string {
	engine := "badger {\n\t\t\tpath " + s.store()
	switch {
	case o.embedded != "":
		engine = "jetstream {\n\t\t\tembedded {\n" + o.embedded + "\n\t\t\t}"
	case s.nats != nil:
		engine = "jetstream {\n\t\t\tservers " + strings.Join(natsproc.URLs(s.nats), " ")
	}
	egress := "egress {\n\t\t\tallow 127.0.0.1\n\t\t}"
	if o.noEgress {
		egress = ""
	}
	grace := "grace_period " + cmp.Or(o.grace, "5s")
	if o.grace == "none" {
		grace = ""
	}
	return fmt.Sprintf(`{
	admin %s
	default_bind 127.0.0.1
	auto_https off
	persist_config off
	%s
	%s
	userhero {
		queue %s
			%s
		}
		%s
		%s
	}
}
http://%s {
	@feedback path /feedback /feedback/*
	userhero @feedback {
		project proj_e2e
		%s
	}
	%s
}
`, s.admin, grace, o.global, engine, o.queue, egress, o.app, s.site, o.intake, o.site)
}

// submit posts one JSON body to the intake.
func (s *relayServer) submit(body []byte) (*http.Response, []byte, error) {
	return s.post("application/json", body)
}

func (s *relayServer) post(contentType string, body []byte) (*http.Response, []byte, error) {
	response, err := s.client.Post("http://"+s.site+"/feedback", contentType, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	return response, answer, err
}

// mustSubmit posts a message that must be accepted, and returns its id.
func (s *relayServer) mustSubmit(message string) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]string{"message": message})
	if err != nil {
		s.t.Fatal(err)
	}
	response, answer, err := s.submit(body)
	if err != nil {
		s.t.Fatalf("submitting: %v", err)
	}
	if response.StatusCode != http.StatusAccepted {
		s.t.Fatalf("submitting: %s: %s", response.Status, answer)
	}
	var accepted struct{ ID string }
	if err := json.Unmarshal(answer, &accepted); err != nil || accepted.ID == "" {
		s.t.Fatalf("the answer %q holds no id: %v", answer, err)
	}
	return accepted.ID
}

// webhookView is a webhook as the admin API shows it.
type webhookView struct {
	Name, State, Reason string
	Counts              struct{ Pending, Retrying, Held, Failed, Delivered int }
}

// deliveryView is a delivery as the admin API shows it.
type deliveryView struct {
	ID, State    string
	Webhook      string
	FeedbackID   string `json:"feedback_id"`
	AttemptsMade int    `json:"attempts_made"`
	// NextAttemptAt is zero if no attempt is to come.
	NextAttemptAt time.Time `json:"next_attempt_at"`
	Attempts      []struct {
		Number     int
		Status     int
		Error      string
		ErrorClass string `json:"error_class"`
	}
}

func (s *relayServer) webhook(name string) webhookView {
	s.t.Helper()
	var w webhookView
	s.get("/webhooks/"+name, &w)
	return w
}

// deliveries returns every delivery of a webhook, following the cursors.
func (s *relayServer) deliveries(webhook string) []deliveryView {
	s.t.Helper()
	var all []deliveryView
	cursor := ""
	for {
		var page struct {
			Items []deliveryView
			Next  string
		}
		s.get("/deliveries?limit=500&webhook="+webhook+"&cursor="+url.QueryEscape(cursor), &page)
		all = append(all, page.Items...)
		if page.Next == "" {
			return all
		}
		cursor = page.Next
	}
}

// get reads one resource of the admin API.
func (s *relayServer) get(path string, into any) {
	s.t.Helper()
	response, err := s.client.Get("http://" + s.admin + "/userhero" + path)
	if err != nil {
		s.t.Fatalf("asking the admin API: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("reading %s: %v", path, err)
	}
	if response.StatusCode != http.StatusOK {
		s.t.Fatalf("GET %s: %s: %s", path, response.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		s.t.Fatalf("GET %s: %v in %s", path, err, body)
	}
}

// eventually asks a condition that only another process can signal, until it
// holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within %s: %s", within, what)
		case <-tick.C:
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := caddyproc.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// binary is the Caddy under test.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RELAY_CADDY")
	if path == "" {
		path = filepath.Join("..", "caddy")
	}
	path = absolute(t, path)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no caddy to test (%v): run `./xcaddy.sh build`, or `make e2e`", err)
	}
	return path
}

// shown is how many bytes of each log are shown: what CI keeps of the output has room for
// those of a cluster, and for what failed.
const shown = 2000

// showLog shows the end of what a process has logged, if the test failed, without the lines
// that only inform. The whole log is among the test's artifacts, which make e2e keeps.
func showLog(t *testing.T, process, log string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	file, err := os.CreateTemp(t.ArtifactDir(), process+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(log)
	if err = errors.Join(err, file.Close()); err != nil {
		t.Error(err)
	}
	var lines strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"level":"info"`) && !strings.Contains(line, " [INF] ") {
			lines.WriteString(line)
		}
	}
	end := lines.String()
	t.Logf("the end of %s, without what only informs:\n%s", file.Name(), end[max(0, len(end)-shown):])
}
