package intake

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxHeld bounds how much of an answer is held back and read, in bytes, both as it comes
// and inflated. Of a longer answer the beginning is read.
const maxHeld = 256 << 10

// gate is a ResponseWriter that holds an answer back until its event is on disk.
//
//	            2xx, text  ┌─► peeking ──it is no JSON object───┐
//	           ┌───────────┘      │ it begins with a brace      │
//	           │                  ▼                             ▼
//	(nothing) ─┼── 2xx, JSON ► holding ─end, broken, maxHeld► record ─ok──► open
//	           ├── 2xx, anything else ──────────────────────────┘  └error─► refused
//	           └── any other status ──────────────────────────────────────► open
//
// Some apps send JSON as text/html or without a media type, so such an answer is held
// until its first byte.
//
// Until the gate is open the app writes to a header of the gate's own, so that a refusal
// has nothing of the app's answer. After a refusal the gate discards what the app writes:
// a proxy that cannot write aborts the connection, and the client would not read the
// refusal.
type gate struct {
	http.ResponseWriter
	// record is called once if the status is 2xx, with the text of the answer as far as
	// it was held, or nil.
	record func(answer []byte) error
	// decorate adds to the header of the answer and of a refusal.
	decorate func(http.Header)

	state  gateState
	header http.Header
	status int
	held   bytes.Buffer
}

type gateState uint8

const (
	gateNew gateState = iota
	gatePeeking
	gateHolding
	gateOpen
	gateRefused
)

func newGate(w http.ResponseWriter, record func([]byte) error) *gate {
	return &gate{
		ResponseWriter: w,
		record:         record,
		decorate:       func(http.Header) {},
		header:         w.Header().Clone(),
	}
}

// Header returns the answer's header. Once the gate is open it is that of the client's
// answer, so that trailers arrive.
func (g *gate) Header() http.Header {
	if g.state == gateOpen {
		return g.ResponseWriter.Header()
	}
	if g.header == nil {
		g.header = make(http.Header)
	}
	return g.header
}

// WriteHeader decides by status and header whether the answer is held.
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
		if g.state = stateFor(g.header); g.state == gateNew {
			g.settle(nil)
		}
	}
}

// inform passes a 1xx on with a copy of its fields: handlers around this one may edit the
// values in place.
func (g *gate) inform(status int) {
	real := g.ResponseWriter.Header()
	before := real.Clone()
	maps.Copy(real, g.header.Clone())
	g.ResponseWriter.WriteHeader(status)
	clear(real)
	maps.Copy(real, before)
}

// Write holds back, passes on or discards.
func (g *gate) Write(p []byte) (int, error) {
	if g.state == gateNew {
		g.WriteHeader(http.StatusOK)
	}
	switch g.state {
	case gateOpen:
		return g.ResponseWriter.Write(p)
	case gateRefused:
		return len(p), nil
	case gatePeeking:
		if first := bytes.TrimLeft(p, " \t\r\n\uFEFF"); len(first) > 0 {
			g.state = gateHolding
			if first[0] != '{' {
				g.settle(nil)
				return g.Write(p)
			}
		}
	}
	if g.held.Len()+len(p) > maxHeld {
		g.settle(slices.Concat(g.held.Bytes(), p[:maxHeld-g.held.Len()]))
		return g.Write(p)
	}
	return g.held.Write(p)
}

// Unwrap is for http.ResponseController.
func (g *gate) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// ReadFrom implements io.ReaderFrom. Until the gate is open the text goes through Write.
func (g *gate) ReadFrom(r io.Reader) (int64, error) {
	if g.state == gateOpen {
		return io.Copy(g.ResponseWriter, r)
	}
	return io.Copy(struct{ io.Writer }{g}, r)
}

// FlushError passes a flush on if the gate is open. What is held back waits for its end.
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

// finish is called when the handler behind the gate has returned.
func (g *gate) finish() {
	if g.state == gateNew {
		g.WriteHeader(http.StatusOK)
	}
	if g.state == gatePeeking || g.state == gateHolding {
		g.settle(g.held.Bytes())
	}
}

// broken is called when the handler behind the gate has returned, failed or panicked. If the
// app had accepted the submission before it failed, the event is made all the same, and
// nothing more is answered.
func (g *gate) broken() {
	if g.state == gatePeeking || g.state == gateHolding {
		_ = g.record(g.text(g.held.Bytes())) // record counts and logs its error
		g.state = gateRefused
	}
}

// settle records the event, then opens the gate or refuses.
func (g *gate) settle(answer []byte) {
	if err := g.record(g.text(answer)); err != nil {
		g.state = gateRefused
		g.held.Reset()
		g.ResponseWriter.Header().Set("Retry-After", RetryAfter(err))
		g.decorate(g.ResponseWriter.Header())
		WriteProblem(g.ResponseWriter, Unavailable(err))
		return
	}
	g.open()
}

// text returns an answer without its coding. Of an answer that is too long, or broken, it
// returns the beginning.
func (g *gate) text(answer []byte) []byte {
	if codingOf(g.header) == "" {
		return answer
	}
	inflated, _ := inflate(answer, maxHeld)
	return inflated
}

// open sends what was held back.
func (g *gate) open() {
	g.state = gateOpen
	real := g.ResponseWriter.Header()
	clear(real)
	trailer := takeTrailer(g.header)
	maps.Copy(real, g.header)
	g.decorate(real)
	g.ResponseWriter.WriteHeader(g.status)
	if g.held.Len() > 0 {
		_, _ = g.ResponseWriter.Write(g.held.Bytes()) // the client may have gone, the event is stored
		g.held = bytes.Buffer{}
	}
	maps.Copy(real, trailer) // fields that are set after the header are sent after the body
}

// takeTrailer removes the fields that are announced as trailers: when an answer was held
// back, the app has set them already.
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

// stateFor returns the state in which an answer with this header is read, or gateNew if
// it cannot be read.
func stateFor(h http.Header) gateState {
	coding := codingOf(h)
	if coding != "" && coding != "gzip" {
		return gateNew
	}
	media, _ := parseMediaType(h.Get("Content-Type"))
	switch kind := media.essence; {
	case kind == "application/json", strings.HasSuffix(kind, "+json"):
		return gateHolding
	case coding == "" && (kind == "" || kind == "text/html" || kind == "text/plain"):
		return gatePeeking
	}
	return gateNew
}

// Interface guards
var (
	_ http.Flusher  = (*gate)(nil)
	_ io.ReaderFrom = (*gate)(nil)
)
