package deliver

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// maxHandshake bounds what a receiver may send before TLS is established. Certificate
// chains take 3 to 20 KiB. crypto/tls accepts 256 KiB of certificates, whose names can
// take megabytes of memory.
const maxHandshake = 64 << 10

var errHandshake = errors.New("tls: the receiver's handshake has more than 64 KiB; give it a shorter chain of certificates")

// secure starts TLS on a connection to an address.
func secure(raw net.Conn, c *tls.Config, address string) (*tls.Conn, error) {
	c = c.Clone()
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		c.ServerName = host
	}
	return tls.Client(boundHandshake(raw, c), c), nil
}

// boundHandshake bounds the handshake. It changes c, which must belong to this
// connection alone.
func boundHandshake(raw net.Conn, c *tls.Config) net.Conn {
	bounded := &handshakeConn{Conn: raw}
	bounded.left.Store(maxHandshake)
	_ = raw.SetDeadline(time.Now().Add(dialTimeout)) // if this fails, reading fails too
	c.VerifyConnection = func(tls.ConnectionState) error {
		bounded.agreed.Store(true)
		return raw.SetDeadline(time.Time{})
	}
	return bounded
}

// handshakeConn bounds the bytes read until the handshake is over.
type handshakeConn struct {
	net.Conn
	agreed atomic.Bool
	left   atomic.Int64
}

// Read implements net.Conn.
func (c *handshakeConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.agreed.Load() && c.left.Add(-int64(n)) < 0 { // Promise 4: a handshake is bounded.
		return 0, errHandshake
	}
	return n, err
}
