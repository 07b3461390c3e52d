package lean

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// ErrAnswer reports a response that is not HTTP/1.1 with a complete head, or a body
// that does not match its framing.
var ErrAnswer = errors.New("not a proper HTTP answer")

func badAnswer(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrAnswer}, a...)...)
}

// maxInterim bounds the interim responses (1xx) before the final one.
const maxInterim = 5

// answer is the head of a response and the framing of its body (RFC 9112, §6.3).
type answer struct {
	status string // "200 OK"
	code   int
	minor  int // the x of HTTP/1.x
	header http.Header
	// wellFormed is false if readers may disagree about the head or about the end of
	// the body. Then header has only the lines that are fields, and the connection is
	// not used again.
	wellFormed bool
	// length is the body's length. It is 0 if there is no body, and -1 if chunks or the
	// end of the connection mark its end.
	length    int64
	chunked   bool
	keepAlive bool
	left      int // unused part of the head's budget, left for trailers
}

func (a *answer) proto() string {
	if a.minor == 0 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// readHead reads interim responses and the head of the final one.
func (c *conn) readHead(trace *httptrace.ClientTrace, budget int) (answer, error) {
	if _, err := c.r.Peek(1); err != nil {
		err = endedEarly(err)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", errHungUp, err)
		}
		return answer{}, err
	}
	if trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	return readAnswer(c.r, budget)
}

func readAnswer(r *bufio.Reader, budget int) (answer, error) {
	const begin = "HTTP/"
	if first, _ := r.Peek(min(r.Buffered(), len(begin))); !strings.HasPrefix(begin, string(first)) {
		return answer{}, badAnswer("it begins with %q", first)
	}
	lines := lineReader{r: r, budget: budget}
	proper := true
	for range maxInterim + 1 {
		a, err := lines.answer()
		if err != nil {
			return answer{}, err
		}
		proper = proper && a.wellFormed
		// 101 is final: the bytes after it are not HTTP.
		if a.code >= 200 || a.code == http.StatusSwitchingProtocols {
			a.left, a.wellFormed = lines.budget, proper
			a.frame()
			return a, nil
		}
	}
	return answer{}, badAnswer("more than %d interim answers", maxInterim)
}

// lineReader reads the lines of heads, within the rest of a budget.
type lineReader struct {
	r      *bufio.Reader
	budget int
	crlf   bool // lines must end with CRLF, not with LF alone
}

// line reads one line and returns it without its end, which in heads may be a single LF
// (RFC 9112, §2.2). The line is valid until the next read.
func (l *lineReader) line() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append([]byte(nil), line...)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= l.budget {
			line, err = l.r.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	if l.budget -= len(line); l.budget < 0 || errors.Is(err, bufio.ErrBufferFull) {
		return nil, badAnswer("its head is too long")
	}
	if err != nil {
		return nil, endedEarly(err)
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1], nil
	}
	if l.crlf {
		return nil, badAnswer("a line of its trailers does not end with CRLF")
	}
	return line, nil
}

// answer reads a status line and the fields after it.
func (l *lineReader) answer() (a answer, err error) {
	line, err := l.line()
	if err != nil {
		return a, err
	}
	if a.code, a.minor, a.status, err = parseStatusLine(line); err != nil {
		return a, err
	}
	a.header, a.wellFormed, err = l.fields()
	return a, err
}

// parseStatusLine parses a line such as "HTTP/1.1 200 OK" (RFC 9112, §4).
func parseStatusLine(line []byte) (code, minor int, status string, err error) {
	const shape = "HTTP/1.1 200"
	wrong := func() (int, int, string, error) {
		return 0, 0, "", badAnswer("its first line is %q", line[:min(len(line), 64)])
	}
	if len(line) < len(shape) || string(line[:7]) != shape[:7] || line[7] != '0' && line[7] != '1' || line[8] != ' ' {
		return wrong()
	}
	rest := line[9:]
	for _, c := range rest[:3] {
		if c < '0' || c > '9' {
			return wrong()
		}
		code = 10*code + int(c-'0')
	}
	if code < 100 || len(rest) > 3 && rest[3] != ' ' {
		return wrong()
	}
	for _, c := range rest[3:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			return wrong()
		}
	}
	if string(rest) == "200 OK" {
		return code, int(line[7] - '0'), "200 OK", nil
	}
	return code, int(line[7] - '0'), string(rest), nil
}

// fields reads header fields up to the empty line (RFC 9112, §5). It drops lines that
// are not fields and then returns proper as false: readers may disagree about such a
// line, and about a field that continues in it.
func (l *lineReader) fields() (h http.Header, proper bool, err error) {
	const usual = 8
	h, proper = make(http.Header, usual), true
	var text strings.Builder // holds all values, so that they take one allocation
	values := make([]string, 0, usual)
	for {
		line, err := l.line()
		if err != nil {
			return nil, false, err
		}
		if len(line) == 0 {
			return h, proper, nil
		}
		name, rest, ok := parseField(line)
		if !ok {
			proper = false
			continue
		}
		if text.Cap() == 0 {
			text.Grow(min(len(rest)+l.r.Buffered(), 256))
		}
		begin := text.Len()
		text.Write(rest)
		value := text.String()[begin:]
		if before := h[name]; before != nil {
			h[name] = append(before, value)
			continue
		}
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
}

// parseField parses a field. If the line is not a field, ok is false. It returns no
// error value because a head may have thousands of such lines.
func parseField(line []byte) (name string, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return "", nil, false
	}
	name, usual := usualFields[string(line[:colon])]
	if !usual {
		if name = string(line[:colon]); !httpguts.ValidHeaderFieldName(name) {
			return "", nil, false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	value = bytes.Trim(line[colon+1:], " \t")
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", nil, false
		}
	}
	return name, value, true
}

// usualFields holds common names, which then need no allocation.
var usualFields = func() map[string]string {
	usual := make(map[string]string)
	for _, name := range []string{"Cache-Control", "Connection", "Content-Length", "Content-Type", "Date", "Keep-Alive", "Server", "Vary"} {
		usual[name], usual[strings.ToLower(name)] = name, name
	}
	return usual
}()

// frame determines where the response ends and whether its connection may be used
// again. If the head gives equal lengths twice, or chunks and a length, RFC 9112, §6.3
// applies. If the length cannot be known, there is no body.
func (a *answer) frame() {
	lengths, codings := a.header["Content-Length"], a.header["Transfer-Encoding"]
	a.length = -1
	framed := true
	switch {
	case a.code < 200 || a.code == http.StatusNoContent || a.code == http.StatusNotModified:
		// These have no body, whatever the head says. If a 204 announces one, the bytes
		// after it could be taken for the next response.
		a.length = 0
		announced := len(codings) > 0 || len(lengths) > 0 && lengths[0] != "0" && a.code != http.StatusNotModified
		framed = a.code >= 200 && !announced && len(lengths) <= 1
	case len(codings) > 0:
		known := len(codings) == 1 && strings.EqualFold(codings[0], "chunked") && a.minor == 1
		if a.chunked = known; !known {
			a.length = 0
		}
		a.wellFormed = a.wellFormed && known && len(lengths) == 0
	case len(lengths) > 0:
		n, err := parseLength(lengths[0])
		if err != nil || slices.ContainsFunc(lengths, func(l string) bool { return l != lengths[0] }) {
			n, a.wellFormed = 0, false
		}
		a.length = n
		a.wellFormed = a.wellFormed && len(lengths) == 1
	default:
		framed = false // the end of the connection ends the body
	}
	a.keepAlive = a.wellFormed && framed && a.minor == 1 && !httpguts.HeaderValuesContainsToken(a.header["Connection"], "close")
}

func parseLength(s string) (int64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, badAnswer("its length is %q", s)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, badAnswer("its length is %q", s)
	}
	return n, nil
}

// idle returns how long the connection may wait for the next request. It is a second
// less than the server announces, so that no request meets a connection that is being
// closed.
func (a *answer) idle(most time.Duration) time.Duration {
	for _, field := range a.header["Keep-Alive"] {
		for parameter := range strings.SplitSeq(field, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
			if n, err := strconv.ParseUint(value, 10, 31); err == nil && strings.EqualFold(name, "timeout") {
				most = min(most, time.Duration(n)*time.Second-time.Second)
			}
		}
	}
	return most
}

// endedEarly returns the error for a connection that ended within a response.
func endedEarly(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the answer: %w", err)
}
