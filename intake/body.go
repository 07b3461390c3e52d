package intake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// body is one request's body in a buffer that is used again.
type body struct {
	bytes.Buffer
	limited io.LimitedReader
}

var bodies = sync.Pool{New: func() any { return new(body) }}

// bodyTimeout is how long a body may take to arrive: 64 KiB take less on the
// slowest mobile network, and a client that trickles holds a buffer no longer.
const bodyTimeout = 30 * time.Second

// readBody reads the body whole, up to max bytes, within the timeout; r.Body is
// then http.NoBody. The caller releases the bytes when nothing refers to them any
// more.
func readBody(w http.ResponseWriter, r *http.Request, max int64, timeout time.Duration) (*body, error) {
	if r.ContentLength > max {
		return nil, tooLarge(max)
	}
	// Where the writer knows no deadlines (it is wrapped by a module that hides
	// them), the server's own timeouts are what is left.
	if connection := http.NewResponseController(w); connection.SetReadDeadline(time.Now().Add(timeout)) == nil {
		defer func() { _ = connection.SetReadDeadline(time.Time{}) }()
	}
	b := bodies.Get().(*body)
	b.limited = io.LimitedReader{R: r.Body, N: max + 1} // Promise 4: a submission is read to max_body.
	n, err := b.ReadFrom(&b.limited)
	b.limited.R = nil
	switch {
	case errors.Is(err, queue.ErrClosed):
		b.release()
		return nil, err
	case err != nil:
		b.release()
		return nil, BodyProblem(err)
	case n > max:
		b.release()
		return nil, tooLarge(max)
	}
	r.Body = http.NoBody
	return b, nil
}

func (b *body) release() {
	b.Reset()
	bodies.Put(b)
}

func tooLarge(max int64) *event.Problem {
	return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body may have at most %d bytes.", max))
}

// unreadable tells what went wrong on the way; limits that another handler has
// set (request_body, timeouts) count as such.
func BodyProblem(err error) *event.Problem {
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return tooLarge(limit.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return event.NewProblem(http.StatusRequestTimeout, "The body did not arrive in time.")
	}
	return event.NewProblem(http.StatusBadRequest, "The body could not be read to its end.")
}
