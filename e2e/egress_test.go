package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestEgressGuardDialsOnlyPublicAddresses: what is not public is not dialled,
// and the error names the directive that would allow it.
func TestEgressGuardDialsOnlyPublicAddresses(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]string{
		"loopback":    "http://127.0.0.1:" + port,
		"name":        "http://localhost:" + port,
		"metadata":    "http://169.254.169.254",
		"mapped":      "http://[::ffff:127.0.0.1]:" + port,
		"nat64":       "http://[64:ff9b::7f00:1]:" + port,
		"cgnat":       "http://100.64.0.1",
		"private":     "http://10.0.0.1",
		"unspec":      "http://0.0.0.0:" + port,
		"uniquelocal": "http://[fd00::1]",
	}
	var app strings.Builder
	app.WriteString("retry 1h\n")
	for name, url := range targets {
		fmt.Fprintf(&app, "webhook %s {\n url %s\n secret %s\n timeout 5s\n}\n", name, url, secret)
	}
	s := startRelay(t, relayOptions{app: app.String(), noEgress: true})

	s.mustSubmit("to the inside")

	for name, url := range targets {
		var tried []deliveryView
		eventually(t, 20*time.Second, url+" was tried", func() bool {
			tried = s.deliveries(name)
			return len(tried) == 1 && tried[0].AttemptsMade > 0
		})
		var one deliveryView
		s.get("/deliveries/"+tried[0].ID, &one)
		if one.State == "delivered" || len(one.Attempts) == 0 {
			t.Fatalf("%s: %+v", url, one)
		}
		if e := one.Attempts[0].Error; !strings.Contains(e, "egress") || !strings.Contains(e, "allow") {
			t.Errorf("%s: the error does not name the egress allow directive: %q", url, e)
		}
	}
	if all := r.arrivals(); len(all) != 0 {
		t.Errorf("%d requests reached a loopback address", len(all))
	}
}
