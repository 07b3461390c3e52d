package intake

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/userhero/relay/event"
)

// linger bounds what is read of a body after the request has been refused.
type linger struct {
	bytes int64
	time  time.Duration
}

// A submission with a large screenshot in it has some 10 MB, and takes 40 s at
// 2 Mbit/s.
var lingering = linger{bytes: 32 << 20, time: time.Minute}

// refuseUnread answers a request whose body may not have been read to its end,
// and reads what the client still sends, within bounds. Many clients write all of a
// request before they read. Over HTTP/1 a connection that is closed before that is
// reset, and they would see the reset and no answer. Over HTTP/2 and 3 the stream of
// a request that has not ended is reset, which curl and node report in place of
// the answer, so there it comes last; over HTTP/1 it comes first, for those who
// read meanwhile.
func refuseUnread(w http.ResponseWriter, r *http.Request, p *event.Problem, most linger) {
	connection := http.NewResponseController(w)
	drain := func() {
		if connection.SetReadDeadline(time.Now().Add(most.time)) == nil {
			_, _ = io.CopyN(io.Discard, r.Body, most.bytes) // ends early when the client hangs up
		}
	}
	switch {
	case r.Body == http.NoBody:
		WriteProblem(w, p)
	case r.ProtoMajor > 1:
		if p.Status != http.StatusRequestTimeout { // what did not come in time is not waited for again
			drain()
		}
		WriteProblem(w, p)
	default:
		header := w.Header()
		header.Set("Connection", "close")
		header.Set("Content-Length", strconv.Itoa(len(p.JSON())+1)) // with it the answer has an end before the request has
		_ = connection.EnableFullDuplex()                           // or net/http reads up to 256 KiB before it answers
		WriteProblem(w, p)
		if p.Status != http.StatusRequestTimeout && connection.Flush() == nil {
			drain()
		}
	}
}
