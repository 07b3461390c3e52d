package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// options choose a world.
type options struct {
	seed   uint64
	steps  int
	engine func(t *testing.T) engine
	// longest bounds how long one step lasts, and rungs with it.
	longest time.Duration
	// broken, unless nil, breaks a promise between relay and engine.
	broken func(queue.Queue) queue.Queue
}

// world is everything of one seed, in one bubble.
type world struct {
	o        options
	rnd      *rand.Rand
	history  *history
	ledger   *ledger
	troubles *troubles
	engine   engine
	over     chan struct{}
	serving  sync.WaitGroup // receivers, disks
	clients  sync.WaitGroup // submissions under way

	hostsMu sync.Mutex
	hosts   map[string]*receiver

	named map[string]*webhook // by name; the ledger's lock guards it
	file  []string            // names in the configuration file now
	known []string            // and those that ever were
	ids   []queue.DeliveryID
	count int // of feedback

	process
}

// process is one life of the relay.
type process struct {
	disk       *disk
	wire       *wire
	relay      *relay.Relay
	generation *relay.Generation
}

// simulate lives through one seed. It returns what went wrong, with the history
// before it.
func simulate(t *testing.T, o options) (wrong, report string) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			o: o, rnd: rand.New(rand.NewPCG(o.seed, 1)), history: newHistory(),
			troubles: &troubles{rnd: rand.New(rand.NewPCG(o.seed, 2))},
			over:     make(chan struct{}),
			hosts:    make(map[string]*receiver), named: make(map[string]*webhook),
		}
		w.ledger = newLedger(w)
		w.engine = o.engine(t)
		err := w.live()
		if err == nil {
			err = w.verdict()
		}
		w.end()
		if err != nil {
			wrong = fmt.Sprintf("%v\n%s", err, w.history)
		}
		b := w.ledger
		report = fmt.Sprintf("%d events, %d attempts, %d delivered, %d failed, %d crashes, %v", len(b.events), b.attempts,
			b.delivered, b.failed, b.crashes, time.Since(w.history.start).Round(time.Minute))
	})
	return wrong, report
}

// verdict is the ledger's fault, as an error.
func (w *world) verdict() error {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if w.ledger.wrong != "" {
		return errors.New(w.ledger.wrong)
	}
	return nil
}

// live is the whole life: a beginning, the seed's steps, and a time in which all
// is well, at the end of which nothing may be left.
func (w *world) live() error {
	if err := w.found(); err != nil {
		return err
	}
	for step := range w.o.steps {
		if err := w.step(); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if err := w.check(step%10 == 0); err != nil {
			return fmt.Errorf("after step %d: %w", step, err)
		}
	}
	return w.allIsWell()
}

// start begins a process on what the engine holds.
func (w *world) start() error {
	q, err := w.engine.open()
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	if w.o.broken != nil {
		q = w.o.broken(q)
	}
	p := process{disk: newDisk(w, q), wire: newWire(w)}
	p.relay = relay.New(relay.Options{Queue: p.disk, Dial: p.wire.dial, Version: "sim", Logger: slog.New(logged{w.history})})
	w.process = p
	if err := p.relay.Start(context.Background()); err != nil {
		return fmt.Errorf("starting the relay: %w", err)
	}
	if w.generation, err = p.relay.Attach(w.config()); err != nil {
		return fmt.Errorf("attaching the settings: %w", err)
	}
	return nil
}

// config is the configuration file.
func (w *world) config() relay.Config {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	var c relay.Config
	for _, name := range w.file {
		c.Webhooks = append(c.Webhooks, w.named[name].config)
	}
	return c
}

// restart stops the process as a deployment does, and starts the next.
func (w *world) restart(grace time.Duration) error {
	w.history.add("── restart, %v of grace", grace)
	w.unsure(true)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	_ = w.relay.Stop(ctx) // an error says that attempts were cut off
	cancel()
	w.ledger.mu.Lock()
	for _, h := range w.ledger.webhooks {
		for l := range h.out {
			w.ledger.faultLocked("%s is still out after Stop", l.id)
		}
	}
	w.ledger.mu.Unlock()
	w.clients.Wait() // Caddy answers them before it ends
	w.disk.die()
	w.wire.sever()
	synctest.Wait()
	if err := w.engine.close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	w.ledger.mu.Lock()
	w.ledger.commit()
	w.ledger.mu.Unlock()
	return w.again()
}

// crash kills the process.
func (w *world) crash() error {
	w.history.add("── killed")
	w.unsure(true)
	w.disk.die()
	if err := w.engine.crash(); err != nil {
		return fmt.Errorf("killing: %w", err)
	}
	w.wire.sever()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.relay.Stop(gone) // only ends its goroutines: all it is told is that the store is closed
	synctest.Wait()
	w.ledger.crashes++
	return w.again()
}

// again starts a process on what the last one left, and holds that to the
// ledger.
func (w *world) again() error {
	w.ledger.mu.Lock()
	w.ledger.killed()
	w.ledger.mu.Unlock()
	q, err := w.engine.open()
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	if w.o.broken != nil {
		q = w.o.broken(q)
	}
	if err := w.ledger.compare(q, true); err != nil {
		return err
	}
	w.ledger.mu.Lock()
	w.ledger.commit()
	w.ledger.mu.Unlock()
	if err := w.start(); err != nil {
		return err
	}
	w.quiet()
	return nil
}

// unsure says that the states of webhooks may change for reasons that the
// ledger does not see.
func (w *world) unsure(all bool) {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	for _, h := range w.ledger.webhooks {
		h.unsure = h.unsure || all
	}
}

// end ends everything, also when something went wrong.
func (w *world) end() {
	w.disk.die()
	w.wire.sever()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.relay.Stop(gone)
	close(w.over)
	_ = w.engine.close()
	w.clients.Wait()
	w.serving.Wait()
}

// pause waits in the world's time; false is its end.
func (w *world) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.over:
		return false
	}
}

// quiet waits until nothing happens at this instant, and takes down how the
// webhooks stand.
func (w *world) quiet() {
	synctest.Wait()
	if w.disk.busy.Load() > 0 {
		return
	}
	w.ledger.mu.Lock()
	expired := false
	for _, h := range w.ledger.webhooks {
		expired = expired || h.mayExpire && !h.parked
	}
	w.ledger.mu.Unlock()
	if expired {
		w.sync()
		if err := w.ledger.compare(w.disk.Queue, false); err != nil {
			w.ledger.fault("%v", err)
		}
	}
	for _, s := range w.relay.Webhooks() {
		w.ledger.mu.Lock()
		if h := w.ledger.webhooks[s.ID]; h != nil {
			if !h.unsure && h.state != "" && h.state != s.State {
				w.ledger.faultLocked("webhook %s is %s, and was %s", s.Name, s.State, h.state)
			}
			h.stand(s)
		}
		w.ledger.mu.Unlock()
	}
}

// put enters a webhook's record. The ledger's lock is held.
func (w *world) put(stored queue.Webhook) {
	h := w.named[stored.Name]
	if h == nil && strings.HasPrefix(stored.Name, ".") {
		return // the relay's own
	}
	if h == nil {
		w.ledger.faultLocked("a webhook %q is stored, of which nobody knows", stored.Name)
		return
	}
	if stored.Revision == 1 {
		h.id = stored.ID
		w.ledger.webhooks[stored.ID] = h
	}
}

func (w *world) receiver(host string) *receiver {
	w.hostsMu.Lock()
	defer w.hostsMu.Unlock()
	return w.hosts[host]
}

// logged takes the relay's log into the history.
type logged struct{ h *history }

func (l logged) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l logged) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l logged) WithGroup(string) slog.Handler                    { return l }
func (l logged) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	l.h.add("log: %s", line)
	return nil
}
