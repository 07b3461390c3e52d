// Package deliver makes one delivery attempt: a signed POST to one receiver.
//
// It promises that an attempt ends within its time limit, whatever the receiver does;
// that the address to be dialled is checked right before the connection; that at most
// 16 KiB of a response's head and 64 KiB of its body are read; that redirects are
// responses and are never followed; and that a request is sent again within the attempt
// only if no connection was made. An attempt leaves only two things for the next one:
// idle connections and, while a secret is rotated, which signature worked last.
//
// It does not know webhooks, queues or positions on a ladder: the caller says what to
// send and settles the result. The result is a queue.Attempt, the record that the
// attempt log keeps.
//
// Its tests run real receivers on 127.0.0.1, some of them broken or hostile, and also
// openssl, proxies and name servers with false answers.
package deliver

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/redact"
)

// Outcome says what the result of an attempt means for its delivery and its webhook.
type Outcome struct {
	Class        string        // "ok", or the class of the error
	OK           bool          // a 2xx came within the time limit
	Canceled     bool          // the context ended the attempt: it does not count
	NoConnection bool          // no connection was made
	Busy         bool          // the receiver cannot keep up
	Gone         bool          // 410: the receiver wants no more events
	RetryAfter   time.Duration // from Retry-After on 429 or 503; 0 if there was none
}

// Attempt makes one attempt and returns its result. The attempt ends at the configured
// time limit. If ctx ends first, the attempt does not count.
func (t *Receiver) Attempt(ctx context.Context, m Message) (queue.Attempt, Outcome) {
	a := begun(ctx, m)
	// Promise 3: one deadline ends an attempt, whatever the receiver does.
	timed, cancel := context.WithDeadlineCause(ctx, m.Started.Add(t.config.Timeout), errTimeout)
	defer cancel()

	rotating := t.Rotating(m.Started)
	present := !rotating || t.usePresent.Load()
	o := t.try(timed, m, present, &a)
	if rotating && mayBlameSignature(a.Status) {
		// The receiver knows one of the two secrets, and the header has room for only
		// one signature. Try the second at once, and remember it if it works.
		if o = t.try(timed, m, !present, &a); o.OK {
			t.usePresent.Store(!present)
		}
	}
	a.Duration = time.Since(m.Started)
	if ctx.Err() != nil && !o.OK && a.Status == 0 {
		o.Canceled = true // Promise 1: an attempt that a stop cuts off does not count.
	}
	if !o.OK {
		a.ErrorClass = o.Class
	}
	return a, o
}

// ClassBody is the class of an attempt whose body could not be made.
const ClassBody = "body"

// NoBody returns the result of an attempt that fails because its body cannot be made.
// Nothing is sent.
func NoBody(ctx context.Context, m Message, err error) (queue.Attempt, Outcome) {
	a := begun(ctx, m)
	a.Duration, a.Error, a.ErrorClass = time.Since(m.Started), "the body cannot be made: "+err.Error(), ClassBody
	return a, Outcome{Class: ClassBody}
}

// begun returns the record of an attempt that begins.
func begun(ctx context.Context, m Message) queue.Attempt {
	a := queue.Attempt{At: m.Started.UTC()}
	if m.Tracer != nil {
		sc := trace.SpanContextFromContext(ctx)
		a.TraceID, a.SpanID, a.TraceFlags = sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags())
	} else {
		a.TraceID, a.TraceFlags = m.Trace.TraceID, m.Trace.Flags
		if a.TraceID == ([16]byte{}) {
			_, _ = rand.Read(a.TraceID[:]) // never fails
		}
		_, _ = rand.Read(a.SpanID[:])
	}
	return a
}

// mayBlameSignature reports whether a status may mean that the signature is wrong.
// Receivers use many statuses for that. The statuses left out have another meaning.
func mayBlameSignature(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

// try sends one request within an attempt.
func (t *Receiver) try(ctx context.Context, m Message, present bool, a *queue.Attempt) Outcome {
	a.Status, a.Error, a.ResponseHeaders, a.ResponseBody = 0, "", nil, nil
	if t.refused != nil {
		a.Error = redact.Error(t.refused)
		return Outcome{Class: classEgress}
	}
	s := newSending(t, m, present, a)
	response, err := s.do(ctx)
	a.RequestHeaders = s.logged() // of the last request
	if err != nil && s.lost {
		return Outcome{Class: classCanceled, Canceled: true}
	}
	if err != nil {
		err = redact.WithoutURL(causeOf(ctx, err))
		o := Outcome{Class: classify(err)}
		o.NoConnection = !s.connected && o.Class != classEgress && o.Class != classRequest && o.Class != classCanceled
		o.Busy = o.NoConnection || o.Class == classTimeout
		switch {
		case errors.Is(err, errTimeout) && o.NoConnection:
			a.Error = fmt.Sprintf("no connection within the time limit (%s)%s", t.config.Timeout, s.progress())
		case errors.Is(err, errTimeout):
			a.Error = fmt.Sprintf("%s (%s)", errTimeout, t.config.Timeout)
		default:
			a.Error = redact.Error(explained(err))
		}
		return o
	}
	defer func() { _ = response.Body.Close() }()
	a.Status = response.StatusCode
	a.ResponseHeaders = headerList(response.Header)
	if response.StatusCode >= 200 { // an upgraded connection's body would never end
		// The status counts, whatever happens to the body after it (CONTRACT §2).
		a.ResponseBody = readBody(response.Body)
	}
	if response.StatusCode/100 == 2 {
		return Outcome{Class: "ok", OK: true}
	}
	a.Error = "answered " + strconv.Itoa(response.StatusCode) + " " + http.StatusText(response.StatusCode)
	return Outcome{
		Class:      classOfStatus(response.StatusCode),
		Busy:       response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusServiceUnavailable,
		Gone:       response.StatusCode == http.StatusGone,
		RetryAfter: retryAfter(response.StatusCode, response.Header, time.Now()),
	}
}

// kept holds buffers for the stored part of response bodies.
var kept = sync.Pool{New: func() any { return new([keptResponseBody]byte) }}

// readBody returns the beginning of a response's body. It reads on, within bounds, so
// that the connection can be used again. If a body breaks off or does not end in time,
// readBody returns what came.
func readBody(body io.Reader) []byte {
	if body == http.NoBody {
		return nil
	}
	room := kept.Get().(*[keptResponseBody]byte)
	defer kept.Put(room)
	n, err := io.ReadFull(body, room[:])
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(body, maxResponseBody-keptResponseBody)) // Promise 4: of an answer's body 64 KiB are read.
	}
	return bytes.Clone(room[:n])
}

// headerList returns a header in the form of the attempt log, sorted by name.
func headerList(h http.Header) []queue.Header {
	if len(h) == 0 {
		return nil
	}
	var few [24]string
	names := few[:0]
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	list := make([]queue.Header, 0, len(h))
	for _, name := range names {
		for _, v := range h[name] {
			list = append(list, queue.Header{Name: name, Value: v})
		}
	}
	return list
}
