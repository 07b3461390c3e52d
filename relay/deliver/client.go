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

// Bounds of one attempt on the wire.
const (
	maxResponseHeader = 16 << 10
	maxResponseBody   = 64 << 10 // read, so that the connection can be used again
	keptResponseBody  = 16 << 10
	// wireRetries within one attempt, and the time between them: only for
	// connections that were never made.
	wireRetries  = 2
	wireRetryMin = 100 * time.Millisecond
	wireRetryMax = time.Second
	idleTimeout  = 90 * time.Second
)

// MaxConcurrency bounds the attempts that one receiver gets at a time, and so the
// idle connections that are kept open to it.
const MaxConcurrency = 1024

// Options are what a client works with, besides the egress settings.
type Options struct {
	// Dial, unless nil, is the network: receivers are dialled with it and not
	// with the guarded dialer. It is for simulations, whose network is in memory.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Own, unless nil, reports whether an address is one that could stop the process,
	// such as Caddy's admin endpoint. Nothing is sent there, whatever is allowed.
	Own func(netip.AddrPort) bool
	// Transport, unless nil, replaces the transport to receivers without TLS
	// settings of their own; in tests.
	Transport http.RoundTripper
}

// Client reaches receivers, with one set of egress settings and one pool of
// connections. All methods may be called from any goroutine.
type Client struct {
	transport http.RoundTripper
	egress    *egress
}

// NewClient makes a client. Its errors are those of Egress.Validate.
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

// withTLS returns the client for a webhook's own TLS settings. It has a
// transport to itself: a connection made with one webhook's certificate, or to
// a receiver that only its authorities vouch for, never carries another's events.
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

// newTransport is the transport to receivers.
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
