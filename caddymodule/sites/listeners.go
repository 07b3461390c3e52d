// Package sites answers what Caddy's configuration says about its sites: where they
// listen, and which certificates they have.
//
// It promises that an address at which Caddy listens without a site, such as its admin
// endpoint, is known as Caddy's own. It knows neither relay nor app; a configuration that
// is nil has no sites. The tests of package caddymodule ask it in a running Caddy: what a
// webhook cannot reach, and which certificates the metrics name.
package sites

import (
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// IsOwnListener reports whether Caddy listens at an address that no site of the configuration
// uses. Such an address may be Caddy's admin endpoint, where everybody who reaches it
// can stop Caddy. Modules cannot read the endpoint's address, but they can ask whether
// Caddy listens at an address. So IsOwnListener is also true for listeners of other apps.
func IsOwnListener(to netip.AddrPort, config *caddy.Context) bool {
	return isLocal(to.Addr()) && listensAt(to) && !servesSite(to.Port(), config)
}

// isLocal reports whether an address belongs to this machine.
func isLocal(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr.WithZone("") {
			return true
		}
	}
	return false
}

// listensAt reports whether Caddy listens at an address. It tries every way in which a
// configuration may write the address.
func listensAt(to netip.AddrPort) bool {
	addr := to.Addr().Unmap()
	hosts := []string{addr.String(), "", "0.0.0.0", "::"}
	if addr.IsLoopback() || addr.IsUnspecified() {
		hosts = append(hosts, "localhost", "127.0.0.1", "::1")
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	port := strconv.Itoa(int(to.Port()))
	for _, host := range hosts {
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			if caddy.ListenerUsage(network, net.JoinHostPort(host, port)) > 0 {
				return true
			}
		}
	}
	return false
}

// servesSite reports whether a site of the configuration listens at a port. A nil
// configuration has no sites.
func servesSite(port uint16, config *caddy.Context) bool {
	if config == nil {
		return false
	}
	app, err := config.AppIfConfigured("http")
	if err != nil {
		return false
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, listen := range server.Listen {
			at, err := caddy.ParseNetworkAddress(listen)
			if err == nil && at.StartPort <= uint(port) && uint(port) <= at.EndPort {
				return true
			}
		}
	}
	return false
}
