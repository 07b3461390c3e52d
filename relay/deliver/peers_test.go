package deliver

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/relay/deliver/lean"
)

// openssl runs `openssl s_server` with a certificate that the returned settings trust.
// The test writes the commands of openssl to in.
func openssl(t *testing.T, arguments ...string) (url string, trust TLS, in io.Writer, out *bufio.Reader) {
	t.Helper()
	ca := newAuthority(t, "authority")
	certificate, key := ca.issue(t, "receiver", nil)
	file := filepath.Join(t.TempDir(), "receiver.pem")
	if err := os.WriteFile(file, []byte(certificate+key), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"s_server", "-accept", "127.0.0.1:0", "-cert", file, "-key", file}, arguments...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	out = bufio.NewReader(stdout)
	for {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("openssl does not listen: %v", err)
		}
		if address, ok := strings.CutPrefix(line, "ACCEPT "); ok {
			return "https://" + strings.TrimSpace(address) + "/", TLS{CA: ca.pem}, stdin, out
		}
	}
}

// TestErrorsOfTLSSayWhatToDo checks the error that an operator reads if the relay and a
// receiver cannot agree on TLS.
func TestErrorsOfTLSSayWhatToDo(t *testing.T) {
	t.Parallel()
	attempt := func(t *testing.T, url string, trust TLS, timeout time.Duration) (class, text string) {
		t.Helper()
		a, o := targetFor(t, Config{URL: url, TLS: trust, Timeout: timeout}, local).Attempt(t.Context(), sample())
		if o.OK {
			t.Error("it is a success")
		}
		return a.ErrorClass, a.Error
	}
	for name, c := range map[string]struct {
		arguments []string
		want      string
	}{
		"TLS 1.1":           {[]string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, "needs TLS 1.2 or newer"},
		"TLS 1.0":           {[]string{"-tls1", "-cipher", "ALL:@SECLEVEL=0"}, "needs TLS 1.2 or newer"},
		"old ciphers alone": {[]string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"}, "no cipher in common"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, trust, _, out := openssl(t, c.arguments...)
			go func() { _, _ = io.Copy(io.Discard, out) }()
			if class, text := attempt(t, url, trust, 10*time.Second); class != classTLS || !strings.Contains(text, c.want) {
				t.Errorf("%s: %s", class, text)
			}
		})
	}
	t.Run("who negotiates again", func(t *testing.T) {
		t.Parallel()
		url, trust, in, out := openssl(t, "-tls1_2")
		go func() {
			for {
				line, err := out.ReadString('\n')
				if err != nil {
					return
				}
				if strings.HasPrefix(line, "POST ") { // like IIS: it has seen the path
					_, _ = io.WriteString(in, "R\n")
				}
			}
		}()
		if class, text := attempt(t, url, trust, 10*time.Second); class != classTLS || !strings.Contains(text, "ask for the certificate at the start") {
			t.Errorf("%s: %s", class, text)
		}
	})
	t.Run("who speaks no TLS", func(t *testing.T) {
		t.Parallel()
		r := newRawReceiver(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") })
		if class, text := attempt(t, strings.Replace(r.url, "http:", "https:", 1), TLS{}, 10*time.Second); class != classTLS || !strings.Contains(text, "does not speak TLS") {
			t.Errorf("%s: %s", class, text)
		}
	})
	for name, serve := range map[string]func(net.Conn){
		"a middlebox that drops what is no whole message": func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = io.Copy(io.Discard, c)
		},
		"a middlebox that hangs up at it": func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRawReceiver(t, serve)
			_, text := attempt(t, strings.Replace(r.url, "http:", "https:", 1), TLS{}, 500*time.Millisecond)
			if !strings.Contains(text, "GODEBUG=tlsmlkem=0") {
				t.Error(text)
			}
		})
	}
}

// TestTheAdviceMakesTheFirstTLSMessageSmall: the message fits into one packet only if
// the advice of the error is followed.
func TestTheAdviceMakesTheFirstTLSMessageSmall(t *testing.T) {
	const packet = 1400
	size := func() int {
		near, far := net.Pipe()
		defer func() { _ = far.Close() }()
		go func() {
			_ = tls.Client(near, &tls.Config{ServerName: "a-rather-long-name.of.a.receiver.example"}).Handshake()
		}()
		n, _ := far.Read(make([]byte, 16<<10))
		return n
	}
	if n := size(); n <= packet {
		t.Errorf("it has %d bytes as it is: nothing needs the advice", n)
	}
	t.Setenv("GODEBUG", "tlsmlkem=0,tlssecpmlkem=0")
	if n := size(); n == 0 || n > packet {
		t.Errorf("it has %d bytes with the advice", n)
	}
	if !strings.Contains(helloAdvice, os.Getenv("GODEBUG")) {
		t.Error("the advice is another")
	}
}

// TestTunnelsThroughAProxy: https requests use CONNECT with the proxy's password. The
// receiver does not see the password.
func TestTunnelsThroughAProxy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "authority")
	certificate, key := ca.issue(t, "receiver", nil)
	var seen atomic.Value
	receiver := tlsReceiver(t, certificate, key, nil)
	receiver.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen.Store(r.Header.Clone()) })
	var tunnels atomic.Int64
	refuse := atomic.Bool{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want || refuse.Load() {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		tunnels.Add(1)
		to, err := net.Dial("tcp", r.RequestURI)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "secret")
	to := targetFor(t, Config{URL: receiver.URL, TLS: TLS{CA: ca.pem}}, Egress{Proxy: u.String(), Allow: []string{"127.0.0.1"}})
	for range 3 {
		if a, o := to.Attempt(t.Context(), sample()); !o.OK {
			t.Fatal(a.Error)
		}
	}
	if n := tunnels.Load(); n != 1 {
		t.Errorf("%d tunnels for three requests, want one", n)
	}
	if h, _ := seen.Load().(http.Header); h.Get("X-UserHero-Delivery") != "dlv_1" || h.Get("Proxy-Authorization") != "" {
		t.Errorf("the receiver saw %v", h)
	}
	refuse.Store(true)
	to.client.transport.(*lean.Transport).CloseIdleConnections()
	a, o := to.Attempt(t.Context(), sample())
	if o.OK || a.ErrorClass != classConnect || !o.NoConnection || !strings.Contains(a.Error, "407") || strings.Contains(a.Error, "secret") {
		t.Errorf("refused by the proxy: %s %s", a.ErrorClass, a.Error)
	}
}
