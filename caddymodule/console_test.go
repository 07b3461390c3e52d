package caddymodule

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The hash of "secret", made by caddy hash-password with bcrypt's lowest cost.
const basicAuth = "basic_auth {\nada $2a$04$BQxS9uQ4U8b.xioVgfcUMu6OWrWg3iWqpujI.qaoE2G9sujoTVTGy\n}\n"

func TestConsoleIsClosedUnlessSomethingOpensIt(t *testing.T) {
	s := newSite(t)
	s.load("", `
	handle_path /closed/* {
		userhero_console
	}
	handle_path /header/* {
		userhero_console {
			user_header Remote-User
		}
	}
	handle_path /open/* {
		userhero_console {
			no_auth
		}
	}
	handle_path /basic/* {
		`+basicAuth+`
		userhero_console
	}`)
	page := []string{"Accept", "text/html"}
	for _, c := range []struct {
		path   string
		header []string
		want   int
	}{
		{"/closed/api/status", nil, 403},
		{"/closed/api/status", []string{"Remote-User", "eve"}, 403},
		{"/closed/api/status", []string{"Authorization", "Basic YWRhOnNlY3JldA=="}, 403},
		{"/closed/", page, 403},
		{"/closed/webhooks/x", page, 403},
		{"/header/api/status", nil, 403},
		{"/header/api/status", []string{"Remote-User", ""}, 403},
		{"/header/api/status", []string{"Remote-User", "ada"}, 200},
		{"/open/api/status", nil, 200},
		{"/basic/api/status", nil, 401},
		{"/basic/api/status", []string{"Authorization", "Basic YWRhOnNlY3JldA=="}, 200},
	} {
		a := s.do("GET", c.path, "", c.header...)
		if a.Status != c.want {
			t.Errorf("%s with %v: %d, want %d: %s", c.path, c.header, a.Status, c.want, a.Body)
		}
		if strings.HasPrefix(c.path, "/basic") && c.want == 401 {
			continue
		}
		for field, want := range map[string]string{
			"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
			"Referrer-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if got := a.Header.Get(field); !strings.Contains(got, want) {
				t.Errorf("%s: %s is %q, want it to say %s", c.path, field, got, want)
			}
		}
		if policy := a.Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none';") {
			t.Errorf("the policy is %q", policy)
		}
	}
	if a := s.do("GET", "/closed/webhooks/x", "", page...); !strings.Contains(a.Body, "basic_auth") || !strings.Contains(a.Body, `href="../assets/console.css`) {
		t.Errorf("the page does not say what opens the console: %s", a.Body)
	}
	if a := s.do("GET", "/closed/api/status", ""); a.json(t)["status"] != 403.0 {
		t.Errorf("scripts get %s", a.Body)
	}
	if a := s.do("GET", "/closed/assets/console.css", ""); a.Status != 200 {
		t.Errorf("the closed page has no style: %d", a.Status)
	}
}

func TestVerifiedClientCertificateOpensTheConsole(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("GET", "/", nil)
	shown := &x509.Certificate{Subject: pkix.Name{CommonName: "ada"}}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{shown}}
	if who, ok := new(Console).user(r); ok {
		t.Errorf("a certificate that nobody verified lets %q in", who)
	}
	r.TLS.VerifiedChains = [][]*x509.Certificate{{shown}}
	if who, ok := new(Console).user(r); !ok || who != "ada" {
		t.Errorf("a verified certificate: %q, %t", who, ok)
	}
}

// TestConsoleFindsItsMountPoint: the console works whether or not the site strips
// the mount point from the path.
func TestConsoleFindsItsMountPoint(t *testing.T) {
	s := newSite(t)
	console := "{\nuserhero_console {\nno_auth\n}\n}\n"
	s.load("", "handle_path /cut/* "+console+"handle_path /bare* "+console+"handle /kept/deep/* "+console+"handle /also* "+console+"handle "+console)
	for path, want := range map[string]int{
		"/cut/api/status": 200, "/kept/deep/api/status": 200, "/api/status": 200, "/also/api/status": 200, "/bare/api/status": 200,
		"/": 200, "/kept/deep/": 200, "/kept/deep/webhooks": 200, "/kept/deep/events": 200, "/kept/deep/activity": 200, "/kept/deep/add": 200,
		"/kept/deep/assets/console.css": 200, "/kept/deep/deliveries/x/redeliver": 404, "/cut/add": 200, "/webhooks/events": 404,
		"/cut/api/nothing": 404, "/api/nothing": 404, "/bare": 307, "/also": 307,
	} {
		if a := s.do("GET", path, ""); a.Status != want {
			t.Errorf("%s: %d, want %d: %s", path, a.Status, want, a.Body)
		}
	}
	for path, want := range map[string]string{"/bare?x=1": "./bare/?x=1", "/also": "./also/"} {
		if got := s.do("GET", path, "").Header.Get("Location"); got != want {
			t.Errorf("%s leads to %q, want %q", path, got, want)
		}
	}
}

func TestConsoleNotesWhoAndRefusesOtherOrigins(t *testing.T) {
	s := newSite(t)
	s.load("", "handle_path /relay/* {\n"+basicAuth+"userhero_console\n}")
	ada := []string{"Authorization", "Basic YWRhOnNlY3JldA==", "Content-Type", "application/json"}
	body := `{"name":"crm","url":"http://127.0.0.1:9/"}`
	if a := s.do("POST", "/relay/api/webhooks", body, append(ada, "Origin", "https://evil.example")...); a.Status != 403 {
		t.Errorf("another origin: %d %s", a.Status, a.Body)
	}
	if a := s.do("POST", "/relay/api/webhooks", body, append(ada, "Origin", "http://"+s.address)...); a.Status != 201 {
		t.Fatalf("the own origin: %d %s", a.Status, a.Body)
	}
	if a := s.do("GET", "/relay/api/activity", "", ada...); !strings.Contains(a.Body, `"who":"ada"`) {
		t.Errorf("nobody knows who added the webhook: %s", a.Body)
	}
}

func TestConsoleAnswersAfterTheStop(t *testing.T) {
	t.Parallel()
	app := provisionedApp(t)
	if err := errors.Join(app.Start(), app.Stop(), app.Cleanup()); err != nil {
		t.Fatal(err)
	}
	console := &Console{NoAuth: true, app: app}
	for accept, want := range map[string]string{"text/html": "<h1>Not at this moment</h1>", "application/json": `"status":503`} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/api/status", nil)
		r.Header.Set("Accept", accept)
		if err := console.ServeHTTP(w, r, nil); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), want) || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", accept, w.Code, w.Body)
		}
	}
}
