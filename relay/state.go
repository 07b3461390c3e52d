package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/notify"
)

// Relay is the engine above one queue. All methods may be called from any
// goroutine.
//
// The locks are taken in this order:
//
//  1. Relay.attachMu: one change of the configuration at a time
//  2. webhook.storeLock: one write of a webhook's record at a time
//  3. Relay.mu, webhook.mu, and the locks inside feed, relayTally, workerPool and
//     notify.Sender: short, and none is held while another lock is taken
//
// 1 and 2 are held while the store works, those of 3 never are.
type Relay struct {
	queue    queue.Queue
	log      *slog.Logger
	observer Observer
	tracer   trace.Tracer // nil: no spans
	// producing is what the spans of acceptances start with.
	producing []trace.SpanStartOption
	agent     string
	client    *deliver.Client // nil: each generation's own
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	own       func(netip.AddrPort) bool
	feed      feed
	notices   *notify.Sender

	// lanes ends the webhooks' goroutines, attempts what they have under way.
	lanes, attempts           context.Context
	stopLanes, cancelAttempts context.CancelFunc
	// Of the attempts in flight when the stop began: those that ended, and those
	// that were cut off and put back.
	ended, putBack   atomic.Int64
	running          sync.WaitGroup // webhooks' goroutines
	attachMu         sync.Mutex     // serialises Start, Stop, Attach, Detach, Add, Change, Rotate and Delete
	mu               sync.RWMutex   // guards everything below
	started, stopped bool
	webhooks         map[string]*webhook // by name
	byID             map[queue.WebhookID]*webhook
	generations      []*Generation // attached, oldest first
	current          *Generation   // the one that was applied last

	tally       relayTally
	tallyStored queue.Webhook // its record; see saveTally
}

// Generation is one set of settings in force. The newest attached counts; when
// it is detached, the newest one left does. So a configuration that fails to
// start takes its settings with it, and what was before goes on.
type Generation struct {
	relay  *Relay
	config Config
	client *deliver.Client
}

// errStopping is the cause of attempts that a stop cuts off.
var errStopping = errors.New("the relay is stopping")

// errDeleted is the cause of attempts that the deletion of their webhook cuts
// off.
var errDeleted = errors.New("the webhook is being deleted")

// storeTime bounds what attaching and state changes ask of the store.
const storeTime = 10 * time.Second

// slowLock is a lock that is held while the store works, which may take long: a
// caller that waits for it can give up. Make it with a capacity of 1.
type slowLock chan struct{}

// lock takes the lock, or returns why the context ended first.
func (t slowLock) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil // whether or not the context has ended
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t slowLock) unlock() { <-t }

// Errors of managing webhooks, for errors.Is.
var (
	// ErrReadOnly: the webhook's settings are in the configuration file.
	ErrReadOnly = errors.New("the webhook's settings are in the configuration file; change them there")
	// ErrExists: the name is taken.
	ErrExists = errors.New("there is a webhook of this name")
	// ErrInvalid: the settings are wrong; the error says which.
	ErrInvalid = errors.New("the settings are not valid")

	errParked = fmt.Errorf("the webhook has left the configuration: %w", queue.ErrConflict)
)

// find returns a webhook by name.
func (r *Relay) find(name string) (*webhook, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if w := r.webhooks[name]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("webhook %q: %w", name, queue.ErrNotFound)
}

// all returns the webhooks, by name.
func (r *Relay) all() []*webhook {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.webhooks), func(a, b *webhook) int { return strings.Compare(a.name, b.name) })
}

// addLocked adds a webhook; r.mu is held.
func (r *Relay) addLocked(w *webhook) {
	r.webhooks[w.name] = w
	r.byID[w.id] = w
}

// forget removes a webhook that is no longer in the store.
func (r *Relay) forget(w *webhook) {
	r.mu.Lock()
	known := r.webhooks[w.name] == w
	if known {
		delete(r.webhooks, w.name)
		delete(r.byID, w.id)
	}
	r.mu.Unlock()
	if known {
		r.observer.Deleted(w.name)
	}
}

// storedWebhook reads a webhook's record from the store.
func (r *Relay) storedWebhook(ctx context.Context, name string) (queue.Webhook, error) {
	all, err := r.queue.Webhooks(ctx)
	if err != nil {
		return queue.Webhook{}, err
	}
	if i := slices.IndexFunc(all, func(s queue.Webhook) bool { return s.Name == name }); i >= 0 {
		return all[i], nil
	}
	return queue.Webhook{}, fmt.Errorf("webhook %q: %w", name, queue.ErrNotFound)
}

// Queue is the queue the relay works on.
func (r *Relay) Queue() queue.Queue { return r.queue }
