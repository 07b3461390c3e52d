package deliver

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// maxHandshake is how much a receiver may send before TLS is agreed. Chains have
// 3 to 20 KiB; crypto/tls would take 256 KiB of certificate and make megabytes
// of its names.
const maxHandshake = 64 << 10

var errHandshake = errors.New("tls: the receiver's handshake has more than 64 KiB; give it a shorter chain of certificates")

// secure puts TLS on a connection to an address.
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

// boundHandshake bounds the handshake that the configuration is used for. The
// configuration is the connection's own.
func boundHandshake(raw net.Conn, c *tls.Config) net.Conn {
	bounded := &handshakeConn{Conn: raw}
	bounded.left.Store(maxHandshake)
	_ = raw.SetDeadline(time.Now().Add(dialTimeout)) // where it fails, reading does too
	c.VerifyConnection = func(tls.ConnectionState) error {
		bounded.agreed.Store(true)
		return raw.SetDeadline(time.Time{})
	}
	return bounded
}

// handshakeConn bounds what is read until the handshake is over.
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
