// Package caddyproc runs a built Caddy as a child process, the way an operator
// would: a Caddyfile, a data directory of its own, signals to end it.
//
// It promises that a started process has answered its readiness URL, that Stop
// and Kill return only when the process is gone, and that whatever the process
// logged can be read afterwards. It knows nothing of webhooks or feedback.
package caddyproc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options say what to run.
type Options struct {
	// Binary is the caddy executable.
	Binary string
	// Dir is the working directory, and holds Caddy's own data and config
	// directories, so that nothing of the user's is touched.
	Dir string
	// Caddyfile is the configuration's text, written to Dir/Caddyfile.
	Caddyfile string
	// Ready is a URL that answers 2xx once the process serves.
	Ready string
	// Site is the address of a site. Caddy may begin to listen there only after Ready answers.
	Site string
	// Dial connects to it; default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Client asks Ready; default: http.DefaultClient.
	Client *http.Client
	// Env is added to the environment.
	Env []string
	// Within bounds the time from the start until Ready answers and Site listens; default 20 s.
	Within time.Duration
}

// Process is one running Caddy.
type Process struct {
	options Options
	cmd     *exec.Cmd
	log     *buffer
	done    chan struct{} // closed when the process has been reaped
	err     error         // of Wait; read after done
}

// Start writes the Caddyfile, starts Caddy and waits until it is ready. A
// process that ends or stays silent instead is an error that holds its log.
func Start(ctx context.Context, o Options) (*Process, error) {
	if o.Within == 0 {
		o.Within = 20 * time.Second
	}
	p := &Process{options: o, log: &buffer{}, done: make(chan struct{})}
	if err := p.write(o.Caddyfile); err != nil {
		return nil, err
	}
	p.cmd = p.command(context.Background(), "run", "--config", "Caddyfile")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", o.Binary, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.awaitReady(ctx); err != nil {
		p.abort()
		return nil, fmt.Errorf("%w; its log:\n%s", err, p.logWithoutRequests())
	}
	return p, nil
}

// abort ends a process that is silent, after it has logged what its goroutines wait for.
// Caddy takes SIGQUIT itself, so it is SIGABRT that makes Go's runtime log them.
func (p *Process) abort() {
	_ = p.cmd.Process.Signal(syscall.SIGABRT)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.Kill()
	}
}

func (p *Process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.options.Within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.answers(ctx)
		if err == nil {
			err = p.listens(ctx)
		}
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("caddy ended before it was ready: %w", cmp.Or(p.err, errors.New("exit status 0")))
		case <-ctx.Done():
			return fmt.Errorf("caddy did not answer %s within %s: %w", p.options.Ready, p.options.Within, err)
		case <-tick.C:
		}
	}
}

// listens returns nil if Site takes a connection.
func (p *Process) listens(ctx context.Context) error {
	if p.options.Site == "" {
		return nil
	}
	dial := p.options.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", p.options.Site)
	if err != nil {
		return err
	}
	return conn.Close()
}

// answers returns nil if Ready answers 2xx.
func (p *Process) answers(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.options.Ready, nil)
	if err != nil {
		return err
	}
	response, err := cmp.Or(p.options.Client, http.DefaultClient).Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", response.Status, answer)
	}
	return err
}

// Run runs another subcommand of the same binary in the same directories
// ("validate", "--config", …) and returns what it printed.
func (p *Process) Run(ctx context.Context, args ...string) (string, error) {
	return run(p.command(ctx, args...), args)
}

// Run runs a subcommand of a binary, with Caddy's own directories in dir, and
// returns what it printed.
func Run(ctx context.Context, binary, dir string, args ...string) (string, error) {
	p := &Process{options: Options{Binary: binary, Dir: dir}}
	return p.Run(ctx, args...)
}

func run(cmd *exec.Cmd, args []string) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("caddy %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Reload writes a new Caddyfile and has the running process take it over
// through its admin endpoint at address ("127.0.0.1:2019").
func (p *Process) Reload(ctx context.Context, caddyfile, address string) error {
	if err := p.write(caddyfile); err != nil {
		return err
	}
	_, err := p.Run(ctx, "reload", "--config", "Caddyfile", "--address", address, "--force")
	return err
}

// Kill ends the process as a power cut would (SIGKILL), and reaps it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end (SIGTERM) and waits; when the context ends
// first, the process is killed and that is an error.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping caddy: %w", err)
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.Kill()
		return errors.New("caddy did not stop in time and was killed; its log:\n" + p.logWithoutRequests())
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is everything the process has printed.
func (p *Process) Log() string { return p.log.String() }

// logWithoutRequests is the log for errors. Caddy logs every request to its admin endpoint,
// and a test that waits there makes a hundred a second.
func (p *Process) logWithoutRequests() string {
	var b strings.Builder
	for line := range strings.Lines(p.Log()) {
		if !strings.Contains(line, `"logger":"admin.api","msg":"received request"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (p *Process) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.options.Binary, args...) //nolint:gosec // the binary under test, named by the caller
	cmd.Dir = p.options.Dir
	cmd.Env = append(os.Environ(),
		"HOME="+p.options.Dir,
		"XDG_DATA_HOME="+filepath.Join(p.options.Dir, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(p.options.Dir, "config"),
	)
	cmd.Env = append(cmd.Env, p.options.Env...)
	return cmd
}

func (p *Process) write(caddyfile string) error {
	path := filepath.Join(p.options.Dir, "Caddyfile")
	if err := os.WriteFile(path, []byte(caddyfile), 0o600); err != nil {
		return fmt.Errorf("writing the Caddyfile: %w", err)
	}
	return nil
}

// Ports that FreeAddress hands out: below those that systems give to outgoing
// connections (32768 and up on Linux), so that a client that dials a server
// which is away cannot sit down on its port.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// nextPort makes the ports of one test process differ from each other, also
// before anybody listens on them; it begins somewhere of its own, for the sake
// of other processes.
var nextPort atomic.Int64

func init() { nextPort.Store(int64(os.Getpid()) * 101) }

// FreeAddress returns "127.0.0.1:PORT" with a port that nobody listens on and
// that was not returned before, in a run of 12,000.
func FreeAddress() (string, error) {
	var err error
	for range lastPort - firstPort {
		port := firstPort + nextPort.Add(1)%(lastPort-firstPort)
		address := net.JoinHostPort("127.0.0.1", strconv.FormatInt(port, 10))
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("finding a free port: %w", err)
}

// buffer is a bytes.Buffer for one writer and many readers.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
