package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
)

// maxHandshake is how much a receiver may send before TLS is agreed. Chains have
// 3 to 20 KiB; crypto/tls would take 256 KiB of certificate and make megabytes
// of its names.
const maxHandshake = 64 << 10

var errHandshake = errors.New("tls: the receiver's handshake has more than 64 KiB; give it a shorter chain of certificates")

// dialTLS dials a receiver and agrees on TLS, with HTTP/2 or HTTP/1.1.
func dialTLS(ctx context.Context, e *egress, c *tls.Config, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := e.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	if c.ServerName == "" {
		c.ServerName = host
	}
	bounded := &handshakeConn{Conn: raw}
	bounded.left.Store(maxHandshake)
	conn := tls.Client(bounded, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	bounded.agreed.Store(true)
	return conn, nil
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
	if !c.agreed.Load() && c.left.Add(-int64(n)) < 0 {
		return 0, errHandshake
	}
	return n, err
}
