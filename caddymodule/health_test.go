package caddymodule

import (
	"net/http"
	"testing"
)

// TestHealthIsAliveAndNotReadyAtAFullDisk: only ready depends on the store. Neither
// answer contains anything about the store.
func TestHealthIsAliveAndNotReadyAtAFullDisk(t *testing.T) {
	s, h := newSite(t), newHook(t)
	checks := directive + `
	userhero_health /healthz
	userhero_health /readyz ready
	userhero_health /livez live
	basic_auth {
		ada $2a$14$AAAAAAAAAAAAAAAAAAAAAA
	}`
	want := func(when string, ready int) {
		t.Helper()
		for path, status := range map[string]int{"/healthz": ready, "/readyz": ready, "/livez": http.StatusOK} {
			a := s.do(http.MethodGet, path, "")
			body := map[int]string{http.StatusOK: "ok\n", http.StatusServiceUnavailable: "not ready\n"}[status]
			if a.Status != status || a.Body != body || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %s answers %d %q %v", when, path, a.Status, a.Body, a.Header)
			}
		}
	}
	s.load(webhookTo(h), checks)
	want("at first", http.StatusOK)
	s.load(webhookTo(h)+"max_disk 1KiB\n", checks)
	want("at max_disk", http.StatusServiceUnavailable)
	s.load(webhookTo(h), checks)
	want("with room again", http.StatusOK)
}
