package deliver

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"
)

// TestDiallingEndsWithItsContext: a dial reports the end of its context, however often
// it is repeated.
func TestDiallingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	silent := &net.Dialer{Timeout: dialTimeout, ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	ended := make(chan error, 100)
	for range cap(ended) {
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := dialFirst(ctx, silent, "tcp", "127.0.0.1:9")
			ended <- err
		}()
	}
	late := time.After(10 * time.Second)
	for i := range cap(ended) {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("connected to an address that is silent")
			}
		case <-late:
			t.Fatalf("%d of %d dials have ended", i, cap(ended))
		}
	}
}
