package lean

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// BenchmarkRoundTrip compares this transport with net/http's: one request of 1 KiB and
// its response, to the same receiver.
func BenchmarkRoundTrip(b *testing.B) {
	body := []byte(strings.Repeat("x", 1<<10))
	general := &http.Transport{MaxIdleConnsPerHost: 64}
	defer general.CloseIdleConnections()
	own := New(Options{Dial: new(net.Dialer).DialContext, MaxHeader: 16 << 10, MaxIdlePerHost: 64, IdleTimeout: time.Minute})
	defer own.CloseIdleConnections()
	for name, by := range map[string]http.RoundTripper{"lean": own, "net-http": general} {
		b.Run(name, func(b *testing.B) {
			to := benchReceiver(b).String()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, to, bytes.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					r.Header["Content-Type"] = []string{"application/json"}
					benchExchange(b, by, r)
				}
			})
		})
	}
}

func benchExchange(b *testing.B, by http.RoundTripper, r *http.Request) {
	b.Helper()
	response, err := by.RoundTrip(r)
	if err != nil {
		b.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// benchReceiver answers requests with a body of 1 KiB, with as little work as possible.
func benchReceiver(b *testing.B) *url.URL {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buffer := make([]byte, 8<<10)
				var got int
				for {
					n, err := c.Read(buffer[got:])
					if err != nil {
						return
					}
					got += n
					if i := bytes.Index(buffer[:got], []byte("\r\n\r\n")); i >= 0 && got >= i+4+1<<10 {
						got = 0
						_, _ = io.WriteString(c, okEmpty)
					}
				}
			}()
		}
	}()
	return &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/"}
}
