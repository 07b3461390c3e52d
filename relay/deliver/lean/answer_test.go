package lean

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// read reads one response and its body as a connection does.
func read(text string) (a *answer, body []byte, err error) {
	r := bufio.NewReaderSize(strings.NewReader(text), 4<<10)
	x := &exchange{c: &conn{r: r}}
	if x.answer, err = readAnswer(r, 16<<10); err != nil {
		return nil, nil, err
	}
	src := x.source()
	if src == nil {
		return &x.answer, nil, nil
	}
	body, err = io.ReadAll(src)
	return &x.answer, body, err
}

func TestAnswersWithoutAWholeHeadAreRefused(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\n"
	long := strings.Repeat("x", 17<<10)
	for name, text := range map[string]string{
		"a head without end":          ok + "X: " + long + "\r\n\r\n",
		"a status line without end":   "HTTP/1.1 200 " + long + "\r\n\r\n",
		"HTTP/2 in text":              "HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.2":                    "HTTP/1.2 200 OK\r\n\r\n",
		"lower case":                  "http/1.1 200 OK\r\n\r\n",
		"four digits":                 "HTTP/1.1 2000 OK\r\n\r\n",
		"two digits":                  "HTTP/1.1 20 OK\r\n\r\n",
		"a signed status":             "HTTP/1.1 +20 OK\r\n\r\n",
		"a status below 100":          "HTTP/1.1 099 OK\r\n\r\n",
		"two spaces":                  "HTTP/1.1  200 OK\r\n\r\n",
		"a line before it":            "\r\nHTTP/1.1 200 OK\r\n\r\n",
		"six interim answers":         strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 6) + ok + "\r\n",
		"interim answers without end": strings.Repeat("HTTP/1.1 103 x\r\nX: "+long[:4<<10]+"\r\n\r\n", 5) + ok + "\r\n",
	} {
		if a, _, err := read(text); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// TestAnswersThatCanBeReadInTwoWaysEndTheirConnection: the status counts, because the
// receiver has the request. The end of the response is not certain, so the connection
// is closed.
func TestAnswersThatCanBeReadInTwoWaysEndTheirConnection(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, text := range map[string]string{
		"two lengths":                   ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"the same length twice":         ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
		"a list of lengths":             ok + "Content-Length: 2, 2\r\n\r\nab",
		"a signed length":               ok + "Content-Length: +2\r\n\r\nab",
		"a negative length":             ok + "Content-Length: -1\r\n\r\nab",
		"a hexadecimal length":          ok + "Content-Length: 0x2\r\n\r\nab",
		"an empty length":               ok + "Content-Length:\r\n\r\nab",
		"a length beyond all":           ok + "Content-Length: 99999999999999999999\r\n\r\nab",
		"length and chunks":             ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks of HTTP/1.0":            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another coding":                ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":                      ok + "Transfer-Encoding: identity\r\n\r\nab",
		"two codings":                   ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a folded field":                ok + "X: a\r\n b\r\n\r\n",
		"a field that begins with fold": ok + " X: a\r\n\r\n",
		"a space before the colon":      ok + "Content-Length : 2\r\n\r\nab",
		"no colon":                      ok + "Content-Length 2\r\n\r\nab",
		"no name":                       ok + ": 2\r\n\r\nab",
		"a bare CR in a value":          ok + "X: a\rContent-Length: 2\r\n\r\nab",
		"a bare CR before the colon":    ok + "X\r: a\r\n\r\n",
		"a zero byte":                   ok + "X: a\x00b\r\n\r\n",
		"a control character":           ok + "X: a\x07b\r\n\r\n",
		"an interim answer with a fold": "HTTP/1.1 103 x\r\nA: b\r\n c\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n",
		"a field beside no field":       ok + "Retry-After: 9\r\nnothing\r\nContent-Length: 2\r\n\r\nab",
	} {
		a, body, err := read(text)
		if err != nil || a.code != 200 || a.keepAlive {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if len(body) > 0 && string(body) != "ab" {
			t.Errorf("%s: body %q", name, body)
		}
	}
	if a, body, _ := read(ok + "Retry-After: 9\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nab"); a.header.Get("Retry-After") != "9" || string(body) != "ab" {
		t.Errorf("fields beside a folded one: %+v, body %q", a, body)
	}
	if a, body, _ := read(ok + "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"); !a.chunked || string(body) != "ab" {
		t.Errorf("chunks beside a length: %+v, body %q", a, body)
	}
}

func TestChunksThatCanBeReadInTwoWaysAreRefused(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, body := range map[string]string{
		"a bare LF after the size":     "2\nab\r\n0\r\n\r\n",
		"a bare CR in the size":        "2\rx\r\nab\r\n0\r\n\r\n",
		"no size":                      "\r\nab\r\n0\r\n\r\n",
		"an extension and no size":     ";x\r\nab\r\n0\r\n\r\n",
		"a size of 0x":                 "0x2\r\nab\r\n0\r\n\r\n",
		"a signed size":                "+2\r\nab\r\n0\r\n\r\n",
		"a negative size":              "-2\r\nab\r\n0\r\n\r\n",
		"a size beyond 60 bits":        "1000000000000000\r\nab\r\n0\r\n\r\n",
		"a space before the size":      " 2\r\nab\r\n0\r\n\r\n",
		"data that goes on":            "2\r\nabc\r\n0\r\n\r\n",
		"LF after the data":            "2\r\nab\n0\r\n\r\n",
		"a zero byte in an extension":  "2;\x00\r\nab\r\n0\r\n\r\n",
		"an extension without end":     "2;" + strings.Repeat("x", 5<<10) + "\r\nab\r\n0\r\n\r\n",
		"mostly extensions":            strings.Repeat("1;"+strings.Repeat("x", 3<<10)+"\r\na\r\n", 16) + "0\r\n\r\n",
		"a folded trailer":             "0\r\nX: a\r\n b\r\n\r\n",
		"trailers without end":         "0\r\n" + strings.Repeat("X: aaaaaaaaaaaaaaaa\r\n", 1000) + "\r\n",
		"a trailer after a bare LF":    "0\r\nX: a\n\r\n",
		"trailers that end with LF":    "0\r\n\n",
		"a trailer that is none":       "0\r\nnothing\r\n\r\n",
		"a trailer with a bare CR":     "0\r\nX: a\rb\r\n\r\n",
		"a size with a space in it":    "1 0\r\nab\r\n0\r\n\r\n",
		"a size with trailing letters": "2g\r\nab\r\n0\r\n\r\n",
	} {
		if _, got, err := read(head + body); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: read as %q, %v", name, got, err)
		}
	}
}

func TestProperAnswersAreUnderstood(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		name, text string
		code       int
		body       string
		keepAlive  bool
	}{
		{"a length", ok + "Content-Length: 2\r\n\r\nab", 200, "ab", true},
		{"no body", ok + "Content-Length: 0\r\n\r\n", 200, "", true},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", true},
		{"an unknown status", "HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n", 999, "", true},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nab", 200, "ab", true},
		{"spaces around a value", ok + "Content-Length: \t 2 \t\r\n\r\nab", 200, "ab", true},
		{"until the end", ok + "\r\nab", 200, "ab", false},
		{"chunks", ok + "Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n1;x=\"y\"\r\nb\r\n0\r\n\r\n", 200, "ab", true},
		{"chunks with spaces behind the size", ok + "Transfer-Encoding: chunked\r\n\r\n2  \r\nab\r\n0\r\n\r\n", 200, "ab", true},
		{"chunks with trailers", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n", 200, "ab", true},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		{"204 with a length of 0", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, "", true},
		{"204 that announces a body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nHTTP/", 204, "", false},
		{"304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, "", true},
		{"five interim answers", strings.Repeat("HTTP/1.1 103 x\r\nA: b\r\n\r\n", 5) + ok + "Content-Length: 0\r\n\r\n", 200, "", true},
		{"a switch of protocols", "HTTP/1.1 101 Switching Protocols\r\n\r\nanything", 101, "", false},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nab", 200, "ab", false},
		{"the last of its connection", ok + "Connection: x, Close\r\nContent-Length: 2\r\n\r\nab", 200, "ab", false},
		{"a long field", ok + "X: " + strings.Repeat("x", 12<<10) + "\r\nContent-Length: 2\r\n\r\nab", 200, "ab", true},
	} {
		a, body, err := read(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if a.code != c.code || string(body) != c.body || a.keepAlive != c.keepAlive {
			t.Errorf("%s: status %d, body %q, keep-alive %t", c.name, a.code, body, a.keepAlive)
		}
	}
}

func TestAnswersThatBreakOffAreErrors(t *testing.T) {
	t.Parallel()
	for _, whole := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n",
	} {
		for n := range len(whole) {
			if _, body, err := read(whole[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: body %q, %v", whole[:n], body, err)
			}
		}
	}
}

// FuzzAnswer: net/http accepts each response that this package accepts, with the same
// status, fields, body and end.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
		"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nX: y\r\n\r\nrest",
		"HTTP/1.0 404 \r\nA: b\r\na: c\r\n\r\nuntil the end",
		"HTTP/1.1 304 x\nContent-Length: 7\nPragma: no-cache\n\n",
		"HTTP/1.1 101 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, body, err := read(text)
		if a == nil || !a.wellFormed {
			return // net/http rejects these, or its reading is one of two
		}
		r := bufio.NewReaderSize(strings.NewReader(text), 4<<10)
		var want *http.Response
		for range maxInterim + 1 {
			var err error
			if want, err = http.ReadResponse(r, &http.Request{Method: http.MethodPost}); err != nil {
				t.Fatalf("net/http refuses %q: %v", text, err)
			}
			if want.StatusCode >= 200 || want.StatusCode == 101 {
				break
			}
		}
		if a.code != want.StatusCode || a.status != want.Status || a.minor != want.ProtoMinor {
			t.Fatalf("%q: status %q in HTTP/1.%d, net/http has %q in HTTP/1.%d", text, a.status, a.minor, want.Status, want.ProtoMinor)
		}
		if a.keepAlive && want.Close {
			t.Fatalf("%q: net/http would not use the connection again", text)
		}
		if got, want := fieldsOf(a.header), fieldsOf(want.Header); !maps.EqualFunc(got, want, slices.Equal) {
			t.Fatalf("%q: fields %q, net/http has %q", text, got, want)
		}
		if a.code == http.StatusSwitchingProtocols {
			return // the bytes that follow are not HTTP
		}
		theirs, theirErr := io.ReadAll(want.Body)
		if err == nil && (theirErr != nil || !bytes.Equal(body, theirs)) {
			t.Fatalf("%q: body %q, net/http has %q, %v", text, body, theirs, theirErr)
		}
		if err != nil && !bytes.HasPrefix(theirs, body) {
			t.Fatalf("%q: body %q before %v, net/http has %q", text, body, err, theirs)
		}
	})
}

// fieldsOf leaves out the fields that net/http removes from a header or adds to it.
func fieldsOf(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range []string{"Transfer-Encoding", "Content-Length", "Trailer", "Connection"} {
		delete(h, name)
	}
	if len(h["Pragma"]) > 0 && h["Pragma"][0] == "no-cache" {
		delete(h, "Cache-Control")
	}
	return h
}
