package embeddednats

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/caddymodule"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// TestCaddyfile: every option is read, and what is unknown or given twice is refused.
func TestCaddyfile(t *testing.T) {
	t.Parallel()
	read := func(text string) (string, error) {
		s := new(Server)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		b, _ := json.Marshal(s)
		return string(b), err
	}
	got, err := read("embedded {\nname n1\nlisten 10.0.0.1:6222\nroutes 10.0.0.2:6222\nroutes 10.0.0.3:6222\npath /a\ntls a.pem a.key ca.pem\n}")
	want := `{"name":"n1","listen":"10.0.0.1:6222","routes":["10.0.0.2:6222","10.0.0.3:6222"],"path":"/a",` +
		`"tls":{"certificate_file":"a.pem","key_file":"a.key","ca_file":"ca.pem"}}`
	if err != nil || got != want {
		t.Errorf("%v\n%s\n%s", err, got, want)
	}
	for _, text := range []string{"embedded {\nport 1\n}", "embedded {\nname a\nname b\n}", "embedded {\ntls a b\n}"} {
		if _, err := read(text); err == nil {
			t.Errorf("taken: %s", text)
		}
	}
}

// TestSettings: what cannot work is refused when the configuration is provisioned.
func TestSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ settings, want string }{
		{`{}`, "name: "},
		{`{"name":"n 1"}`, "name: "},
		{`{"name":"n1","routes":["a:1","b:1"]}`, "listen: "},
		{`{"name":"n1","listen":":6222"}`, "listen: "},
		{`{"name":"n1","listen":"a:1","routes":["b"]}`, "routes: "},
		{`{"name":"n1","listen":"a:1","routes":["b:1"]}`, "has 2 servers"},
		{`{"name":"n1","listen":"a:1","routes":["b:1","c:1"],"tls":{}}`, "tls: "},
		{`{"name":"n1","listen":"a:1","routes":["b:1","c:1"],"tls":{"certificate_file":"/no","key_file":"/no","ca_file":"/no"}}`, "tls: "},
		{`{"name":"n1"}`, ""},
		{`{"name":"n1","listen":"a:1","routes":["a:1","b:1","c:1"]}`, ""},
	} {
		s := new(Server)
		if err := json.Unmarshal([]byte(c.settings), s); err != nil {
			t.Fatal(err)
		}
		err := s.Provision(caddy.Context{})
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.settings, err, c.want)
		}
	}
}

// TestPortInUse: a server that cannot listen is an error, and the process goes on.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s := &Server{Name: "n1", Path: filepath.Join(t.TempDir(), "nats"), Listen: l.Addr().String(), Routes: []string{"127.0.0.1:1", "127.0.0.1:2"}}
	if err := s.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(caddymodule.QueueOptions{Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the port is taken: %v", err)
	}
}

// TestRemovable: a server is removed only if it is gone and the others can keep all copies.
func TestRemovable(t *testing.T) {
	t.Parallel()
	online := func(names ...string) (all []api.ClusterServer) {
		for _, n := range names {
			all = append(all, api.ClusterServer{Name: n, Online: true})
		}
		return all
	}
	gone := api.ClusterServer{Name: "n3"}
	for _, c := range []struct {
		servers []api.ClusterServer
		want    string
	}{
		{append(online("n1", "n2"), gone), "start the server that replaces n3 first"},
		{online("n1", "n2", "n3", "n4"), "n3 runs"},
		{online("n1", "n2", "n4"), "has no server n3"},
		{append(online("n1", "n2", "n4"), gone), ""},
	} {
		err := removable(c.servers, "n3")
		if (c.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.Is(err, caddymodule.ErrNotNow)) {
			t.Errorf("%v: %v, want %q", c.servers, err, c.want)
		}
	}
}

// TestAlone: a single server answers in this process, only to the relay, and stops.
func TestAlone(t *testing.T) {
	t.Parallel()
	s := &Server{Name: "n1", Path: filepath.Join(t.TempDir(), "nats")}
	if err := s.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Start(caddymodule.QueueOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(nats.DefaultURL, r.Connect()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Health(); err != nil {
		t.Error(err)
	}
	if _, err := s.Start(caddymodule.QueueOptions{Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, storefile.ErrLocked) {
		t.Errorf("a second server in the folder: %v", err)
	}
	if _, err := r.Servers(t.Context()); !errors.Is(err, caddymodule.ErrNotNow) {
		t.Errorf("the servers of a cluster of one: %v", err)
	}
	if _, err := nats.Connect(r.(*running).server.ClientURL()); err == nil { //nolint:forcetypeassert // it is ours
		t.Error("anybody can connect")
	}
	nc.Close()
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if r.Health() == nil {
		t.Error("a server that has stopped is healthy")
	}
}
