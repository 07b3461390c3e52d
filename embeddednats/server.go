package embeddednats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/caddymodule"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// copies is how many servers keep each message of a cluster.
const copies = 3

// startFor is how long the server may take to begin to listen. It does not wait for the
// other servers.
const startFor = 20 * time.Second

// running is a started server.
type running struct {
	server *server.Server
	logins *logins
	unlock func() // of the folder
}

// Start implements caddymodule.NATSServer.
func (s *Server) Start(o caddymodule.QueueOptions) (caddymodule.RunningNATS, error) {
	if err := os.MkdirAll(s.path, 0o700); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	unlock, err := storefile.Lock(s.path)
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	r := &running{logins: newLogins(), unlock: unlock}
	options, err := s.options()
	if err == nil {
		options.CustomClientAuthentication = r.logins
		r.server, err = server.NewServer(options)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	r.logins.server = r.server
	log := &natsLog{log: o.Logger.With("nats", s.Name), failed: make(chan string, 1)}
	log.shutdown = r.server.Shutdown
	r.server.SetLoggerV2(log, false, false, false)
	if len(s.routes) > 0 && s.TLS == nil {
		o.Logger.Warn("the NATS servers' connections have no TLS; who can reach this address can read and write all events", "listen", s.Listen)
	}
	go r.server.Start()
	ready := make(chan bool, 1)
	go func() { ready <- r.server.ReadyForConnections(startFor) }()
	select {
	case ok := <-ready:
		if !ok {
			err = fmt.Errorf("it does not listen after %v; its messages are in the log", startFor)
		}
	case message := <-log.failed:
		err = errors.New(message)
	}
	if err != nil {
		r.server.Shutdown()
		unlock()
		return nil, err
	}
	return r, nil
}

// options returns the server's options. Clients connect within the process. The listener on
// loopback is needed because the server enters lame duck mode only if it has a listener.
func (s *Server) options() (o *server.Options, err error) {
	o = &server.Options{
		ServerName: s.Name, Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: s.path, SyncAlways: true,
		NoSigs: true, DisableJetStreamBanner: true,
		LameDuckDuration: 2 * time.Second, LameDuckGracePeriod: time.Millisecond,
		ReconnectErrorReports: 60, // about one line a minute for each server that cannot be reached
	}
	if len(s.routes) == 0 {
		return o, nil
	}
	port, err := strconv.Atoi(s.listen.port)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	o.Cluster = server.ClusterOpts{
		Name: "userhero", Host: s.listen.host, Port: port, ConnectRetries: 1 << 30, NoAdvertise: true, PoolSize: 1,
		// A connection that was cut is noticed within 6 s, also when the cut is over before TCP has noticed.
		PingInterval: 2 * time.Second, MaxPingsOut: 2,
	}
	for _, route := range s.routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: route.String()})
	}
	if s.TLS != nil {
		if o.Cluster.TLSConfig, err = s.TLS.config(); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		o.Cluster.TLSTimeout = 5
	}
	return o, nil
}

// Connect implements caddymodule.RunningNATS.
func (r *running) Connect() []nats.Option { return r.connectWith(r.logins.relay) }

// Health implements caddymodule.RunningNATS.
func (r *running) Health() error {
	answer := healthAnswer{header: make(http.Header), status: http.StatusOK}
	r.server.HandleHealthz(&answer, &http.Request{URL: new(url.URL)})
	if answer.status == http.StatusOK {
		return nil
	}
	var why struct{ Error string }
	if err := json.Unmarshal(answer.body, &why); err != nil {
		return err
	}
	return errors.New(why.Error)
}

// healthAnswer keeps the answer of the server's health check, which the server exports only
// as an HTTP handler.
type healthAnswer struct {
	header http.Header
	status int
	body   []byte
}

// Header implements http.ResponseWriter.
func (a *healthAnswer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *healthAnswer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *healthAnswer) Write(p []byte) (int, error) {
	a.body = append(a.body, p...)
	return len(p), nil
}

// Stop implements caddymodule.RunningNATS.
func (r *running) Stop(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.server.LameDuckShutdown()
		r.server.Shutdown()
		r.server.WaitForShutdown()
		r.unlock()
	}()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopping the NATS server: %w", ctx.Err())
	}
}

// natsLog writes the server's messages into Caddy's log.
type natsLog struct {
	log      *slog.Logger
	failed   chan string
	shutdown func()
	fatal    atomic.Bool
}

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *natsLog) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l *natsLog) Debugf(string, ...any)           {}
func (l *natsLog) Tracef(string, ...any)           {}

// Fatalf stops the server. The library expects the process to end here, so a server that
// continued would work only in part.
func (l *natsLog) Fatalf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	l.log.Error(message)
	if l.fatal.CompareAndSwap(false, true) {
		l.failed <- message
		go l.shutdown()
	}
}

// Interface guards
var (
	_ caddymodule.RunningNATS = (*running)(nil)
	_ server.Logger           = (*natsLog)(nil)
)
