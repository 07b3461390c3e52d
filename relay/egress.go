package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// errEgress marks an address that the guard refuses.
var errEgress = errors.New("not allowed by egress")

// wireServer is Azure's metadata service, at a public address.
var wireServer = netip.MustParseAddr("168.63.129.16")

const dialTimeout = 10 * time.Second

// egress dials public addresses, and others only where the settings allow them.
// It judges the address that is really dialled, after the name was resolved, so
// a name that resolves to something else the second time gains nothing.
type egress struct {
	guardian *ssrf.Guardian
	networks []netip.Prefix
	hosts    map[string]bool
	guarded  net.Dialer
	free     net.Dialer
	proxy    *url.URL
	network  dialFunc // in place of the network, in simulations
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func newEgress(c Egress) (*egress, error) {
	e := &egress{
		guardian: ssrf.New(ssrf.WithAnyPort(), ssrf.WithNetworks("tcp4", "tcp6")),
		hosts:    make(map[string]bool),
		free:     net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second},
	}
	for _, s := range c.Allow {
		a, err := parseAllowed(s)
		if err != nil {
			return nil, err
		}
		if a.host != "" {
			e.hosts[a.host] = true
		} else {
			e.networks = append(e.networks, a.prefix)
		}
	}
	if c.Proxy != "" {
		u, err := url.Parse(c.Proxy)
		if err != nil {
			return nil, errors.New("the proxy is no URL")
		}
		e.proxy = u
	}
	e.guarded = e.free
	e.guarded.Control = e.control
	return e, nil
}

// dial is the transport's way out.
func (e *egress) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if e.network != nil {
		return e.network(ctx, network, address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if e.proxy != nil && sameHost(e.proxy, address) || e.hosts[strings.ToLower(host)] {
		return e.free.DialContext(ctx, network, address)
	}
	return e.guarded.DialContext(ctx, network, address)
}

func sameHost(proxy *url.URL, address string) bool {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	return net.JoinHostPort(proxy.Hostname(), port) == address
}

// control judges an address right before it is dialled.
func (e *egress) control(network, address string, conn syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q is no address", errEgress, address)
	}
	addr := to.Addr().Unmap()
	for _, n := range e.networks {
		if n.Contains(addr) {
			return nil
		}
	}
	// A network never contains a zoned address, so lists do not see them.
	if addr.Zone() == "" && addr != wireServer && e.guardian.Safe(network, netip.AddrPortFrom(addr, to.Port()).String(), conn) == nil {
		return nil
	}
	return fmt.Errorf("%w: %s is not a public address; where it is meant, add \"allow %s\" to the egress block", errEgress, addr, addr.WithZone(""))
}

// target judges what goes through a proxy, where the dialled address is the
// proxy's: addresses given as such. Names are the proxy's to resolve and judge.
func (e *egress) target(u *url.URL) error {
	if e.proxy == nil {
		return nil
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return e.control(networkOf(addr.Unmap()), netip.AddrPortFrom(addr, 443).String(), nil)
}

func networkOf(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
