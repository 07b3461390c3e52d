package deliver

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	// dialTimeout bounds the look-up of a name and connecting to its addresses.
	dialTimeout = 10 * time.Second
	// nextAddress is how long one address may keep silent before the next is tried
	// beside it (RFC 8305, §5, which recommends 250 ms).
	nextAddress = 250 * time.Millisecond
)

// dialFirst connects to the first of a host's addresses that answers. net.Dialer
// would wait for one silent address until a share of the time is over before it
// tries another of the same kind; an attempt may have no more time than that.
func dialFirst(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel() // ends the dials that lose
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
	// It has room for every result, so that a dial never waits and none is lost.
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
				go func() { // until the dials that lose have ended
					for range underWay {
						if loser := <-results; loser.err == nil {
							_ = loser.conn.Close()
						}
					}
				}()
				return r.conn, nil
			}
			if failure == nil || errors.Is(failure, errEgress) && !errors.Is(r.err, errEgress) { // what was dialled says more
				failure = r.err
			}
			next.Reset(0)
		}
	}
	return nil, failure
}
