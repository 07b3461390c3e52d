package jetstreamqueue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
)

const (
	// defaultPatience is how long a call is repeated while the servers elect a leader. An
	// election takes 5 to 10 s.
	defaultPatience = 12 * time.Second
	// tryFor is how long one try waits for its answer. The first two tries wait for less:
	// when leaders move as planned, an answer may be lost, and the next try has one at once.
	tryFor = 3 * time.Second
	// firstTry is how long the first try waits, and by how much each of the next waits longer.
	firstTry = time.Second
	// pauseFor is the pause between two tries.
	pauseFor = 100 * time.Millisecond
)

// Codes of the server's errors, from server/errors.json of nats-server.
const (
	codeClusterNotLeader jetstream.ErrorCode = 10009
	codeClusterNotAvail  jetstream.ErrorCode = 10008
	codeNoPeers          jetstream.ErrorCode = 10005 // too few servers for the replicas, as when a cluster starts
	codeNoResources      jetstream.ErrorCode = 10023
	codeNoStorage        jetstream.ErrorCode = 10047
	codeWrongSequence    jetstream.ErrorCode = 10071 // the error's text names the actual sequence
	codeStoreFailed      jetstream.ErrorCode = 10077
	codeIDInFlight       jetstream.ErrorCode = 10158 // the message is being stored
	codeSequenceInFlight jetstream.ErrorCode = 10164 // another message on the subject is being stored
	codeMessageTooLarge  jetstream.ErrorCode = 10054
	codeHeaderTooLarge   jetstream.ErrorCode = 10097
	codeNoMessage        jetstream.ErrorCode = 10037
	codeStreamOffline    jetstream.ErrorCode = 10118
	codeStreamNotFound   jetstream.ErrorCode = 10059 // also from a new leader of the cluster that has not read yet that it was made
	codeDeleteFailed     jetstream.ErrorCode = 10057 // the message no longer exists
	codeNoSequence       jetstream.ErrorCode = 10043

	codeAccountExceeded  jetstream.ErrorCode = 10002
	codeMaxConsumers     jetstream.ErrorCode = 10026
	codeMaxStreams       jetstream.ErrorCode = 10027
	codeAccountNoJS      jetstream.ErrorCode = 10039
	codeNoCluster        jetstream.ErrorCode = 10074
	codeMaxBytesRequired jetstream.ErrorCode = 10113
	codeNoTier           jetstream.ErrorCode = 10120
)

// errGrant is returned if the NATS account or user may not do what the queue needs.
var errGrant = errors.New("the NATS account lacks something that the queue needs")

// grants says what to grant for an error of the server.
func (q *Queue) grants(err error) string {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return ""
	}
	switch api.ErrorCode {
	case codeMaxStreams:
		return fmt.Sprintf("allow the account %d streams (max_streams)", len(q.streams()))
	case codeMaxConsumers:
		return fmt.Sprintf("allow %d consumers on each stream for each relay (max_consumers)", consumersOfRelay)
	case codeAccountExceeded, codeNoStorage, codeNoResources:
		return fmt.Sprintf("allow the account more storage (max_file, disk_storage), with %d replicas of each message, and give JetStream enough disk (max_file_store)", q.o.Replicas)
	case codeAccountNoJS:
		return "enable JetStream for the account"
	case codeNoCluster:
		return "set replicas 1, or run the servers as a cluster"
	case codeMaxBytesRequired:
		return "let the account have streams without a limit of bytes (max_bytes_required: false)"
	case codeNoTier:
		return fmt.Sprintf("give the account a limit for streams with %d replicas", q.o.Replicas)
	}
	return ""
}

// consumersOfRelay is how many consumers of a stream a relay has at the same time, at most:
// one that follows it, and others while it reads the state of lanes.
const consumersOfRelay = 1 + takeAtOnce

// noteDenied notes that the server has refused a subject. The call that used it only gets
// no answer.
func (q *Queue) noteDenied(err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		q.denied.Store(&denial{time.Now(), err})
	}
}

// denial is a refused subject.
type denial struct {
	at  time.Time
	err error
}

// deniedSince returns an error if the server has refused a subject since a time.
func (q *Queue) deniedSince(began time.Time) error {
	d := q.denied.Load()
	if d == nil || d.at.Before(began) {
		return nil
	}
	return fmt.Errorf("%w: %w; let the user publish on %[3]s.> and $JS.API.>, and subscribe to %[3]s.> and _INBOX.>", errGrant, d.err, q.names.prefix)
}

// errSequence is returned if the last message on a subject is not the expected one.
var errSequence = errors.New("another message came before")

// newToken returns a unique name.
func newToken() string { return rand.Text() }

// transient reports whether a call may succeed a moment later.
func transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeClusterNotLeader, codeClusterNotAvail, codeNoPeers, codeIDInFlight, codeSequenceInFlight, codeStreamOffline, codeStreamNotFound:
			return true
		case codeNoResources, codeNoStorage, codeStoreFailed, codeAccountNoJS:
			return false
		}
		return api.Code == 503 || api.Code == 504 || api.Code == 408
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrConnectionReconnecting) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrStaleConnection)
}

// giveUpKey is the context key of the time after which calls are not repeated any more.
type giveUpKey struct{}

// patient returns a context whose calls together are repeated for at most the queue's
// patience.
func (q *Queue) patient(ctx context.Context) context.Context {
	return context.WithValue(ctx, giveUpKey{}, time.Now().Add(q.o.Patience))
}

// giveUp returns the time after which calls with this context are not repeated.
func (q *Queue) giveUp(ctx context.Context) time.Time {
	if whole, ok := ctx.Value(giveUpKey{}).(time.Time); ok {
		return whole
	}
	return time.Now().Add(q.o.Patience)
}

// insist repeats a call while the servers cannot answer. It returns queue.ErrUnavailable
// after the queue's patience. A call may be repeated although it succeeded, so repeating it
// must be harmless.
func (q *Queue) insist(ctx context.Context, doing string, call func(context.Context) error) error {
	began := time.Now()
	giveUp := q.giveUp(ctx)
	for wait := firstTry; ; wait = min(wait+firstTry, tryFor) {
		try, cancel := context.WithTimeout(ctx, min(wait, time.Until(giveUp)+time.Millisecond))
		err := nats.ErrDisconnected
		if q.connected.Load() {
			err = call(try)
		}
		cancel()
		switch {
		case err == nil:
			return nil
		case q.closed.Err() != nil || errors.Is(err, nats.ErrConnectionClosed):
			return queue.ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case !transient(err):
			if what := q.grants(err); what != "" {
				return fmt.Errorf("%s: %w: %w; %s", doing, errGrant, err, what)
			}
			return fmt.Errorf("%s: %w", doing, err)
		case q.deniedSince(began) != nil:
			return fmt.Errorf("%s: %w", doing, q.deniedSince(began))
		case time.Until(giveUp) < pauseFor:
			q.unavailable.Add(1)
			now := time.Now()
			q.gaveUp.Store(&now)
			return fmt.Errorf("%s: %w: no answer from NATS for %v; check that a majority of the servers runs (nats server report jetstream): %w",
				doing, queue.ErrUnavailable, q.o.Patience, err)
		}
		pause := pauseFor
		if isCode(err, codeSequenceInFlight) {
			pause = 5 * time.Millisecond
		}
		if err := q.pause(ctx, pause); err != nil {
			return err
		}
	}
}

// pause waits for a time. It returns an error if ctx ends or the queue is closed meanwhile.
func (q *Queue) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-q.closed.Done():
		return queue.ErrClosed
	}
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

// storeError translates an error of the server into an error of package queue.
func storeError(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w; raise max_payload of the servers", queue.ErrTooLarge, err)
	case !errors.As(err, &api):
		return err
	}
	switch api.ErrorCode {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return fmt.Errorf("%w: %w", queue.ErrTooLarge, err)
	case codeNoResources, codeNoStorage, codeAccountExceeded:
		return fmt.Errorf("%w: %w; give JetStream more storage or the account a larger quota", queue.ErrFull, err)
	case codeStoreFailed:
		if strings.Contains(api.Description, "maximum") {
			return fmt.Errorf("%w: %w; shorten the retention, or raise the stream's limit", queue.ErrFull, err)
		}
		return fmt.Errorf("%w: %w; look at the disks of the servers", queue.ErrFailed, err)
	}
	return err
}

// expect is what a publish requires of its subject, or of its whole stream.
type expect struct {
	any, stream bool
	seq         uint64 // sequence number of the last message; 0: there is none
}

func after(seq uint64) expect    { return expect{seq: seq} }
func afterAll(seq uint64) expect { return expect{stream: true, seq: seq} }

var whatever = expect{any: true}

// publish stores a message, and returns its sequence number when a majority of the servers
// has it. It returns errSequence if the last message is not the expected one. It repeats
// the message while the servers cannot answer; the message is stored only once.
func (q *Queue) publish(ctx context.Context, m *nats.Msg, e expect) (seq uint64, err error) {
	own := newToken()
	options := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}
	switch {
	case e.any:
		options = append(options, jetstream.WithMsgID(own))
	case e.stream:
		options = append(options, jetstream.WithExpectLastSequence(e.seq))
	default:
		options = append(options, jetstream.WithExpectLastSequencePerSubject(e.seq))
	}
	if !e.any {
		m.Header.Set(headerToken, own)
	}
	tries := 0
	err = q.insist(ctx, "storing a message", func(ctx context.Context) error {
		tries++
		ack, err := q.js.PublishMsg(ctx, m, options...)
		if err == nil {
			seq = ack.Sequence
			return nil
		}
		if isCode(err, codeWrongSequence) {
			if tries > 1 { // the message of an earlier try may be stored
				found, err := q.findToken(ctx, m.Subject, e.seq+1, own)
				if err != nil || found > 0 {
					seq = found
					return err
				}
			}
			return fmt.Errorf("%w: %w", errSequence, err)
		}
		return err
	})
	return seq, storeError(err)
}

// publishJSON publishes a message with v in its body.
func (q *Queue) publishJSON(ctx context.Context, subject string, v any, e expect) (seq uint64, err error) {
	m, err := messageWith(subject, v)
	if err != nil {
		return 0, err
	}
	return q.publish(ctx, m, e)
}

// findToken returns the sequence number of the message that was published with a token. It
// searches from a sequence number on. 0 means that there is none.
func (q *Queue) findToken(ctx context.Context, subject string, from uint64, token string) (uint64, error) {
	for {
		m, err := q.get(ctx, q.streamOf(subject), getRequest{Seq: from, Next: subject})
		switch {
		case errors.Is(err, queue.ErrNotFound):
			return 0, nil
		case err != nil:
			return 0, err
		case m.header.Get(headerToken) == token:
			return m.seq, nil
		}
		from = m.seq + 1
	}
}

// streamOf returns the stream that holds a subject.
func (q *Queue) streamOf(subject string) string {
	kind := strings.TrimPrefix(subject, q.names.prefix+".")
	if kind == "" {
		return ""
	}
	switch kind[0] {
	case 'e', 'o':
		return q.names.events()
	case 'w', 'm':
		return q.names.registry()
	case 'k':
		return q.names.keys()
	case 'x':
		return q.names.locks()
	}
	return q.names.state()
}
