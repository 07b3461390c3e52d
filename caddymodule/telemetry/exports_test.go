package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// fakeExporter keeps the sizes of the batches it takes. It refuses them while err
// is set, and does not answer while hangs is set.
type fakeExporter struct {
	mu sync.Mutex
	// mu guards everything declared below.
	sizes []int
	tries int
	err   error
	hangs bool
}

func (f *fakeExporter) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.hangs {
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return ctx.Err()
	}
	if f.err == nil {
		f.sizes = append(f.sizes, len(batch))
	}
	return f.err
}

func (*fakeExporter) Shutdown(context.Context) error { return nil }

func (f *fakeExporter) failing(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeExporter) taken() (sizes []int, tries int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sizes), f.tries
}

// exporting returns a Tracing that exports spans to an exporter in batches of 10.
func exporting(f *fakeExporter, queue int) *Tracing {
	return export(f, sdktrace.BatchSpanProcessorOptions{
		MaxQueueSize: queue, MaxExportBatchSize: 10, BatchTimeout: 5 * time.Second, ExportTimeout: 30 * time.Second,
	}, "test", slog.New(slog.DiscardHandler))
}

// endSome ends n spans.
func endSome(t *Tracing, n int) {
	for range n {
		_, s := t.Tracer().Start(context.Background(), "span")
		s.End()
	}
}

// TestSpansLeaveWhenABatchIsFullOrTheDelayIsOver: a full batch is exported at once,
// a smaller one after the delay, and the last one at Shutdown.
func TestSpansLeaveWhenABatchIsFullOrTheDelayIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeExporter)
		made := exporting(f, 1000)
		expect := func(when string, want ...int) {
			t.Helper()
			synctest.Wait()
			if got, _ := f.taken(); !slices.Equal(got, want) {
				t.Errorf("%s: batches of %v spans have left, want %v", when, got, want)
			}
		}
		endSome(made, 9)
		expect("before anything is full")
		endSome(made, 1)
		expect("when the batch is full", 10)
		endSome(made, 3)
		time.Sleep(5*time.Second - 1)
		expect("before the delay is over", 10)
		time.Sleep(time.Nanosecond)
		expect("when it is", 10, 3)
		endSome(made, 4)
		if err := made.Shutdown(); err != nil {
			t.Error(err)
		}
		expect("at the end", 10, 3, 4)
		if err := made.Shutdown(); err != nil {
			t.Errorf("a second end: %v", err)
		}
	})
}

// TestACollectorThatHangsCostsSpansAndNothingElse: spans without room are dropped and
// counted. An export ends after its timeout, and Shutdown after its own.
func TestACollectorThatHangsCostsSpansAndNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeExporter{hangs: true}
		made := exporting(f, 25)
		endSome(made, 10)
		synctest.Wait() // the export of the first ten has begun
		endSome(made, 30)
		if n := made.Lost()["queue_full"]; n != 5 {
			t.Errorf("%d of 30 spans were dropped, want those beyond 25", n)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		_, tries := f.taken()
		if got := made.Lost()["not_exported"]; got != 10 || tries != 2 {
			t.Errorf("after the time for an export %d spans have failed in %d exports", got, tries)
		}
		began := time.Now()
		if err := made.Shutdown(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the end did not tell that spans are lost: %v", err)
		}
		if took := time.Since(began); took != flushGrace {
			t.Errorf("the end took %v", took)
		}
		synctest.Wait()
		if got := made.Lost()["not_exported"]; got != 35 {
			t.Errorf("%d spans are lost, want 35", got)
		}
	})
}

// TestFailedExportsAreCounted: the spans of each failed batch are counted, and later
// batches are still exported.
func TestFailedExportsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeExporter)
		made := exporting(f, 1000)
		f.failing(errors.New("refused"))
		endSome(made, 10)
		synctest.Wait()
		f.failing(nil)
		endSome(made, 1)
		if err := made.Shutdown(); err != nil {
			t.Error(err)
		}
		if got, tries := f.taken(); made.Lost()["not_exported"] != 10 || tries != 2 || !slices.Equal(got, []int{1}) {
			t.Errorf("lost are %v, taken %v in %d exports", made.Lost(), got, tries)
		}
	})
}
