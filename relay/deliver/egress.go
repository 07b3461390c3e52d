package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// NAT64 puts an IPv4 address into the last four bytes of an IPv6 address of these
// networks: the well-known one (RFC 6052), whose traffic goes to that IPv4 address, and
// the one for local use (RFC 8215), for its prefixes of 96 bits.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
)

// wireServer is Azure's metadata service, which has a public address.
var wireServer = netip.MustParseAddr("168.63.129.16")

// Egress lists where deliveries may go besides public addresses.
type Egress struct {
	// Allow holds addresses, networks in CIDR notation and host names. A delivery to an
	// allowed host name may go to any address the name resolves to.
	Allow []string
	// Proxy is the URL of an HTTP proxy; empty means none. With a proxy, the proxy
	// resolves names and must itself protect internal addresses. URLs with an address
	// are still checked here.
	Proxy string
}

// Validate checks the egress settings.
func (e Egress) Validate() error {
	for _, a := range e.Allow {
		if _, err := parseAllowed(a); err != nil {
			return fmt.Errorf("allow: %w", err)
		}
	}
	if e.Proxy != "" {
		u, err := url.Parse(e.Proxy)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("proxy: write an URL such as http://proxy.internal:3128")
		}
	}
	return nil
}

var validHostname = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$`)

// allowed is one entry of the allow list: a network, or a host name.
type allowed struct {
	prefix netip.Prefix
	host   string
}

func parseAllowed(s string) (allowed, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return allowed{prefix: p.Masked()}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		a = a.Unmap()
		return allowed{prefix: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if !validHostname.MatchString(s) {
		return allowed{}, fmt.Errorf("%q is no address, no network such as 10.1.0.0/16 and no host name", s)
	}
	return allowed{host: strings.ToLower(s)}, nil
}

// egress dials public addresses, and other addresses only if the settings allow them.
// It checks the resolved address right before the connection, so a name that later
// resolves to another address cannot bypass the check.
type egress struct {
	guardian  *ssrf.Guardian
	networks  []netip.Prefix
	hosts     map[string]bool
	guarded   net.Dialer // checks every address
	named     net.Dialer // for hosts allowed by name: only refuses Caddy's own addresses
	unguarded net.Dialer // for the proxy
	proxy     *url.URL
	own       func(netip.AddrPort) bool // nil: no address is Caddy's own
	network   dialFunc                  // replaces the network in simulations
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func newEgress(c Egress) (*egress, error) {
	e := &egress{
		guardian:  ssrf.New(ssrf.WithAnyPort(), ssrf.WithNetworks("tcp4", "tcp6")),
		hosts:     make(map[string]bool),
		unguarded: net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second},
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
	e.guarded, e.named = e.unguarded, e.unguarded
	e.guarded.Control = e.control // Guard: the address that is really dialled is judged.
	e.named.Control = func(_, address string, _ syscall.RawConn) error {
		if to, err := netip.ParseAddrPort(address); err == nil && e.own != nil && e.own(to) {
			return e.judge(to)
		}
		return nil
	}
	return e, nil
}

// dial connects to a receiver, or to the proxy if one is configured.
func (e *egress) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if e.network != nil {
		return e.network(ctx, network, address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if e.proxy != nil {
		return e.dialProxy(ctx, network, address, host)
	}
	if e.hosts[strings.ToLower(host)] {
		return dialFirst(ctx, &e.named, network, address)
	}
	return dialFirst(ctx, &e.guarded, network, address)
}

// dialProxy connects to the proxy, with TLS if its URL is https. If a proxy is
// configured, only the proxy is dialled. The TLS settings of webhooks do not apply to
// it.
func (e *egress) dialProxy(ctx context.Context, network, address, host string) (net.Conn, error) {
	raw, err := dialFirst(ctx, &e.unguarded, network, address)
	if err != nil || e.proxy.Scheme != "https" {
		return raw, err
	}
	over, err := secure(raw, defaultTLS(), address)
	if err == nil {
		err = over.HandshakeContext(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with the proxy %s: %w", host, err)
	}
	return over, nil
}

// control checks an address right before it is dialled.
func (e *egress) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q is no address", errEgress, address)
	}
	return e.judge(to)
}

// judge refuses addresses that are not public, unless they are allowed. A NAT64 address
// is checked as the IPv4 address inside it, because that address is reached. So
// allowing the IPv6 form of a private address does not allow its IPv4 address.
func (e *egress) judge(to netip.AddrPort) error {
	if e.own != nil && e.own(to) { // Guard: what can stop Caddy is no receiver.
		return fmt.Errorf("%w: %s is Caddy's own admin endpoint, which could stop Caddy", errEgress, to)
	}
	addr := to.Addr().Unmap()
	reached := addr
	if bare := addr.WithZone(""); nat64.Contains(bare) || nat64Local.Contains(bare) {
		b := bare.As16()
		reached = netip.AddrFrom4([4]byte(b[12:]))
	}
	if nat64Local.Contains(addr.WithZone("")) && !e.allowed(addr) {
		return notPublic(addr, addr)
	}
	if e.allowed(reached) || e.public(reached, to.Port()) {
		return nil
	}
	return notPublic(addr, reached)
}

func (e *egress) allowed(addr netip.Addr) bool {
	return slices.ContainsFunc(e.networks, func(n netip.Prefix) bool { return n.Contains(addr.WithZone("")) })
}

// public reports whether the guardian accepts an address. An address with a zone is
// never public: no network contains it, so the guardian's list would not block it.
func (e *egress) public(addr netip.Addr, port uint16) bool {
	return addr.Zone() == "" && addr != wireServer && e.guardian.Safe(networkOf(addr), netip.AddrPortFrom(addr, port).String(), nil) == nil
}

// notPublic returns an error that names the address to allow, which is the address
// reached.
func notPublic(addr, reached netip.Addr) error {
	behind := ""
	if addr != reached {
		behind = fmt.Sprintf(", which NAT64 reaches as %s,", addr)
	}
	return fmt.Errorf("%w: %s%s is not a public address; if it is meant, add \"allow %s\" to the egress block", errEgress, reached, behind, reached.WithZone(""))
}

// target checks a URL whose host is an address before the request goes to a proxy. The
// proxy resolves and checks names.
func (e *egress) target(u *url.URL) error {
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || e.proxy == nil {
		return nil //nolint:nilerr // a name, or judged when it is dialled
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		port = map[string]uint64{"http": 80, "https": 443}[u.Scheme]
	}
	return e.judge(netip.AddrPortFrom(addr, uint16(port)))
}

func networkOf(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
