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

// body is the body of one request, in a pooled buffer.
type body struct {
	bytes.Buffer
	limited io.LimitedReader
	counted *countedReader
}

var bodies = sync.Pool{New: func() any { return new(body) }}

// bodyTimeout is how long a body may take to arrive. On the slowest mobile network 64 KiB
// take less, and a client that sends slowly holds a buffer no longer.
const bodyTimeout = 30 * time.Second

// readBody reads the whole body, up to max bytes, within the timeout, and sets r.Body to
// http.NoBody. The caller releases the body when nothing refers to its bytes any more. The
// error is a *event.Problem, or wraps queue.ErrClosed if the stop has cut the body off, or
// queue.ErrFull if there is no memory for it.
func (m *Memory) readBody(w http.ResponseWriter, r *http.Request, max int64, timeout time.Duration) (*body, error) {
	if r.ContentLength > max {
		return nil, tooLarge(max)
	}
	// If a module around this one hides the connection, the server's own timeouts count.
	if connection := http.NewResponseController(w); connection.SetReadDeadline(time.Now().Add(timeout)) == nil {
		defer func() { _ = connection.SetReadDeadline(time.Time{}) }()
	}
	b := bodies.Get().(*body)
	b.counted = m.counted(r.Body)
	b.limited = io.LimitedReader{R: b.counted, N: max + 1} // Promise 4: a submission is read to max_body.
	n, err := b.ReadFrom(&b.limited)
	b.limited.R = nil
	switch {
	case errors.Is(err, queue.ErrClosed), errors.Is(err, queue.ErrFull):
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
	b.counted.giveBack()
	b.counted = nil
	b.Reset()
	bodies.Put(b)
}

func tooLarge(max int64) *event.Problem {
	return event.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body may have at most %d bytes.", max))
}

// BodyProblem returns the answer to a request whose body could not be read. Limits that
// another handler has set (request_body, timeouts) count too.
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
