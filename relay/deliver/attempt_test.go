package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver/lean"
)

// attemptAt makes one attempt to a real URL.
func attemptAt(t *testing.T, url string, timeout time.Duration, allow ...string) (queue.Attempt, Outcome) {
	t.Helper()
	to := targetFor(t, Config{URL: url, Timeout: timeout, Secret: "s"}, Egress{Allow: allow})
	return to.Attempt(t.Context(), sample())
}

// rawServer answers each connection with the bytes that serve writes.
func rawServer(t *testing.T, serve func(net.Conn)) (url string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	connections = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = c.Read(make([]byte, 4096))
				serve(c)
			}()
		}
	}()
	return "http://" + l.Addr().String() + "/", connections
}

// writeForever writes until the peer closes the connection.
func writeForever(c net.Conn, s string) {
	for {
		if _, err := io.WriteString(c, s); err != nil {
			return
		}
	}
}

func TestOnlyA2xxInTimeIsASuccess(t *testing.T) {
	t.Parallel()
	const quick = 300 * time.Millisecond
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		ok    bool
		class string
	}{
		{"200", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }, true, ""},
		{"204 after an interim answer", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
		}, true, ""},
		{"200 with a body that breaks off", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok") }, true, ""},
		{"200 with an endless body", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			writeForever(c, strings.Repeat("x", 4096))
		}, true, ""},
		{"200 with a body that trickles", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for range 100 {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, true, ""},
		{"302", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
		}, false, "http_302"},
		{"307", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 307 x\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
		}, false, "http_307"},
		{"101", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
			time.Sleep(time.Second)
		}, false, "http_101"},
		{"500", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n") }, false, "http_500"},
		{"nothing", func(net.Conn) { time.Sleep(time.Second) }, false, classTimeout},
		{"hanging up", func(net.Conn) {}, false, classReset},
		{"no HTTP", func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n\r\n") }, false, classProtocol},
		{"an endless status line", func(c net.Conn) { writeForever(c, "HTTP/1.1 200 OOOOOOOOOOOOO") }, false, classProtocol},
		{"endless headers", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			writeForever(c, "X-A: "+strings.Repeat("a", 1000)+"\r\n")
		}, false, classProtocol},
		{"endless interim answers", func(c net.Conn) { writeForever(c, "HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n") }, false, classProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url, connections := rawServer(t, c.serve)
			start := time.Now()
			a, o := attemptAt(t, url, quick, "127.0.0.1")
			if o.OK != c.ok || a.ErrorClass != c.class {
				t.Errorf("outcome %+v, attempt %+v; want ok %v, class %q", o, a, c.ok, c.class)
			}
			if !o.OK && a.Error == "" {
				t.Error("a failure without a word")
			}
			if took := time.Since(start); took > quick+2*time.Second {
				t.Errorf("took %v with a limit of %v", took, quick)
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("%d requests reached the receiver in one attempt", n)
			}
			if len(a.ResponseBody) > keptResponseBody {
				t.Errorf("%d bytes of the answer are kept", len(a.ResponseBody))
			}
		})
	}
}

func TestPrivateAddressesAreNotDialled(t *testing.T) {
	t.Parallel()
	for host, named := range map[string]string{
		"127.0.0.1":          "127.0.0.1",
		"169.254.169.254":    "169.254.169.254",
		"168.63.129.16":      "168.63.129.16",
		"[::ffff:127.0.0.1]": "127.0.0.1",
		"[::1]":              "::1",
		"[64:ff9b::7f00:1]":  "127.0.0.1",
		"100.64.0.1":         "100.64.0.1",
		"10.0.0.1":           "10.0.0.1",
		"[fe80::1%25lo]":     "fe80::1",
		"[2001:db8::1%25lo]": "2001:db8::1",
		"0.0.0.0":            "0.0.0.0",
		"[::]":               "::",
		"[::7f00:1]":         "::7f00:1",        // IPv4-compatible
		"[2002:7f00:1::]":    "2002:7f00:1::",   // 6to4
		"[2001:0:7f00:1::]":  "2001:0:7f00:1::", // Teredo
		"[64:ff9b:1::a00:1]": "64:ff9b:1::a00:1",
		"[fd00:ec2::254]":    "fd00:ec2::254",
		"[fec0::1]":          "fec0::1",
		"[ff02::1%25lo]":     "ff02::1",
		"172.16.0.1":         "172.16.0.1",
		"192.168.1.1":        "192.168.1.1",
		"192.0.0.192":        "192.0.0.192",     // Oracle's metadata service
		"100.100.100.200":    "100.100.100.200", // Alibaba's
		"198.18.0.1":         "198.18.0.1",
		"224.0.0.1":          "224.0.0.1",
		"255.255.255.255":    "255.255.255.255",
		"localhost":          "",
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			a, o := attemptAt(t, "http://"+host+":9/", 5*time.Second)
			if o.OK || a.ErrorClass != classEgress {
				t.Fatalf("outcome %+v, attempt %+v", o, a)
			}
			if want := `add "allow ` + named; !strings.Contains(a.Error, want) || !strings.Contains(a.Error, "egress block") {
				t.Errorf("the error %q does not say what to add", a.Error)
			}
		})
	}
}

func TestAllowedAddressesAndHostsAreDialled(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	defer receiver.Close()
	_, port, err := net.SplitHostPort(receiver.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, allow string
		ok          bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.0/8", true},
		{"localhost", "LocalHost", true},
		{"127.0.0.1", "localhost", false}, // allows the name, not the address
		{"127.0.0.1", "127.0.0.2", false},
	} {
		if a, o := attemptAt(t, "http://"+c.host+":"+port+"/", 5*time.Second, c.allow); o.OK != c.ok {
			t.Errorf("%s with allow %s: %+v", c.host, c.allow, a)
		}
	}
}

func TestRefusedConnectionsAreTriedAgainWithinTheAttempt(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	a, o := attemptAt(t, "http://"+address+"/x?token=canary", 5*time.Second, "127.0.0.1")
	if o.OK || a.ErrorClass != classRefused || !o.NoConnection {
		t.Fatalf("outcome %+v, attempt %+v", o, a)
	}
	if took := time.Since(start); took < 3*wireRetryMin {
		t.Errorf("given up after %v, before two more tries", took)
	}
	if strings.Contains(a.Error, "canary") {
		t.Errorf("the error has the URL's query: %s", a.Error)
	}
}

func TestFailuresLeaveOtherConnectionsOpen(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	well := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	well.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	well.Start()
	defer well.Close()
	hangsUp, _ := rawServer(t, func(net.Conn) {})
	c, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	send := func(url string) Outcome {
		to, err := c.Receiver(Config{URL: url, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		_, o := to.Attempt(context.Background(), Message{Body: []byte(`{}`), Started: time.Now()})
		return o
	}
	for i := range 20 {
		if o := send(well.URL); !o.OK {
			t.Fatalf("attempt %d: %+v", i, o)
		}
		if o := send(hangsUp); o.OK {
			t.Fatal("hanging up is a success")
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections to the receiver that is well, want one", n)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Bool
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer inner.Close()
	outer := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusPermanentRedirect))
	defer outer.Close()
	a, o := attemptAt(t, outer.URL, 5*time.Second, "127.0.0.1")
	if o.OK || a.Status != http.StatusPermanentRedirect || followed.Load() {
		t.Errorf("outcome %+v, followed %v", o, followed.Load())
	}
}

func TestCompressedAnswersAreNotInflated(t *testing.T) {
	t.Parallel()
	url, _ := rawServer(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00")
	})
	a, o := attemptAt(t, url, 5*time.Second, "127.0.0.1")
	if !o.OK || string(a.ResponseBody) != "\x1f\x8b\x08\x00" {
		t.Errorf("%+v, body %x", o, a.ResponseBody)
	}
}

func TestWrongCertificatesFailAsTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	defer s.Close()
	s.Config.ErrorLog = nil
	a, o := attemptAt(t, s.URL, 5*time.Second, "127.0.0.1")
	if o.OK || a.ErrorClass != classTLS {
		t.Errorf("an unknown authority %+v, %+v", o, a)
	}
}

func TestCutOffAttemptsAreCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(context.Background())
	url, _ := rawServer(t, func(net.Conn) {
		cancel(errors.New("stopping"))
		time.Sleep(time.Second)
	})
	c, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	to, err := c.Receiver(Config{URL: url, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if a, o := to.Attempt(ctx, Message{Body: []byte(`{}`), Started: time.Now()}); !o.Canceled {
		t.Errorf("%+v, %+v", a, o)
	}
}

func TestClassesTellFailuresApart(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		classDNS:      &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}},
		classTimeout:  fmt.Errorf("x: %w", context.DeadlineExceeded),
		classCanceled: context.Canceled,
		classEgress:   &net.OpError{Op: "dial", Err: errEgress},
		classRequest:  fmt.Errorf("x: %w", lean.ErrRequest),
		classConnect:  &net.OpError{Op: "dial", Err: errors.New("no route to host")},
		classProtocol: errors.New("malformed HTTP response"),
	} {
		if got := classify(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

func TestUserAndPasswordOfAURLAreSentAndNotKept(t *testing.T) {
	t.Parallel()
	var user, password string
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { user, password, _ = r.BasicAuth() }))
	defer receiver.Close()
	a, o := attemptAt(t, strings.Replace(receiver.URL, "http://", "http://someone:canary@", 1), 5*time.Second, "127.0.0.1")
	if !o.OK || user != "someone" || password != "canary" {
		t.Errorf("user %q, password %q: %s", user, password, a.Error)
	}
	if kept := fmt.Sprintf("%+v", a); strings.Contains(kept, "canary") || strings.Contains(kept, "Authorization") {
		t.Errorf("kept: %s", kept)
	}
}
