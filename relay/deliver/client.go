package deliver

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/userhero/relay/relay/deliver/lean"
)

// Network bounds of one attempt.
const (
	maxResponseHeader = 16 << 10
	maxResponseBody   = 64 << 10 // read, so that the connection can be used again
	keptResponseBody  = 16 << 10
	// wireRetries bounds the retries within one attempt. They are made only if no
	// connection was made. The wait before each is between wireRetryMin and
	// wireRetryMax.
	wireRetries  = 2
	wireRetryMin = 100 * time.Millisecond
	wireRetryMax = time.Second
	idleTimeout  = 90 * time.Second
)

// MaxConcurrency bounds the attempts in flight to one receiver, and thereby its idle
// connections.
const MaxConcurrency = 1024

// Options are the settings of a client besides egress.
type Options struct {
	// Dial, if not nil, replaces the guarded dialer for connections to receivers.
	// Simulations set it: their network is in memory.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Own, if not nil, reports whether an address could be used to stop the process,
	// such as Caddy's admin endpoint. Nothing is sent there, even if egress allows it.
	Own func(netip.AddrPort) bool
	// Transport, if not nil, replaces the transport for receivers without their own TLS
	// settings. Tests set it.
	Transport http.RoundTripper
}

// Client sends to receivers, with one set of egress settings and one connection pool.
// All methods may be called from any goroutine.
type Client struct {
	transport http.RoundTripper
	egress    *egress
}

// NewClient makes a client. It returns the errors of Egress.Validate.
func NewClient(c Egress, o Options) (*Client, error) {
	e, err := newEgress(c)
	if err != nil {
		return nil, err
	}
	e.network, e.own = o.Dial, o.Own
	if o.Transport == nil {
		o.Transport = newTransport(e, defaultTLS())
	}
	return &Client{transport: o.Transport, egress: e}, nil
}

// withTLS returns a client for a webhook's own TLS settings. The client has its own
// transport, so a connection made with one webhook's certificate or authorities never
// carries another webhook's events.
func (c *Client) withTLS(t TLS) (*Client, TLSStatus, error) {
	if t == (TLS{}) {
		return c, TLSStatus{}, nil
	}
	config, status, err := t.compile()
	if err != nil {
		return nil, status, err
	}
	return &Client{transport: newTransport(c.egress, config), egress: c.egress}, status, nil // Guard: each webhook's TLS identity is its own.
}

// newTransport returns the transport for receivers.
func newTransport(e *egress, c *tls.Config) *lean.Transport {
	return lean.New(lean.Options{
		Dial:           e.dial,
		Secure:         func(raw net.Conn, address string) (*tls.Conn, error) { return secure(raw, c, address) },
		Proxy:          e.proxy,
		MaxHeader:      maxResponseHeader, // Promise 4: and of its head 16 KiB.
		MaxIdlePerHost: MaxConcurrency,
		IdleTimeout:    idleTimeout,
	})
}
