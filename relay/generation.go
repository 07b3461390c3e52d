package relay

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
)

// Attach puts settings in force. It matches webhooks by name: a webhook that is missing
// from the settings is parked, and a webhook that returns gets its waiting deliveries
// back. Attempts in flight end with the settings they started with.
func (r *Relay) Attach(c Config) (*Generation, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	g := &Generation{relay: r, config: c, client: r.client, public: r.client}
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	public := c.Egress
	public.Allow = nil
	for _, of := range []struct {
		client **deliver.Client
		egress deliver.Egress
	}{{&g.client, c.Egress}, {&g.public, public}} {
		if *of.client != nil {
			continue
		}
		if *of.client = r.sameClient(of.egress); *of.client == nil {
			var err error
			if *of.client, err = deliver.NewClient(of.egress, deliver.Options{Dial: r.dial, Own: r.own}); err != nil {
				return nil, fmt.Errorf("egress: %w", err)
			}
		}
	}
	if err := r.apply(g); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.generations = append(r.generations, g)
	r.mu.Unlock()
	return g, nil
}

// sameClient returns the client of a generation with the same egress settings, so that
// its connections stay in use. It returns nil if there is none.
func (r *Relay) sameClient(e deliver.Egress) *deliver.Client {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, g := range r.generations {
		switch {
		case g.config.Egress.Proxy != e.Proxy:
		case slices.Equal(g.config.Egress.Allow, e.Allow):
			return g.client
		case len(e.Allow) == 0:
			return g.public
		}
	}
	return nil
}

// Detach takes the settings out of force. It may be called twice. If no other
// generation is attached, the last settings stay in force until the relay stops or
// Attach is called.
func (g *Generation) Detach() error {
	r := g.relay
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	r.mu.Lock()
	r.generations = slices.DeleteFunc(r.generations, func(o *Generation) bool { return o == g })
	var newest *Generation
	if n := len(r.generations); n > 0 {
		newest = r.generations[n-1]
	}
	current, stopped := r.current, r.stopped
	r.mu.Unlock()
	if newest == nil || newest == current || stopped {
		return nil
	}
	return r.apply(newest)
}

// apply puts a generation in force. If it fails, the settings in force do not change.
// The caller holds r.attachMu.
func (r *Relay) apply(g *Generation) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	targets, err := r.targets(g)
	if err != nil {
		return err
	}
	created := make(map[string]bool)
	for _, wc := range g.config.Webhooks {
		if _, err := r.find(wc.Name); err == nil {
			continue
		}
		w, err := r.create(ctx, wc.Name, record{Source: FromCaddyfile, State: Active})
		if err != nil {
			return fmt.Errorf("webhook %s: %w", wc.Name, err)
		}
		created[wc.Name] = w.record.Creator == r.queue.Node()
	}
	if err := r.notices.Open(ctx, len(g.config.Notifiers)); err != nil {
		return err
	}
	changed, err := r.configure(ctx, targets)
	if err != nil {
		return err
	}
	for i := range changed {
		changed[i].created = created[changed[i].webhook.name()]
	}
	r.noteReconfigured(changed)
	r.mu.Lock()
	first := r.current == nil
	r.current = g
	r.mu.Unlock()
	r.notices.Use(g.config.notices(r))
	if first {
		for _, w := range r.all() {
			w.repostNotice()
		}
	}
	return nil
}

// target compiles the settings of one webhook with the generation's defaults.
func (g *Generation) target(c WebhookConfig) (*target, error) {
	client := g.client
	if c.Public {
		client = g.public
	}
	t, err := newTarget(c.complete(g.config), client, g.relay.turns, g.relay.agent, g.config.ConsoleURL)
	if err != nil {
		return nil, err
	}
	t.filters = &g.relay.filters
	return t, nil
}

// targets compiles a generation's webhooks and those that were added through the API.
// It returns them by name.
func (r *Relay) targets(g *Generation) (map[string]*target, error) {
	targets := make(map[string]*target)
	compile := func(c WebhookConfig) error {
		t, err := g.target(c)
		if err != nil {
			return fmt.Errorf("webhook %s: %w", c.Name, err)
		}
		targets[c.Name] = t
		return nil
	}
	for _, wc := range g.config.Webhooks {
		if w, err := r.find(wc.Name); err == nil && w.apiConfig() != nil {
			return nil, fmt.Errorf("webhook %s: one of this name was added through the API; delete that, or rename this", wc.Name)
		}
		if err := compile(wc); err != nil {
			return nil, err
		}
	}
	for _, w := range r.all() {
		if c := w.apiConfig(); c != nil {
			if err := compile(*c); err != nil {
				return nil, err
			}
		}
	}
	return targets, nil
}

// configure puts targets in force. A webhook without a target has left the
// configuration and is parked. If the store refuses a change, every webhook gets its
// earlier target back.
func (r *Relay) configure(ctx context.Context, targets map[string]*target) ([]reconfiguration, error) {
	var changed []reconfiguration
	for _, w := range r.all() {
		parked, err := w.isParked(ctx)
		changed = append(changed, reconfiguration{webhook: w, before: w.currentTarget(), parked: parked, known: w.hasSettings(targets[w.name()])})
		if err == nil {
			err = w.configure(ctx, targets[w.name()])
		}
		if err != nil {
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
			defer cancel()
			for _, c := range changed {
				_ = c.webhook.configure(back, c.before) // the old target is in force again even if the store returns an error
			}
			return nil, fmt.Errorf("webhook %s: %w", w.name(), err)
		}
	}
	return changed, nil
}

// create creates a webhook that is not in the store yet.
func (r *Relay) create(ctx context.Context, name string, rec record) (*webhook, error) {
	rec.Creator = r.queue.Node()
	put := queue.Webhook{Name: name, Data: rec.encode()}
	stored, err := r.queue.PutWebhook(ctx, put)
	if errors.Is(err, queue.ErrConflict) {
		// An earlier create may have timed out here and still have succeeded in the
		// store, or another relay has created the webhook.
		var theirs record
		if stored, err = r.storedWebhook(ctx, withName(name)); err == nil {
			theirs, err = decodeRecord(stored)
		}
		switch {
		case err != nil:
		case theirs.Creator == rec.Creator:
			put.ID, put.Revision = stored.ID, stored.Revision
			stored, err = r.queue.PutWebhook(ctx, put)
		case rec.Source != FromCaddyfile || theirs.Source != FromCaddyfile:
			err = fmt.Errorf("webhook %q: %w", name, ErrExists)
		default:
			rec = theirs
		}
	}
	if err != nil {
		return nil, err
	}
	w := newWebhook(r, stored, rec)
	r.begin(w)
	return w, nil
}

// begin adds a webhook and starts its goroutine.
func (r *Relay) begin(w *webhook) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(w)
	if r.started && !r.stopped {
		r.running.Go(func() { w.run(w.lifetime) }) // Promise 3: each webhook has a goroutine and a lane of its own.
	}
}

// configure puts a target in force. If t is nil, it parks the webhook.
func (w *webhook) configure(ctx context.Context, t *target) error {
	if t != nil && slices.ContainsFunc(t.config.Events, event.Type.Operational) {
		if err := w.relay.notices.OpenOperational(ctx); err != nil {
			return err
		}
	}
	if err := w.storeLock.lock(ctx); err != nil {
		return err
	}
	defer w.storeLock.unlock()
	w.mu.Lock()
	before := w.stateLocked()
	previous := w.target
	if t == nil || previous == nil || t.config.Filter != previous.config.Filter {
		w.filterErrors = FilterErrors{}
	}
	w.target = t
	if t != nil && previous != nil {
		t.Inherit(previous.Receiver)
		if t.config.URL != previous.config.URL {
			w.breaker.EndHold() // the hold belongs to the old receiver
		}
	}
	if t != nil {
		w.window.Set(t.config.Concurrency)
		w.limiter = newLimiter(t.config.Rate, w.limiter)
	}
	after := w.stateLocked()
	w.mu.Unlock()
	w.wake(true)
	if before != after {
		w.relay.stateChanged(w.name(), before, after, "")
	}
	parked, attached := w.parked, w.attach(t)
	if w.parked = t == nil; w.parked == parked && !attached {
		return nil
	}
	switch {
	case w.parked == parked:
	case w.parked:
		w.relay.log.Warn("a webhook has left the configuration; what waits for it is kept until it comes back or expires",
			"webhook", w.name(), "waiting", w.relay.queue.Stats(ctx).Webhooks[w.id].Waiting())
	default:
		w.relay.log.Info("a webhook is in the configuration again", "webhook", w.name())
	}
	err := w.writeRecord(ctx)
	if err != nil {
		// Waiting deliveries could expire if the store kept the webhook as parked.
		w.parked = parked
		w.rewriteRecord(err)
	}
	return err
}

// newLimiter returns the old limiter if the rate is the same.
func newLimiter(r Rate, old *rate.Limiter) *rate.Limiter {
	if r.Events == 0 {
		return nil
	}
	limit := rate.Limit(float64(r.Events) / r.Per.Seconds())
	if old != nil && old.Limit() == limit {
		return old
	}
	// The burst is what the rate allows in a tenth of a second.
	return rate.NewLimiter(limit, max(1, int(limit/10)))
}

// reconfiguration records how a generation of settings changed one webhook.
type reconfiguration struct {
	webhook *webhook
	before  *target // nil: the webhook was parked, or no settings were in force
	parked  bool    // whether it was parked before
	known   bool    // whether another relay has put these settings into force, and noted it
	created bool
}

// noteReconfigured adds what a generation of settings changed to the activity log. The
// settings of the configuration file are not stored, so a change made while the relay
// was down appears only if a webhook was added or removed.
func (r *Relay) noteReconfigured(all []reconfiguration) {
	var notes sync.WaitGroup // with a thousand webhooks, the entries share a few commits
	for _, c := range all {
		after := c.webhook.currentTarget()
		a := Activity{Who: FromCaddyfile, Webhook: c.webhook.name()}
		switch {
		case c.created:
			a.What, a.Detail = "webhook added", after.Host()
		case after == nil && !c.parked:
			a.What, a.Detail = "webhook parked", "it has left the configuration; what waits for it is held"
		case after != nil && c.parked:
			a.What, a.Detail = "webhook returned", "what waited for it goes out"
		case after != nil && c.before != nil && !c.known:
			if a.Detail = changedSettings(c.before.config, after.config); a.Detail != "" {
				a.What = "webhook changed"
			}
		}
		if a.What != "" {
			notes.Go(func() { r.Note(a) })
		}
	}
	notes.Wait()
}

var wordEnd = regexp.MustCompile(`([a-z])([A-Z])`)

// changedSettings returns the names of the settings that differ. It leaves out their
// values, which may be secrets.
func changedSettings(a, b WebhookConfig) string {
	var names []string
	before, after := reflect.ValueOf(a), reflect.ValueOf(b)
	for _, f := range reflect.VisibleFields(before.Type()) {
		if !reflect.DeepEqual(before.FieldByIndex(f.Index).Interface(), after.FieldByIndex(f.Index).Interface()) {
			names = append(names, strings.ToLower(wordEnd.ReplaceAllString(f.Name, "$1 $2")))
		}
	}
	return strings.Join(names, ", ")
}
