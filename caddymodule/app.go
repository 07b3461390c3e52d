// Package caddymodule makes UserHero Relay a part of Caddy: the app, the
// handlers, the admin routes, the Caddyfile syntax and the metrics.
//
// It promises that Caddy's life cycle costs no event: validating a
// configuration touches no disk and no network, a reload keeps the store open
// and the deliveries going, a failed reload leaves everything as it was, and a
// request that comes before the start or after the stop gets an answer. It is
// the only package that knows Caddy; what an event is, when an attempt is due
// and how it is kept are decided elsewhere.
package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
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

// defaultRetention is how long what has ended is kept where nothing is said.
const defaultRetention = 30 * 24 * time.Hour

// App relays feedback to webhooks: it keeps events in a durable queue and
// delivers them with signatures and retries. Submissions come in through the
// `userhero` HTTP handler.
type App struct {
	// The store of events and deliveries. Default: `{"engine": "badger"}`,
	// a folder below Caddy's data directory.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=userhero.queues inline_key=engine"`

	// The webhooks: each gets every event it has chosen, signed, at least once.
	// A webhook that leaves this list keeps its deliveries, which wait until
	// it comes back or they expire.
	Webhooks []*Webhook `json:"webhooks,omitempty"`

	// The delays before each retry, for webhooks without their own. An empty
	// list means no retries. Default: 1m, 5m, 30m, 2h, 24h.
	Retry Ladder `json:"retry,omitzero"`

	// How long one attempt may take, for webhooks without their own.
	// Default: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long events, deliveries and attempts are kept after the last
	// delivery of the event has ended. What still waits is kept. Default: 30d.
	Retention caddy.Duration `json:"retention,omitempty"`

	// How many bytes the store may take on disk. Near it finished events go
	// early, oldest first; at it submissions are answered 503. Default: no
	// bound but the free space of the disk.
	MaxDisk int64 `json:"max_disk,omitempty"`

	// Where webhooks may be besides public addresses, and through which proxy
	// they are reached.
	Egress *Egress `json:"egress,omitempty"`

	// Who is told when a webhook fails and recovers.
	NotifiersRaw []json.RawMessage `json:"notifiers,omitempty" caddy:"namespace=userhero.notifiers inline_key=notifier"`

	// How long e-mails and other notices about webhooks wait for others, to go
	// out as one. Default: 1m.
	GroupNotices caddy.Duration `json:"group_notices,omitempty"`

	// How long every attempt at a webhook may fail before a warning is sent,
	// though retries are left. Default: no warnings; what is told of is a webhook
	// whose retries have run out.
	WarnAfter caddy.Duration `json:"warn_after,omitempty"`

	// The address of the console, such as `https://feedback.example.com/relay`.
	// Mails link to it.
	ConsoleURL string `json:"console_url,omitempty"`

	config  relay.Config
	engine  *engine  // a reference, given back by Cleanup
	running *running // nil before Start
	log     *slog.Logger
	ctx     caddy.Context // of the configuration, for its events

	intakeLog *intake.Log // of all handlers

	attaching  sync.Once
	attachment *attachment // nil where attaching failed
	attachErr  error
}

// Egress bounds where deliveries may go. Without it only public addresses are
// dialled, whatever a webhook's name resolves to at that moment.
type Egress struct {
	// Addresses, networks in CIDR notation and host names that may be dialled
	// though they are not public.
	Allow []string `json:"allow,omitempty"`

	// The URL of an HTTP proxy that deliveries go through. Placeholders are
	// replaced when the configuration is loaded.
	Proxy string `json:"proxy,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "userhero",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision resolves the placeholders and takes a reference to the engine of
// the store. It opens nothing: `caddy validate` runs beside the server that
// holds the store.
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

// resolve returns the relay's configuration with every placeholder replaced.
// What it returns holds secrets; what it reads keeps the placeholders.
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
	return a.config.Validate()
}

// Start opens the store unless it is open, and makes these settings the ones
// that count.
func (a *App) Start() error {
	if err := a.attach(); err != nil {
		return err
	}
	a.running = &running{a.engine, func(webhook, from, to string) { emit(a.ctx, webhook, from, to) }}
	engines.started(a.running)
	return nil
}

// attach opens the engine and attaches the app's generation, once. Caddy
// starts apps in no certain order, so a request may come before Start: it
// attaches too, lest its event find no webhooks.
func (a *App) attach() error {
	a.attaching.Do(func() {
		a.engine.config.Store(&a.ctx)
		a.attachment, a.attachErr = a.engine.attach(a.config, queue.Limits{Retention: time.Duration(a.Retention), MaxDisk: a.MaxDisk}, a.log)
	})
	return a.attachErr
}

// Stop takes these settings back. The engine lives on while a configuration
// refers to it; the newest settings still attached count.
func (a *App) Stop() error {
	engines.stopped(a.running)
	a.intakeLog.Flush() // Caddy closes the logs before it calls Cleanup
	return a.detach()
}

// detach also keeps a later attach from doing anything.
func (a *App) detach() error {
	a.attaching.Do(func() { a.attachErr = fmt.Errorf("the configuration was stopped: %w", queue.ErrClosed) })
	if a.attachment == nil {
		return nil
	}
	return a.engine.detach(a.attachment)
}

// Accept implements intake.Relay. Whatever the moment, also before Start and after
// Cleanup, there is an answer: a receipt or an error that wraps one of the queue's.
func (a *App) Accept(ctx context.Context, e queue.Entry, submission http.Header) (queue.Receipt, error) {
	if err := a.attach(); err != nil {
		return queue.Receipt{}, err
	}
	return a.engine.accept(ctx, relay.Acceptance{
		Type:     event.Type(e.Type),
		Feedback: e.Feedback,
		Body:     e.Body,
		Replaces: e.Replaces,
		Key:      e.Key,
		Origin:   e.Origin,
		Answer:   e.Answer,
	}, submission)
}

// WithStore implements intake.Relay.
func (a *App) WithStore(f func(intake.Store) error) error {
	if err := a.attach(); err != nil {
		return err
	}
	return a.engine.withQueue(func(q queue.Queue) error { return f(q) })
}

// Cleanup gives the engine back. Caddy calls it also where Provision failed
// half-way, and without Stop where Start was never called.
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
