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

// cutOffBody makes reads of the request's body fail once cutoff is done, with an
// error that wraps queue.ErrClosed. The caller calls release when it has answered.
func cutOffBody(cutoff context.Context, w http.ResponseWriter, r *http.Request) (release func()) {
	if r.Body == nil || r.Body == http.NoBody {
		return func() {}
	}
	r.Body = boundBody{r.Body, cutoff}
	return onEnd(cutoff, func() { _ = http.NewResponseController(w).SetReadDeadline(longAgo) })
}

// boundBody fails once cutoff is done. It checks that before each read too, because
// another handler may replace the read deadline that cutOffBody has set.
type boundBody struct {
	io.ReadCloser
	cutoff context.Context //nolint:containedctx // ends the body
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

// cutOffRequest returns a request that ends once cutoff is done: its context is
// cancelled, and reads and writes fail. The caller calls release when it has answered.
func cutOffRequest(cutoff context.Context, w http.ResponseWriter, r *http.Request) (bound *http.Request, release func()) {
	ctx, end := context.WithCancel(r.Context())
	released := onEnd(cutoff, func() {
		end()
		connection := http.NewResponseController(w)
		_ = connection.SetReadDeadline(longAgo) // not every writer has deadlines; the context remains
		_ = connection.SetWriteDeadline(longAgo)
	})
	return r.WithContext(ctx), func() { released(); end() }
}

// longAgo is a deadline in the past.
var longAgo = time.Unix(1, 0)

// onEnd calls f when ctx is done, unless release is called before. f does not run
// after release has returned.
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
