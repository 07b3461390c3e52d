package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// builtCaddy returns the path of the built Caddy, or "" if RELAY_CADDY names none: `make
// unit` does not set it, `make e2e` does.
func builtCaddy(t *testing.T) string {
	t.Helper()
	caddy := os.Getenv("RELAY_CADDY")
	if caddy == "" {
		return ""
	}
	caddy, err := filepath.Abs(caddy)
	if err != nil {
		t.Fatal(err)
	}
	return caddy
}

// TestRatiosAreNotBroken runs the bench for a short time, in pairs. It fails only on
// ratios that noise cannot explain. RELAY_CADDY names the built Caddy.
func TestRatiosAreNotBroken(t *testing.T) {
	caddy := builtCaddy(t)
	if caddy == "" {
		return
	}
	o := options{caddy: caddy, out: t.TempDir(), pairs: 3, duration: time.Second, only: regexp.MustCompile("")}
	for _, s := range scenarios() {
		if s.rows[0].smoke == 0 {
			continue
		}
		figures, err := s.measure(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range s.rows {
			if r.smoke != 0 && figures[i].Result < r.smoke {
				t.Errorf("%s: %.3f of %s, below %.2f: relay %.0f, baseline %.0f", r.name, figures[i].Result, r.against, r.smoke,
					figures[i].Relay, figures[i].Baseline)
			}
			t.Logf("%s: %.3g", r.name, figures[i].Result)
		}
	}
}

// TestClusterIsMeasured runs the shortest comparison of a cluster with Badger.
func TestClusterIsMeasured(t *testing.T) {
	caddy := builtCaddy(t)
	if caddy == "" {
		return
	}
	o := options{caddy: caddy, out: t.TempDir(), pairs: 1, duration: time.Second, cluster: true}
	figures, err := clusterDeliveries(1).measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range figures {
		t.Logf("%s: %.0f, on Badger %.0f %s", f.Row, f.Relay[0], f.Baseline[0], f.Unit)
		if f.Relay[0] <= 0 || f.Baseline[0] <= 0 {
			t.Errorf("%s: nothing measured", f.Row)
		}
	}
}

// TestSmokeNotices: the comparison fails if the relay is slow.
func TestSmokeNotices(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios() {
		for _, r := range s.rows {
			if r.smoke != 0 && (r.compare != ratio || r.smoke >= r.least || r.compare.of(1, 20) >= r.smoke) {
				t.Errorf("%s: a twentieth passes, or what meets the target does not", r.name)
			}
		}
	}
}
