package intake

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/userhero/relay/event"
)

// drain bounds what is read of a body after the request has been refused.
type drain struct {
	bytes int64
	time  time.Duration
}

// A submission with a large screenshot in it has some 10 MB, and takes 40 s at
// 2 Mbit/s.
var defaultDrain = drain{bytes: 32 << 20, time: time.Minute}

// refuseUnread answers a request whose body may not have been read to its end, and
// reads what the client still sends, within bounds. Many clients write all of a
// request before they read. Over HTTP/1 a connection that is closed before that is
// reset, and they would see the reset and no answer. Over HTTP/2 and 3 the stream of
// a request that has not ended is reset, which curl and node report in place of
// the answer. So over HTTP/1 the answer comes before the draining, for clients that
// read meanwhile; over HTTP/2 and 3 it comes after.
func refuseUnread(w http.ResponseWriter, r *http.Request, p *event.Problem, bound drain) {
	connection := http.NewResponseController(w)
	drain := func() {
		// A body that did not arrive in time is not waited for again.
		if p.Status != http.StatusRequestTimeout && connection.SetReadDeadline(time.Now().Add(bound.time)) == nil {
			if _, err := io.CopyN(io.Discard, r.Body, bound.bytes); !errors.Is(err, io.EOF) {
				_ = connection.SetReadDeadline(time.Unix(1, 0)) // or net/http itself waits for the rest until bound.time is over
			}
		}
	}
	switch {
	case r.Body == http.NoBody:
		WriteProblem(w, p)
	case r.ProtoMajor > 1:
		drain()
		WriteProblem(w, p)
	default:
		header := w.Header()
		header.Set("Connection", "close")
		header.Set("Content-Length", strconv.Itoa(len(p.JSON())+1)) // the client sees where the answer ends while it still sends
		_ = connection.EnableFullDuplex()                           // or net/http reads up to 256 KiB before it answers
		WriteProblem(w, p)
		if connection.Flush() == nil {
			drain()
		}
	}
}
