package spans

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Batching says when spans are exported. All are needed, and positive.
type Batching struct {
	// Queue is how many ended spans wait for export; more are dropped.
	Queue int
	// Batch is how many are exported at once at most.
	Batch int
	// Delay is how long an ended span waits for others at most.
	Delay time.Duration
	// Timeout ends an export, its retries included.
	Timeout time.Duration
}

const (
	// batchBytes is what a batch has at most, unless one span has more: receivers
	// take 4 MiB by gRPC.
	batchBytes = 2 << 20
	// queueBytes bounds what waits, whatever its number.
	queueBytes = 64 << 20
)

// queue holds spans that have ended, encoded, until they are exported. One
// goroutine exports them; shutdown ends it.
type queue struct {
	o        Batching
	client   otlptrace.Client
	exported func(int, error)
	dropped  atomic.Int64

	full    chan struct{} // of one: a batch is full
	ending  chan struct{} // closed by shutdown
	ended   chan struct{} // closed when the goroutine has ended
	abandon context.CancelFunc

	// message is that of every export; its only scope gets the spans as fields it
	// does not know, which are sent as they are.
	message *otlp.ResourceSpans

	mu sync.Mutex
	// mu guards everything declared below.
	waiting []batch // all full but the last
	spans   int     // in all of them
	bytes   int     // likewise
	spare   []byte  // a buffer for the next batch
	closed  bool
}

// batch is some spans, encoded one after the other.
type batch struct {
	encoded []byte
	spans   int
}

func newQueue(ctx context.Context, o Options) (*queue, error) {
	message := new(otlp.ResourceSpans)
	if err := proto.Unmarshal(head(o.Resource, o.Scope), message); err != nil {
		return nil, fmt.Errorf("describing the resource of spans: %w", err)
	}
	if err := o.Client.Start(ctx); err != nil {
		return nil, fmt.Errorf("starting the exporter of spans: %w", err)
	}
	q := &queue{
		o: o.Batching, client: o.Client, exported: o.Exported, message: message,
		full: make(chan struct{}, 1), ending: make(chan struct{}), ended: make(chan struct{}),
	}
	ctx, q.abandon = context.WithCancel(context.WithoutCancel(ctx))
	go q.run(ctx)
	return q, nil
}

// add takes an encoded span in, or drops it.
func (q *queue) add(encoded []byte) {
	q.mu.Lock()
	if q.closed || q.spans >= q.o.Queue || q.bytes+len(encoded) > queueBytes {
		q.mu.Unlock()
		q.dropped.Add(1)
		return
	}
	last := len(q.waiting) - 1
	if last < 0 || !q.room(&q.waiting[last], len(encoded)) {
		q.waiting = append(q.waiting, batch{encoded: q.spare})
		q.spare = nil
		last++
	}
	b := &q.waiting[last]
	b.encoded = append(b.encoded, encoded...)
	b.spans++
	q.spans++
	q.bytes += len(encoded)
	full := last > 0 || !q.room(b, 0)
	q.mu.Unlock()
	if full {
		select {
		case q.full <- struct{}{}:
		default: // it knows
		}
	}
}

// room tells whether a batch takes more.
func (q *queue) room(b *batch, more int) bool {
	return b.spans < q.o.Batch && (b.spans == 0 || len(b.encoded)+more <= batchBytes)
}

// take takes out the oldest batch; one that is not full only where all are wanted.
func (q *queue) take(all bool) (b batch, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 || !all && len(q.waiting) == 1 && q.room(&q.waiting[0], 0) {
		return batch{}, false
	}
	b = q.waiting[0]
	copy(q.waiting, q.waiting[1:])
	q.waiting[len(q.waiting)-1] = batch{}
	q.waiting = q.waiting[:len(q.waiting)-1]
	q.spans -= b.spans
	q.bytes -= len(b.encoded)
	return b, true
}

// run exports until shutdown: what is full at once, the rest when it has waited
// long enough.
func (q *queue) run(ctx context.Context) {
	defer close(q.ended)
	delay := time.NewTimer(q.o.Delay)
	defer delay.Stop()
	for {
		select {
		case <-q.full:
			q.export(ctx, false)
		case <-delay.C:
			q.export(ctx, true)
		case <-q.ending:
			q.export(ctx, true)
			return
		}
		delay.Reset(q.o.Delay)
	}
}

// export exports what waits, one batch after the other.
func (q *queue) export(ctx context.Context, all bool) {
	for {
		b, ok := q.take(all)
		if !ok {
			return
		}
		q.exported(b.spans, q.upload(ctx, b.encoded))
		q.mu.Lock()
		if cap(b.encoded) <= batchBytes {
			q.spare = b.encoded[:0]
		}
		q.mu.Unlock()
	}
}

// upload sends a batch. The client has encoded the message again when it returns.
func (q *queue) upload(ctx context.Context, spans []byte) error {
	ctx, cancel := context.WithTimeout(ctx, q.o.Timeout)
	defer cancel()
	scope := q.message.GetScopeSpans()[0].ProtoReflect()
	scope.SetUnknown(spans)
	defer scope.SetUnknown(nil)
	return q.client.UploadTraces(ctx, []*otlp.ResourceSpans{q.message})
}

// shutdown ends the goroutine when it has exported what waits, or when the
// context ends.
func (q *queue) shutdown(ctx context.Context) error {
	q.mu.Lock()
	closed := q.closed
	q.closed = true
	q.mu.Unlock()
	if closed {
		return nil
	}
	close(q.ending)
	var err error
	select {
	case <-q.ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.abandon()
	<-q.ended
	return errors.Join(err, q.client.Stop(ctx))
}
