package deliver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/userhero/relay/queue"
)

// maxAllocated is what one attempt may allocate, whatever the receiver does.
const maxAllocated = 1 << 20

// hostileAnswer is what a receiver does with a connection after it has read the
// request.
type hostileAnswer struct {
	name  string
	serve func(net.Conn)
	class string // expected class; empty means success
}

// flood writes the prefix once and then repeats a text until the peer closes the
// connection. It allocates nothing, so the test measures only the relay's allocations.
func flood(prefix, again string) func(net.Conn) {
	first, repeated := []byte(prefix), bytes.Repeat([]byte(again), max(1, 32<<10/len(again)))
	return func(c net.Conn) {
		if _, err := c.Write(first); err != nil {
			return
		}
		for {
			if _, err := c.Write(repeated); err != nil {
				return
			}
		}
	}
}

// say writes once and waits until the peer closes the connection.
func say(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

// trickle writes one byte at a time until the peer closes the connection.
func trickle(at, then string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, at)
		for i := 0; ; i++ {
			if _, err := c.Write([]byte{then[i%len(then)]}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func hostileAnswers() []hostileAnswer {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 64<<20))
	_ = z.Close()
	const ok, chunked = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	return []hostileAnswer{
		{"an endless status line", flood("HTTP/1.1 200 ", "O"), classProtocol},
		{"endless bytes that are no HTTP", flood("", "\x00\xff\x1b[2J"), classProtocol},
		{"one endless header", flood(ok+"X: ", "x"), classProtocol},
		{"endless headers", flood(ok, "X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"), classProtocol},
		{"endless headers of few bytes", flood(ok, "a:\r\n"), classProtocol},
		{"an endless folded header", flood(ok+"X: x", "\r\n y"), classProtocol},
		{"endless interim answers", flood("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), classProtocol},
		{"endless 100 Continue", flood("", "HTTP/1.1 100 Continue\r\n\r\n"), classProtocol},
		{"an endless body", flood(ok+"\r\n", "x"), ""},
		{"a body of petabytes", flood(ok+"Content-Length: 4503599627370496\r\n\r\n", "x"), ""},
		{"endless chunks of one byte", flood(chunked, "1\r\nx\r\n"), ""},
		{"endless chunk extensions", flood(chunked, "1;"+strings.Repeat("e", 2000)+"\r\nx\r\n"), ""},
		{"an endless chunk size", flood(chunked, "0"), ""},
		{"endless trailers", flood(chunked+"0\r\n", "X-T: tttttttttttttttttttt\r\n"), ""},
		{"a gzip bomb", say(ok + fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", bomb.Len()) + bomb.String()), ""},
		{"two content lengths", say(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), ""},
		{"a switch of protocols", flood("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "x"), "http_101"},
		{"a redirect to inside", say("HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n"), "http_302"},
		{"a refresh to inside", say(ok + "Refresh: 0; url=http://169.254.169.254/\r\nAlt-Svc: h3=\"169.254.169.254:80\"\r\nContent-Length: 0\r\n\r\n"), ""},
		{"a greeting before its time", say("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "http_500"},
		{"silence", say(""), classTimeout},
		{"half a status line", say("HTTP/1.1 20"), classTimeout},
		{"a status that trickles", trickle("HTTP/1.1 200 ", "O"), classTimeout},
		{"headers that trickle", trickle(ok, "X: y\r\n"), classTimeout},
		{"a body that trickles", trickle(ok+"\r\n", "x"), ""},
		{"chunks that trickle", trickle(chunked, "1\r\nx\r\n"), ""},
	}
}

// TestHostileReceiversCostLittle: whatever a receiver sends, an attempt ends by its
// deadline and allocates at most 1 MiB. It keeps at most 16 KiB of the response and a
// short error without control characters. It makes one connection and leaves no
// goroutine. The test runs alone because it measures the whole process.
func TestHostileReceiversCostLittle(t *testing.T) {
	const deadline = 500 * time.Millisecond
	for _, answer := range hostileAnswers() {
		for _, encrypted := range []bool{false, true} {
			name := answer.name
			if encrypted {
				name += " over TLS"
			}
			t.Run(name, func(t *testing.T) {
				h := newHostile(t, answer.serve, encrypted)
				to := tlsTarget(t, h.client, h.url, h.tls)
				to.config.Timeout = deadline
				a, o, took, allocated, attempts := measured(to)
				if a.ErrorClass != answer.class || o.OK != (answer.class == "") {
					t.Errorf("class %q, want %q: %s", a.ErrorClass, answer.class, a.Error)
				}
				if took > deadline+2*time.Second {
					t.Errorf("took %s with a deadline of %s", took, deadline)
				}
				if allocated > maxAllocated {
					t.Errorf("%d KiB were allocated", allocated>>10)
				}
				checkKept(t, a)
				if n := h.connections.Load(); int(n) > attempts {
					t.Errorf("%d connections were made by %d attempts", n, attempts)
				}
			})
		}
	}
	awaitNoAttempts(t)
}

// checkKept checks the bounds of what an attempt stores.
func checkKept(t *testing.T, a queue.Attempt) {
	t.Helper()
	if len(a.ResponseBody) > keptResponseBody {
		t.Errorf("%d bytes of the body are kept", len(a.ResponseBody))
	}
	size := 0
	for _, h := range a.ResponseHeaders {
		size += len(h.Name) + len(h.Value)
	}
	if size > maxResponseHeader {
		t.Errorf("%d bytes of headers are kept", size)
	}
	if len(a.Error) > 1<<10 || !utf8.ValidString(a.Error) || strings.ContainsFunc(a.Error, func(r rune) bool { return r < ' ' }) {
		t.Errorf("the error is %d bytes: %q", len(a.Error), a.Error)
	}
	if a.ErrorClass != "" && a.Error == "" {
		t.Error("a failure without a word")
	}
}

// hostile is a hostile receiver and how to reach it.
type hostile struct {
	*rawReceiver
	client *Client
	tls    TLS
}

func newHostile(t *testing.T, serve func(net.Conn), encrypted bool) hostile {
	t.Helper()
	c, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(c net.Conn) {
		if readRequest(c) {
			serve(c)
		}
	}
	if !encrypted {
		return hostile{rawReceiver: newRawReceiver(t, answer), client: c}
	}
	config, trust := receiverTLS(t)
	r := newRawReceiver(t, func(c net.Conn) {
		over := tls.Server(c, config)
		if over.Handshake() == nil {
			answer(over)
		}
	})
	r.url = strings.Replace(r.url, "http:", "https:", 1)
	return hostile{rawReceiver: r, client: c, tls: trust}
}

// receiverTLS returns a certificate for a receiver and settings that trust it.
func receiverTLS(t *testing.T) (*tls.Config, TLS) {
	t.Helper()
	ca := newAuthority(t, "authority")
	certificate, key := ca.issue(t, "receiver", nil)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, TLS{CA: ca.pem}
}

// readRequest reads a small request to its end.
func readRequest(c net.Conn) bool {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			_, err = r.Discard(len("{}"))
			return err == nil
		}
	}
}

// measured makes an attempt and returns how long it took and what the process
// allocated. If it allocated too much, the attempt is repeated, at most twice: with the
// race detector, pools drop buffers at random, also those of the receiver's TLS. An
// attempt that really allocates too much does so every time.
func measured(to *Receiver) (a queue.Attempt, o Outcome, took time.Duration, allocated uint64, attempts int) {
	for attempts < 3 && (attempts == 0 || allocated > maxAllocated) {
		attempts++
		runtime.GC()
		before, start := totalAllocated(), time.Now()
		a, o = to.Attempt(context.Background(), Message{ID: "dlv_1", Type: "feedback.created", Number: 1, Body: []byte(`{}`), Started: start})
		took, allocated = time.Since(start), totalAllocated()-before
	}
	return a, o, took, allocated, attempts
}

func totalAllocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// TestHandshakesThatAttackEnd: receivers attack before there is HTTP. Their part is
// prepared in advance, so that the test measures only the relay's work.
func TestHandshakesThatAttackEnd(t *testing.T) {
	const deadline = 500 * time.Millisecond
	config, trust := receiverTLS(t)
	right := config.Certificates[0]
	long := tls.Certificate{PrivateKey: right.PrivateKey, Certificate: [][]byte{right.Certificate[0]}}
	for range 300 { // about 100 KiB
		long.Certificate = append(long.Certificate, right.Certificate[0])
	}
	broken := tls.Certificate{PrivateKey: right.PrivateKey, Certificate: [][]byte{right.Certificate[0], bytes.Repeat([]byte{0x30}, 30<<10)}}
	handshake := func(certificate tls.Certificate) func(net.Conn) {
		answer := recordedFlight(t, certificate)
		return func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write(answer)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		class string
	}{
		{"silence", say(""), classTimeout},
		{"a record that trickles", trickle("\x16\x03\x03\x3f\xff", "\x00"), classTimeout},
		{"no TLS", flood("HTTP/1.1 200 OK\r\n", "X: y\r\n"), classTLS},
		{"endless empty records", flood("", "\x16\x03\x03\x00\x00"), classTLS},
		{"endless warnings", flood("", "\x15\x03\x03\x00\x02\x01\x5a"), classTLS},
		{"a chain of three hundred", handshake(long), classTLS},
		{"a chain that is no certificates", handshake(broken), classTLS},
		{"two thousand names, none of them right", handshake(manyNames(t, 2000)), classTLS},
		{"ten thousand names", handshake(manyNames(t, 10_000)), classTLS},
		{"a handshake of another", handshake(right), classTLS},
		{"hanging up", func(net.Conn) {}, classReset},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			r := newRawReceiver(t, c.serve)
			to := tlsTarget(t, client, strings.Replace(r.url, "http:", "https:", 1), trust)
			to.config.Timeout = deadline
			a, o, took, allocated, _ := measured(to)
			if o.OK || a.ErrorClass != c.class {
				t.Errorf("class %q, want %q: %s", a.ErrorClass, c.class, a.Error)
			}
			if took > deadline+2*time.Second || allocated > maxAllocated {
				t.Errorf("took %s, %d KiB", took, allocated>>10)
			}
			checkKept(t, a)
		})
	}
}

// manyNames returns a certificate for n other hosts.
func manyNames(t *testing.T, n int) tls.Certificate {
	t.Helper()
	certificate, key := newAuthority(t, "another").issue(t, "receiver", func(c *x509.Certificate) {
		c.IPAddresses = nil
		for i := range n {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("host-%d.example", i))
		}
	})
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// recordedFlight returns what a TLS 1.2 server answers to the first message: hello,
// certificates and a key, valid or not.
func recordedFlight(t *testing.T, certificate tls.Certificate) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	var flight bytes.Buffer
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		// The server answers at once, then waits for a message that never comes.
		_ = tls.Server(recordingConn{server, &flight}, &tls.Config{
			Certificates: []tls.Certificate{certificate}, MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS12,
		}).Handshake()
	}()
	_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, VerifyConnection: func(tls.ConnectionState) error {
		return io.EOF
	}}).Handshake()
	_ = client.Close()
	<-recorded
	return flight.Bytes()
}

// recordingConn records what is written.
type recordingConn struct {
	net.Conn
	written io.Writer
}

func (c recordingConn) Write(b []byte) (int, error) {
	_, _ = c.written.Write(b)
	return c.Conn.Write(b)
}
