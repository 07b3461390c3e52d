package deliver

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// deadAddress makes an address that neither accepts nor refuses connections: its
// socket's queue is full.
func deadAddress(t *testing.T, address string, port int) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	at := &syscall.SockaddrInet4{Port: port, Addr: [4]byte(net.ParseIP(address).To4())}
	if err := syscall.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	to := net.JoinHostPort(address, strconv.Itoa(port))
	for {
		c, err := net.DialTimeout("tcp", to, 200*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// TestOneOfTwoAddressesMayBeDead: the event is delivered to the second address in the
// same attempt.
func TestOneOfTwoAddressesMayBeDead(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(receiver.Close)
	port := receiver.Listener.Addr().(*net.TCPAddr).Port
	deadAddress(t, "127.0.0.2", port)
	for name, c := range map[string]struct {
		answers []string
		timeout time.Duration
	}{
		"the first is silent":         {[]string{"127.0.0.2", "127.0.0.1"}, 2 * time.Second},
		"three are silent":            {[]string{"127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.1"}, 3 * time.Second},
		"the first refuses":           {[]string{"127.0.0.3", "127.0.0.1"}, 2 * time.Second},
		"the first is not allowed":    {[]string{"10.0.0.1", "127.0.0.1"}, 2 * time.Second},
		"silent, refusing, forbidden": {[]string{"127.0.0.2", "127.0.0.3", "10.0.0.1", "127.0.0.1"}, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := targetFor(t, Config{URL: fmt.Sprintf("http://two.test:%d/", port), Timeout: c.timeout}, Egress{Allow: []string{"127.0.0.0/8"}})
			resolver, _ := dnsServer(t, [][]string{c.answers})
			to.client.egress.guarded.Resolver = resolver
			if a, o := to.Attempt(t.Context(), sample()); !o.OK {
				t.Errorf("after %s: %s", a.Duration, a.Error)
			}
		})
	}
}
