package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/userhero/relay/bench/sink"
	"github.com/userhero/relay/e2e/caddyproc"
)

// config is a Caddyfile in two parts: the global options and the site. The app part may
// refer to the store's folder as STORE.
type config struct {
	app, site string
	ready     string // path on the admin endpoint
	env       []string
}

// relayConfig returns a relay with webhooks to the given URLs.
func relayConfig(urls []string) config {
	var app strings.Builder
	app.WriteString("userhero {\n queue badger {\n path STORE\n }\n egress {\n allow 127.0.0.1\n }\n")
	for i, url := range urls {
		fmt.Fprintf(&app, " webhook sink%d {\n url %s\n secret bench-secret\n concurrency 64\n }\n", i, url)
	}
	app.WriteString("}")
	return config{app: app.String(), site: "userhero /feedback {\n project proj_bench\n}", ready: "/userhero/healthz"}
}

// with returns the configuration with another option of the relay.
func (c config) with(option string) config {
	c.app = "userhero {\n " + option + "\n" + strings.TrimPrefix(c.app, "userhero {\n")
	return c
}

// plainConfig returns a Caddy without the relay.
func plainConfig(site string) config { return config{site: site, ready: "/config/"} }

// proxyConfig returns Caddy's reverse_proxy to a sink, tuned to keep its connections.
func proxyConfig(k *sink.Sink) config {
	return plainConfig(fmt.Sprintf("reverse_proxy %s {\n transport http {\n keepalive_idle_conns_per_host 128\n }\n}", k.Address()))
}

// server is a running Caddy with its own folder.
type server struct {
	site    string // host:port
	admin   string // host:port
	process *caddyproc.Process
	dir     string
	started time.Duration // CPU time of the start
}

func startCaddy(ctx context.Context, o options, c config) (*server, error) {
	out, err := filepath.Abs(o.out)
	if err != nil {
		return nil, err
	}
	// Do not use the system's temporary folder: it may be in memory.
	dir, err := os.MkdirTemp(out, "caddy-")
	if err != nil {
		return nil, err
	}
	s, err := startCaddyIn(ctx, o, c, dir)
	if err != nil {
		_ = os.RemoveAll(dir)
	}
	return s, err
}

// startCaddyIn starts Caddy in a folder that may already contain a store.
func startCaddyIn(ctx context.Context, o options, c config, dir string) (*server, error) {
	admin, err := caddyproc.FreeAddress()
	if err != nil {
		return nil, err
	}
	site, err := caddyproc.FreeAddress()
	if err != nil {
		return nil, err
	}
	p, err := caddyproc.Start(ctx, caddyproc.Options{
		Binary: o.caddy, Dir: dir, Ready: "http://" + admin + c.ready, Env: c.env, Within: time.Minute, Site: site,
		Caddyfile: fmt.Sprintf("{\nadmin %s\ndefault_bind 127.0.0.1\nauto_https off\npersist_config off\ngrace_period 5s\n%s\n}\nhttp://%s {\n%s\n}\n",
			admin, strings.ReplaceAll(c.app, "STORE", filepath.Join(dir, "store")), site, c.site),
	})
	if err != nil {
		return nil, err
	}
	s := &server{site: site, admin: admin, process: p, dir: dir}
	if s.started, err = cpuTime(p.PID()); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

// mallocs returns how many objects the process has allocated since its start.
func (s *server) mallocs(ctx context.Context) (uint64, error) {
	text, err := s.get(ctx, "/debug/vars")
	if err != nil {
		return 0, err
	}
	var vars struct {
		Memstats struct{ Mallocs uint64 } `json:"memstats"`
	}
	if err := json.Unmarshal(text, &vars); err != nil {
		return 0, fmt.Errorf("reading the process's counters: %w", err)
	}
	return vars.Memstats.Mallocs, nil
}

// stop ends the process and removes its folder. It kills a process that does not stop.
func (s *server) stop() {
	if err := s.end(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	s.remove()
}

// end ends the process. It kills a process that does not stop.
func (s *server) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return s.process.Stop(ctx)
}

func (s *server) remove() {
	if err := os.RemoveAll(s.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}
