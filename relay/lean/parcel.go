package lean

import (
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
)

// Parcel is what a request sends, made ready by a sender that makes many: for a
// parcel nothing is looked up, copied or sorted. The request itself has neither
// header nor body; its context has the parcel, under ParcelKey.
//
// One request at a time has it, and the answer is made in it: the response with
// its header and its body is good until the parcel is sent again.
type Parcel struct {
	To     *Place
	Header []Field // in the order in which they go out
	Body   []byte
	// Cut ends the exchange with the context; nil is that the transport watches
	// the context itself.
	Cut *Cut
	// Trace is told how the exchange goes, by the goroutine that sends; nil tells
	// nobody. Of dialling the dialer tells.
	Trace *httptrace.ClientTrace
	// Connected is set once the request has a connection: from then on the
	// receiver may have seen it. Reused says that it was open before: then nobody
	// but the transport has seen the context.
	Connected, Reused bool

	exchange exchange
	answered fields
}

// Field is one header field, its name as it is to be spelled.
type Field struct{ Name, Value string }

// ParcelKey is the key of a request's *Parcel in its context.
type ParcelKey struct{}

// Place is a URL as requests to it begin. Whoever sends there again keeps it.
type Place struct {
	url    *url.URL
	plain  bool   // nothing about it needs another transport
	secure bool   // by TLS
	host   string // to dial
	key    string // of its connections in the pool
	line   string // of the request: target and host, up to the length of the body
	err    error  // why nothing can be sent there
}

// NewPlace makes a place of a URL, which must not change afterwards.
func NewPlace(u *url.URL) *Place {
	p := &Place{
		url:    u,
		plain:  (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && isPlainHost(u.Host),
		secure: u.Scheme == "https",
		host:   hostPort(u),
	}
	p.key = p.host
	if p.secure {
		p.key = "tls " + p.host
	}
	target := u.RequestURI()
	p.err = checkTarget(target)
	p.line = http.MethodPost + " " + target + " HTTP/1.1\r\nHost: " + u.Host + "\r\nContent-Length: "
	return p
}

// isPlainHost tells whether a host can stand in a Host field as it is: a name
// or an address without a zone, in ASCII.
func isPlainHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return host != ""
}

// hostPort is what to dial.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port != "" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	if u.Scheme == "https" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

// Cut ends exchanges early. A sender that makes one request after the other
// watches what may end them once for all, and has the cut made then.
type Cut struct {
	mu        sync.Mutex
	made      bool
	interrupt func() // of the exchange under way; nil where there is none
}

// Make ends the exchange under way and all that come. The contexts of their
// requests must have ended.
func (c *Cut) Make() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = true
	if c.interrupt != nil {
		c.interrupt()
	}
}

// hold has an exchange interrupted when the cut is made, until release.
func (c *Cut) hold(interrupt func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupt = interrupt
	if c.made {
		interrupt()
	}
}

// release tells whether the exchange was left alone.
func (c *Cut) release() (calm bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupt = nil
	return !c.made
}
