package caddymodule

import (
	"fmt"
	"net/http"

	"github.com/oschwald/maxminddb-golang/v2"
)

// geoip looks up the country of an address in a MaxMind database, such as
// GeoLite2-Country.mmdb.
type geoip struct{ db *maxminddb.Reader }

// openGeoIP returns nil where no file is named.
func openGeoIP(file string) (*geoip, error) {
	if file == "" {
		return nil, nil
	}
	db, err := maxminddb.Open(file)
	if err != nil {
		return nil, fmt.Errorf("geoip: %w", err)
	}
	return &geoip{db}, nil
}

// countryOf is the client's country as two letters; empty where unknown.
func (g *geoip) countryOf(r *http.Request) string {
	if g == nil {
		return ""
	}
	addr, ok := clientAddr(r)
	if !ok {
		return ""
	}
	var code string
	if err := g.db.Lookup(addr).DecodePath(&code, "country", "iso_code"); err != nil {
		return ""
	}
	return countryOf(code)
}

func (g *geoip) close() error {
	if g == nil {
		return nil
	}
	return g.db.Close()
}
