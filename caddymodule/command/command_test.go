package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // reads a Caddyfile
	"github.com/spf13/cobra"

	"github.com/userhero/relay/e2e/caddyproc"
	"github.com/userhero/relay/relay/signature"
)

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

// cannedAdmin answers on the admin endpoint's paths with what a test wrote
// down, and keeps what was asked.
type cannedAdmin struct {
	*httptest.Server
	answers map[string]string // by method and request URI

	mu    sync.Mutex // guards asked
	asked []string   // method, URI and body
}

func newCannedAdmin(t *testing.T, answers map[string]string) *cannedAdmin {
	t.Helper()
	a := &cannedAdmin{answers: answers}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

// ServeHTTP answers; an answer that begins with a status in three digits has it.
func (a *cannedAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	key := r.Method + " " + strings.TrimPrefix(r.RequestURI, "/userhero")
	a.mu.Lock()
	a.asked = append(a.asked, strings.TrimSpace(key+" "+string(body)))
	a.mu.Unlock()
	answer, ok := a.answers[key]
	var status int
	switch n, _ := fmt.Sscanf(answer, "%3d ", &status); {
	case err != nil || !ok || r.Header.Get("Origin") != a.URL:
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusNotFound)
		return
	case n == 1:
		answer = answer[4:]
		w.Header().Set("Content-Type", "application/problem+json")
	default:
		status = http.StatusOK
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer+"\n")
}

func (a *cannedAdmin) address() string { return a.Listener.Addr().String() }

// ran is what came of a command.
type ran struct {
	out, err string
	failed   error
}

// command runs `caddy userhero` in this process.
func command(ctx context.Context, in string, args ...string) ran {
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	userhero := &cobra.Command{Use: "userhero"}
	addCommands(userhero)
	root.AddCommand(userhero)
	var out, errs bytes.Buffer
	root.SetIn(strings.NewReader(in))
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return ran{out.String(), errs.String(), err}
}

// run runs it against the canned answers.
func (a *cannedAdmin) run(t *testing.T, args ...string) ran {
	t.Helper()
	return command(t.Context(), "", append([]string{"userhero", "--address", a.address()}, args...)...)
}

const (
	cannedWebhooks = `{"items":[` +
		`{"name":"crm","url":"https://crm.example.com/hook","events":["feedback.created"],"source":"caddyfile","state":"active","last_success":"2026-01-07T15:30:00.5Z","counts":{"pending":1,"retrying":2,"held":0,"failed":3,"delivered":40}},` +
		`{"name":"erp","url":"https://erp.example.com","events":[],"source":"api","state":"failing","failing_since":"2026-01-07T10:00:00Z","reason":"answered 500\u001b[2J\nagain","counts":{"pending":0,"retrying":0,"held":0,"failed":0,"delivered":0}}]}`
	cannedDelivery = `{"id":"dlv_1_1","event_id":"evt_1","feedback_id":"fb_1","project_id":"proj_xyz","type":"feedback.created","webhook":"crm","state":"retrying","attempts_made":1,"created_at":"2026-01-07T15:30:00.123Z","next_attempt_at":"2026-01-07T15:31:00Z",` +
		`"attempts":[{"number":1,"at":"2026-01-07T15:30:00.2Z","duration_ms":12.345,"status":418,"error":"answered 418 I'm a teapot","request_headers":{"X-Userhero-Attempt":"1"},"response_headers":{},"response_body":"short\nand stout","trace_id":"","next_attempt_at":"2026-01-07T15:31:00Z"}]}`
	cannedEvent = `{"id":"evt_1","type":"feedback.created","feedback_id":"fb_1","project_id":"proj_xyz","created_at":"2026-01-07T15:30:00.123Z","size":59,"message":"<b>hi</b>","rating":2,"trace_id":"0af7651916cd43dd8448eb211c80319c"`
	// The API escapes what HTML would read; the document is without.
	cannedWhole = cannedEvent + `,"body":{"event":"feedback.created","data":{"message":"\u003cb\u003ehi\u003c/b\u003e"}},"deliveries":[` + cannedDelivery + `]}`
	cannedTest  = `{"ok":%t,"status":418,"duration_ms":12.345,"error":"%s","response_body":"line 1\r\nline\u0007 2\n","request_headers":{"X-UserHero-Test":"true","Content-Type":"application/json"}}`
	cannedDown  = `503 {"status":503,"title":"Service Unavailable","detail":"The relay is starting or stopping. Try again."}`
	cannedNone  = `404 {"status":404,"title":"Not Found","detail":"There is no such record, or it has expired."}`
	cannedState = `{"version":"1.2.3","started_at":"2026-01-07T15:30:00Z","uptime_seconds":3725.4,"healthy":%t,"reason":"%s","events":12345,"deliveries":{"pending":1,"retrying":2,"held":3,"failed":4,"delivered":5000},"webhooks":{"active":1,"failing":1,"disabled":0},"oldest_due_age_seconds":2.5,"commit_latency_ms":1.25,"disk_bytes":1048576,"disk_free_bytes":5368709120}`
)

func canned() map[string]string {
	return map[string]string{
		"GET /status":                                              fmt.Sprintf(cannedState, true, ""),
		"GET /webhooks":                                            cannedWebhooks,
		"GET /events?limit=50":                                     `{"items":[` + cannedEvent + `}],"next":"c2"}`,
		"GET /events?cursor=c2&limit=50":                           `{"items":[],"next":"c3"}`,
		"GET /events?cursor=c3&limit=50":                           `{"items":[]}`,
		"GET /events/evt_1":                                        cannedWhole,
		"GET /deliveries/dlv_1_1":                                  cannedDelivery,
		"GET /deliveries?state=failed":                             `{"items":[` + cannedDelivery + `]}`,
		"POST /deliveries/dlv_1_1/redeliver":                       cannedDelivery,
		"POST /webhooks/crm/test":                                  fmt.Sprintf(cannedTest, true, ""),
		"POST /webhooks/erp/test":                                  fmt.Sprintf(cannedTest, false, "answered 418"),
		"POST /webhooks/crm/redeliver":                             `{"count":12}`,
		"POST /webhooks/crm/enable":                                `{"name":"crm","state":"active","counts":{"pending":1}}`,
		"POST /webhooks/crm/disable":                               `{"name":"crm","state":"disabled","reason":"disabled by ada","counts":{"held":2}}`,
		"GET /events?feedback_id=fb_1&limit=1000":                  `{"items":[],"next":"c1"}`,
		"GET /events?cursor=c1&feedback_id=fb_1&limit=1000":        `{"items":[` + cannedEvent + `}]}`,
		"GET /events?feedback_id=evt_own&limit=1000":               `{"items":[` + cannedEvent + `}]}`,
		"GET /events?feedback_id=fb_2&limit=1000&project=proj_xyz": `{"items":[` + cannedEvent + `}]}`,
		"GET /events/evt_own":                                      cannedNone,
		"GET /events/evt_none":                                     cannedNone,
		"GET /events?feedback_id=evt_none&limit=1000":              `{"items":[]}`,
		"POST /webhooks/none/enable":                               `404 {"status":404,"title":"Not Found","detail":"There is no webhook named \"none\"."}`,
		"GET /deliveries?limit=3&since=2026-01-07T00%3A00%3A00Z&state=retrying&webhook=crm": `{"items":[` + cannedDelivery + `]}`,
	}
}

// TestTablesReadAsWrittenDown compares what people see with files in testdata.
// UPDATE_GOLDEN=1 writes them anew.
func TestTablesReadAsWrittenDown(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"status":         {"status"},
		"webhooks":       {"webhooks"},
		"events":         {"events"},
		"events_none":    {"events", "--cursor", "c2"},
		"event":          {"events", "evt_1"},
		"events_of":      {"events", "fb_1"},
		"events_of_own":  {"events", "evt_own"},
		"events_of_one":  {"events", "fb_2", "--project", "proj_xyz"},
		"deliveries":     {"deliveries", "--webhook", "crm", "--state", "retrying", "--since", "2026-01-07T00:00:00Z", "--limit", "3"},
		"delivery":       {"deliveries", "dlv_1_1"},
		"deliveries_of":  {"deliveries", "fb_1"},
		"test":           {"test", "crm"},
		"enable":         {"enable", "crm"},
		"disable":        {"disable", "crm"},
		"redeliver":      {"redeliver", "dlv_1_1"},
		"redeliver_all":  {"redeliver", "--webhook", "crm"},
		"redeliver_some": {"redeliver", "--webhook", "crm", "--state", "missed", "--since", "2026-01-07T15:30:00+01:00", "--dry-run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newCannedAdmin(t, canned()).run(t, args...)
			if r.failed != nil {
				t.Fatal(r.failed)
			}
			got := r.out
			if r.err != "" {
				got += "--- standard error\n" + r.err
			}
			golden := filepath.Join("testdata", name+".txt")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestJSONIsTheAnswerAsItCame(t *testing.T) {
	t.Parallel()
	for key, args := range map[string][]string{
		"GET /status":                        {"status"},
		"GET /webhooks":                      {"webhooks"},
		"GET /events?limit=50":               {"events"},
		"GET /events?cursor=c2&limit=50":     {"events", "--cursor", "c2"},
		"GET /events/evt_1":                  {"events", "evt_1"},
		"GET /deliveries/dlv_1_1":            {"deliveries", "dlv_1_1"},
		"POST /webhooks/crm/test":            {"test", "crm"},
		"POST /webhooks/crm/disable":         {"disable", "crm"},
		"POST /webhooks/crm/redeliver":       {"redeliver", "--webhook", "crm"},
		"POST /deliveries/dlv_1_1/redeliver": {"redeliver", "dlv_1_1"},
	} {
		r := newCannedAdmin(t, canned()).run(t, append(args, "--json")...)
		if want := canned()[key] + "\n"; r.failed != nil || r.out != want || r.err != "" {
			t.Errorf("%s: %v\n%s%s\nwant %s", key, r.failed, r.out, r.err, want)
		}
	}
}

func TestRedeliverSaysWhatAndWhen(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`POST /webhooks/crm/redeliver {}`: {"--webhook", "crm"},
		`POST /webhooks/crm/redeliver {"state":"missed","since":"2026-01-07T14:30:00Z","until":"2026-01-08T00:00:00Z","dry_run":true}`: {
			"--webhook", "crm", "--state", "missed", "--since", "2026-01-07T15:30:00+01:00", "--until", "2026-01-08T00:00:00Z", "--dry-run",
		},
		`POST /webhooks/crm/redeliver {"state":"waiting"}`:                {"--webhook", "crm", "--waiting"},
		`POST /webhooks/crm/redeliver {"state":"waiting","dry_run":true}`: {"--webhook", "crm", "--state", "waiting", "--dry-run"},
		`POST /deliveries/dlv_1_1/redeliver`:                              {"dlv_1_1"},
	} {
		a := newCannedAdmin(t, canned())
		if r := a.run(t, append([]string{"redeliver"}, args...)...); r.failed != nil || len(a.asked) != 1 || a.asked[0] != want {
			t.Errorf("%v: asked %q, want %s", r.failed, a.asked, want)
		}
	}
}

func TestCommandsFailWithWhatToDo(t *testing.T) {
	t.Parallel()
	nobody := freeAddress(t)
	down := canned()
	down["GET /status"] = fmt.Sprintf(cannedState, false, "the disk is full")
	down["GET /webhooks"] = cannedDown
	for _, c := range []struct {
		answers map[string]string
		args    []string
		want    string
	}{
		{canned(), []string{"--address", nobody, "status"}, "nothing listens at Caddy's admin address " + nobody + ": start Caddy"},
		{canned(), []string{"--address", "unix//nowhere/admin.sock", "status"}, "nothing listens at Caddy's admin address unix//nowhere/admin.sock"},
		{canned(), []string{"--address", "localhost:1-9", "status"}, "write for example localhost:2019"},
		{canned(), []string{"--address", "", "--config", "none.json", "status"}, "none.json"},
		{nil, []string{"status"}, "not a Caddy with UserHero Relay"},
		{map[string]string{"GET /status": "[]"}, []string{"status"}, "--json"},
		{down, []string{"status"}, "the relay is not healthy: the disk is full"},
		{down, []string{"status", "--json"}, "the relay is not healthy"},
		{down, []string{"webhooks"}, "starting or stopping"},
		{map[string]string{"GET /healthz": `503 {"status":503,"detail":"the disk is full"}`}, []string{"health"}, "the disk is full"},
		{map[string]string{"GET /healthz": `503 {"status":503,"detail":"the disk is full"}`}, []string{"health", "sleepy"}, "sleepy"},
		{canned(), []string{"enable", "none"}, "webhook \"none\": There is no webhook named \"none\". List them with `caddy userhero webhooks`"},
		{canned(), []string{"test", "erp"}, "the test failed: answered 418"},
		{canned(), []string{"test"}, "the name of one webhook"},
		{canned(), []string{"events", "--since", "yesterday"}, `--since: "yesterday" is not a time`},
		{canned(), []string{"redeliver"}, "give one delivery's id"},
		{canned(), []string{"redeliver", "dlv_1_1", "--webhook", "crm"}, "give one delivery's id"},
		{canned(), []string{"events", "evt_none"}, "no event and no feedback \"evt_none\""},
		{canned(), []string{"redeliver", "dlv_1_1", "--waiting"}, "--waiting goes with --webhook"},
		{canned(), []string{"redeliver", "--webhook", "crm", "--waiting", "--state", "failed"}, "[state waiting]"},
		{canned(), []string{"--address", "http://" + nobody, "status"}, "nothing listens at Caddy's admin address http://" + nobody},
		{canned(), []string{"--address", "ftp://localhost", "status"}, "write for example http://localhost:2019"},
		{canned(), []string{"redeliver", "dlv_1_1", "--dry-run"}, "--dry-run goes with --webhook"},
		{canned(), []string{"listen"}, "--to"},
		{canned(), []string{"listen", "--to", "localhost:3000"}, "http://localhost:3000/hooks"},
		{canned(), []string{"stats"}, `unknown command "stats"`},
	} {
		r := newCannedAdmin(t, c.answers).run(t, c.args...)
		if r.failed == nil || !strings.Contains(r.err, c.want) {
			t.Errorf("%v: %v, %q, want %q", c.args, r.failed, r.err, c.want)
		}
	}
}

func TestAdminAddressIsFoundAsCaddyFindsIt(t *testing.T) {
	t.Parallel()
	a := newCannedAdmin(t, canned())
	config := filepath.Join(t.TempDir(), "caddy.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"admin":{"listen":%q}}`, a.address()), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := command(t.Context(), "", "userhero", "enable", "crm", "--config", config); r.failed != nil {
		t.Error(r.failed)
	}
}

// TestAdminAddressMayBeAURL, also that of a proxy before the admin endpoint.
func TestAdminAddressMayBeAURL(t *testing.T) {
	t.Parallel()
	a := newCannedAdmin(t, canned())
	proxy := http.StripPrefix("/behind/a/proxy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RequestURI = strings.TrimPrefix(r.RequestURI, "/behind/a/proxy")
		r.Header.Set("Origin", a.URL)
		a.ServeHTTP(w, r)
	}))
	plain, encrypted := httptest.NewServer(proxy), httptest.NewTLSServer(proxy)
	t.Cleanup(plain.Close)
	t.Cleanup(encrypted.Close)
	for _, address := range []string{a.URL, a.URL + "/", plain.URL + "/behind/a/proxy/"} {
		if r := command(t.Context(), "", "userhero", "webhooks", "--address", address); r.failed != nil || !strings.Contains(r.out, "crm") {
			t.Errorf("%s: %v %s", address, r.failed, r.err)
		}
	}
	r := command(t.Context(), "", "userhero", "webhooks", "--address", encrypted.URL)
	if r.failed == nil || !strings.Contains(r.err, "certificate") {
		t.Errorf("a certificate that nobody trusts: %v %s", r.failed, r.err)
	}
}

func TestPortsInUseAreNamed(t *testing.T) {
	t.Parallel()
	taken := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(taken.Close)
	admin, site := freeAddress(t), taken.Listener.Addr().String()
	config := filepath.Join(t.TempDir(), "Caddyfile")
	write := func(admin, site string) {
		t.Helper()
		if err := os.WriteFile(config, fmt.Appendf(nil, "{\nadmin %s\n}\nhttp://%s {\nrespond ok\n}\n", admin, site), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(site)
	if err != nil {
		t.Fatal(err)
	}
	for _, addresses := range [][2]string{{admin, "localhost:" + port}, {site, freeAddress(t)}, {"off", "localhost:" + port}} {
		write(addresses[0], addresses[1])
		if r := command(t.Context(), "", "userhero", "ports", "--config", config); r.failed == nil || !strings.Contains(r.err, ":"+port) || strings.Contains(r.err, admin) {
			t.Errorf("%v: %v %q", addresses, r.failed, r.err)
		}
	}
	write(admin, freeAddress(t))
	if r := command(t.Context(), "", "userhero", "ports", "--config", config); r.failed != nil {
		t.Errorf("free addresses: %v %q", r.failed, r.err)
	}
}

// TestCommandsAskNoOtherCaddy: if the configuration has no admin endpoint, the one
// at the default address belongs to another Caddy.
func TestCommandsAskNoOtherCaddy(t *testing.T) {
	a := newCannedAdmin(t, canned())
	before := caddy.DefaultAdminListen
	caddy.DefaultAdminListen = a.address() // as CADDY_ADMIN does
	t.Cleanup(func() { caddy.DefaultAdminListen = before })
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\nadmin off\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"status"}, {"webhooks"}, {"test", "crm"}, {"enable", "crm"}, {"disable", "crm"}, {"events"}, {"deliveries"}, {"deliveries", "dlv_1_1"},
		{"redeliver", "dlv_1_1"}, {"listen", "--to", "http://127.0.0.1:1/hooks"}, {"backup", filepath.Join(t.TempDir(), "backup")}, {"check"},
	} {
		r := command(t.Context(), "", append([]string{"userhero", "--config", config}, args...)...)
		if r.failed == nil || !strings.Contains(r.err, "turns the admin endpoint off") || !strings.Contains(r.err, "--address") {
			t.Errorf("%v: %v %q", args, r.failed, r.err)
		}
	}
	if len(a.asked) != 0 {
		t.Errorf("asked another Caddy: %q", a.asked)
	}
	t.Setenv("ADMIN_FOR_TEST", a.address())
	if err := os.WriteFile(config, []byte("{\nadmin {env.ADMIN_FOR_TEST}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := command(t.Context(), "", "userhero", "--config", config, "enable", "crm"); r.failed != nil {
		t.Errorf("a placeholder as address: %v %s", r.failed, r.err)
	}
}

func TestCommandsSpeakThroughUnixSockets(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "uh") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Skip("no Unix sockets here: ", err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "127.0.0.1" || r.Header.Get("Origin") != "" {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = io.WriteString(w, cannedWebhooks)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	for _, address := range []string{"unix/" + socket + "|0220", "unix://" + socket} {
		r := command(t.Context(), "", "userhero", "webhooks", "--address", address)
		if r.failed != nil || !strings.Contains(r.out, "crm") {
			t.Errorf("%s: %v: %s%s", address, r.failed, r.out, r.err)
		}
	}
}

func TestShellsCompleteNamesOfWebhooks(t *testing.T) {
	t.Parallel()
	a := newCannedAdmin(t, canned())
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"test", ""}, "crm\tactive\nerp\tfailing\n:4\n"},
		{[]string{"enable", ""}, "crm\tactive\nerp\tfailing\n:4\n"},
		{[]string{"deliveries", "--webhook", ""}, "crm\tactive\nerp\tfailing\n:4\n"},
		{[]string{"deliveries", "--state", ""}, "pending\nretrying\nheld\ndelivered\nfailed\n:4\n"},
		{[]string{"redeliver", ""}, "dlv_1_1\tfb_1 to crm\n:4\n"},
		{[]string{"test", "crm", ""}, ":4\n"},
	} {
		args := append([]string{cobra.ShellCompRequestCmd, "userhero", "--address", a.address()}, c.args...)
		if r := command(t.Context(), "", args...); r.failed != nil || r.out != c.want {
			t.Errorf("%v: %v %q, want %q", c.args, r.failed, r.out, c.want)
		}
	}
	if r := command(t.Context(), "", cobra.ShellCompRequestCmd, "userhero", "--address", freeAddress(t), "test", ""); r.failed != nil || r.out != ":4\n" {
		t.Errorf("without Caddy: %v %q", r.failed, r.out)
	}
}

func TestVerifyCommandSaysWhyNot(t *testing.T) {
	t.Parallel()
	// printf '{"a":1}' | openssl dgst -sha256 -hmac secret
	const right = "sha256=aa9e2e3575f5d7098b6caccd790888c36d5fdb63342a73bada2d6a51747a8494"
	args := []string{"userhero", "verify", "--secret", "secret", "--signature", right}
	if r := command(t.Context(), `{"a":1}`, args...); r.failed != nil || !strings.Contains(r.out, "is right") {
		t.Errorf("the right one: %v %s", r.failed, r.out)
	}
	if r := command(t.Context(), "{\"a\": 1}\n", args...); r.failed == nil || !strings.Contains(r.err, "parsed and written again") || r.out != "" {
		t.Errorf("written again: %v %s", r.failed, r.err)
	}
	if r := command(t.Context(), `{"a":2}`, args...); r.failed == nil || !strings.Contains(r.err, "cannot be verified") {
		t.Errorf("another body: %v %s", r.failed, r.err)
	}
	key := signature.NewKey()
	args = []string{"userhero", "verify", "--public-key", key.Public(), "--signature", string(key.AppendStandard(nil, "dlv_1", 1767799800, []byte(`{"a":1}`))), "--id", "dlv_1", "--timestamp", "1767799800"}
	if r := command(t.Context(), `{"a":1}`, args...); r.failed != nil || !strings.Contains(r.out, "is right for this public key") {
		t.Errorf("with a public key: %v %s%s", r.failed, r.out, r.err)
	}
	if r := command(t.Context(), "{\"a\":1}\n", args...); r.failed == nil || !strings.Contains(r.err, "newline that was not sent") {
		t.Errorf("with a public key and a newline: %v %s", r.failed, r.err)
	}
	if r := command(t.Context(), `{"a":1}`, append(args, "--secret", "secret")...); r.failed == nil || !strings.Contains(r.err, "public-key") {
		t.Errorf("with both: %v %s", r.failed, r.err)
	}
}
