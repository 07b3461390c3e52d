package relay

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

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

// client is the way to receivers: one for each generation's egress settings.
type client struct {
	transport http.RoundTripper
	egress    *egress
}

func newClient(c Egress) (*client, error) {
	e, err := newEgress(c)
	if err != nil {
		return nil, err
	}
	return &client{transport: newTransport(e, defaultTLS()), egress: e}, nil
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
	return &client{transport: newTransport(c.egress, config), egress: c.egress}, status, nil // Guard: each webhook's TLS identity is its own.
}

// newTransport is the transport to receivers.
func newTransport(e *egress, c *tls.Config) *lean.Transport {
	return lean.New(lean.Options{
		Dial:           e.dial,
		Secure:         func(raw net.Conn, address string) (*tls.Conn, error) { return secure(raw, c, address) },
		Proxy:          e.proxy,
		MaxHeader:      maxResponseHeader, // Promise 4: and of its head 16 KiB.
		MaxIdlePerHost: maxConcurrency,
		IdleTimeout:    idleTimeout,
	})
}

// maxErrorText bounds what is kept of an error: a receiver can write its own
// text into some, such as the names of its certificate.
const maxErrorText = 1 << 10

// bare is the error without the URL that net/http puts before it.
func bare(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// redacted is an error's text in one line of bounded length that steers no
// terminal, without URLs.
func redacted(err error) string {
	err = bare(err)
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
