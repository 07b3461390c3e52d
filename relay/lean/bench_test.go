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

// BenchmarkRoundTrip compares one request of 1 KiB and its answer with
// net/http's transport, at the same receiver.
func BenchmarkRoundTrip(b *testing.B) {
	general := &http.Transport{MaxIdleConnsPerHost: 64}
	defer general.CloseIdleConnections()
	own := New(Options{Dial: new(net.Dialer).DialContext, MaxHeader: 16 << 10, MaxIdlePerHost: 64, IdleTimeout: time.Minute, Other: general})
	for _, way := range []struct {
		name      string
		transport http.RoundTripper
		request   func(*testing.B, *Parcel) *http.Request
	}{
		{"lean", own, func(b *testing.B, p *Parcel) *http.Request {
			mine := *p
			return carrying(b.Context(), &mine)
		}},
		{"net-http", general, func(b *testing.B, p *Parcel) *http.Request {
			r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, p.To.url.String(), bytes.NewReader(p.Body))
			if err != nil {
				b.Error(err)
			}
			for _, f := range p.Header {
				r.Header[f.Name] = []string{f.Value}
			}
			return r
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			to, err := url.Parse(benchReceiver(b))
			if err != nil {
				b.Fatal(err)
			}
			p := &Parcel{To: NewPlace(to), Header: pairs([]string{"Content-Type", "application/json"}), Body: []byte(strings.Repeat("x", 1<<10))}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					response, err := way.transport.RoundTrip(way.request(b, p))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
			})
		})
	}
}

// benchReceiver answers what begins with a head and has 1 KiB of body, with as
// little work as can be.
func benchReceiver(b *testing.B) (url string) {
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
					if i := strings.Index(string(buffer[:got]), "\r\n\r\n"); i >= 0 && got >= i+4+1<<10 {
						got = 0
						_, _ = io.WriteString(c, okEmpty)
					}
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String() + "/"
}
