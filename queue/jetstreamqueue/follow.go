package jetstreamqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
)

const (
	fetchMessages  = 512
	fetchWait      = 5 * time.Second
	fetchHeartbeat = time.Second
	// idleConsumer is the time after which a server removes the consumer of a follower that
	// has died.
	idleConsumer = 30 * time.Second
)

// follow reads a stream from a sequence number on, in order and without a gap. It
// continues with new messages until the queue is closed.
func (q *Queue) follow(stream string, from uint64, headersOnly bool, handle func(*message)) {
	q.running.Go(func() {
		next := max(from, 1)
		for q.closed.Err() == nil {
			err := q.followFrom(stream, &next, headersOnly, handle)
			if q.closed.Err() != nil {
				return
			}
			if what := q.grants(err); what != "" {
				q.lacking.Store(&denial{time.Now(), fmt.Errorf("following stream %s: %w: %w; %s", stream, errGrant, err, what)})
			}
			q.o.Logger.Debug("following a stream begins anew", "stream", stream, "error", err)
			_ = q.pause(q.closed, pauseFor)
		}
	})
}

func (q *Queue) followFrom(stream string, next *uint64, headersOnly bool, handle func(*message)) error {
	ctx, cancel := context.WithTimeout(q.closed, tryFor)
	defer cancel()
	c, err := q.js.CreateConsumer(ctx, stream, consumerFrom(*next, headersOnly))
	if err != nil {
		return err
	}
	defer q.forget(stream, c)
	expected := uint64(1)
	for q.closed.Err() == nil {
		if err := q.fetch(c, &expected, func(m *message) {
			handle(m)
			*next = m.seq + 1
		}); err != nil {
			return err
		}
	}
	return nil
}

// fetch handles the messages of one pull. expected is the consumer's next number.
func (q *Queue) fetch(c jetstream.Consumer, expected *uint64, handle func(*message)) error {
	ctx, cancel := context.WithTimeout(q.closed, fetchWait)
	defer cancel()
	batch, err := c.Fetch(fetchMessages, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(fetchHeartbeat))
	if err != nil {
		return err
	}
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != *expected {
			return fmt.Errorf("message %d of the consumer came instead of %d", meta.Sequence.Consumer, *expected)
		}
		*expected++
		handle(messageOf(m, meta))
	}
	if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	q.fetched.Store(c.CachedInfo().Stream, time.Now())
	return nil
}

// isFollowed reports whether the follower of a stream is reading.
func (q *Queue) isFollowed(stream string) bool {
	at, ok := q.fetched.Load(stream)
	return ok && time.Since(at.(time.Time)) < 2*fetchWait //nolint:forcetypeassert // fetch stores times
}

func messageOf(m jetstream.Msg, meta *jetstream.MsgMetadata) *message {
	return &message{seq: meta.Sequence.Stream, subject: m.Subject(), header: m.Headers(), data: m.Data(), at: meta.Timestamp}
}

// consumerFrom configures a consumer that exists only while its reader does. If its server
// fails, the consumer is lost, and the reader makes a new one.
func consumerFrom(from uint64, headersOnly bool) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		HeadersOnly: headersOnly, MemoryStorage: true, Replicas: 1, InactiveThreshold: idleConsumer,
	}
}

// forget removes a consumer. If that fails, the server removes it after idleConsumer.
func (q *Queue) forget(stream string, c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if q.connected.Load() {
		_ = q.js.DeleteConsumer(ctx, stream, c.CachedInfo().Name)
	}
}

// newest calls handle for the last message on each matching subject, in the order of their
// sequence numbers. It returns the stream's last sequence number at the start; later
// messages may be missing. It calls begin before the first try and before each further
// one.
func (q *Queue) newest(ctx context.Context, stream string, subjects []string, begin func(), handle func(*message)) (last uint64, err error) {
	err = q.insist(ctx, "reading stream "+stream, func(ctx context.Context) error {
		s, err := q.info(ctx, stream, "")
		if err != nil {
			return err
		}
		last = s.last
		// The consumer may be on a replica that lags behind. It has seen everything if it
		// has seen the message that is the last one on the leader.
		var least, seen uint64
		for _, subject := range subjects {
			m, err := q.last(ctx, stream, subject)
			if err == nil {
				least = max(least, m.seq)
			} else if !errors.Is(err, queue.ErrNotFound) {
				return err
			}
		}
		begin()
		if least == 0 {
			return nil
		}
		err = q.newestOnce(ctx, stream, subjects, max(last, least), func(m *message) {
			seen = m.seq
			handle(m)
		})
		if err == nil && seen < min(last, least) {
			return nats.ErrTimeout
		}
		return err
	})
	return last, err
}

func (q *Queue) newestOnce(ctx context.Context, stream string, subjects []string, last uint64, handle func(*message)) error {
	config := consumerFrom(0, true)
	config.DeliverPolicy, config.FilterSubjects = jetstream.DeliverLastPerSubjectPolicy, subjects
	c, err := q.js.CreateConsumer(ctx, stream, config)
	if err != nil {
		return err
	}
	defer q.forget(stream, c)
	pending, expected := c.CachedInfo().NumPending, uint64(1)
	for pending > 0 {
		batch, err := c.Fetch(int(min(pending, fetchMessages)), jetstream.FetchMaxWait(tryFor), jetstream.FetchHeartbeat(fetchHeartbeat))
		if err != nil {
			return err
		}
		got := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if meta.Sequence.Consumer != expected {
				return fmt.Errorf("%w: message %d of the consumer came instead of %d", nats.ErrTimeout, meta.Sequence.Consumer, expected)
			}
			expected++
			got++
			pending = meta.NumPending
			if meta.Sequence.Stream > last {
				return nil
			}
			handle(messageOf(m, meta))
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		if got == 0 {
			return nats.ErrTimeout
		}
	}
	return nil
}
