package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestAWebhookCannotReachTheAdminEndpoint: not even if loopback is allowed, because a
// POST to it can stop Caddy. A webhook may reach Caddy's own sites.
func TestAWebhookCannotReachTheAdminEndpoint(t *testing.T) {
	s := newSite(t)
	_, port, err := net.SplitHostPort(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	s.load("", directive+"\nrespond /hook 204") // allows 127.0.0.1
	for name, c := range map[string]struct{ url, want string }{
		"by-address": {"http://" + s.admin + "/stop", "egress"},
		"by-name":    {"http://localhost:" + port + "/stop", "egress"},
		"own-site":   {"http://" + s.address + "/hook", ""},
	} {
		url, want := c.url, c.want
		if a, err := request(http.MethodPost, "http://"+s.admin+"/userhero/webhooks", fmt.Sprintf(`{"name":%q,"url":%q}`, name, url)); err != nil || a.Status/100 != 2 {
			t.Fatalf("%+v, %v", a, err)
		}
		a, err := request(http.MethodPost, "http://"+s.admin+"/userhero/webhooks/"+name+"/test", "")
		if err != nil {
			t.Fatal(err)
		}
		var result struct {
			OK    bool   `json:"ok"`
			Class string `json:"error_class"`
			Error string `json:"error"`
		}
		if err := json.Unmarshal([]byte(a.Body), &result); err != nil {
			t.Fatalf("%s: %d %s", url, a.Status, a.Body)
		}
		if result.Class != want || result.OK != (want == "") || want != "" && !strings.Contains(result.Error, "admin endpoint") {
			t.Errorf("%s: %+v", url, result)
		}
	}
	time.Sleep(300 * time.Millisecond) // Caddy would stop a moment later
	if a, err := request(http.MethodGet, "http://"+s.admin+"/userhero/status", ""); err != nil || a.Status != http.StatusOK {
		t.Errorf("Caddy does not run any more: %+v, %v", a, err)
	}
}
