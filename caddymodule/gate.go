package caddymodule

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxHeld bounds how much of a JSON answer is held back to be read, in
// bytes; a larger one is released without having been read.
const maxHeld = 256 << 10

// gate holds an answer back until the event it makes is durable.
//
//	            WriteHeader(2xx), JSON      end of the answer, or maxHeld
//	           ┌───────────────► holding ──────────────┐
//	(nothing) ─┤                                    record ──ok──► open
//	           ├── WriteHeader(2xx), else ─────────────┘  └─error─► refused
//	           └── any other status ─────────────────────────────► open
//
// Until it is open the header is a copy of its own, so that nothing of the
// app's answer is left in a refusal. While refused it swallows what is written:
// a proxy that cannot write aborts the connection, and the client would not
// read the refusal.
type gate struct {
	*caddyhttp.ResponseWriterWrapper
	record func(answer []byte) error
	// decorate adds to the header of whatever is answered.
	decorate func(http.Header)

	state  gateState
	header http.Header
	status int
	held   bytes.Buffer
}

type gateState uint8

const (
	gateNew gateState = iota
	gateHolding
	gateOpen
	gateRefused
)

func newGate(w http.ResponseWriter, record func([]byte) error) *gate {
	return &gate{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		record:                record,
		decorate:              func(http.Header) {},
		header:                w.Header().Clone(),
	}
}

// Header is the answer's header; once the gate is open, the real one, so that
// trailers arrive.
func (g *gate) Header() http.Header {
	if g.state == gateOpen {
		return g.ResponseWriter.Header()
	}
	if g.header == nil {
		g.header = make(http.Header)
	}
	return g.header
}

// WriteHeader decides what the answer means.
func (g *gate) WriteHeader(status int) {
	switch {
	case g.state == gateOpen:
		g.ResponseWriter.WriteHeader(status)
	case g.state != gateNew:
	case status < 200 && status != http.StatusSwitchingProtocols:
		g.inform(status)
	case status < 200 || status > 299:
		g.status = status
		g.open()
	default:
		g.status = status
		if isJSON(g.header) {
			g.state = gateHolding
			return
		}
		g.settle(nil)
	}
}

// inform passes a 1xx on with its fields, which belong to it alone: handlers
// outside may edit the values in place.
func (g *gate) inform(status int) {
	real := g.ResponseWriter.Header()
	before := real.Clone()
	maps.Copy(real, g.header.Clone())
	g.ResponseWriter.WriteHeader(status)
	clear(real)
	maps.Copy(real, before)
}

// Write holds back, passes on or swallows.
func (g *gate) Write(p []byte) (int, error) {
	if g.state == gateNew {
		g.WriteHeader(http.StatusOK)
	}
	switch g.state {
	case gateOpen:
		return g.ResponseWriter.Write(p)
	case gateRefused:
		return len(p), nil
	}
	if g.held.Len()+len(p) > maxHeld {
		g.settle(nil)
		return g.Write(p)
	}
	return g.held.Write(p)
}

// ReadFrom keeps io.Copy from going around Write.
func (g *gate) ReadFrom(r io.Reader) (int64, error) {
	if g.state == gateOpen {
		return g.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{g}, r)
}

// FlushError passes a flush on once the gate is open; half a JSON text is of
// no use to anyone.
func (g *gate) FlushError() error {
	if g.state == gateNew {
		g.WriteHeader(http.StatusOK)
	}
	if g.state != gateOpen {
		return nil
	}
	return http.NewResponseController(g.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (g *gate) Flush() { _ = g.FlushError() }

// finish is called after the handler behind the gate has returned.
func (g *gate) finish() error {
	if g.state == gateNew {
		g.WriteHeader(http.StatusOK)
	}
	if g.state == gateHolding {
		g.settle(g.held.Bytes())
	}
	return nil
}

// settle records the event, then opens the gate or refuses.
func (g *gate) settle(answer []byte) {
	if err := g.record(answer); err != nil {
		g.state = gateRefused
		g.held.Reset()
		g.ResponseWriter.Header().Set("Retry-After", retryAfter(err))
		g.decorate(g.ResponseWriter.Header())
		writeProblem(g.ResponseWriter, unavailable(err))
		return
	}
	g.open()
}

// open releases what was held back.
func (g *gate) open() {
	g.state = gateOpen
	real := g.ResponseWriter.Header()
	clear(real)
	trailer := takeTrailer(g.header)
	maps.Copy(real, g.header)
	g.decorate(real)
	g.ResponseWriter.WriteHeader(g.status)
	if g.held.Len() > 0 {
		_, _ = g.ResponseWriter.Write(g.held.Bytes()) //nolint:gosec // the app's own answer; the client may have gone, the event is stored
		g.held = bytes.Buffer{}
	}
	maps.Copy(real, trailer) // what is set after the header goes out behind the body
}

// takeTrailer takes the fields out that are announced to come behind the body:
// of an answer that was held back they are there already.
func takeTrailer(h http.Header) http.Header {
	trailer := make(http.Header)
	for _, names := range h["Trailer"] {
		for name := range strings.SplitSeq(names, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if values, ok := h[name]; ok {
				trailer[name] = values
				delete(h, name)
			}
		}
	}
	return trailer
}

// isJSON tells whether an answer can be read: JSON, and not coded.
func isJSON(h http.Header) bool {
	if coding := h.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return false
	}
	media, _ := parseMediaType(h.Get("Content-Type"))
	return media.essence == "application/json" || strings.HasSuffix(media.essence, "+json")
}

// Interface guards
var (
	_ http.Flusher  = (*gate)(nil)
	_ io.ReaderFrom = (*gate)(nil)
)
