// Package caddymodule makes UserHero Relay a part of Caddy: the app, the
// handlers, the admin routes, the Caddyfile syntax and the metrics.
//
// It promises that Caddy's life cycle loses no event. Validating a configuration
// opens no store and uses no network. A reload keeps the store open, and
// deliveries go on. A failed reload changes nothing. A request that comes before
// Start or after Stop gets an answer.
//
// Of the relay's packages, only those in this folder know Caddy. This one does not
// know what an event contains, when an attempt is due or how the store works. Its
// tests run Caddy in the test's process; those of e2e run the built binary.
package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/userhero/relay/caddymodule/command"  // registers `caddy userhero`
	_ "github.com/userhero/relay/caddymodule/receiver" // registers userhero_receiver
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/intake"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
)

func init() { caddy.RegisterModule(new(App)) }

// defaultRetention is the default of App.Retention.
const defaultRetention = 30 * 24 * time.Hour

// App relays feedback to webhooks: it keeps events in a durable queue and
// delivers them with signatures and retries. Submissions come in through the
// `userhero` HTTP handler.
type App struct {
	// The queue engine, which stores events and deliveries. Default:
	// `{"engine": "badger"}`, in the folder `userhero` of Caddy's data directory.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=userhero.queues inline_key=engine"`

	// The webhooks. Each gets every event of its types and filter at least once,
	// signed with its secret. If a webhook is removed from this list, its
	// deliveries wait until a webhook of that name is added again, or until they
	// expire. Default: none; more can be added through the API and the console.
	Webhooks []*Webhook `json:"webhooks,omitempty"`

	// The delays before each retry, for webhooks that set none. At most 100, each
	// above 0 and at most 30 days. An empty list means no retries.
	// Default: 1m, 5m, 30m, 2h, 24h.
	Retry Ladder `json:"retry,omitzero"`

	// The longest duration of one attempt, for webhooks that set none; at most
	// 10 minutes. Default: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long an event, its deliveries and their attempts are kept after its last
	// delivery has ended. An event with a waiting delivery is kept. Default: 30d.
	Retention caddy.Duration `json:"retention,omitempty"`

	// How long after its last delivery has ended an event is redacted: its message,
	// context and metadata are removed, and what attempts sent and got; what it is
	// counted by stays. It is not delivered again, and its feedback does not change any
	// more. Shorter than the retention. Default: never.
	RedactAfter caddy.Duration `json:"redact_after,omitempty"`

	// The largest size of the store on disk, in bytes. From 90 % of it, finished
	// events are removed early, the oldest first. At the limit, submissions are
	// answered 503. Default: 0, limited only by the free space of the disk.
	MaxDisk int64 `json:"max_disk,omitempty"`

	// The addresses that are allowed for webhooks besides public ones, and the
	// proxy to use. Default: public addresses only, no proxy.
	Egress *Egress `json:"egress,omitempty"`

	// The notifiers, which report to people when a webhook fails, recovers or is
	// disabled. Default: none.
	NotifiersRaw []json.RawMessage `json:"notifiers,omitempty" caddy:"namespace=userhero.notifiers inline_key=notifier"`

	// How long a notice about a webhook waits for further notices, to be sent
	// together with them in one message. Default: 1m.
	GroupNotices caddy.Duration `json:"group_notices,omitempty"`

	// Sends a warning when every attempt at a webhook has failed for this long,
	// even if retries are left; for webhooks that set none. Default: no warning
	// before the retries of a delivery have run out.
	WarnAfter caddy.Duration `json:"warn_after,omitempty"`

	// The URL of the console, such as `https://feedback.example.com/relay`, for links in
	// e-mails, messages of chat tools and operational events. Default: no links.
	ConsoleURL string `json:"console_url,omitempty"`

	config  relay.Config
	engine  *engine  // a reference, which Cleanup releases
	running *running // nil before Start
	log     *slog.Logger
	ctx     caddy.Context // of the configuration, to emit its events

	intakeLog *intake.Log // shared by all handlers
	projects  []string    // that handlers and consoles name; complete when all are provisioned

	attaching  sync.Once
	attached   atomic.Bool // attaching has ended
	attachment *attachment // nil if attaching failed
	attachErr  error
}

// Egress allows deliveries to addresses that are not public. The relay checks the
// address it connects to, after it has resolved the webhook's host name.
type Egress struct {
	// IP addresses, networks in CIDR notation and host names to which deliveries
	// are allowed although they are not public. Default: none.
	Allow []string `json:"allow,omitempty"`

	// The URL of an HTTP proxy for all deliveries. Placeholders are replaced when
	// the configuration is loaded. Default: no proxy.
	Proxy string `json:"proxy,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "userhero",
		New: func() caddy.Module { return new(App) },
	}
}

// appOf returns the app of a configuration. If the configuration has none, Caddy makes
// one with its defaults.
func appOf(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("userhero")
	if err != nil {
		return nil, fmt.Errorf("loading the userhero app: %w", err)
	}
	return app.(*App), nil
}

// Provision resolves the placeholders and acquires the store's engine. It does
// not open the store, because `caddy validate` may run while a server has it open.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.log = ctx, ctx.Slogger()
	a.intakeLog = intake.NewLog(a.log)
	if a.Retention == 0 {
		a.Retention = caddy.Duration(defaultRetention)
	}
	if a.QueueRaw == nil {
		a.QueueRaw = json.RawMessage(`{"engine":"badger"}`)
	}
	if err := onExit(ctx, func(deadline time.Time) { engines.exiting(a.engine, deadline) }); err != nil {
		return err
	}
	config, err := a.resolve(caddy.NewReplacer())
	if err != nil {
		return err
	}
	a.config = config
	if len(a.NotifiersRaw) > 0 {
		if a.config.Notifiers, err = loadNotifiers(ctx, a); err != nil {
			return err
		}
	}
	opener, err := loadQueue(ctx, a)
	if err != nil {
		return err
	}
	a.engine, err = engines.acquire(opener, QueueOptions{
		Retention: time.Duration(a.Retention),
		MaxDisk:   a.MaxDisk,
	}, a.log)
	if err != nil {
		return err
	}
	if err := a.engine.metrics.Register(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering the metrics: %w", err)
	}
	return nil
}

// resolve returns the relay's configuration with every placeholder replaced. The
// result contains secrets. The app itself keeps the placeholders, so that Caddy
// never shows a secret with its configuration.
func (a *App) resolve(repl *caddy.Replacer) (relay.Config, error) {
	c := relay.Config{
		Retry:   a.Retry.durations(),
		Timeout: time.Duration(a.Timeout),

		GroupNotices: time.Duration(a.GroupNotices),
		WarnAfter:    time.Duration(a.WarnAfter),
	}
	var err error
	if c.ConsoleURL, err = repl.ReplaceOrErr(a.ConsoleURL, true, true); err != nil {
		return c, fmt.Errorf("console_url: %w", err)
	}
	if a.Egress != nil {
		proxy, err := secret.Resolve(repl, a.Egress.Proxy)
		if err != nil {
			return c, fmt.Errorf("egress: proxy: %w", err)
		}
		c.Egress = deliver.Egress{Allow: a.Egress.Allow, Proxy: proxy}
	}
	for _, w := range a.Webhooks {
		wc, err := w.resolve(repl)
		if err != nil {
			return c, fmt.Errorf("webhook %s: %w", w.Name, err)
		}
		c.Webhooks = append(c.Webhooks, wc)
	}
	return c, nil
}

// Validate checks the settings without a store and without the network.
func (a *App) Validate() error {
	if a.Retention < 0 || a.MaxDisk < 0 || a.Timeout < 0 || a.GroupNotices < 0 || a.WarnAfter < 0 {
		return errors.New("retention, max_disk, timeout, group_notices and warn_after may not be negative")
	}
	if a.RedactAfter < 0 || a.RedactAfter >= a.Retention {
		return fmt.Errorf("redact_after is %s; it must be shorter than the retention, which is %s", days(a.RedactAfter), days(a.Retention))
	}
	return a.config.Validate()
}

// days formats a duration in days if it is a whole number of them.
func days(d caddy.Duration) string {
	const day = caddy.Duration(24 * time.Hour)
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return time.Duration(d).String()
}

// limits are those of the store.
func (a *App) limits() queue.Limits {
	return queue.Limits{
		Retention: time.Duration(a.Retention), MaxDisk: a.MaxDisk,
		RedactAfter: time.Duration(a.RedactAfter), Redact: event.Redacted,
	}
}

// Start opens the store if it is not open, and puts this configuration into effect.
func (a *App) Start() error {
	if err := a.attach(); err != nil {
		return err
	}
	a.running = &running{a.engine, func(webhook, from, to string) { emit(a.ctx, webhook, from, to) }}
	engines.started(a.running)
	return nil
}

// attach opens the engine and puts the app's settings into effect, once. Caddy
// starts apps in any order, so a request may come before Start. Such a request
// calls attach too; otherwise its event would find no webhooks.
func (a *App) attach() error {
	a.attaching.Do(func() {
		defer a.attached.Store(true)
		for _, w := range a.config.Webhooks {
			a.projects = append(a.projects, w.Projects...)
		}
		slices.Sort(a.projects)
		a.config.Projects = slices.Compact(a.projects)
		a.engine.config.Store(&a.ctx)
		a.attachment, a.attachErr = a.engine.attach(a.config, a.limits(), a.log)
	})
	return a.attachErr
}

// attachBy is attach for a submission: it waits until giveUp at most. To open a large store
// may take longer.
func (a *App) attachBy(giveUp time.Time) error {
	if a.attached.Load() {
		return a.attach()
	}
	done := make(chan error, 1)
	go func() { done <- a.attach() }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Until(giveUp)):
		return fmt.Errorf("%w: the store is being opened", queue.ErrUnavailable)
	}
}

// Stop withdraws this configuration; the newest one that is still attached takes
// effect. The engine runs as long as any configuration refers to it.
func (a *App) Stop() error {
	engines.stopped(a.running)
	a.intakeLog.Flush() // now, because Caddy closes the logs before it calls Cleanup
	return a.detach()
}

// detach withdraws the app's settings if they are attached. A later attach fails
// with queue.ErrClosed.
func (a *App) detach() error {
	a.attaching.Do(func() { a.attachErr = fmt.Errorf("the configuration was stopped: %w", queue.ErrClosed) })
	if a.attachment == nil {
		return nil
	}
	return a.engine.detach(a.attachment)
}

// Accept implements intake.Relay. It may be called at any time, even before Start
// and after Cleanup. It waits up to openPatience for a store that is being opened. Its
// error wraps one of package queue.
func (a *App) Accept(ctx context.Context, e queue.Entry, submission http.Header) (queue.Receipt, error) {
	giveUp := time.Now().Add(openPatience)
	if err := a.attachBy(giveUp); err != nil {
		return queue.Receipt{}, err
	}
	return a.engine.accept(ctx, giveUp, e, submission)
}

// WithStore implements intake.Relay. It waits as Accept does.
func (a *App) WithStore(f func(intake.Store) error) error {
	giveUp := time.Now().Add(openPatience)
	if err := a.attachBy(giveUp); err != nil {
		return err
	}
	return a.engine.withQueue(giveUp, func(q queue.Queue) error { return f(q) })
}

// Cleanup releases the engine. Caddy also calls it after a Provision that failed,
// and without Stop if Start was never called.
func (a *App) Cleanup() error {
	if a.engine == nil {
		return nil
	}
	return errors.Join(a.detach(), engines.release(a.engine))
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ intake.Relay       = (*App)(nil)
)
