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
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// ErrAnswer marks what came back and is no proper answer of HTTP/1.1, or too
// much of one.
var ErrAnswer = errors.New("not a proper HTTP answer")

func improper(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrAnswer}, a...)...)
}

// maxInterim bounds the interim answers (1xx) before the answer.
const maxInterim = 5

// answer is the head of one, and how its body is framed (RFC 9112, §6.3).
type answer struct {
	status string // "200 OK"
	code   int
	minor  int // of HTTP/1.x
	header http.Header
	// length is the body's; 0 where there is none, -1 where its end is told by
	// chunks or by the end of the connection.
	length    int64
	chunked   bool
	keepAlive bool
	left      int // of the head's budget: what trailers may take
}

func (a *answer) proto() string {
	if a.minor == 0 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// readHead reads interim answers and the head of the answer.
func (c *conn) readHead(trace *httptrace.ClientTrace, budget int, into *fields) (answer, error) {
	if _, err := c.r.Peek(1); err != nil {
		return answer{}, brokenOff(err)
	}
	if trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	return readAnswer(c.r, budget, into)
}

func readAnswer(r *bufio.Reader, budget int, into *fields) (answer, error) {
	const begin = "HTTP/"
	if first, _ := r.Peek(min(r.Buffered(), len(begin))); !strings.HasPrefix(begin, string(first)) {
		return answer{}, improper("it begins with %q", first)
	}
	lines := lineReader{r: r, left: budget}
	for range maxInterim + 1 {
		a, err := lines.answer(into)
		if err != nil {
			return answer{}, err
		}
		// 101 is final: what follows is no HTTP any more.
		if a.code >= 200 || a.code == http.StatusSwitchingProtocols {
			a.left = lines.left
			return a, a.frame()
		}
	}
	return answer{}, improper("more than %d interim answers", maxInterim)
}

// lineReader reads the lines of heads, within what is left of a budget.
type lineReader struct {
	r    *bufio.Reader
	left int
	crlf bool // lines end so, and not with LF alone
}

// line reads one line without its end, which in heads may be LF alone (RFC
// 9112, §2.2). It is valid until the next read.
func (l *lineReader) line() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append([]byte(nil), line...)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= l.left {
			line, err = l.r.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	if l.left -= len(line); l.left < 0 || errors.Is(err, bufio.ErrBufferFull) {
		return nil, improper("its head is too long")
	}
	if err != nil {
		return nil, brokenOff(err)
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1], nil
	}
	if l.crlf {
		return nil, improper("a line of its trailers does not end with CRLF")
	}
	return line, nil
}

// answer reads a status line and the fields behind it.
func (l *lineReader) answer(into *fields) (a answer, err error) {
	line, err := l.line()
	if err != nil {
		return a, err
	}
	if a.code, a.minor, a.status, err = parseStatusLine(line); err != nil {
		return a, err
	}
	err = l.fields(into)
	a.header = into.header
	return a, err
}

// parseStatusLine takes "HTTP/1.1 200 OK" apart (RFC 9112, §4).
func parseStatusLine(line []byte) (code, minor int, status string, err error) {
	const shape = "HTTP/1.1 200"
	wrong := func() (int, int, string, error) {
		return 0, 0, "", improper("its first line is %q", line[:min(len(line), 64)])
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

// fields is room for the fields of a head, used for one after the other.
type fields struct {
	header http.Header
	values []string // each field's are a stretch of these
}

// empty makes room.
func (f *fields) empty() {
	const usual, many = 8, 64
	if f.header == nil || len(f.header) > many {
		f.header, f.values = make(http.Header, usual), make([]string, 0, usual)
		return
	}
	clear(f.header)
	f.values = f.values[:0]
}

func (f *fields) add(name, value string) {
	if before := f.header[name]; before != nil {
		f.header[name] = append(before, value)
		return
	}
	f.values = append(f.values, value)
	f.header[name] = f.values[len(f.values)-1 : len(f.values) : len(f.values)]
}

// fields reads header fields up to the empty line (RFC 9112, §5). A field that
// goes on in the next line is refused: readers disagree about it.
func (l *lineReader) fields(into *fields) error {
	into.empty()
	var text strings.Builder // of all values
	for {
		line, err := l.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		name, rest, err := parseField(line)
		if err != nil {
			return err
		}
		if text.Cap() == 0 {
			text.Grow(min(len(rest)+l.r.Buffered(), 256))
		}
		begin := text.Len()
		text.Write(rest)
		value := text.String()[begin:]
		if !httpguts.ValidHeaderFieldValue(value) {
			return improper("the value of its header field %s has a control character", name)
		}
		into.add(name, value)
	}
}

// parseField takes a field apart.
func parseField(line []byte) (name string, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return "", nil, improper("a line of its head is %q", line[:min(len(line), 64)])
	}
	name, usual := usualFields[string(line[:colon])]
	if !usual {
		if name = string(line[:colon]); !httpguts.ValidHeaderFieldName(name) {
			return "", nil, improper("%q is no name of a header field", name)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	return name, bytes.Trim(line[colon+1:], " \t"), nil
}

// usualFields are the names that need not be made anew for each answer.
var usualFields = func() map[string]string {
	usual := make(map[string]string)
	for _, name := range []string{"Cache-Control", "Connection", "Content-Length", "Content-Type", "Date", "Keep-Alive", "Server", "Vary"} {
		usual[name], usual[strings.ToLower(name)] = name, name
	}
	return usual
}()

// frame finds out where the answer ends, and whether its connection may serve
// again. Two ways to tell the end are an error even where they agree.
func (a *answer) frame() error {
	lengths, codings := a.header["Content-Length"], a.header["Transfer-Encoding"]
	switch {
	case len(lengths) > 1:
		return improper("it has %d lengths", len(lengths))
	case len(lengths) > 0 && len(codings) > 0:
		return improper("it has a length and is chunked")
	case len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return improper("its transfer coding is %q", strings.Join(codings, ", "))
	case len(codings) == 1 && a.minor == 0:
		return improper("it is chunked in HTTP/1.0")
	}
	a.length = -1
	if len(lengths) == 1 {
		n, err := parseLength(lengths[0])
		if err != nil {
			return err
		}
		a.length = n
	}
	a.chunked = len(codings) == 1
	framed := a.length >= 0 || a.chunked
	if a.code < 200 || a.code == http.StatusNoContent || a.code == http.StatusNotModified {
		// Without a body, whatever its head says. Where it announces one for 204,
		// what follows could be taken for the next answer.
		framed = a.code >= 200 && !a.chunked && (a.length <= 0 || a.code == http.StatusNotModified)
		a.length, a.chunked = 0, false
	}
	a.keepAlive = framed && a.minor == 1 && !httpguts.HeaderValuesContainsToken(a.header["Connection"], "close")
	return nil
}

func parseLength(s string) (int64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, improper("its length is %q", s)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, improper("its length is %q", s)
	}
	return n, nil
}

// idle is how long the connection may wait for the next request: a second less
// than the server says, lest one cross its closing.
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

// brokenOff is the error of a connection that ended within an answer.
func brokenOff(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the answer: %w", err)
}
