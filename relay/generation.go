package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
)

// Generation is one set of settings in force. The newest attached counts; when
// it is detached, the newest one left does. So a configuration that fails to
// start takes its settings with it, and what was before goes on.
type Generation struct {
	relay  *Relay
	config Config
	client *deliver.Client
}

// storeTime bounds what attaching and state changes ask of the store.
const storeTime = 10 * time.Second

// Attach puts settings in force. Webhooks are known by their names: one that
// is missing is parked, one that returns finds its deliveries. Attempts under
// way end with the settings they began with.
func (r *Relay) Attach(c Config) (*Generation, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	g := &Generation{relay: r, config: c, client: r.client}
	r.attachMu.Lock()
	defer r.attachMu.Unlock()
	if g.client == nil {
		if g.client = r.sameClient(c.Egress); g.client == nil {
			var err error
			if g.client, err = deliver.NewClient(c.Egress, deliver.Options{Dial: r.dial, Own: r.own}); err != nil {
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

// sameClient is the client of a generation with the same egress settings: its
// connections are worth keeping.
func (r *Relay) sameClient(e deliver.Egress) *deliver.Client {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, g := range r.generations {
		if g.config.Egress.Proxy == e.Proxy && slices.Equal(g.config.Egress.Allow, e.Allow) {
			return g.client
		}
	}
	return nil
}

// Detach takes the settings out of force; twice is fine. When none is left,
// the last ones stay, for a moment, until the relay stops or others come.
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

// apply makes a generation the one that counts, or changes nothing that is in
// force; r.attachMu is held.
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
		created[wc.Name] = true
		if _, err := r.create(ctx, wc.Name, record{Source: FromCaddyfile, State: Active}); err != nil {
			return fmt.Errorf("webhook %s: %w", wc.Name, err)
		}
	}
	if err := r.notices.Open(ctx, len(g.config.Notifiers)); err != nil {
		return err
	}
	changed, err := r.configure(ctx, targets)
	if err != nil {
		return err
	}
	for i := range changed {
		changed[i].created = created[changed[i].webhook.name]
	}
	r.noteReconfigured(changed)
	r.mu.Lock()
	first := r.current == nil
	r.current = g
	r.mu.Unlock()
	r.notices.Use(g.config.notices())
	if first && len(g.config.Notifiers) > 0 {
		for _, w := range r.all() {
			w.remind()
		}
	}
	return nil
}

// targets are those of a generation, by the names of their webhooks: of the
// file's and of those that were added through the API.
func (r *Relay) targets(g *Generation) (map[string]*target, error) {
	targets := make(map[string]*target)
	compile := func(c WebhookConfig) error {
		t, err := newTarget(c.complete(g.config), g.client, r.agent)
		if err != nil {
			return fmt.Errorf("webhook %s: %w", c.Name, err)
		}
		targets[c.Name] = t
		return nil
	}
	for _, wc := range g.config.Webhooks {
		if w, err := r.find(wc.Name); err == nil && w.added() != nil {
			return nil, fmt.Errorf("webhook %s: one of this name was added through the API; delete that, or rename this", wc.Name)
		}
		if err := compile(wc); err != nil {
			return nil, err
		}
	}
	for _, w := range r.all() {
		if c := w.added(); c != nil {
			if err := compile(c.config(w.name)); err != nil {
				return nil, err
			}
		}
	}
	return targets, nil
}

// configure puts targets in force. A webhook without one has left the
// configuration, and is parked. When the store refuses that, all get back what
// they had.
func (r *Relay) configure(ctx context.Context, targets map[string]*target) ([]reconfiguration, error) {
	var changed []reconfiguration
	for _, w := range r.all() {
		parked, err := w.isParked(ctx)
		changed = append(changed, reconfiguration{webhook: w, before: w.aim(), parked: parked})
		if err == nil {
			err = w.configure(ctx, targets[w.name])
		}
		if err != nil {
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
			defer cancel()
			for _, c := range changed {
				_ = c.webhook.configure(back, c.before) // in force again, whatever the store says
			}
			return nil, fmt.Errorf("webhook %s: %w", w.name, err)
		}
	}
	return changed, nil
}

// create makes a webhook that the store does not know yet.
func (r *Relay) create(ctx context.Context, name string, rec record) (*webhook, error) {
	put := queue.Webhook{Name: name, Data: rec.encode()}
	stored, err := r.queue.PutWebhook(ctx, put)
	if errors.Is(err, queue.ErrConflict) {
		// One that was given up was made after all.
		if stored, err = r.stored(ctx, name); err == nil {
			put.ID, put.Revision = stored.ID, stored.Revision
			stored, err = r.queue.PutWebhook(ctx, put)
		}
	}
	if err != nil {
		return nil, err
	}
	w := newWebhook(r, stored, rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.adopt(w)
	if r.started && !r.stopped {
		r.running.Go(func() { w.run(w.life) }) // Promise 3: each webhook has a goroutine and a lane of its own.
	}
	return w, nil
}

// stored finds the store's record of a webhook.
func (r *Relay) stored(ctx context.Context, name string) (queue.Webhook, error) {
	all, err := r.queue.Webhooks(ctx)
	if err != nil {
		return queue.Webhook{}, err
	}
	if i := slices.IndexFunc(all, func(s queue.Webhook) bool { return s.Name == name }); i >= 0 {
		return all[i], nil
	}
	return queue.Webhook{}, fmt.Errorf("webhook %q: %w", name, queue.ErrNotFound)
}

// note writes a line of the activity log. What it tells has happened whether or
// not it can be written, so a failure is logged and no more.
func (r *Relay) note(a activity) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	data, err := json.Marshal(a)
	if err == nil {
		err = r.queue.AppendActivity(ctx, queue.Activity{At: time.Now(), Data: data})
	}
	if err == nil && r.feed.tells() {
		r.feed.tell(Happening{Kind: HappenedActivity, What: a.What, Who: a.Who, Webhook: a.Webhook, Detail: a.Detail})
	}
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		r.log.Warn("the activity log misses a line", "what", a.What, "webhook", a.Webhook, "error", err)
	}
}
