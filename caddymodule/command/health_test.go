package command

import "testing"

// TestHealthCheck: live asks only for an answer, ready for a good one.
func TestHealthCheck(t *testing.T) {
	t.Parallel()
	up := newCannedAdmin(t, map[string]string{"GET /healthz": `{"status":"ok"}`})
	full := newCannedAdmin(t, map[string]string{"GET /healthz": `503 {"status":503,"detail":"the disk is full"}`})
	other := newCannedAdmin(t, nil) // a Caddy without the relay
	for _, c := range []struct {
		admin *cannedAdmin
		args  []string
		ok    bool
	}{
		{up, []string{"health"}, true},
		{up, []string{"health", "ready"}, true},
		{up, []string{"health", "live"}, true},
		{full, []string{"health"}, false},
		{full, []string{"health", "ready"}, false},
		{full, []string{"health", "live"}, true},
		{other, []string{"health", "live"}, false},
	} {
		got := c.admin.run(t, c.args...)
		if (got.failed == nil) != c.ok || c.ok && got.out != "ok\n" {
			t.Errorf("%v: %q, %v", c.args, got.out, got.failed)
		}
	}
}
