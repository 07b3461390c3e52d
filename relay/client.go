package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/userhero/relay/relay/lean"
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

// client sends requests: one for each generation's egress settings.
type client struct {
	http   *retryablehttp.Client
	egress *egress
	way    way
}

// way makes the transport to receivers.
type way func(*egress, *tls.Config) http.RoundTripper

func newClient(c Egress) (*client, error) { return newClientBy(newTransport, c) }

func newClientBy(w way, c Egress) (*client, error) {
	e, err := newEgress(c)
	if err != nil {
		return nil, err
	}
	made := newClientOn(w(e, defaultTLS()), e)
	made.way = w
	return made, nil
}

// withTLS returns the client for a webhook's own TLS settings. It has a
// transport to itself: a connection made with one webhook's certificate, or to
// a receiver that only its authorities vouch for, never carries another's events.
func (c *client) withTLS(t TLS) (*client, TLSStatus, error) {
	if t == (TLS{}) {
		return c, TLSStatus{}, nil
	}
	config, status, err := t.compile()
	if err != nil {
		return nil, status, err
	}
	return newClientOn(c.way(c.egress, config), c.egress), status, nil // Guard: each webhook's TLS identity is its own.
}

// newTransport is the way to receivers: the lean one, and through a proxy
// net/http's.
func newTransport(e *egress, c *tls.Config) http.RoundTripper {
	general := newGeneralTransport(e, c)
	if e.proxy != nil {
		return general
	}
	return lean.New(lean.Options{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return e.dial(dialling(ctx), network, address)
		},
		Secure:         func(raw net.Conn, address string) (*tls.Conn, error) { return secure(raw, c, address) },
		MaxHeader:      maxResponseHeader, // Promise 4: and of its head 16 KiB.
		MaxIdlePerHost: maxConcurrency,
		IdleTimeout:    idleTimeout,
		Other:          general,
	})
}

// newGeneralTransport is net/http's.
func newGeneralTransport(e *egress, c *tls.Config) http.RoundTripper {
	transport := &http.Transport{
		DialContext: e.dial,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialTLS(ctx, e, c, network, address)
		},
		TLSClientConfig:        c, // inside a proxy's tunnel
		TLSHandshakeTimeout:    dialTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxConcurrency,
		IdleConnTimeout:        idleTimeout,
	}
	if e.proxy != nil {
		transport.Proxy = http.ProxyURL(e.proxy)
	}
	return complete{transport}
}

// newClientOn puts the retrying client on a transport, which finds header and
// body where complete does.
func newClientOn(transport http.RoundTripper, e *egress) *client {
	r := retryablehttp.NewClient()
	r.HTTPClient = &http.Client{
		Transport:     roundTripper{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // Guard: redirects are answers.
	}
	r.Logger = nil
	r.RetryMax, r.RetryWaitMin, r.RetryWaitMax = wireRetries, wireRetryMin, wireRetryMax
	r.ErrorHandler = retryablehttp.PassthroughErrorHandler
	r.CheckRetry = neverConnected
	return &client{http: r, egress: e}
}

// neverConnected allows another try within the attempt only where the request
// surely never reached the receiver, and trying again may help.
func neverConnected(ctx context.Context, _ *http.Response, err error) (bool, error) {
	if err == nil || ctx.Err() != nil {
		return false, nil //nolint:nilerr // whether to retry; the error itself is passed on unchanged
	}
	if s, ok := ctx.Value(sendingKey{}).(*sending); ok && s.parcel.Connected {
		return false, nil
	}
	class, _ := classify(err)
	return class == classRefused || class == classDNS && temporary(err), nil
}

// maxErrorText bounds what is kept of an error: a receiver can write its own
// text into some, such as the names of its certificate.
const maxErrorText = 1 << 10

// redacted is the error without the URL that net/http puts before it, in one
// line of bounded length that steers no terminal.
func redacted(err error) string {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, err.Error())
	if len(text) <= maxErrorText {
		return text
	}
	const cut = "…"
	return strings.ToValidUTF8(text[:maxErrorText-len(cut)], "") + cut
}
