package caddymodule

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// countryDatabase writes a database that has one country for loopback addresses.
func countryDatabase(t *testing.T, country string) []byte {
	t.Helper()
	db, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	_, loopback, err := net.ParseCIDR("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Insert(loopback, mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(country)}}); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := db.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// writeOver replaces the content of a file in place, as cp does.
func writeOver(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDatabaseMayBeWrittenOver: lookups work while the file is being overwritten,
// and use the new content later.
func TestDatabaseMayBeWrittenOver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "country.mmdb")
	writeOver(t, path, countryDatabase(t, "CH"))
	g, err := openGeoIP(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	country := func() string { return g.countryOf(netip.MustParseAddr("127.0.0.1"), log) }
	aMinuteLater := func() { g.checked.Store(0) }

	writeOver(t, path, nil) // a memory map of it would crash now
	if got := country(); got != "CH" {
		t.Errorf("while the file is empty: %q", got)
	}
	aMinuteLater()
	if got := country(); got != "CH" || !strings.Contains(out.String(), "country.mmdb") {
		t.Errorf("after the empty file was seen: %q, logged %q", got, out.String())
	}
	writeOver(t, path, countryDatabase(t, "AT"))
	if got := country(); got != "CH" {
		t.Errorf("within a minute: %q", got)
	}
	aMinuteLater()
	if got := country(); got != "AT" {
		t.Errorf("after the change: %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if other, err := openGeoIP(path); err == nil {
		t.Error("a file that is missing was opened", other.close())
	}
	if err := g.close(); err != nil {
		t.Error(err)
	}
	if got := country(); got != "AT" {
		t.Errorf("for a request that outlives the configuration: %q", got)
	}
}

// TestReloadsShareTheDatabase: a reload reads the database again only if its file
// has changed.
func TestReloadsShareTheDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "country.mmdb")
	writeOver(t, path, countryDatabase(t, "CH"))
	before, err := openGeoIP(path)
	if err != nil {
		t.Fatal(err)
	}
	db := before.db.Load()
	var opening sync.WaitGroup
	for range 4 {
		opening.Go(func() {
			after, err := openGeoIP(path)
			if err != nil || after != before || after.db.Load() != db {
				t.Errorf("opened anew: %v", err)
				return
			}
			if err := after.close(); err != nil {
				t.Error(err)
			}
		})
	}
	opening.Wait()
	writeOver(t, path, countryDatabase(t, "FRA"))
	after, err := openGeoIP(path)
	if err != nil || after.db.Load() == db {
		t.Errorf("the changed file was not read: %v", err)
	}
	for _, g := range []*geoip{before, after} {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	}
	if n, ok := geoips.References(path); ok {
		t.Errorf("%d references are left", n)
	}
}
