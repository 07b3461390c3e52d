package sites

import (
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/userhero/relay/caddymodule/telemetry"
)

// maxSiteCertificates bounds how many sites have their certificate's expiry in the
// metrics.
const maxSiteCertificates = 200

// Certificates returns the certificates of the sites that a configuration names, in
// the order of their names. If a site has several, the one that expires last counts:
// Caddy keeps the old one for a while after a renewal. A nil configuration has no sites.
func Certificates(config *caddy.Context) (all []telemetry.Certificate) {
	for _, host := range siteHosts(config) {
		c := telemetry.Certificate{Kind: "site", Name: host}
		for _, found := range caddytls.AllMatchingCertificates(host) {
			if leaf := found.Leaf; leaf != nil && leaf.NotAfter.After(c.NotAfter) {
				c.NotBefore, c.NotAfter = leaf.NotBefore, leaf.NotAfter
			}
		}
		if !c.NotAfter.IsZero() && len(all) < maxSiteCertificates {
			all = append(all, c)
		}
	}
	return all
}

// siteHosts returns the hosts of all sites.
func siteHosts(config *caddy.Context) []string {
	if config == nil {
		return nil
	}
	app, err := config.AppIfConfigured("http")
	if err != nil {
		return nil
	}
	hosts := make(map[string]bool)
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, route := range server.Routes {
			for _, set := range route.MatcherSets {
				for _, matcher := range set {
					if of, ok := matcher.(*caddyhttp.MatchHost); ok {
						for _, host := range *of {
							hosts[strings.ToLower(host)] = true
						}
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}
