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
	"unicode"

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
	e.guarded.Control = e.control // Guard: the address that is really dialled is judged.
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
		if n.Contains(addr.WithZone("")) {
			return nil
		}
	}
	// A network never contains a zoned address, so lists do not see them.
	if addr.Zone() == "" && addr != wireServer && e.guardian.Safe(network, netip.AddrPortFrom(addr, to.Port()).String(), conn) == nil {
		return nil
	}
	return fmt.Errorf("%w: %s is not a public address; where it is meant, add \"allow %s\" to the egress block", errEgress, addr, addr.WithZone(""))
}

// target judges what is written as an address, before a name is resolved or a
// proxy does that. Names are the proxy's to resolve and judge.
func (e *egress) target(u *url.URL) error {
	host := u.Hostname()
	if err := checkSpelling(host); err != nil { // Guard: hosts that are read in several ways are refused.
		return fmt.Errorf("%w: %w", errEgress, err)
	}
	if e.proxy == nil {
		return nil // judged when it is dialled
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return e.control(networkOf(addr.Unmap()), netip.AddrPortFrom(addr, 443).String(), nil)
}

// checkSpelling refuses hosts that some programs read as another address than
// others do: 2130706433, 0x7f.1, 0177.0.0.1 and 127.1 are 127.0.0.1 to many, and
// full-width digits become plain ones on the way. No host name ends with a label
// that is a number (RFC 1123 §2.1; WHATWG URL, "ends in a number").
func checkSpelling(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for _, r := range host {
		if r > unicode.MaxASCII && unicode.Is(unicode.Nd, r) || strings.ContainsRune("。．｡", r) {
			return fmt.Errorf("%q has digits or dots that are not ASCII; write them plainly", host)
		}
	}
	name := strings.TrimSuffix(host, ".")
	last := strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])
	number := strings.Trim(last, "0123456789") == ""
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		number = strings.Trim(hex, "0123456789abcdef") == ""
	}
	if number {
		return fmt.Errorf("%q is an address in a spelling that is read in several ways; write four decimal numbers, such as 192.0.2.1", host)
	}
	return nil
}

func networkOf(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
