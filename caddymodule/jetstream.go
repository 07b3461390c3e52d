package caddymodule

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/backup"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

func init() { caddy.RegisterModule(JetStreamQueue{}) }

// JetStreamQueue stores events and deliveries in NATS JetStream. Several relays with the
// same servers and prefix work as one: each webhook is delivered by one of them at a
// time, and another takes over if that one stops.
type JetStreamQueue struct {
	// The URLs of the NATS servers, such as `nats://10.0.0.1:4222`. Name all servers of
	// a cluster, so that the relay can start while one is down. Placeholders are
	// replaced when the configuration is loaded. Required, unless `embedded` is given.
	Servers []string `json:"servers,omitempty"`

	// The credentials file of a NATS user (`.creds`). It is read at each connection.
	Credentials string `json:"credentials,omitempty"`

	// The name of a NATS user.
	User string `json:"user,omitempty"`

	// The password of `user`. Write it as a placeholder, such as `{env.NATS_PASSWORD}`.
	Password string `json:"password,omitempty"`

	// The token of the NATS servers. Write it as a placeholder, such as
	// `{env.NATS_TOKEN}`.
	Token string `json:"token,omitempty"`

	// The file with the seed of an nkey.
	NKey string `json:"nkey,omitempty"`

	// The certificates of the connection to the servers. Default: the system's
	// authorities, if a server's URL begins with `tls://` or the server asks for TLS.
	TLS *TLS `json:"tls,omitempty"`

	// Begins the names of streams and subjects: letters, digits, `-` and `_`. Relays
	// with another prefix share nothing. Default: `userhero`.
	Prefix string `json:"prefix,omitempty"`

	// The key that encrypts the settings of webhooks, with their secrets: 16, 24 or 32
	// bytes, as plain text, in hexadecimal or in base64. Write it as a placeholder, such
	// as `{file./run/secrets/data_key}`. All relays need the same. Default: no
	// encryption.
	EncryptionKey string `json:"encryption_key,omitempty"`

	// How many servers keep a copy of each message: 1, 3 or 5. Default: 3, or 1 if there
	// is one server.
	Replicas int `json:"replicas,omitempty"`

	// A NATS server inside this process, instead of `servers`. It needs a Caddy that was
	// built with the package github.com/userhero/relay/embeddednats, which documents its
	// options. Default: none.
	EmbeddedRaw json.RawMessage `json:"embedded,omitempty"`

	servers, connect []string // connect describes the login and the certificates, as digests
	options          []nats.Option
	prefix           string
	key              []byte
	embedded         NATSServer // nil if there is none
	running          *runningNATS
}

// embeddedModule is the module of the NATS server inside this process.
const embeddedModule = "userhero.queues.jetstream.embedded"

// NATSServer is what the module userhero.queues.jetstream.embedded implements.
type NATSServer interface {
	// Key identifies the server within the process: its folder.
	Key() string
	// Settings returns, by name, the options that take effect when the server starts.
	Settings() map[string]string
	// Replicas is how many servers the cluster has according to the options.
	Replicas() int
	// Start starts the server. It does not wait for the other servers.
	Start(o QueueOptions) (RunningNATS, error)
}

// RunningNATS is a NATS server that was started in this process.
type RunningNATS interface {
	// Connect is how a client in this process connects.
	Connect() []nats.Option
	// Health returns nil if the server has everything that the others have. While it
	// catches up, no other server should be stopped.
	Health() error
	// Servers lists the servers of the cluster.
	Servers(ctx context.Context) ([]api.ClusterServer, error)
	// Remove removes a server that has left for good from the cluster.
	Remove(ctx context.Context, name string) error
	// Stop hands the server's leaderships over and stops it. It returns when the server
	// has stopped or the context ends.
	Stop(ctx context.Context) error
}

// CaddyModule returns the Caddy module information.
func (JetStreamQueue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "userhero.queues.jetstream",
		New: func() caddy.Module { return new(JetStreamQueue) },
	}
}

// Provision resolves the placeholders and reads the files. It does not connect.
func (j *JetStreamQueue) Provision(ctx caddy.Context) error {
	repl := caddy.NewReplacer()
	var err error
	if j.prefix, err = repl.ReplaceOrErr(cmp.Or(j.Prefix, "userhero"), true, true); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if !prefixes.MatchString(j.prefix) {
		return fmt.Errorf("prefix: %q is no name of 1 to 32 letters, digits, - and _", j.prefix)
	}
	if !slices.Contains([]int{0, 1, 3, 5}, j.Replicas) {
		return fmt.Errorf("replicas: %d; must be 1, 3 or 5", j.Replicas)
	}
	if j.key, err = secret.Key(repl, j.EncryptionKey); err != nil {
		return fmt.Errorf("encryption_key: %w", err)
	}
	if j.EmbeddedRaw != nil {
		return j.provisionEmbedded(ctx)
	}
	if err := j.provisionServers(repl); err != nil {
		return err
	}
	if err := j.provisionLogin(repl); err != nil {
		return err
	}
	return j.provisionTLS(repl)
}

var prefixes = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

func (j *JetStreamQueue) provisionEmbedded(ctx caddy.Context) error {
	if len(j.Servers) > 0 || j.login() != nil || j.TLS != nil {
		return errors.New("embedded: the server is in this process; leave out servers, the login and the options of TLS")
	}
	if err := checkBuiltIn(); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	module, err := ctx.LoadModuleByID(embeddedModule, j.EmbeddedRaw)
	if err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	server, ok := module.(NATSServer)
	if !ok {
		return fmt.Errorf("embedded: module %T is no NATS server", module)
	}
	j.embedded = server
	return nil
}

// checkBuiltIn returns an error if this Caddy was built without the embedded server.
func checkBuiltIn() error {
	if _, err := caddy.GetModule(embeddedModule); err != nil {
		return errors.New("this Caddy has no NATS server built in; build it with: xcaddy build --with github.com/userhero/relay --with github.com/userhero/relay/embeddednats")
	}
	return nil
}

func (j *JetStreamQueue) provisionServers(repl *caddy.Replacer) error {
	for _, text := range j.Servers {
		resolved, err := repl.ReplaceOrErr(text, true, true)
		if err != nil {
			return fmt.Errorf("servers: %w", err)
		}
		if !strings.Contains(resolved, "://") {
			resolved = "nats://" + resolved
		}
		u, err := url.Parse(resolved)
		switch {
		case err != nil || u.Hostname() == "":
			return fmt.Errorf("servers: %s is no URL; write for example nats://10.0.0.1:4222", text)
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			return fmt.Errorf("servers: %s does not begin with nats://, tls://, ws:// or wss://", u.Redacted())
		case u.User != nil:
			return fmt.Errorf("servers: %s has a login; use the options user or token", u.Redacted())
		}
		j.servers = append(j.servers, u.String())
	}
	if len(j.servers) == 0 {
		return errors.New("servers: name at least one server, such as nats://127.0.0.1:4222")
	}
	return nil
}

// login returns the options of a login that are given.
func (j *JetStreamQueue) login() (given []string) {
	for _, option := range []struct{ name, value string }{
		{"credentials", j.Credentials}, {"user", j.User + j.Password}, {"token", j.Token}, {"nkey", j.NKey},
	} {
		if option.value != "" {
			given = append(given, option.name)
		}
	}
	return given
}

func (j *JetStreamQueue) provisionLogin(repl *caddy.Replacer) error {
	given := j.login()
	if len(given) > 1 {
		return fmt.Errorf("%s: give one of them", strings.Join(given, " and "))
	}
	resolved := make(map[string]string)
	for name, value := range map[string]string{
		"credentials": j.Credentials, "user": j.User, "password": j.Password, "token": j.Token, "nkey": j.NKey,
	} {
		v, err := secret.Resolve(repl, value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		resolved[name] = v
	}
	switch {
	case resolved["credentials"] != "":
		file := resolved["credentials"]
		if _, err := os.ReadFile(file); err != nil {
			return fmt.Errorf("credentials: %w; name a file that the user Caddy runs as can read", err)
		}
		j.options = append(j.options, nats.UserCredentials(file))
	case resolved["user"] != "":
		j.options = append(j.options, nats.UserInfo(resolved["user"], resolved["password"]))
	case resolved["password"] != "":
		return errors.New("user: write user and password")
	case resolved["token"] != "":
		j.options = append(j.options, nats.Token(resolved["token"]))
	case resolved["nkey"] != "":
		option, err := nats.NkeyOptionFromSeed(resolved["nkey"])
		if err != nil {
			return fmt.Errorf("nkey: %s holds no seed of an nkey: %w", resolved["nkey"], err)
		}
		j.options = append(j.options, option)
	}
	for _, name := range []string{"credentials", "user", "password", "token", "nkey"} {
		j.connect = append(j.connect, name, resolved[name])
	}
	return nil
}

// provisionTLS checks the files. They are read again at each connection, so that a
// certificate that was renewed is used.
func (j *JetStreamQueue) provisionTLS(repl *caddy.Replacer) error {
	if j.TLS == nil {
		return nil
	}
	if _, err := j.TLS.resolve(repl); err != nil {
		return err
	}
	files := append([]string{j.TLS.ClientCertificateFile, j.TLS.ClientCertificateKeyFile}, j.TLS.RootCAFiles...)
	for i := range files {
		var err error
		if files[i], err = secret.Resolve(repl, files[i]); err != nil {
			return err
		}
	}
	j.options = append(j.options, nats.Secure())
	if files[0] != "" {
		j.options = append(j.options, nats.ClientCert(files[0], files[1]))
	}
	if len(files) > 2 {
		j.options = append(j.options, nats.RootCAs(files[2:]...))
	}
	j.connect = append(j.connect, files...)
	return nil
}

// UnmarshalCaddyfile sets up the engine from Caddyfile tokens. Syntax:
//
//	jetstream {
//	    servers         <url…>
//	    credentials     <file>
//	    user            <name> <password>
//	    token           <token>
//	    nkey            <file>
//	    tls_ca          <file…>
//	    tls_client_auth <cert_file> <key_file>
//	    prefix          <name>
//	    encryption_key  <key>
//	    replicas        <number>
//	    embedded {
//	        …
//	    }
//	}
func (j *JetStreamQueue) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	var tls TLS
	err := option.Directive(d, "queue jetstream",
		option.Texts("servers", &j.Servers),
		option.Text("credentials", &j.Credentials),
		option.Values("user", 2, &j.User, &j.Password),
		option.Text("token", &j.Token),
		option.Text("nkey", &j.NKey),
		option.Texts("tls_ca", &tls.RootCAFiles),
		tls.clientOption(),
		option.Text("prefix", &j.Prefix),
		option.Text("encryption_key", &j.EncryptionKey),
		option.Number("replicas", "1, 3 or 5", &j.Replicas),
		option.Option{Name: "embedded", Read: j.unmarshalEmbedded},
	)
	j.TLS = tls.orNil()
	return err
}

func (j *JetStreamQueue) unmarshalEmbedded(d *caddyfile.Dispenser) error {
	if err := checkBuiltIn(); err != nil {
		return d.WrapErr(err)
	}
	module, err := caddyfile.UnmarshalModule(d, embeddedModule)
	if err != nil {
		return err
	}
	j.EmbeddedRaw, err = json.Marshal(module)
	return err
}

// StoreKey implements QueueOpener. It does not depend on the order of the servers.
func (j *JetStreamQueue) StoreKey() string {
	if j.embedded != nil {
		return "jetstream embedded " + j.embedded.Key() + " " + j.prefix
	}
	return "jetstream " + strings.Join(slices.Sorted(slices.Values(j.servers)), ",") + " " + j.prefix
}

// StoreSettings implements QueueOpener. Secrets appear as digests.
func (j *JetStreamQueue) StoreSettings() map[string]string {
	digest := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:])
	}
	settings := map[string]string{
		"queue":                 "jetstream",
		"encryption_key":        digest(string(j.key)),
		"replicas":              strconv.Itoa(j.Replicas),
		"the login and the TLS": digest(strings.Join(j.connect, "\x00")),
	}
	if j.embedded != nil {
		for name, value := range j.embedded.Settings() {
			settings["embedded "+name] = value
		}
	}
	return settings
}

// Remote implements QueueOpener.
func (*JetStreamQueue) Remote() bool { return true }

// OpenQueue connects to the servers. A server in this process is started first. It runs
// until the queue is closed, or until ctx ends if no call has opened the queue.
func (j *JetStreamQueue) OpenQueue(ctx context.Context, o QueueOptions) (queue.Queue, error) {
	options := j.queueOptions(o)
	if j.embedded == nil {
		store, err := jetstreamqueue.Open(ctx, options)
		if err != nil {
			return nil, err
		}
		return &streamsQueue{store, j.key}, nil
	}
	if j.running == nil {
		server, err := j.startServer(o)
		if err != nil {
			return nil, err
		}
		j.running = &runningNATS{RunningNATS: server}
		j.running.abandon = context.AfterFunc(ctx, func() { _ = server.Stop(context.Background()) })
	}
	store, err := jetstreamqueue.Open(ctx, j.within(j.running, options))
	if err != nil {
		return nil, err
	}
	j.running.abandon()
	return &embeddedQueue{&streamsQueue{store, j.key}, j.running}, nil
}

// startServer starts the server in this process.
func (j *JetStreamQueue) startServer(o QueueOptions) (RunningNATS, error) {
	server, err := j.embedded.Start(o)
	if err != nil {
		return nil, fmt.Errorf("starting the NATS server: %w", err)
	}
	return server, nil
}

// within returns the options of a queue on a server in this process.
func (j *JetStreamQueue) within(server RunningNATS, o jetstreamqueue.Options) jetstreamqueue.Options {
	o.Servers = []string{nats.DefaultURL} // not dialled: the connection is in this process
	o.Connect = server.Connect()
	o.Replicas = cmp.Or(o.Replicas, j.embedded.Replicas())
	return o
}

func (j *JetStreamQueue) queueOptions(o QueueOptions) jetstreamqueue.Options {
	return jetstreamqueue.Options{
		Servers:       j.servers,
		Connect:       j.options,
		Prefix:        j.prefix,
		Replicas:      j.Replicas,
		Limits:        queue.Limits{Retention: o.Retention, MaxDisk: o.MaxDisk},
		EncryptionKey: j.key,
		Logger:        o.Logger,
	}
}

// ServerFolder returns the folder of the server in this process, or "".
func (j *JetStreamQueue) ServerFolder() string {
	if j.embedded == nil {
		return ""
	}
	return j.embedded.Key()
}

// RestoreBackup makes the streams of a new store from a backup of any engine. key decrypts
// the backup; nil is the queue's own key. A server in this process runs meanwhile. If it
// must wait for other servers, say is called.
func (j *JetStreamQueue) RestoreBackup(ctx context.Context, r io.Reader, key []byte, say func(string)) (info backup.Info, err error) {
	if key == nil {
		key = j.key
	}
	options, dir := j.queueOptions(QueueOptions{}), caddy.AppDataDir()
	await := func(context.Context) error { return nil }
	if j.embedded != nil {
		server, err := j.startServer(QueueOptions{Logger: slog.Default()})
		if err != nil {
			return info, err
		}
		defer func() {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
			defer cancel()
			err = errors.Join(err, server.Stop(stopping))
		}()
		options, dir = j.within(server, options), filepath.Dir(j.embedded.Key())
		await = func(ctx context.Context) error { return j.awaitServers(ctx, server, say) }
	}
	store, err := jetstreamqueue.Create(ctx, options, await)
	if err != nil {
		return info, err
	}
	if info, err = backup.Restore(ctx, r, store, backup.Options{Dir: dir, Key: key}); err != nil {
		return info, errors.Join(err, store.Discard())
	}
	return info, store.Finish()
}

// awaitServers waits until there are as many servers as each message has copies.
func (j *JetStreamQueue) awaitServers(ctx context.Context, server RunningNATS, say func(string)) error {
	want := j.embedded.Replicas()
	for told := false; want > 1; told = true {
		all, err := server.Servers(ctx)
		online := len(slices.DeleteFunc(all, func(s api.ClusterServer) bool { return !s.Online }))
		if err == nil && online >= want {
			return nil
		}
		if !told {
			say("Waiting for the other servers. Start Caddy on the other machines, with empty folders; it takes nothing before the restore is complete.")
		}
		select {
		case <-time.After(openPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// streamsQueue is a queue that can be backed up.
type streamsQueue struct {
	*jetstreamqueue.Queue
	key []byte
}

// Backup writes everything that the queue holds, encrypted if its webhooks are.
func (q *streamsQueue) Backup(ctx context.Context, w io.Writer) (backup.Info, error) {
	return backup.Write(ctx, q.Queue, w, backup.Options{Dir: caddy.AppDataDir(), Key: q.key})
}

// runningNATS is a server in this process.
type runningNATS struct {
	RunningNATS
	abandon func() bool // keeps the server from ending with the context of its start
}

// embeddedQueue is a queue on a server in this process, which stops with it.
type embeddedQueue struct {
	*streamsQueue
	server *runningNATS
}

// Health implements queue.Queue. A relay whose server catches up is not ready. A
// rolling restart waits for it before it goes on to the next machine.
func (q *embeddedQueue) Health() error {
	if err := q.streamsQueue.Health(); err != nil {
		return err
	}
	if err := q.server.Health(); err != nil {
		return fmt.Errorf("%w: the NATS server in this process: %w", queue.ErrUnavailable, err)
	}
	return nil
}

// Close implements queue.Queue.
func (q *embeddedQueue) Close(ctx context.Context) error {
	return errors.Join(q.streamsQueue.Close(ctx), q.server.Stop(ctx))
}

// Interface guards
var (
	_ caddy.Provisioner     = (*JetStreamQueue)(nil)
	_ caddyfile.Unmarshaler = (*JetStreamQueue)(nil)
	_ QueueOpener           = (*JetStreamQueue)(nil)
	_ queue.Limited         = (*embeddedQueue)(nil)
	_ backedUp              = (*embeddedQueue)(nil)
)
