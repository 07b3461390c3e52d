package caddymodule

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/oschwald/maxminddb-golang/v2"
)

// geoipCheck is the least time between two checks whether the file has changed.
const geoipCheck = time.Minute

// geoips are the databases in use, by file name. Configurations share them, so a reload
// does not read them again.
var geoips = caddy.NewUsagePool()

// geoip looks up the country of an address in a MaxMind database, such as
// GeoLite2-Country.mmdb.
//
// The file is read into memory, not mapped: requests may outlive the configuration that
// opened the database, and programs that update the file may overwrite it. The garbage
// collector frees a database that is no longer used.
type geoip struct {
	file string
	db   atomic.Pointer[maxminddb.Reader]

	checked atomic.Int64 // when the file was checked last, in nanoseconds since 1970
	mu      sync.Mutex   // guards read
	read    os.FileInfo  // of the file when db was read
}

// openGeoIP returns the database in a file, or nil if the file's name is empty. The caller
// closes it.
func openGeoIP(file string) (*geoip, error) {
	if file == "" {
		return nil, nil
	}
	shared, _, err := geoips.LoadOrNew(file, func() (caddy.Destructor, error) { return &geoip{file: file}, nil })
	if err != nil {
		return nil, err
	}
	g := shared.(*geoip)
	if err := g.refresh(); err != nil {
		_ = g.close()
		return nil, fmt.Errorf("geoip: %w", err)
	}
	return g, nil
}

// refresh reads the file if it has changed. If that fails, the old database stays in use.
func (g *geoip) refresh() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.checked.Store(time.Now().UnixNano())
	info, err := os.Stat(g.file)
	if err != nil {
		return err
	}
	if g.read != nil && os.SameFile(info, g.read) && info.Size() == g.read.Size() && info.ModTime().Equal(g.read.ModTime()) {
		return nil
	}
	content, err := os.ReadFile(g.file)
	if err != nil {
		return err
	}
	db, err := maxminddb.OpenBytes(content)
	if err != nil {
		return fmt.Errorf("%s: %w", g.file, err)
	}
	g.db.Store(db)
	g.read = info
	return nil
}

// refreshIfDue calls refresh if the last check was longer ago than geoipCheck.
func (g *geoip) refreshIfDue(log *slog.Logger) {
	last, now := g.checked.Load(), time.Now().UnixNano()
	if now-last < int64(geoipCheck) || !g.checked.CompareAndSwap(last, now) {
		return
	}
	if err := g.refresh(); err != nil {
		log.Warn("the changed geoip database cannot be read; the one before stays in use", "error", err)
	}
}

// countryOf returns the country of an address as two letters, or an empty string if it is
// unknown.
func (g *geoip) countryOf(addr netip.Addr, log *slog.Logger) string {
	g.refreshIfDue(log)
	var code string
	if err := g.db.Load().Lookup(addr).DecodePath(&code, "country", "iso_code"); err != nil {
		return ""
	}
	return code
}

// close releases the database. Requests in flight may still use it.
func (g *geoip) close() error {
	if g == nil {
		return nil
	}
	_, err := geoips.Delete(g.file)
	return err
}

// Destruct implements caddy.Destructor. It does nothing, because the garbage collector
// frees the database.
func (*geoip) Destruct() error { return nil }
