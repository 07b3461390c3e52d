package deliver

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	// dialTimeout bounds the name lookup plus the connection to an address.
	dialTimeout = 10 * time.Second
	// nextAddress is how long to wait for one address before the next is tried in
	// parallel (RFC 8305, §5, recommends 250 ms).
	nextAddress = 250 * time.Millisecond
)

// dialFirst connects to the first of a host's addresses that answers. net.Dialer would
// wait for a silent address for a share of the time limit before it tries the next one
// of the same family, and an attempt may not have that much time.
func dialFirst(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel() // ends the slower dials
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	addresses, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	type result struct {
		conn net.Conn
		err  error
	}
	// The channel has room for every result, so that no dial blocks on it.
	results := make(chan result, len(addresses))
	begin := func(address string) {
		conn, err := d.DialContext(ctx, network, address)
		results <- result{conn, err}
	}
	var failure error
	next, underWay := time.NewTimer(0), 0
	defer next.Stop()
	for len(addresses) > 0 || underWay > 0 {
		select {
		case <-next.C:
			if len(addresses) > 0 {
				go begin(net.JoinHostPort(addresses[0].Unmap().String(), port))
				addresses = addresses[1:]
				underWay++
				next.Reset(nextAddress)
			}
		case r := <-results:
			underWay--
			if r.err == nil {
				go func() { // closes the connections of slower dials
					for range underWay {
						if loser := <-results; loser.err == nil {
							_ = loser.conn.Close()
						}
					}
				}()
				return r.conn, nil
			}
			if failure == nil || errors.Is(failure, errEgress) && !errors.Is(r.err, errEgress) { // prefer the error of an address that was dialled
				failure = r.err
			}
			next.Reset(0)
		}
	}
	return nil, failure
}
