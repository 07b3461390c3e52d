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
	"github.com/userhero/relay/relay/body"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/feed"
	"github.com/userhero/relay/relay/notify"
	"github.com/userhero/relay/relay/tally"
)

// Relay delivers the events of one queue. All methods may be called from any goroutine.
//
// The locks are taken in this order:
//
//  1. Relay.attachMu: one change of the configuration at a time
//  2. webhook.storeLock, Relay.tallyLock: one write of a record at a time
//  3. Relay.mu, webhook.mu, and the locks inside feed.Feed, tally.Relay, workerPool and
//     notify.Sender: short, and none is held while another lock is taken
//
// Locks 1 and 2 are held during calls to the store. The locks of 3 never are.
type Relay struct {
	queue    queue.Queue
	shared   bool // other relays may work on the store
	log      *slog.Logger
	observer Observer
	tracer   trace.Tracer // nil: no spans
	agent    string
	client   *deliver.Client // nil: each generation has its own
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	own      func(netip.AddrPort) bool
	feed     feed.Feed
	notices  *notify.Sender
	turns    *body.Turns // in which dear bodies are made
	filters  sync.Mutex  // held while a dear filter judges; no other lock is taken meanwhile

	// lanes ends the webhooks' goroutines. attempts cancels the attempts in flight.
	lanes, attempts           context.Context
	stopLanes, cancelAttempts context.CancelFunc
	// ended and putBack count the attempts that were in flight when the stop began:
	// those that ended, and those that were cancelled and given back.
	ended, putBack   atomic.Int64
	running          sync.WaitGroup // webhooks' goroutines, and those of Go
	following        sync.WaitGroup // goroutines that listen to other relays, and may take attachMu
	attachMu         slowLock       // serialises Start, Stop, Attach, Detach, Add, Change, Rotate and Delete
	mu               sync.RWMutex   // guards everything below
	started, stopped bool
	webhooks         map[string]*webhook // by name
	byID             map[queue.WebhookID]*webhook
	generations      []*Generation // attached, oldest first
	current          *Generation   // the one that was applied last

	tally       tally.Relay
	tallyLock   slowLock      // guards the fields below
	tallyStored queue.Webhook // its record in the store; see saveTally
	// tallyAttempted is the data of a write whose outcome is unknown.
	tallyAttempted []byte
}

// Generation is one set of settings in force. The newest attached generation is in
// force. When it is detached, the newest remaining one is in force again, so a
// configuration that fails to start leaves the earlier settings active.
type Generation struct {
	relay  *Relay
	config Config
	client *deliver.Client
	public *deliver.Client // for webhooks that reach public addresses only
}

// errStopping is the cancellation cause of attempts when the relay stops.
var errStopping = errors.New("the relay is stopping")

// errDeleted is the cancellation cause of attempts when their webhook is deleted.
var errDeleted = errors.New("the webhook is being deleted")

// storeTime bounds calls to the store when settings are attached or a state changes.
const storeTime = 10 * time.Second

// slowLock is a lock that may be held for a long time, during calls to the store. A
// caller that waits for it can give up. It must have a capacity of 1.
type slowLock chan struct{}

// lock takes the lock. If the context ends first, it returns the context's error.
func (t slowLock) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil // even if the context has ended
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

// Lock takes the lock, however long that takes.
func (t slowLock) Lock() { t <- struct{}{} }

// Unlock releases the lock.
func (t slowLock) Unlock() { t.unlock() }

// Errors of managing webhooks, for errors.Is.
var (
	// ErrReadOnly: the webhook's settings are in the configuration file.
	ErrReadOnly = errors.New("the webhook's settings are in the configuration file; change them there")
	// ErrExists: the name is taken.
	ErrExists = errors.New("there is a webhook of this name")
	// ErrInvalid: the settings are wrong; the error lists them.
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

// all returns the webhooks, sorted by name.
func (r *Relay) all() []*webhook {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.webhooks), func(a, b *webhook) int { return strings.Compare(a.name(), b.name()) })
}

// addLocked adds a webhook. The caller holds r.mu.
func (r *Relay) addLocked(w *webhook) {
	r.webhooks[w.name()] = w
	r.byID[w.id] = w
}

// forget removes a webhook that the store no longer holds.
func (r *Relay) forget(w *webhook) {
	r.mu.Lock()
	known := r.webhooks[w.name()] == w
	if known {
		delete(r.webhooks, w.name())
		delete(r.byID, w.id)
	}
	r.mu.Unlock()
	if known {
		r.observer.Deleted(w.name())
	}
}

// storedWebhook reads the record of the webhook that is selected from the store.
func (r *Relay) storedWebhook(ctx context.Context, is func(queue.Webhook) bool) (queue.Webhook, error) {
	all, err := r.queue.Webhooks(ctx)
	if err != nil {
		return queue.Webhook{}, err
	}
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], nil
	}
	return queue.Webhook{}, fmt.Errorf("the webhook's record: %w", queue.ErrNotFound)
}

// withName selects the record with this name.
func withName(name string) func(queue.Webhook) bool {
	return func(s queue.Webhook) bool { return s.Name == name }
}

// Queue returns the relay's queue.
func (r *Relay) Queue() queue.Queue { return r.queue }
