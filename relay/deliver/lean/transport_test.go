package lean

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newLean(t *testing.T, idle time.Duration) *Transport {
	t.Helper()
	l := New(Options{
		Dial: new(net.Dialer).DialContext,
		Secure: func(raw net.Conn, _ string) (*tls.Conn, error) {
			return tls.Client(raw, &tls.Config{InsecureSkipVerify: true}), nil
		},
		MaxHeader: 16 << 10, MaxIdlePerHost: 4, IdleTimeout: idle,
	})
	t.Cleanup(l.CloseIdleConnections)
	return l
}

// post returns a request. header holds names and values in turns, in the spelling that
// is sent.
func post(t *testing.T, ctx context.Context, to, body string, header ...string) *http.Request { //nolint:revive // the test comes first
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for field := range slices.Chunk(header, 2) {
		r.Header[field[0]] = append(r.Header[field[0]], field[1])
	}
	return r
}

// send makes one request and reads its response to the end.
func send(t *testing.T, l http.RoundTripper, url string) (status int, body string, err error) {
	t.Helper()
	response, err := l.RoundTrip(post(t, t.Context(), url, "{}"))
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	b, err := io.ReadAll(response.Body)
	return response.StatusCode, string(b), err
}

// scripted is a receiver. It reads one request at a time and runs the script on each
// connection.
type scripted struct {
	url         string
	connections atomic.Int64
	requests    atomic.Int64
	closed      chan struct{} // gets a value for each connection that the sender closed
}

func newScripted(t *testing.T, answer func(s *scripted, c net.Conn, nth int) (goOn bool)) *scripted {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{url: "http://" + listener.Addr().String() + "/", closed: make(chan struct{}, 1000)}
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				for nth := 0; ; nth++ {
					request, err := http.ReadRequest(r)
					if err != nil {
						s.closed <- struct{}{}
						return
					}
					_, _ = io.Copy(io.Discard, request.Body)
					s.requests.Add(1)
					if !answer(s, c, nth) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return s
}

func always(text string) func(*scripted, net.Conn, int) bool {
	return func(_ *scripted, c net.Conn, _ int) bool {
		_, err := io.WriteString(c, text)
		return err == nil
	}
}

const okEmpty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

func TestConnectionsServeAgainOnlyAfterAWholeAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		connections  int64 // connections used by three requests
	}{
		{"no body", okEmpty, 1},
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 1},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 1},
		{"an error", "HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\nno", 1},
		{"interim answers", "HTTP/1.1 103 x\r\n\r\n" + okEmpty, 1},
		{"Connection: close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 3},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 3},
		{"a second answer", okEmpty + okEmpty, 3},
		{"a byte too many", okEmpty + "x", 3},
		{"204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 3},
		{"a switch of protocols", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 3},
		{"a wait of no time", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=5\r\nContent-Length: 0\r\n\r\n", 3},
		{"a wait of a minute", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 0\r\n\r\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScripted(t, always(c.answer))
			l := newLean(t, time.Minute)
			for range 3 {
				if status, _, err := send(t, l, s.url); err != nil || status == 0 {
					t.Fatalf("status %d, %v", status, err)
				}
			}
			if n := s.connections.Load(); n != c.connections {
				t.Errorf("%d connections for three requests, want %d", n, c.connections)
			}
		})
	}
}

func TestAnAnswerThatIsNotReadTakesItsConnectionAlong(t *testing.T) {
	t.Parallel()
	s := newScripted(t, always("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"))
	l := newLean(t, time.Minute)
	for range 2 {
		response, err := l.RoundTrip(post(t, t.Context(), s.url, "{}"))
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		<-s.closed
	}
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestAConnectionThatTheReceiverClosedIsNotUsed(t *testing.T) {
	t.Parallel()
	s := newScripted(t, func(_ *scripted, c net.Conn, _ int) bool {
		_, _ = io.WriteString(c, okEmpty)
		return false // closes without a Connection field in the head
	})
	l := newLean(t, time.Minute)
	for i := range 50 {
		if _, _, err := send(t, l, s.url); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		awaitHangUp(t, l)
	}
	if n := s.requests.Load(); n != 50 {
		t.Errorf("%d requests, want 50", n)
	}
}

// awaitHangUp waits until the peer has closed the idle connection in the pool, if there
// is one.
func awaitHangUp(t *testing.T, l *Transport) {
	t.Helper()
	for range 1000 {
		l.pool.mu.Lock()
		open := false
		for _, waiting := range l.pool.hosts {
			open = open || slices.ContainsFunc(waiting, func(c *conn) bool { return c.usable(time.Time{}) })
		}
		l.pool.mu.Unlock()
		if !open {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it stays open")
}

func TestNoRequestIsSentTwice(t *testing.T) {
	t.Parallel()
	// The receiver reads the second request on a connection and then closes it. It may
	// have processed the request.
	s := newScripted(t, func(_ *scripted, c net.Conn, nth int) bool {
		if nth > 0 {
			return false
		}
		_, _ = io.WriteString(c, okEmpty)
		return true
	})
	l := newLean(t, time.Minute)
	if _, _, err := send(t, l, s.url); err != nil {
		t.Fatal(err)
	}
	if _, _, err := send(t, l, s.url); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("%v, want that the answer broke off", err)
	}
	if n := s.requests.Load(); n != 2 {
		t.Errorf("%d requests for two", n)
	}
}

func TestTheContextEndsEveryPhase(t *testing.T) {
	t.Parallel()
	errCause := errors.New("enough")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	say := func(text string) string {
		return newScripted(t, always(text)).url
	}
	for name, c := range map[string]struct {
		url  string
		dial func(context.Context, string, string) (net.Conn, error)
	}{
		"dialling": {url: "http://127.0.0.1:9/", dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}},
		"TLS":             {url: "https://" + silent.Addr().String() + "/"},
		"waiting":         {url: say("")},
		"the status line": {url: say("HTTP/1.1 20")},
		"the head":        {url: say("HTTP/1.1 200 OK\r\nX: ")},
		"interim":         {url: say("HTTP/1.1 103 x\r\n\r\n")},
		"the body":        {url: say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")},
		"chunks":          {url: say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\no")},
		"an open end":     {url: say("HTTP/1.1 200 OK\r\n\r\nok")},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLean(t, time.Minute)
			if c.dial != nil {
				l.o.Dial = c.dial
			}
			for _, timed := range []bool{true, false} {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errCause)
				if !timed {
					var stop context.CancelCauseFunc
					ctx, stop = context.WithCancelCause(t.Context())
					time.AfterFunc(50*time.Millisecond, func() { stop(errCause) })
				}
				start := time.Now()
				response, err := l.RoundTrip(post(t, ctx, c.url, "{}"))
				if err == nil {
					_, err = io.ReadAll(response.Body)
					_ = response.Body.Close()
				}
				cancel()
				if !errors.Is(err, errCause) {
					t.Errorf("timed %t: %v", timed, err)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("took %s", took)
				}
			}
		})
	}
}

func TestAnEndedContextSpoilsNoConnection(t *testing.T) {
	t.Parallel()
	s := newScripted(t, always(okEmpty))
	l := newLean(t, time.Minute)
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*50*time.Microsecond)
		if response, err := l.RoundTrip(post(t, ctx, s.url, "{}")); err == nil {
			_ = response.Body.Close()
		}
		cancel()
		if _, _, err := send(t, l, s.url); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
	}
}

func TestIdleConnectionsAreFewAndEnd(t *testing.T) {
	t.Parallel()
	const at = 16
	var waiting sync.WaitGroup
	waiting.Add(at)
	s := newScripted(t, func(_ *scripted, c net.Conn, _ int) bool {
		waiting.Done()
		waiting.Wait() // all at the same time
		_, _ = io.WriteString(c, okEmpty)
		return true
	})
	l := newLean(t, 100*time.Millisecond)
	var sending sync.WaitGroup
	for range at {
		sending.Go(func() {
			if _, _, err := send(t, l, s.url); err != nil {
				t.Error(err)
			}
		})
	}
	sending.Wait()
	for range at - l.pool.perHost {
		<-s.closed // at once
	}
	for range l.pool.perHost {
		<-s.closed // by the timer
	}
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.pool.count != 0 || len(l.pool.hosts) != 0 || l.pool.timer != nil {
		t.Errorf("the pool still has %d connections of %d hosts, timer %v", l.pool.count, len(l.pool.hosts), l.pool.timer)
	}
}

func TestRequestsGoOutAsTheyAreSpelled(t *testing.T) {
	t.Parallel()
	var got []byte
	s := newRaw(t, func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		got = b[:n]
		_, _ = io.WriteString(c, okEmpty)
	})
	r := post(t, t.Context(), s+"hook%20x?a=b", `{"a":1}`,
		"Content-Type", "application/json", "X-UserHero-Event", "feedback.created", "webhook-id", "dlv_1")
	if _, err := newLean(t, time.Minute).RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	want := "POST /hook%20x?a=b HTTP/1.1\r\nHost: " + r.URL.Host + "\r\nContent-Length: 7\r\n" +
		"Content-Type: application/json\r\nX-UserHero-Event: feedback.created\r\nwebhook-id: dlv_1\r\n\r\n" + `{"a":1}`
	if string(got) != want {
		t.Errorf("sent %q\nwant %q", got, want)
	}
}

// newRaw is a receiver that handles one connection with its own function.
func newRaw(t *testing.T, handle func(net.Conn)) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := listener.Accept(); err == nil {
			handle(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return "http://" + listener.Addr().String() + "/"
}

func TestNothingCanBePutIntoARequestsHead(t *testing.T) {
	t.Parallel()
	l := newLean(t, time.Minute)
	l.o.Dial = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, os.ErrInvalid
	}
	for name, c := range map[string]struct {
		query  string
		header []string
	}{
		"a line end in a value": {header: []string{"X", "a\r\nY: b"}},
		"a zero in a value":     {header: []string{"X", "a\x00"}},
		"a line end in a name":  {header: []string{"X: a\r\nY", "b"}},
		"an empty name":         {header: []string{"", "b"}},
		"a space in the query":  {query: "a b"},
		"a line end in it":      {query: "a\r\nX: y"},
	} {
		r := post(t, t.Context(), "http://127.0.0.1:9/", "{}", c.header...)
		r.URL.RawQuery = c.query
		if _, err := l.RoundTrip(r); !errors.Is(err, ErrRequest) {
			t.Errorf("%s was sent: %v", name, err)
		}
	}
}

func TestAnAnswerCountsThoughTheRequestWasNotRead(t *testing.T) {
	t.Parallel()
	url := newRaw(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 10))
		_, _ = io.WriteString(c, "HTTP/1.1 413 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	response, err := newLean(t, time.Minute).RoundTrip(post(t, t.Context(), url, strings.Repeat("x", 1<<20)))
	if err != nil || response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v, %v", response, err)
	}
}

func TestWhatChangesTheConnectionIsRefused(t *testing.T) {
	t.Parallel()
	const to, body = "http://127.0.0.1:9/", "{}"
	change := func(change func(*http.Request)) *http.Request {
		r := post(t, t.Context(), to, body)
		change(r)
		return r
	}
	l := newLean(t, time.Minute)
	l.o.Dial = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, os.ErrInvalid
	}
	for name, r := range map[string]*http.Request{
		"a method without a body": change(func(r *http.Request) { r.Method = http.MethodHead }),
		"a tunnel":                change(func(r *http.Request) { r.Method = http.MethodConnect }),
		"no method":               change(func(r *http.Request) { r.Method = "A B" }),
		"another Host":            change(func(r *http.Request) { r.Host = "example.com" }),
		"trailers":                change(func(r *http.Request) { r.Trailer = http.Header{"X": nil} }),
		"no use of it again":      change(func(r *http.Request) { r.Close = true }),
		"a body of any length":    change(func(r *http.Request) { r.ContentLength = -1 }),
		"a shorter body":          change(func(r *http.Request) { r.ContentLength = 3 }),
		"a longer body":           change(func(r *http.Request) { r.ContentLength = 1 }),
		"a Host field":            post(t, t.Context(), to, body, "host", "example.com"),
		"an upgrade":              post(t, t.Context(), to, body, "X", "y", "Upgrade", "x"),
		"another protocol":        post(t, t.Context(), "ftp://127.0.0.1:9/", body),
		"a name not in ASCII":     post(t, t.Context(), "http://ü.example/", body),
	} {
		if _, err := l.RoundTrip(r); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheEndOfTheContextSpoilsOnlyItsOwnConnection: the connection of an exchange that
// ended normally is used again. The connection of an interrupted one is not.
func TestTheEndOfTheContextSpoilsOnlyItsOwnConnection(t *testing.T) {
	t.Parallel()
	errCause := errors.New("enough")
	asked := make(chan struct{}, 1)
	s := newScripted(t, func(_ *scripted, c net.Conn, nth int) bool {
		if nth == 0 {
			_, _ = io.WriteString(c, okEmpty)
		} else {
			asked <- struct{}{}
		}
		return true
	})
	l := newLean(t, time.Minute)
	ctx, stop := context.WithCancelCause(t.Context())
	request := func() error {
		_, err := l.RoundTrip(post(t, ctx, s.url, "{}"))
		return err
	}
	if err := request(); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		stop(errCause)
	}()
	for range 2 {
		if err := request(); !errors.Is(err, errCause) {
			t.Errorf("%v", err)
		}
	}
	if _, _, err := send(t, l, s.url); err != nil {
		t.Error(err)
	}
	if n := s.connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestAnAnswerHasNothingOfTheOneBefore(t *testing.T) {
	t.Parallel()
	many := strings.Builder{}
	for i := range 200 {
		fmt.Fprintf(&many, "X-%d: %d\r\n", i, i)
	}
	answers := []string{
		"HTTP/1.1 103 x\r\nLink: x\r\n\r\nHTTP/1.1 503 No\r\nRetry-After: 9\r\nA: 1\r\nA: 2\r\nContent-Length: 2\r\n\r\nno",
		okEmpty,
		"HTTP/1.1 200 OK\r\n" + many.String() + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nB: trailer\r\n\r\n",
		"HTTP/1.1 200 OK\r\nB: 1\r\nA: 3\r\nContent-Length: 0\r\n\r\n",
	}
	want := []http.Header{
		{"Retry-After": {"9"}, "A": {"1", "2"}, "Content-Length": {"2"}}, {"Content-Length": {"0"}},
		{}, {"B": {"1"}, "A": {"3"}, "Content-Length": {"0"}},
	}
	for i := range 200 {
		want[2][fmt.Sprintf("X-%d", i)] = []string{fmt.Sprint(i)}
	}
	want[2]["Transfer-Encoding"] = []string{"chunked"}
	s := newScripted(t, func(_ *scripted, c net.Conn, nth int) bool {
		_, err := io.WriteString(c, answers[nth%len(answers)])
		return err == nil
	})
	l := newLean(t, time.Minute)
	for i := range 2 * len(answers) {
		response, err := l.RoundTrip(post(t, t.Context(), s.url, "{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if want := []string{"no", "", "ok", ""}[i%4]; err != nil || string(body) != want {
			t.Errorf("answer %d: body %q, %v", i, body, err)
		}
		if want := want[i%4]; !maps.EqualFunc(response.Header, want, slices.Equal) {
			t.Errorf("answer %d: %v\nwant %v", i, response.Header, want)
		}
		_ = response.Body.Close()
	}
	if n := s.connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestTLSConnectionsServeAgainUntilTheyAreClosed(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	l := newLean(t, time.Minute)
	for range 3 {
		if status, body, err := send(t, l, server.URL); err != nil || status != http.StatusOK || body != "well" {
			t.Fatalf("status %d, body %q, %v", status, body, err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for three requests", n)
	}
	server.CloseClientConnections()
	awaitHangUp(t, l)
	if _, _, err := send(t, l, server.URL); err != nil {
		t.Fatal(err)
	}
}

func TestTracesSeeEveryPhase(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	l := newLean(t, time.Minute)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	note := func(s string) { seen = append(seen, s) }
	trace := &httptrace.ClientTrace{
		GetConn:              func(string) { note("get") },
		DNSStart:             func(httptrace.DNSStartInfo) { note("dns") },
		DNSDone:              func(httptrace.DNSDoneInfo) { note("dns done") },
		ConnectStart:         func(string, string) {}, // one call for each address
		ConnectDone:          func(_, _ string, err error) { note(fmt.Sprintf("connected %t", err == nil)) },
		TLSHandshakeStart:    func() { note("tls") },
		TLSHandshakeDone:     func(s tls.ConnectionState, err error) { note(fmt.Sprintf("tls done %t %v", s.HandshakeComplete, err)) },
		GotConn:              func(i httptrace.GotConnInfo) { note(fmt.Sprintf("got, reused %t", i.Reused)) },
		WroteHeaders:         func() { note("head") },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { note(fmt.Sprintf("wrote %v", i.Err)) },
		GotFirstResponseByte: func() { note("first byte") },
	}
	for range 2 {
		request := post(t, httptrace.WithClientTrace(t.Context(), trace), "https://localhost:"+port+"/", "{}")
		response, err := l.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
	seen = slices.DeleteFunc(seen, func(s string) bool { return s == "connected false" }) // ::1
	want := []string{
		"get", "dns", "dns done", "connected true", "tls", "tls done true <nil>", "got, reused false", "head", "wrote <nil>", "first byte",
		"get", "got, reused true", "head", "wrote <nil>", "first byte",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("seen %q\nwant %q", seen, want)
	}
}

// FuzzRequest: whatever a request contains, net/http reads the sent bytes as that one
// request and nothing more.
func FuzzRequest(f *testing.F) {
	f.Add("/hook?a=b", "X-UserHero-Event", "feedback.created", `{"a":1}`)
	f.Add("/\r\n", "X\r\nY", "a\r\n\r\nPOST / HTTP/1.1", "0\r\n\r\n")
	f.Fuzz(func(t *testing.T, target, name, value, body string) {
		if body == "" {
			return
		}
		u, err := url.Parse("http://example.com" + target)
		if err != nil {
			return
		}
		r := (&http.Request{
			Method: http.MethodPost, URL: u, Header: http.Header{name: {value}},
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}).WithContext(t.Context())
		to, err := new(Transport).destinationOf(r)
		if err != nil {
			return
		}
		sent, err := to.appendRequest(nil, r)
		if err != nil {
			return
		}
		reader := bufio.NewReader(bytes.NewReader(sent))
		got, err := http.ReadRequest(reader)
		if err != nil {
			t.Fatalf("%q: %v", sent, err)
		}
		read, err := io.ReadAll(got.Body)
		if err != nil || string(read) != body || reader.Buffered() > 0 {
			t.Fatalf("%q: body %q, %v, %d bytes behind it", sent, read, err, reader.Buffered())
		}
		if len(got.Header) > 2 || got.Host != u.Host || got.RequestURI != u.RequestURI() {
			t.Fatalf("%q: read as %+v", sent, got)
		}
	})
}

// closingConn is a connection whose receiver closes it after the request was written
// and before it arrives.
type closingConn struct {
	*net.TCPConn
	hangUp *atomic.Pointer[func()] // once
}

func (c *closingConn) Write(b []byte) (int, error) {
	if hangUp := c.hangUp.Swap(nil); hangUp != nil {
		(*hangUp)()
	}
	return c.TCPConn.Write(b)
}

// TestARequestThatCrossesTheEndOfAnIdleConnectionIsSentAgain: the receiver cannot have
// processed it. A request that the receiver may have read is not sent again.
func TestARequestThatCrossesTheEndOfAnIdleConnectionIsSentAgain(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("missing hardware: only Linux says what was acknowledged")
	}
	for name, c := range map[string]struct {
		encrypted bool
		hangUp    func(far *net.TCPConn)
		again     bool
	}{
		"closed before it came":              {false, func(far *net.TCPConn) { _ = far.Close() }, true},
		"closed before it came, over TLS":    {true, func(far *net.TCPConn) { _ = far.Close() }, true},
		"its end closed, and read all along": {false, func(far *net.TCPConn) { _ = far.CloseWrite() }, false},
		"reset before it was written":        {false, func(far *net.TCPConn) { _ = far.SetLinger(0); _ = far.Close() }, true},
		"closed after it was read":           {false, nil, false},
		"reset after it was read":            {false, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			certificate := httptest.NewUnstartedServer(nil)
			certificate.StartTLS()
			defer certificate.Close()
			connections := make(chan *net.TCPConn, 4)
			var read atomic.Int64
			go func() {
				for {
					raw, err := listener.Accept()
					if err != nil {
						return
					}
					connections <- raw.(*net.TCPConn)
					go func() {
						raw, c := raw.(*net.TCPConn), raw
						if strings.Contains(name, "TLS") {
							c = tls.Server(raw, certificate.TLS)
						}
						r := bufio.NewReader(c)
						for {
							request, err := http.ReadRequest(r)
							if err != nil {
								return
							}
							_, _ = io.Copy(io.Discard, request.Body)
							if read.Add(1) == 2 && strings.HasSuffix(name, "after it was read") {
								if strings.HasPrefix(name, "reset") {
									_ = raw.SetLinger(0)
								}
								_ = raw.Close()
							}
							_, _ = io.WriteString(c, okEmpty)
						}
					}()
				}
			}()
			l := newLean(t, time.Minute)
			var far *net.TCPConn // the receiver's side of the last connection
			hangUp := new(atomic.Pointer[func()])
			l.o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				near, err := new(net.Dialer).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				far = <-connections
				return &closingConn{near.(*net.TCPConn), hangUp}, nil
			}
			to := "http://" + listener.Addr().String() + "/"
			if c.encrypted {
				to = strings.Replace(to, "http:", "https:", 1)
			}
			if _, _, err := send(t, l, to); err != nil {
				t.Fatal(err)
			}
			if c.hangUp != nil {
				hang := func() {
					c.hangUp(far)
					time.Sleep(50 * time.Millisecond) // wait for the request to arrive
				}
				hangUp.Store(&hang)
			}
			status, _, err := send(t, l, to)
			if again := err == nil; again != c.again || again && status != http.StatusOK {
				t.Errorf("sent again %t, want %t: %v", again, c.again, err)
			}
			if n := read.Load(); n > 2 {
				t.Errorf("the receiver read %d requests for two", n)
			}
		})
	}
}
