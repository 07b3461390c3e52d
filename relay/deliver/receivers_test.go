package deliver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func targetFor(t *testing.T, w Config, e Egress) *Receiver {
	t.Helper()
	c, err := NewClient(e, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.Timeout == 0 {
		w.Timeout = 10 * time.Second
	}
	to, err := c.Receiver(w)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func sample() Message {
	return Message{ID: "dlv_1", Type: "feedback.created", Number: 1, Body: []byte(`{}`), Started: time.Now()}
}

var local = Egress{Allow: []string{"127.0.0.1"}}

// TestAReceiverMayBeAwayForAMoment: the quick retries of an attempt do not depend on
// the attempt before.
func TestAReceiverMayBeAwayForAMoment(t *testing.T) {
	t.Parallel()
	for name, used := range map[string]bool{"after a connection was used": true, "the first time": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := l.Addr().String()
			start := func(l net.Listener) *http.Server {
				s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
				go func() { _ = s.Serve(l) }()
				return s
			}
			to := targetFor(t, Config{URL: "http://" + address + "/"}, local)
			if used {
				s := start(l)
				for range 2 {
					if a, o := to.Attempt(t.Context(), sample()); !o.OK {
						t.Fatal(a.Error)
					}
				}
				_ = s.Close()
			} else {
				_ = l.Close()
			}
			again := make(chan *http.Server, 1)
			time.AfterFunc(150*time.Millisecond, func() {
				defer close(again)
				if l, err := net.Listen("tcp", address); err == nil {
					again <- start(l)
				}
			})
			a, o := to.Attempt(t.Context(), sample())
			back, ok := <-again
			if !ok {
				t.Skip("missing hardware: somebody else took the port")
			}
			defer func() { _ = back.Close() }()
			if !o.OK {
				t.Errorf("the receiver was away for 150 ms, and the attempt failed: %s", a.Error)
			}
		})
	}
}

// TestAWhole2xxHeadIsASuccess: the receiver has the event. A malformed response after
// the status line closes the connection, but the event is not sent again.
func TestAWhole2xxHeadIsASuccess(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]string{
		"a doubled length":         ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"the same length twice":    ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"length and chunks":        ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"a folded field":           ok + "X-Long: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
		"a line that is no field":  ok + "nothing\r\nContent-Length: 2\r\n\r\nok",
		"a coding that nobody has": ok + "Transfer-Encoding: identity\r\n\r\nok",
		"a body that breaks off":   ok + "Content-Length: 9\r\n\r\nok",
		"chunks that break off":    ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nok",
		"chunks that are none":     ok + "Transfer-Encoding: chunked\r\n\r\nnothing\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, connections := rawServer(t, func(c net.Conn) {
				_, _ = io.WriteString(c, answer)
				if strings.Contains(name, "break") {
					return
				}
				_, _ = io.Copy(io.Discard, c) // the sender must close the connection
			})
			to := targetFor(t, Config{URL: url}, local)
			for i := range 2 {
				a, o := to.Attempt(t.Context(), sample())
				if !o.OK || a.Status != 200 || a.Duration > 5*time.Second {
					t.Errorf("attempt %d is a failure after %s: %s", i+1, a.Duration, a.Error)
				}
			}
			if n := connections.Load(); n != 2 {
				t.Errorf("%d connections for two attempts: one was used again", n)
			}
		})
	}
	// Control: an incomplete head is not a success.
	url, _ := rawServer(t, func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Le") })
	if _, o := targetFor(t, Config{URL: url}, local).Attempt(t.Context(), sample()); o.OK {
		t.Error("a head that breaks off is a success")
	}
}

// requestHead is a receiver that records the head of a request, byte for byte.
func requestHead(t *testing.T) (url string, head <-chan string) {
	t.Helper()
	heads := make(chan string, 8)
	r := newRawReceiver(t, func(c net.Conn) {
		from := bufio.NewReader(c)
		var text strings.Builder
		for {
			line, err := from.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
			text.WriteString(line)
		}
		heads <- text.String()
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	return r.url, heads
}

func TestConfiguredHeadersGoOutAsTheyAreSpelled(t *testing.T) {
	t.Parallel()
	url, heads := requestHead(t)
	for _, c := range []struct {
		header        http.Header
		want, wantNot []string
	}{
		{nil, []string{"Accept: */*\r\n", "X-UserHero-Event: ", "webhook-id: "}, nil},
		{http.Header{"x-api-KEY": {"k"}, "SOAPAction": {"a", "b"}}, []string{"x-api-KEY: k\r\n", "SOAPAction: a\r\nSOAPAction: b\r\n", "Accept: */*\r\n"}, []string{"X-Api-Key", "Soapaction"}},
		{http.Header{"accept": {"application/json"}}, []string{"accept: application/json\r\n"}, []string{"*/*"}},
	} {
		w := Config{URL: url, Header: c.header}
		if err := w.Validate(); err != nil {
			t.Fatal(err)
		}
		a, o := targetFor(t, w, local).Attempt(t.Context(), sample())
		if !o.OK {
			t.Fatal(a.Error)
		}
		head := <-heads
		for _, want := range c.want {
			if !strings.Contains(head, want) {
				t.Errorf("%q is missing in\n%s", want, head)
			}
		}
		for _, not := range c.wantNot {
			if strings.Contains(head, not) {
				t.Errorf("%q is in\n%s", not, head)
			}
		}
		for _, h := range a.RequestHeaders {
			if c.header[h.Name] != nil && h.Value != "[redacted]" {
				t.Errorf("the log keeps the value of %s", h.Name)
			}
		}
	}
}

func TestURLsGoOutEncodedOnce(t *testing.T) {
	t.Parallel()
	url, heads := requestHead(t)
	for written, want := range map[string]string{
		"":                        "/",
		"hook":                    "/hook",
		"für/a|b?q=ü|x&y=a b":     "/f%C3%BCr/a%7Cb?q=%C3%BC%7Cx&y=a%20b",
		"%7euser/%C3%bc?a=%7E%2f": "/%7euser/%C3%bc?a=%7E%2f",
		"a%2Fb/ü%2f~":             "/a%2Fb/%C3%BC%2f~",
		"x?a[]=1&b={c}&d=\"e\"":   "/x?a%5B%5D=1&b=%7Bc%7D&d=%22e%22",
		"x?p=100%&q=%zz":          "/x?p=100%25&q=%25zz",
		"a:@!$&'()*+,;=-._~":      "/a:@!$&'()*+,;=-._~",
		"x?":                      "/x?",
		"//double":                "///double",
	} {
		w := Config{URL: url + written}
		if err := w.Validate(); err != nil {
			t.Errorf("%s: %v", written, err)
			continue
		}
		if a, o := targetFor(t, w, local).Attempt(t.Context(), sample()); !o.OK {
			t.Errorf("%s: %s", written, a.Error)
			continue
		}
		line, _, _ := strings.Cut(<-heads, "\r\n")
		if line != "POST "+want+" HTTP/1.1" {
			t.Errorf("%s goes out as %q, want %q", written, line, want)
		}
	}
}

// TestRotationFindsTheSecretThatTheReceiverKnows: if a receiver answers a wrong
// signature with any 4xx, the second signature is tried within the attempt and then
// remembered.
func TestRotationFindsTheSecretThatTheReceiverKnows(t *testing.T) {
	t.Parallel()
	for _, refusal := range []int{400, 401, 403, 404, 409, 422, 451, 498} {
		for _, knows := range []string{"old", "new"} {
			t.Run(fmt.Sprintf("%d, the receiver knows the %s one", refusal, knows), func(t *testing.T) {
				t.Parallel()
				sg, err := newSigner(knows)
				if err != nil {
					t.Fatal(err)
				}
				var requests atomic.Int64
				receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					requests.Add(1)
					body, _ := io.ReadAll(r.Body)
					if r.Header.Get("X-UserHero-Signature") != string(sg.AppendPlain(nil, body)) {
						w.WriteHeader(refusal)
					}
				}))
				defer receiver.Close()
				to := targetFor(t, Config{URL: receiver.URL, Secret: "new", PreviousSecret: "old"}, local)
				for i := range 3 {
					if a, o := to.Attempt(t.Context(), sample()); !o.OK {
						t.Errorf("attempt %d: %s", i+1, a.Error)
					}
				}
				want := map[string]int64{"old": 3, "new": 4}[knows]
				if n := requests.Load(); n != want {
					t.Errorf("%d requests for three attempts, want %d", n, want)
				}
			})
		}
	}
}

func TestRotationTriesOnceForWhatIsNoSignature(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int64{408: 1, 410: 1, 413: 1, 429: 1, 500: 1, 302: 1, 200: 1, 404: 2} {
		var requests atomic.Int64
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.WriteHeader(status)
		}))
		to := targetFor(t, Config{URL: receiver.URL, Secret: "new", PreviousSecret: "old"}, local)
		_, _ = to.Attempt(t.Context(), sample())
		receiver.Close()
		if n := requests.Load(); n != want {
			t.Errorf("%d: %d requests, want %d", status, n, want)
		}
	}
}

// TestAClientCertificateIsShownWhateverTheReceiverLists: lists of authorities are often
// incomplete. The relay sends the certificate, and the receiver decides whether to
// accept it.
func TestAClientCertificateIsShownWhateverTheReceiverLists(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "authority"), newAuthority(t, "another")
	certificate, key := ca.issue(t, "receiver", nil)
	listed := x509.NewCertPool()
	listed.AppendCertsFromPEM([]byte(other.pem))
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		s := tlsReceiver(t, certificate, key, func(c *tls.Config) {
			c.ClientAuth, c.ClientCAs, c.MaxVersion = tls.RequireAnyClientCert, listed, version
		})
		mine, mineKey := ca.issue(t, "sales", nil)
		to := targetFor(t, Config{URL: s.URL, TLS: TLS{Certificate: mine, Key: mineKey, CA: ca.pem}}, local)
		if a, o := to.Attempt(t.Context(), sample()); !o.OK || string(a.ResponseBody) != "sales" {
			t.Errorf("%s: the receiver saw %q: %s", name, a.ResponseBody, a.Error)
		}
	}
}

// TestNAT64IsJudgedByTheAddressInside: in a network with NAT64, public receivers can be
// reached. Allowing an IPv6 form of a private address does not allow the address.
func TestNAT64IsJudgedByTheAddressInside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address string
		allow   []string
		ok      bool
		advice  string
	}{
		{"64:ff9b::5db8:d822", nil, true, ""}, // 93.184.216.34
		{"64:ff9b::7f00:1", nil, false, "allow 127.0.0.1"},
		{"64:ff9b::a00:1", nil, false, "allow 10.0.0.1"},
		{"64:ff9b::a9fe:a9fe", nil, false, "allow 169.254.169.254"},
		{"64:ff9b::a83f:8110", nil, false, "allow 168.63.129.16"},
		{"64:ff9b::a00:1", []string{"64:ff9b::/96"}, false, "allow 10.0.0.1"},
		{"64:ff9b::7f00:1", []string{"64:ff9b::7f00:1"}, false, "allow 127.0.0.1"},
		{"64:ff9b::7f00:1", []string{"::/0"}, false, "allow 127.0.0.1"},
		{"64:ff9b::a00:1", []string{"10.0.0.0/8"}, true, ""},
		{"64:ff9b:1::5db8:d822", nil, false, "allow 64:ff9b:1::5db8:d822"},
		{"64:ff9b:1::5db8:d822", []string{"64:ff9b:1::/48"}, true, ""},
		{"64:ff9b:1::a00:1", []string{"64:ff9b:1::/48"}, false, "allow 10.0.0.1"},
		{"64:ff9b:1::a00:1", []string{"64:ff9b:1::/48", "10.0.0.0/8"}, true, ""},
	} {
		e, err := newEgress(Egress{Allow: c.allow})
		if err != nil {
			t.Fatal(err)
		}
		err = e.control("tcp6", "["+c.address+"]:443", nil)
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), `"`+c.advice+`"`) {
			t.Errorf("%s with allow %v: %v", c.address, c.allow, err)
		}
	}
}

// TestHostsAreJudgedAsTheyGoOut: a host that is converted to an address is checked as
// an address.
func TestHostsAreJudgedAsTheyGoOut(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	for _, host := range []string{
		"①⑥⑨.②⑤④.①⑥⑨.②⑤④", "169.254.169.2\u00ad54", "%C2%AD169.254.169.254", "１６９.254.169.254", "𝟏𝟐𝟕.0.0.1", "169。254。169。254", "2130706433\u200b", "0x7f\u00ad000001",
	} {
		for _, scheme := range []string{"http", "https"} {
			w := Config{URL: scheme + "://" + host + "/", Timeout: 2 * time.Second}
			if err := w.Validate(); err == nil || !strings.Contains(err.Error(), "url: ") {
				t.Errorf("%s is valid: %v", host, err)
			}
			// A URL that an older version has stored.
			for name, e := range map[string]Egress{"direct": {}, "proxied": {Proxy: proxy.URL}} {
				if a, o := targetFor(t, w, e).Attempt(context.Background(), sample()); o.OK || a.ErrorClass != classEgress {
					t.Errorf("%s, %s: %s %s", host, name, a.ErrorClass, a.Error)
				}
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
	u, err := parseURL("https://Bücher.example:8443/ü")
	if err != nil || u.Host != "xn--bcher-kva.example:8443" {
		t.Errorf("%v, %v", u, err)
	}
}
