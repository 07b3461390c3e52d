package spans

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
)

// endSome ends n spans.
func endSome(tracer *Tracer, n int) {
	for range n {
		_, s := tracer.Start(context.Background(), "span")
		s.End()
	}
}

// TestSpansLeaveWhenABatchIsFullOrTheDelayIsOver: full batches at once, what is
// left in time, and the last at the end.
func TestSpansLeaveWhenABatchIsFullOrTheDelayIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := new(captured)
		o := options(c)
		o.Batching = Batching{Queue: 1000, Batch: 10, Delay: 5 * time.Second, Timeout: time.Minute}
		tracer := start(t, o)
		expect := func(when string, want ...int) {
			t.Helper()
			synctest.Wait()
			if got := c.sizes(); !slices.Equal(got, want) {
				t.Errorf("%s: batches of %v spans have left, want %v", when, got, want)
			}
		}
		endSome(tracer, 9)
		expect("before anything is full")
		endSome(tracer, 1)
		expect("when the batch is full", 10)
		endSome(tracer, 3)
		time.Sleep(5*time.Second - 1)
		expect("before the delay is over", 10)
		time.Sleep(time.Nanosecond)
		expect("when it is", 10, 3)
		endSome(tracer, 4)
		if err := tracer.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		expect("at the end", 10, 3, 4)
		endSome(tracer, 1)
		if n := tracer.Dropped(); n != 1 {
			t.Errorf("after the end %d spans were dropped, want the one that ended", n)
		}
		if err := tracer.Shutdown(t.Context()); err != nil {
			t.Errorf("a second end: %v", err)
		}
	})
}

// stuck is a client whose uploads end with their context.
type stuck struct {
	captured
	uploads atomic.Int64
}

func (s *stuck) UploadTraces(ctx context.Context, _ []*otlp.ResourceSpans) error {
	s.uploads.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

// TestACollectorThatHangsCostsSpansAndNothingElse: what has no room is dropped
// and counted, an export ends with its time, and the end with its context.
func TestACollectorThatHangsCostsSpansAndNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := new(stuck)
		var failed atomic.Int64
		o := options(c)
		o.Batching = Batching{Queue: 25, Batch: 10, Delay: time.Second, Timeout: 30 * time.Second}
		o.Exported = func(n int, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			failed.Add(int64(n))
		}
		tracer := start(t, o)
		endSome(tracer, 10)
		synctest.Wait() // the first ten are under way
		endSome(tracer, 30)
		if n := tracer.Dropped(); n != 5 {
			t.Errorf("%d of 30 spans were dropped, want those beyond 25", n)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got, tries := failed.Load(), c.uploads.Load(); got != 10 || tries != 2 {
			t.Errorf("after the time for an export %d spans have failed in %d exports", got, tries)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := tracer.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the end did not tell that spans are lost: %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("the end took %v", took)
		}
		if got := failed.Load(); got != 35 {
			t.Errorf("%d spans are lost, want 35", got)
		}
	})
}

// TestFailedExportsAreTold: each batch with its number, and the next one may
// succeed.
func TestFailedExportsAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, refused := new(captured), errors.New("refused")
		type told struct {
			n   int
			err error
		}
		var got []told
		o := options(c)
		o.Batching.Batch = 2
		o.Exported = func(n int, err error) { got = append(got, told{n, err}) }
		tracer := start(t, o)
		c.failing(refused)
		endSome(tracer, 2)
		synctest.Wait()
		c.failing(nil)
		endSome(tracer, 1)
		if err := tracer.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if want := []told{{2, refused}, {1, nil}}; !slices.Equal(got, want) {
			t.Errorf("told was %v, want %v", got, want)
		}
	})
}

// TestBatchesAreBoundedInBytes: receivers take no more than 4 MiB by gRPC, and
// what waits is bounded too.
func TestBatchesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := new(captured)
		o := options(c)
		o.Batching = Batching{Queue: 1000, Batch: 1000, Delay: time.Second, Timeout: time.Minute}
		tracer := start(t, o)
		large := attribute.String("large", strings.Repeat("x", batchBytes/4))
		big := func() {
			_, s := tracer.Start(context.Background(), "span")
			s.SetAttributes(large)
			s.End()
		}
		for range 7 {
			big()
		}
		synctest.Wait()
		if got := c.sizes(); !slices.Equal(got, []int{3, 3}) {
			t.Errorf("batches of %v large spans have left, want two of 3", got)
		}
		tracer.queue.mu.Lock() // nothing leaves meanwhile
		tracer.queue.bytes += queueBytes
		tracer.queue.mu.Unlock()
		big()
		if n := tracer.Dropped(); n != 1 {
			t.Errorf("%d spans were dropped, want the one too many", n)
		}
	})
}
