package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/userhero/relay/queue"
)

var errEngineClosed = fmt.Errorf("the relay has stopped: %w", queue.ErrClosed)

// cutOffBody makes reading of the request's body end when the cutoff does, with an
// error that wraps queue.ErrClosed. The caller calls release when it has answered.
func cutOffBody(cutoff context.Context, w http.ResponseWriter, r *http.Request) (release func()) {
	if r.Body == nil || r.Body == http.NoBody {
		return func() {}
	}
	r.Body = boundBody{r.Body, cutoff}
	return onEnd(cutoff, func() { _ = http.NewResponseController(w).SetReadDeadline(longAgo) })
}

// boundBody checks the cutoff before each read too: others may set a deadline after
// the cutoff has.
type boundBody struct {
	io.ReadCloser
	cutoff context.Context //nolint:containedctx // its end ends the body
}

// Read implements io.Reader.
func (b boundBody) Read(p []byte) (int, error) {
	if b.cutoff.Err() != nil {
		return 0, errEngineClosed
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.cutoff.Err() != nil {
		err = errEngineClosed
	}
	return n, err
}

// cutOffRequest returns a request that ends when the cutoff does: its context ends,
// and reading and writing fail. The caller calls release when it has answered.
func cutOffRequest(cutoff context.Context, w http.ResponseWriter, r *http.Request) (bound *http.Request, release func()) {
	ctx, end := context.WithCancel(r.Context())
	released := onEnd(cutoff, func() {
		end()
		connection := http.NewResponseController(w)
		_ = connection.SetReadDeadline(longAgo) // a writer that knows no deadlines has the context
		_ = connection.SetWriteDeadline(longAgo)
	})
	return r.WithContext(ctx), func() { released(); end() }
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// onEnd calls f when the context ends, unless release is called before. After
// release has returned, f does not run.
func onEnd(ctx context.Context, f func()) (release func()) {
	ran := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ran)
		f()
	})
	return func() {
		if !stop() {
			<-ran
		}
	}
}
