// Package jetstreamqueue is a durable queue of webhook deliveries on NATS JetStream,
// for several relays that share one store.
//
// It promises what package queue promises, for as long as a majority of the servers
// keeps its disks. Its streams are made at the first start and checked at every start.
//
// An event is one message. Its subject is its feedback, so the server itself does the
// compare-and-set for updates. One relay owns a webhook's lane, by a lock that expires
// (lock.go). The state of a delivery is in one of two places:
//
//   - If the delivery has a record, the last record is its state. A record is a message on
//     the delivery's own subject, with the attempt that led to it.
//   - Otherwise the cursor of its lane has the state: how far the owner has come with the
//     events in order, and which earlier events still wait. A cursor also carries the log
//     of the deliveries that succeeded at their first attempt since the last cursor. Each
//     cursor must follow the one before it. So a relay that lost its lane without noticing
//     cannot settle anything.
//
// So many successes share one message, and a delivery that fails needs one message for
// each attempt. Waiting on a rung needs no consumer on the server: the records hold the due
// times, and the owner of the lane has read all of them.
//
// The package knows nothing of HTTP, ladders or settings. It is tested by the suite of
// package queuetest against real servers.
package jetstreamqueue

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue/seal"
)

// Options set where the servers are and how the queue behaves.
type Options struct {
	// Servers are URLs such as nats://10.0.0.1:4222, at least one.
	Servers []string
	// Connect are further options of the connection: credentials, TLS.
	Connect []nats.Option
	// Prefix begins the name of every stream and subject. Default "userhero".
	Prefix string
	// Replicas is how many servers hold each message. Default: 3, or 1 if there is one
	// server in Servers.
	Replicas int
	// Limits set how much is kept, and for how long.
	queue.Limits
	// MaxBytes is the size limit that the stream of events gets when it is made. 0 means no
	// limit.
	MaxBytes int64
	// LockTTL is how long a relay that dies keeps its lanes. Default 13 s: a shorter
	// time costs healthy relays their lanes at each election. At least 1 s.
	LockTTL time.Duration
	// Patience is how long calls are repeated while the servers elect a leader.
	// Default 12 s.
	Patience time.Duration
	// EncryptionKey has 16, 24 or 32 bytes and encrypts the settings of webhooks. Without a
	// key they are stored unencrypted.
	EncryptionKey []byte
	Logger        *slog.Logger // default: slog.Default()

	storage jetstream.StorageType // only tests set it; the zero value means files
}

// defaults fills in the options that are not set.
func (o *Options) defaults() {
	if o.Prefix == "" {
		o.Prefix = "userhero"
	}
	if o.Replicas == 0 {
		o.Replicas = 3
		if len(o.Servers) == 1 {
			o.Replicas = 1
		}
	}
	if o.LockTTL == 0 {
		o.LockTTL = 13 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Queue is a queue on JetStream; it implements queue.Queue.
//
// Locks are taken in this order: registry.mu, mu, lane.mu, ledger.mu, outcomes.mu.
type Queue struct {
	o     Options
	names names
	node  string // this relay's name, which no other relay has
	nc    *nats.Conn
	js    jetstream.JetStream
	tags  tags // parts of the store's event ids

	sealer seal.Sealer

	registry registry
	ledger   ledger
	attempts attemptCache
	erased   erasedSet

	size      storeSize
	limitsSet chan struct{} // of capacity 1: SetLimits was called
	ahead     atomic.Int64  // by how many nanoseconds the servers' clock is ahead of this machine's
	sweptTo   atomic.Uint64 // the first event in the stream when the log was last swept
	finished  atomic.Uint64 // the last removal that this relay knows to be finished

	connected   atomic.Bool               // there is a connection; see connect
	unavailable atomic.Int64              // calls that were given up
	gaveUp      atomic.Pointer[time.Time] // when a call was last given up
	answered    atomic.Pointer[time.Time] // when the pulse was last answered
	denied      atomic.Pointer[denial]    // the last subject that the server refused
	lacking     atomic.Pointer[denial]    // why a stream could not be followed last
	backup      atomic.Pointer[time.Time] // when the newest backup was made
	commit      atomic.Int64              // a moving average of one durable commit, in nanoseconds
	taking      chan struct{}             // one place for each lane that is being taken

	fetched sync.Map // by the stream's name: when its follower last ended a pull

	peers    peers
	outcomes outcomes

	closed  context.Context //nolint:containedctx // done when the queue is closed
	end     context.CancelFunc
	closing sync.Once
	running sync.WaitGroup

	mu     sync.Mutex // guards everything below
	lanes  map[queue.WebhookID]*lane
	limits queue.Limits
}

var (
	_ queue.Queue    = (*Queue)(nil)
	_ queue.Limited  = (*Queue)(nil)
	_ queue.Exported = (*Queue)(nil)
	_ queue.Eraser   = (*Queue)(nil)
	_ queue.BackedUp = (*Queue)(nil)
)

// Open connects to the servers, makes or checks the streams, and returns when the
// queue has read their state.
func Open(ctx context.Context, o Options) (*Queue, error) {
	o.defaults()
	if len(o.Servers) == 0 {
		return nil, errors.New("queue jetstream needs at least one server")
	}
	q := newQueue(o)
	var err error
	if q.sealer, err = seal.New(o.EncryptionKey); err != nil {
		return nil, err
	}
	if err := q.connect(); err != nil {
		q.end()
		return nil, err
	}
	if err := q.start(ctx); err != nil {
		q.end()
		q.running.Wait()
		q.nc.Close()
		return nil, err
	}
	return q, nil
}

// newQueue makes a queue that is not connected. Its options are complete.
func newQueue(o Options) *Queue {
	q := &Queue{
		o: o, names: names{o.Prefix}, node: newToken(),
		lanes: make(map[queue.WebhookID]*lane), limits: o.Limits, limitsSet: make(chan struct{}, 1),
		taking: make(chan struct{}, takeAtOnce), outcomes: newOutcomes(),
	}
	q.closed, q.end = context.WithCancel(context.Background())
	q.ledger.accounts = make(map[queue.WebhookID]*account)
	return q
}

// connect makes the connection. It reconnects by itself while the queue is open. Meanwhile
// every call of the client waits until its dialling ends, which takes seconds if no server
// answers at all, as behind a broken network. So insist and Health look at q.connected first.
func (q *Queue) connect() (err error) {
	options := append([]nats.Option{
		nats.Name("UserHero Relay"),
		nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1), // insist repeats a call that could not be sent
		nats.Timeout(3 * time.Second),
		nats.FlusherTimeout(4 * time.Second), // other calls wait while one writes
		nats.DisconnectErrHandler(func(*nats.Conn, error) { q.connected.Store(false) }),
		nats.ReconnectHandler(func(*nats.Conn) { q.connected.Store(true) }),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			q.noteDenied(err)
			q.o.Logger.Warn("NATS reports an error", "error", err)
		}),
	}, q.o.Connect...)
	if q.nc, err = nats.Connect(joinServers(q.o.Servers), options...); err != nil {
		return fmt.Errorf("connecting to NATS at %s: %w", joinServers(q.o.Servers), connectError(err))
	}
	q.connected.Store(true)
	q.js, err = jetstream.New(q.nc)
	return err
}

// connectError explains what to do about an error of connecting. It returns
// queue.ErrUnavailable only if the server does not answer.
func connectError(err error) error {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return fmt.Errorf("%w: the servers refuse the login; check credentials, user, token or nkey", err)
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w: name the authority of the servers' certificates with tls_ca", err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w: the servers offer no TLS; leave out tls_ca and tls_client_auth, or configure TLS on the servers", err)
	}
	return fmt.Errorf("%w: %w; check that the servers run and can be reached", queue.ErrUnavailable, err)
}

func joinServers(servers []string) string {
	return strings.Join(servers, ",")
}

// start reads the state from the servers.
func (q *Queue) start(ctx context.Context) error {
	began := time.Now()
	if err := q.checkServer(); err != nil {
		return err
	}
	if err := q.prepareStreams(ctx); err != nil {
		return err
	}
	if err := q.measureClock(ctx); err != nil {
		return fmt.Errorf("comparing clocks: %w", err)
	}
	if err := q.startPeers(); err != nil {
		return fmt.Errorf("listening to the other relays: %w", err)
	}
	var err error
	if q.tags, err = q.readTags(ctx); err != nil {
		return fmt.Errorf("reading the store's tags: %w", err)
	}
	if err := q.registry.start(ctx, q); err != nil {
		return err
	}
	switch m, err := q.last(ctx, q.names.registry(), q.names.backup()); {
	case err == nil:
		q.enterBackup(m.data)
	case !errors.Is(err, queue.ErrNotFound):
		return err
	}
	removed, _, err := q.lastRemoval(ctx)
	if err != nil {
		return err
	}
	if err := q.finishRemoval(ctx, removed); err != nil {
		return err
	}
	if err := q.ledger.start(ctx, q); err != nil {
		return err
	}
	if err := q.deniedSince(began); err != nil { // such as a subscription, which gets no answer
		return fmt.Errorf("opening the queue: %w", err)
	}
	q.running.Go(q.sweepAgainAndAgain)
	q.running.Go(q.keepPulse)
	q.running.Go(q.leaveServers)
	return nil
}

const (
	// takeAtOnce is how many lanes are taken at the same time.
	takeAtOnce = 16
	// pulseEvery is how often a relay stores a message to see whether a majority answers.
	pulseEvery = 3 * time.Second
	// redFor is how long Health reports a call that was given up.
	redFor = 5 * time.Second
	// leaveAfter is how long the pulse may stay unanswered until the relay connects to
	// another server. An election alone is seldom as long.
	leaveAfter = 8 * time.Second
)

// keepPulse checks whether a majority of the servers answers, even if there is nothing else
// to store. It also measures how far their clock differs.
func (q *Queue) keepPulse() {
	q.every(pulseEvery, func() {
		if err := q.measureClock(q.closed); err != nil && q.closed.Err() == nil {
			q.o.Logger.Warn("a majority of the NATS servers does not answer", "error", err)
		}
	})
}

// every calls do again and again until the queue is closed.
func (q *Queue) every(pause time.Duration, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-q.closed.Done():
			return
		}
	}
}

// leaveServers connects to another server while a majority does not answer. The one that the
// relay is connected to may be cut off from the others and still answer pings.
func (q *Queue) leaveServers() {
	q.every(leaveAfter/2, func() {
		if time.Since(*q.answered.Load()) < leaveAfter || !q.connected.Load() || len(q.nc.Servers()) < 2 {
			return
		}
		q.o.Logger.Warn("no answer from a majority of the NATS servers through this one; connecting to another", "server", q.nc.ConnectedUrlRedacted())
		_ = q.nc.ForceReconnect() // it fails only if the queue is being closed
	})
}

// readTags returns the store's tags. The first relay makes one at random.
func (q *Queue) readTags(ctx context.Context) (tags, error) {
	for {
		m, err := q.last(ctx, q.names.registry(), q.names.tag())
		if err == nil {
			var all tags
			return all, json.Unmarshal(m.data, &all)
		}
		if !errors.Is(err, queue.ErrNotFound) {
			return nil, err
		}
		if _, err := q.publishJSON(ctx, q.names.tag(), tags{newTag(0)}, after(0)); err != nil && !errors.Is(err, errSequence) {
			return nil, err
		}
	}
}

// isClosed returns queue.ErrClosed after Close, and nil before.
func (q *Queue) isClosed() error {
	if q.closed.Err() != nil {
		return queue.ErrClosed
	}
	return nil
}

// SetLimits implements queue.Limited.
func (q *Queue) SetLimits(l queue.Limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limits = l
	signal(q.limitsSet)
}

func (q *Queue) limit() queue.Limits {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.limits
}

// Close implements queue.Queue. It releases the lanes, so that another relay can take them
// at once.
func (q *Queue) Close(ctx context.Context) error {
	var err error
	q.closing.Do(func() {
		open := q.openLanes()
		for _, l := range open {
			l.stop()
		}
		for _, l := range open {
			select {
			case <-l.done:
			case <-ctx.Done():
			}
		}
		err = ctx.Err()
		q.end()
		q.nc.Close()
		q.running.Wait()
	})
	return err
}

// Health implements queue.Queue.
func (q *Queue) Health() error {
	if err := q.isClosed(); err != nil {
		return fmt.Errorf("the queue takes no events: %w", err)
	}
	if !q.connected.Load() {
		return fmt.Errorf("%w: no connection to a NATS server; check that they run and can be reached", queue.ErrUnavailable)
	}
	answered, gaveUp := time.Since(*q.answered.Load()), q.gaveUp.Load()
	if answered > q.o.Patience+pulseEvery || gaveUp != nil && time.Since(*gaveUp) < redFor {
		return fmt.Errorf("%w: no majority of the NATS servers answers; check that they run and can reach each other (nats server report jetstream)", queue.ErrUnavailable)
	}
	if lacks := q.lacking.Load(); lacks != nil && time.Since(lacks.at) < redFor {
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, lacks.err)
	}
	return q.room()
}
