package simulation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	eventpkg "github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// patience is how long people wait for the store.
const patience = 15 * time.Second

// action is one thing that happens in a step, as often as its weight says.
type action struct {
	weight int
	do     func(w *world) error
}

var deeds = []action{
	{40, (*world).submit},
	{30, (*world).pass},
	{8, (*world).change},
	{3, (*world).disable},
	{6, (*world).enable},
	{4, (*world).redeliver},
	{1, (*world).recover},
	{2, (*world).rotate},
	{2, (*world).addOne},
	{2, (*world).changeOne},
	{1, (*world).deleteOne},
	{3, (*world).reload},
	{1, (*world).reloadBadly},
	{1, func(w *world) error { return w.restart(w.upTo(10 * time.Second)) }},
	{2, (*world).crash},
	{2, (*world).trouble},
	{3, func(w *world) error { w.sync(); return nil }},
}

// step does one thing.
func (w *world) step() error {
	total := 0
	for _, d := range deeds {
		total += d.weight
	}
	n := w.rnd.IntN(total)
	for _, d := range deeds {
		if n -= d.weight; n < 0 {
			return d.do(w)
		}
	}
	return nil
}

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rnd.Int64N(int64(d))) + 1 }

func one[T any](w *world, list []T) T { return list[w.rnd.IntN(len(list))] }

// found makes the first webhooks and starts the first process.
func (w *world) found() error {
	for _, name := range []string{"alpha", "beta", "gamma"} {
		w.newWebhook(name, false)
		w.file = append(w.file, name)
	}
	w.known = slices.Clone(w.file)
	if err := w.start(); err != nil {
		return err
	}
	w.quiet()
	return nil
}

// newHook makes a webhook with a receiver, which nobody has been told of yet.
func (w *world) newWebhook(name string, api bool) *webhook {
	w.count++
	h := &webhook{
		name: name, host: hostOf(fmt.Sprintf("%s-%d", name, w.count)), ledger: w.ledger, api: api, unsure: true,
		waiting: make(map[*delivery]bool), out: make(map[*lease]bool), window: 1,
	}
	h.config = w.settings(relay.WebhookConfig{Name: name, URL: "http://" + h.host + "/webhook"})
	if w.rnd.IntN(4) > 0 {
		h.config.Secret = fmt.Sprintf("secret %d", w.rnd.Uint64())
	}
	h.bound = h.config.Concurrency
	h.receiver = &receiver{w: w, webhook: h, secret: h.config.Secret}
	w.hostsMu.Lock()
	w.hosts[h.host] = h.receiver
	w.hostsMu.Unlock()
	w.ledger.mu.Lock()
	w.named[name] = h
	w.ledger.mu.Unlock()
	return h
}

// settings chooses how a webhook is reached; the name, the URL and the secrets
// stay.
func (w *world) settings(c relay.WebhookConfig) relay.WebhookConfig {
	ladders := [][]time.Duration{
		{}, {time.Second}, {100 * time.Millisecond, time.Second, 10 * time.Second}, {10 * time.Second, time.Minute},
		{time.Minute, time.Minute, time.Minute}, relay.DefaultLadder(), {time.Hour},
	}
	c.Retry = one(w, ladders)
	if w.o.longest < time.Hour {
		c.Retry = one(w, ladders[:5])
	}
	c.Timeout = one(w, []time.Duration{10 * time.Second, 30 * time.Second})
	c.Concurrency = one(w, []int{1, 2, 3, 8})
	c.Rate = one(w, []relay.Rate{{}, {}, {}, {Events: 5, Per: time.Second}, {Events: 60, Per: time.Minute}})
	c.Ordered = w.rnd.IntN(3) == 0
	c.Filter, c.Events = "", nil
	if w.rnd.IntN(3) == 0 {
		c.Filter = one(w, slices.Sorted(maps.Keys(passes)))
	}
	if w.rnd.IntN(6) == 0 {
		c.Events = []eventpkg.Type{one(w, eventpkg.Types())}
	}
	return c
}

// submit has somebody give feedback, or change some; now and then many.
func (w *world) submit() error {
	for range one(w, []int{1, 1, 1, 2, 5, 20}) {
		w.submitOne()
	}
	return nil
}

func (w *world) submitOne() {
	w.count++
	n := w.count
	a := queue.Entry{Type: string(eventpkg.Created), Feedback: queue.FeedbackID{ID: fmt.Sprintf("fb_%d", n)}}
	w.ledger.mu.Lock()
	if ids := slices.SortedFunc(maps.Keys(w.ledger.newest), func(a, b queue.FeedbackID) int { return cmp.Compare(a.ID, b.ID) }); len(ids) > 0 && w.rnd.IntN(3) == 0 {
		a.Feedback = ids[len(ids)-1-w.rnd.IntN(min(len(ids), 5))]
		a.Type, a.Replaces = string(eventpkg.Updated), w.ledger.newest[a.Feedback].id
	}
	w.ledger.mu.Unlock()
	body := fmt.Appendf(nil, `{"event":%q,"data":{"id":%q,"message":"Grüße, %d \u0007 %s","category":%q,"rating":%d,"status":%q}}`,
		a.Type, a.Feedback.ID, n, strings.Repeat("x", w.rnd.IntN(300)), one(w, []string{"bug", "idea"}), 1+w.rnd.IntN(5),
		one(w, []string{"new", "working", "done"}))
	a.Body, a.Key = body, queue.Key{Name: fmt.Sprint("key ", n), Hash: sha256.Sum256(body)}
	p, wait := w.process, w.upTo(patience)
	w.clients.Go(func() {
		for range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			receipt, err := p.relay.Accept(ctx, a)
			cancel()
			if err == nil {
				w.acknowledged(receipt, a)
				return
			}
			if errors.Is(err, queue.ErrConflict) || errors.Is(err, queue.ErrClosed) {
				return // a person would read again, or ask the next process
			}
			if !w.pause(time.Second) {
				return
			}
		}
	})
}

// acknowledged enters that somebody was told.
func (w *world) acknowledged(r queue.Receipt, a queue.Entry) {
	b := w.ledger
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.events[r.Event.ID]
	if e == nil {
		if !r.Replayed {
			b.faultLocked("%s is acknowledged and was never stored", r.Event.ID)
		}
		return
	}
	if string(e.body) != string(a.Body) || string(r.Event.Body) != string(a.Body) {
		b.faultLocked("%s is acknowledged with other bytes", r.Event.ID)
	}
	e.acked = true
	for _, d := range e.deliveries {
		w.ids = append(w.ids, d.id)
	}
}

// pass lets time go by.
func (w *world) pass() error {
	spans := []time.Duration{time.Millisecond, 50 * time.Millisecond, time.Second, time.Second, 10 * time.Second, 10 * time.Second,
		time.Minute, 5 * time.Minute, time.Hour, 30 * time.Hour}
	d := min(w.upTo(one(w, spans)), w.o.longest)
	w.history.add("── %v pass", d)
	time.Sleep(d)
	return nil
}

// someHook is a webhook that the store has.
func (w *world) someWebhook(which func(*webhook) bool) *webhook {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	ids := slices.Sorted(maps.Keys(w.ledger.webhooks))
	ids = slices.DeleteFunc(ids, func(id queue.WebhookID) bool { return !which(w.ledger.webhooks[id]) })
	if len(ids) == 0 {
		return nil
	}
	return w.ledger.webhooks[one(w, ids)]
}

func anyWebhook(*webhook) bool { return true }

// change gives a receiver another mood.
func (w *world) change() error {
	h := w.someWebhook(anyWebhook)
	m := mood(w.rnd.IntN(int(moods)))
	if w.rnd.IntN(3) == 0 {
		m = well
	}
	w.history.add("── %s is %s", h.name, m)
	h.receiver.feel(m)
	return nil
}

// do has somebody do something to a webhook. While that is under way, and when
// it has failed, nobody knows how the webhook stands.
func (w *world) do(h *webhook, what string, do func(ctx context.Context) error) error {
	w.history.add("── %s %s", what, h.name)
	w.ledger.mu.Lock()
	h.unsure = true
	w.ledger.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := do(ctx)
	if err != nil {
		w.history.add("── %s %s: %v", what, h.name, err)
	}
	return err
}

// is waits until all is quiet and compares what people were told with what they
// see.
func (w *world) is(h *webhook, err error, state string) error {
	if err != nil {
		return nil //nolint:nilerr // they were told
	}
	synctest.Wait()
	s, ok := w.relay.Webhook(h.name)
	if !ok || s.State != state {
		return fmt.Errorf("%s should be %s and is %q", h.name, state, s.State)
	}
	return nil
}

func (w *world) disable() error {
	h := w.someWebhook(anyWebhook)
	err := w.do(h, "disable", func(ctx context.Context) error { return w.relay.Disable(ctx, h.name, "sim") })
	return w.is(h, err, relay.Disabled)
}

func (w *world) enable() error {
	h := w.someWebhook(func(h *webhook) bool { return h.state == relay.Disabled })
	if h == nil {
		h = w.someWebhook(anyWebhook)
	}
	if h.receiver.mood() == gone {
		h.receiver.feel(well)
	}
	began := time.Now()
	w.ledger.mu.Lock()
	h.refused, h.surely, h.unsure = 0, 0, true
	for l := range h.out { // others may go out beside it from now on
		l.open = false
	}
	w.ledger.mu.Unlock()
	_ = w.do(h, "enable", func(ctx context.Context) error { return w.relay.Enable(ctx, h.name, "sim") })
	w.ledger.mu.Lock()
	// What failed for good meanwhile may open the breaker only now.
	h.open = h.refused >= connectionFailures || !h.lastFailed.Before(began)
	h.surely, h.window = 0, 1
	w.ledger.mu.Unlock()
	return nil
}

func (w *world) redeliver() error {
	w.ledger.mu.Lock()
	ids := w.ids
	w.ledger.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	id := ids[len(ids)-1-w.rnd.IntN(min(len(ids), 50))]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := w.relay.Redeliver(ctx, id, "sim")
	if err != nil && !errors.Is(err, queue.ErrConflict) && !errors.Is(err, queue.ErrNotFound) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("redelivering %s: %w", id, err)
	}
	return nil
}

func (w *world) recover() error {
	h := w.someWebhook(anyWebhook)
	w.ledger.mu.Lock()
	h.window = 1
	w.ledger.mu.Unlock()
	_ = w.do(h, "recover", func(ctx context.Context) error {
		_, err := w.relay.Recover(ctx, h.name, relay.Recovery{Failed: true, Missed: w.rnd.IntN(2) == 0, Since: time.Now().Add(-w.upTo(time.Hour))}, "sim")
		return err
	})
	return nil
}

// addOne adds a webhook through the API.
func (w *world) addOne() error {
	name := one(w, []string{"delta", "epsilon"})
	w.ledger.mu.Lock()
	known := w.named[name]
	w.ledger.mu.Unlock()
	h := known
	switch _, there := w.relay.Webhook(name); {
	case there:
		return nil
	case known == nil || known.deleted:
		h = w.newWebhook(name, true)
	}
	err := w.do(h, "add", func(ctx context.Context) error { return w.relay.Add(ctx, h.config, "sim") })
	if err != nil && h.id == 0 {
		synctest.Wait()
		w.ledger.mu.Lock()
		if h.id == 0 && w.disk.busy.Load() == 0 {
			h.deleted = true
		}
		w.ledger.mu.Unlock()
	}
	return nil
}

func (w *world) apiWebhook() *webhook {
	return w.someWebhook(func(h *webhook) bool { return h.api })
}

func (w *world) changeOne() error {
	h := w.apiWebhook()
	if h == nil {
		return nil
	}
	c := w.settings(h.config)
	w.reconfigure(h, c, "change", func(ctx context.Context) error {
		return w.relay.Change(ctx, h.name, func(in *relay.WebhookConfig) error {
			secret, previous, until := in.Secret, in.PreviousSecret, in.PreviousUntil
			*in = c
			in.Secret, in.PreviousSecret, in.PreviousUntil = secret, previous, until
			return nil
		}, "sim")
	})
	return nil
}

// reconfigure gives a webhook other settings. When that fails either may be in
// force until the next try.
func (w *world) reconfigure(h *webhook, c relay.WebhookConfig, what string, do func(ctx context.Context) error) {
	b := w.ledger
	b.mu.Lock()
	h.mayGet(c)
	h.bound = max(h.bound, c.Concurrency)
	b.mu.Unlock()
	if err := w.do(h, what, do); err != nil {
		return
	}
	b.mu.Lock()
	h.inForce(c)
	b.mu.Unlock()
}

// rotate gives a webhook another secret; its receiver learns it within the
// overlap.
func (w *world) rotate() error {
	h := w.someWebhook(func(h *webhook) bool {
		return h.api && h.config.Secret != "" && len(h.others) == 0 && h.config.PreviousUntil.Before(time.Now())
	})
	if h == nil {
		return nil
	}
	const overlap = time.Hour
	secret := ""
	w.ledger.mu.Lock()
	h.rotated = true
	w.ledger.mu.Unlock()
	err := w.do(h, "rotate the secret of", func(ctx context.Context) (err error) {
		secret, err = w.relay.Rotate(ctx, h.name, "", overlap, "sim")
		return err
	})
	if err != nil {
		return nil //nolint:nilerr // the former secret stays
	}
	w.ledger.mu.Lock()
	h.config.Secret, h.config.PreviousUntil = secret, time.Now().Add(overlap)
	w.ledger.mu.Unlock()
	w.later(2*time.Minute+w.upTo(overlap/2), func() { h.receiver.learn(secret) })
	return nil
}

// later does something at its time, unless the world ends before.
func (w *world) later(d time.Duration, do func()) {
	w.serving.Go(func() {
		if w.pause(d) {
			do()
		}
	})
}

// deleteOne deletes a webhook that was added; people do not always wait until
// what is under way has ended.
func (w *world) deleteOne() error {
	h := w.apiWebhook()
	if h == nil {
		return nil
	}
	err := w.do(h, "delete", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, w.upTo(patience))
		defer cancel()
		_, err := w.relay.Delete(ctx, h.name, "sim")
		return err
	})
	if err == nil && !h.deleted {
		return fmt.Errorf("%s was deleted, and the store has it", h.name)
	}
	return nil
}

// reload writes the configuration file anew and loads it.
func (w *world) reload() error {
	b := w.ledger
	before := w.generation
	var configs []relay.WebhookConfig
	var names []string
	b.mu.Lock()
	for _, name := range w.known {
		if w.rnd.IntN(5) == 0 && len(w.known) > 1 {
			continue // it leaves the file, and is parked
		}
		h := w.named[name]
		c := h.config
		if w.rnd.IntN(3) > 0 {
			c = w.settings(c)
		}
		names, configs = append(names, name), append(configs, c)
	}
	b.mu.Unlock()
	rollBack := w.rnd.IntN(4) == 0
	w.history.add("── reload with %v; roll back: %v", names, rollBack)
	w.announce(names, configs)
	g, err := w.relay.Attach(relay.Config{Webhooks: configs})
	if err != nil {
		w.history.add("── reload: %v", err)
		w.settle(nil, false)
		return nil // people are told; the former configuration goes on
	}
	if rollBack {
		// Another part of the configuration did not start.
		synctest.Wait()
		if err := g.Detach(); err != nil {
			w.history.add("── rolling back: %v", err)
			return nil
		}
		w.settle(nil, false)
		return nil
	}
	if err := before.Detach(); err != nil {
		return fmt.Errorf("detaching the former settings: %w", err)
	}
	w.generation, w.file = g, names
	w.settle(names, true)
	return nil
}

// reloadBadly loads a configuration that cannot be applied; nothing may change.
func (w *world) reloadBadly() error {
	h := w.apiWebhook()
	if h == nil {
		return nil
	}
	if _, there := w.relay.Webhook(h.name); !there {
		return nil
	}
	w.ledger.mu.Lock()
	configs := []relay.WebhookConfig{w.settings(w.named[w.known[0]].config), h.config}
	w.ledger.mu.Unlock()
	w.history.add("── a bad reload")
	if _, err := w.relay.Attach(relay.Config{Webhooks: configs}); err == nil {
		return fmt.Errorf("a configuration that names %s, which was added through the API, is attached", h.name)
	}
	return nil
}

// announce says what is about to be in force.
func (w *world) announce(names []string, configs []relay.WebhookConfig) {
	b := w.ledger
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range w.known {
		w.named[name].unsure = true
		w.named[name].mayExpire = w.named[name].mayExpire || !slices.Contains(names, name)
		if i := slices.Index(names, name); i >= 0 {
			h := w.named[name]
			h.mayGet(configs[i])
			h.bound = max(h.bound, configs[i].Concurrency)
		}
	}
}

// settle says that it is, or that what was before is.
func (w *world) settle(names []string, loaded bool) {
	b := w.ledger
	b.mu.Lock()
	for _, name := range w.known {
		h := w.named[name]
		if loaded {
			h.parked = !slices.Contains(names, name)
		}
		if loaded && !h.parked {
			h.inForce(h.others[len(h.others)-1])
		} else {
			h.inForce(h.config)
		}
	}
	b.mu.Unlock()
	w.sync()
	synctest.Wait()
	if err := b.compare(w.disk.Queue, false); err != nil { // what was parked may have expired
		b.fault("%v", err)
	}
}

// trouble changes how the disk does.
func (w *world) trouble() error {
	var delay, stall time.Duration
	full := false
	choice := w.rnd.IntN(6)
	if e, ok := w.engine.(*onDisk); ok && (choice == 2 || choice == 3) {
		return w.fill(e)
	}
	switch choice {
	case 0:
		delay = w.upTo(100 * time.Millisecond)
	case 1:
		stall = w.upTo(30 * time.Second)
	case 2:
		full = true
	}
	w.history.add("── the disk: delay %v, stall %v, full %v", delay, stall, full)
	w.troubles.set(delay, stall, full)
	return nil
}

// fill has the disk of a real store fill under load and get room again. People
// submit before, while nothing can be written, and at the moment when there is
// room, before the store has looked.
func (w *world) fill(e *onDisk) error {
	w.history.add("── the disk is full")
	w.troubles.set(0, 0, false)
	w.submitOne()
	time.Sleep(w.upTo(10 * time.Millisecond)) // for deliveries to be under way
	e.fills(0)
	w.submitOne()
	time.Sleep(w.upTo(time.Second))
	w.history.add("── the disk has room")
	e.fills(plenty)
	for range 3 {
		w.submitOne()
		time.Sleep(w.upTo(20 * time.Millisecond))
	}
	time.Sleep(time.Second) // what was settled is written
	return nil
}

// sync lets what was settled reach the disk. What is settled meanwhile, be it at
// this very moment, may reach it or not.
func (w *world) sync() {
	b := w.ledger
	b.mu.Lock()
	settled := make(map[*delivery]standing, len(b.unsure))
	for d := range b.unsure {
		settled[d] = d.standing
	}
	b.mu.Unlock()
	w.engine.sync()
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, s := range settled {
		if d.standing == s {
			d.past = nil
			delete(b.unsure, d)
		}
	}
}

// allIsWell is the end of every life: receivers, disk and people are well, and
// everything that was acknowledged comes to its end.
func (w *world) allIsWell() error {
	w.history.add("── all is well")
	w.troubles.set(0, 0, false)
	time.Sleep(time.Minute)
	w.quiet()
	w.ledger.mu.Lock()
	webhooks := slices.Collect(maps.Values(w.ledger.webhooks))
	file := make([]relay.WebhookConfig, len(w.known))
	for i, name := range w.known {
		file[i] = w.named[name].config
	}
	w.ledger.mu.Unlock()
	for _, h := range webhooks {
		h.receiver.feel(well)
	}
	w.announce(w.known, file)
	g, err := w.relay.Attach(relay.Config{Webhooks: file})
	if err != nil {
		return fmt.Errorf("attaching the last settings: %w", err)
	}
	if err := w.generation.Detach(); err != nil {
		return fmt.Errorf("detaching the settings before the last: %w", err)
	}
	w.generation, w.file = g, w.known
	w.settle(w.known, true)
	w.unsure(true)
	for _, h := range webhooks {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := w.relay.Enable(ctx, h.name, "sim")
		cancel()
		if err != nil {
			return fmt.Errorf("enabling %s: %w", h.name, err)
		}
	}
	if err := w.drain(); err != nil {
		return err
	}
	for _, h := range webhooks {
		if _, err := w.relay.Recover(context.Background(), h.name, relay.Recovery{Failed: true}, "sim"); err != nil {
			return fmt.Errorf("recovering %s: %w", h.name, err)
		}
	}
	if err := w.drain(); err != nil {
		return err
	}
	for _, h := range webhooks {
		if n := w.disk.Stats(context.Background()).Webhooks[h.id].Counts; n.Waiting()+n.Failed > 0 {
			return fmt.Errorf("in the end %s counts %+v", h.name, n)
		}
	}
	return w.restart(time.Minute)
}

// drain waits until nothing waits. The longest it may take is the longest rung,
// which is what a receiver may ask for too, and what a rate needs.
func (w *world) drain() error {
	w.ledger.mu.Lock()
	n := 0
	for _, h := range w.ledger.webhooks {
		h.unsure = true
		n = max(n, len(h.waiting))
	}
	w.ledger.mu.Unlock()
	end := time.Now().Add(25*time.Hour + time.Duration(n)*time.Second)
	for {
		time.Sleep(w.upTo(2 * time.Minute))
		if err := w.check(true); err != nil {
			return fmt.Errorf("while all is well: %w", err)
		}
		w.ledger.mu.Lock()
		var left *delivery
		for _, h := range w.ledger.webhooks {
			for d := range h.waiting {
				left = d
			}
		}
		w.ledger.mu.Unlock()
		if left == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s of %s still waits, due at %v, lease %v", left.id, left.webhook.name, left.due, left.lease != nil)
		}
	}
}
