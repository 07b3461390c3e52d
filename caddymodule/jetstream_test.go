package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/e2e/natsproc"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/signature"
)

// startNATS starts a nats-server that ends with the test.
func startNATS(t *testing.T, o natsproc.Options) *natsproc.Server {
	t.Helper()
	if _, err := natsproc.Binary(); err != nil {
		t.Skip(err)
	}
	o.Dir = t.TempDir()
	s, err := natsproc.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func onJetStream(s *natsproc.Server, more string) string {
	return fmt.Sprintf("queue jetstream {\nservers %s\n%s\n}\n", s.URL(), more)
}

// TestFirstMinuteOnJetStream: a submission is answered, delivered with its signature and
// shown by the console and the API. A reload keeps the connection to the servers.
func TestFirstMinuteOnJetStream(t *testing.T) {
	server, receiver := startNATS(t, natsproc.Options{}), newHook(t)
	s := newSite(t)
	options := onJetStream(server, "encryption_key 0123456789abcdef") + fmt.Sprintf("webhook crm {\nurl %s\nsecret s3cret\n}\n", receiver.URL)
	block := "userhero /feedback* {\nproject proj_1\nupdate_auth t0ken\n}\nhandle_path /relay/* {\nuserhero_console {\nno_auth\n}\n}\nuserhero_health /healthz\n"
	s.load(options, block)
	accepted := s.post(`{"message":"first"}`)
	if accepted.Status != http.StatusAccepted {
		t.Fatalf("submitting: %d %s", accepted.Status, accepted.Body)
	}
	arrived := receiver.await(t, 1)[0]
	if err := signature.Verify("s3cret", arrived.Header, arrived.Body); err != nil {
		t.Error(err)
	}
	id, _ := accepted.json(t)["id"].(string)
	if got := arrived.document(t).Data["id"]; got != id {
		t.Errorf("delivered %v, accepted %v", got, id)
	}
	connections := s.api("/status")
	if connections.Status != http.StatusOK {
		t.Errorf("status: %d %s", connections.Status, connections.Body)
	}
	eventually(t, func() bool {
		return strings.Contains(s.do(http.MethodGet, "/relay/events", "").Body, "first")
	})
	eventually(t, func() bool { return strings.Contains(s.api("/deliveries?state=delivered").Body, id) })

	before := engines.current()
	s.load(options+"timeout 20s\n", block)
	if engines.current() != before {
		t.Error("the reload opened the queue anew")
	}
	updated := s.do(http.MethodPatch, "/feedback/"+id, `{"status":"done"}`, append(jsonBody, "Authorization", "Bearer t0ken")...)
	if updated.Status != http.StatusAccepted {
		t.Fatalf("updating: %d %s", updated.Status, updated.Body)
	}
	if got := receiver.await(t, 2)[1].document(t); got.Event != "feedback.updated" || got.Data["status"] != "done" {
		t.Errorf("delivered %+v", got)
	}
	if health := s.do(http.MethodGet, "/healthz", ""); health.Status != http.StatusOK {
		t.Errorf("health: %d %s", health.Status, health.Body)
	}
}

// TestStartsWithoutServers: Caddy starts while the servers are down, and /healthz is red.
// Submissions wait for some time and are then refused. When the servers come, the store
// opens, the configuration takes effect by itself, and what waited is accepted.
func TestStartsWithoutServers(t *testing.T) {
	server, receiver := startNATS(t, natsproc.Options{}), newHook(t)
	server.Kill()
	s := newSite(t)
	s.load(onJetStream(server, "")+fmt.Sprintf("webhook crm {\nurl %s\n}\n", receiver.URL), "userhero /feedback\nuserhero_health /healthz\n")
	if _, err := engines.current().await(time.Now().Add(50 * time.Millisecond)); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("a submission that has waited: %v, want %v", err, queue.ErrUnavailable)
	}
	if health := s.do(http.MethodGet, "/healthz", ""); health.Status != http.StatusServiceUnavailable {
		t.Errorf("health: %d", health.Status)
	}
	if reason := s.api("/healthz"); reason.Status != http.StatusServiceUnavailable || !strings.Contains(reason.Body, server.Address) {
		t.Errorf("the API's health: %d %s", reason.Status, reason.Body)
	}
	// A reload while the servers are away must work too; the newest settings count.
	s.load(onJetStream(server, "")+fmt.Sprintf("webhook crm {\nurl %s/new\n}\n", receiver.URL), "userhero /feedback\nuserhero_health /healthz\n")
	early := make(chan string, 1)
	go func() {
		a, err := request(http.MethodPost, "http://"+s.address+"/feedback", `{"message":"early"}`, jsonBody...)
		early <- fmt.Sprint(a.Status, err)
	}()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if got := <-early; got != "202 <nil>" {
		t.Errorf("a submission from before the servers came: %s", got)
	}
	eventually(t, func() bool { return s.do(http.MethodGet, "/healthz", "").Status == http.StatusOK })
	if got := receiver.await(t, 1)[0].document(t).Data["message"]; got != "early" {
		t.Errorf("delivered %v", got)
	}
	if got := s.api("/webhooks/crm"); !strings.Contains(got.Body, receiver.URL+"/new") {
		t.Errorf("the webhook: %s", got.Body)
	}
}

// TestLoginsOfServers: each kind of login works, and a wrong one stops the start and
// says what to do.
func TestLoginsOfServers(t *testing.T) {
	dir := t.TempDir()
	seed := filepath.Join(dir, "relay.nk")
	// The nkey of a user that exists only in this test.
	const nkey, public = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY", "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
	if err := os.WriteFile(seed, []byte(nkey), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		server, right, wrong string
		connect              nats.Option
	}{
		"user":  {`authorization { user: relay, password: "pass word" }`, `user relay "pass word"`, "user relay other", nats.UserInfo("relay", "pass word")},
		"token": {`authorization { token: "t0k" }`, "token t0k", "token other", nats.Token("t0k")},
		"nkey": {
			fmt.Sprintf("authorization { users: [ { nkey: %s }, { user: test, password: test } ] }", public),
			"nkey " + seed, "user relay other", nats.UserInfo("test", "test"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := startNATS(t, natsproc.Options{Extra: c.server, Connect: []nats.Option{c.connect}})
			s := newSite(t)
			err := caddy.Load(s.config(onJetStream(server, c.wrong), "userhero /feedback"), true)
			if err == nil || !strings.Contains(err.Error(), "Authorization Violation") || !strings.Contains(err.Error(), "credentials, user, token or nkey") {
				t.Errorf("a wrong login: %v", err)
			}
			s.load(onJetStream(server, c.right), "userhero /feedback")
			if a := s.post(`{"message":"hello"}`); a.Status != http.StatusAccepted {
				t.Errorf("submitting: %d %s", a.Status, a.Body)
			}
			if strings.Contains(s.log(), "pass word") || strings.Contains(s.log(), "t0k") {
				t.Error("the log shows the login")
			}
		})
	}
}

// TestTLSOfServers: the relay trusts the servers by tls_ca only and shows them its
// certificate.
func TestTLSOfServers(t *testing.T) {
	pair := selfSigned(t)
	authority, _, _ := strings.Cut(pair, "-----BEGIN PRIVATE KEY")
	file, ca := writeFile(t, "pair.pem", pair), writeFile(t, "ca.pem", authority)
	server := startNATS(t, natsproc.Options{
		Extra:   fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", file, file, ca),
		Connect: []nats.Option{nats.RootCAs(ca), nats.ClientCert(file, file)},
	})
	s := newSite(t)
	client := fmt.Sprintf("tls_client_auth %s %s\n", file, file)
	err := caddy.Load(s.config(onJetStream(server, client), "userhero /feedback"), true)
	if err == nil || !strings.Contains(err.Error(), "tls_ca") {
		t.Errorf("without tls_ca: %v", err)
	}
	s.load(onJetStream(server, client+"tls_ca "+ca), "userhero /feedback")
	if a := s.post(`{"message":"hello"}`); a.Status != http.StatusAccepted {
		t.Errorf("submitting: %d %s", a.Status, a.Body)
	}
}

// TestJetStreamSettings: what is wrong is refused when the configuration is provisioned,
// without a connection.
func TestJetStreamSettings(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct{ settings, want string }{
		{`{}`, "name at least one server"},
		{`{"servers":["http://a"]}`, "does not begin with nats://"},
		{`{"servers":["nats://"]}`, "is no URL"},
		{`{"servers":["nats://u:secret@a:4222"]}`, "use the options user or token"},
		{`{"servers":["{env.NOWHERE}"]}`, "servers: "},
		{`{"servers":["a"],"user":"a","password":"b","token":"c"}`, "user and token: give one of them"},
		{`{"servers":["a"],"password":"b"}`, "write user and password"},
		{`{"servers":["a"],"credentials":"` + missing + `"}`, "credentials: "},
		{`{"servers":["a"],"nkey":"` + missing + `"}`, "holds no seed"},
		{`{"servers":["a"],"tls":{"root_ca_pem_files":["` + missing + `"]}}`, "tls_ca " + missing},
		{`{"servers":["a"],"prefix":"a.b"}`, "prefix: "},
		{`{"servers":["a"],"replicas":2}`, "must be 1, 3 or 5"},
		{`{"servers":["a"],"encryption_key":"short"}`, "encryption_key: "},
		{`{"servers":["a"],"embedded":{}}`, "leave out servers"},
		{`{"embedded":{}}`, "no NATS server built in"},
		{`{"servers":["127.0.0.1:1","tls://[::1]:2"],"user":"a","password":"b","prefix":"p_1","replicas":3}`, ""},
	} {
		j := new(JetStreamQueue)
		if err := json.Unmarshal([]byte(c.settings), j); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := caddyContext(t)
		err := j.Provision(ctx)
		cancel()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.settings, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.settings, err, c.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error shows the password: %v", c.settings, err)
		}
	}
}

// TestStopWhileServersAreAway: Caddy stops at once while the store is not open.
func TestStopWhileServersAreAway(t *testing.T) {
	server := startNATS(t, natsproc.Options{})
	server.Kill()
	s := newSite(t)
	s.load(onJetStream(server, ""), "userhero /feedback")
	e := engines.current()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case <-e.ended:
	case <-ctx.Done():
		t.Error("the engine goes on")
	}
}

// TestRelayMovesToJetStreamAndBack: what waits in a relay on Badger is backed up over the
// admin endpoint, restored into NATS servers, and from there into a folder again. It is
// delivered from each under its old id.
func TestRelayMovesToJetStreamAndBack(t *testing.T) {
	server, h := startNATS(t, natsproc.Options{}), newHook(t)
	answers := func(status int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.status = status
	}
	s := newSite(t)
	const key = "0123456789abcdef"
	file := func(name string) string { return filepath.Join(s.dir, name) }
	options := webhookTo(h) + "retry 1h\n"
	answers(http.StatusTeapot)
	s.load(options, directive)
	s.post(`{"message":"hi"}`)
	h.await(t, 1)
	retrying := func() (id string) {
		t.Helper()
		eventually(t, func() bool {
			items := s.api("/deliveries?state=retrying").json(t)["items"].([]any)
			if len(items) == 1 {
				id = items[0].(map[string]any)["id"].(string)
			}
			return id != ""
		})
		return id
	}
	delivery := retrying()
	s.prints("is complete", "backup", file("first"))

	moved := options + onJetStream(server, "encryption_key "+key)
	if err := os.WriteFile(file("moved.json"), s.config(moved, directive), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := command(t.Context(), "restore", file("first")); r.failed == nil || !strings.Contains(r.failed.Error(), "--config") {
		t.Errorf("restore without a place: %v", r.failed)
	}
	s.prints("is restored", "restore", file("first"), "--config", file("moved.json"))
	if r := command(t.Context(), "restore", file("first"), "--config", file("moved.json")); r.failed == nil || !strings.Contains(r.failed.Error(), "exists already") {
		t.Errorf("restoring twice: %v", r.failed)
	}
	s.load(moved, directive)
	eventually(t, func() bool { return s.api("/healthz").Status == http.StatusOK })
	if got := retrying(); got != delivery {
		t.Errorf("on JetStream %s waits, want %s", got, delivery)
	}
	sendNow := func(n int) {
		t.Helper()
		if a, err := request(http.MethodPost, "http://"+s.admin+"/userhero/deliveries/"+delivery+"/redeliver", ""); err != nil || a.Status/100 != 2 {
			t.Fatalf("redelivering: %+v, %v", a, err)
		}
		arrived := h.await(t, n)
		if got := arrived[n-1]; string(arrived[0].Body) != string(got.Body) || got.Header.Get("X-UserHero-Delivery") != delivery {
			t.Errorf("delivered %v, want what was waiting in the backup", got)
		}
	}
	sendNow(2)
	retrying()
	s.prints("encrypted with the store's key", "backup", file("second"), "--encryption-key", key)
	if status := command(t.Context(), "--address", s.admin, "status"); !strings.Contains(status.out, "Last backup") {
		t.Errorf("the status does not say when the last backup was made:\n%s", status.out)
	}
	if r := command(t.Context(), "--address", s.admin, "check"); r.failed == nil || !strings.Contains(r.failed.Error(), "means of its servers") {
		t.Errorf("check on JetStream: %v", r.failed)
	}
	s.prints("is restored", "restore", file("second"), file("back"), "--encryption-key", key)
	s.load(options+"queue badger {\npath "+file("back")+"\nencryption_key "+key+"\n}\n", directive)
	answers(http.StatusNoContent)
	sendNow(3)
	s.prints("nothing is wrong", "check")
}
