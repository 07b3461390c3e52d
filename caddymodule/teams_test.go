package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// teamsBlock returns the configuration in a section of docs/teams.md.
func teamsBlock(t *testing.T, section string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "teams.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), section+"\n")
	_, after, found2 := strings.Cut(after, "```caddyfile\n")
	block, _, found3 := strings.Cut(after, "```")
	if !found || !found2 || !found3 {
		t.Fatalf("docs/teams.md has no configuration below %q", section)
	}
	return block
}

// loadTeams loads whole sites, and puts a webhook and feedback into each project.
func (s *site) loadTeams(sites string) {
	s.t.Helper()
	port := s.address[strings.LastIndexByte(s.address, ':')+1:]
	sites = regexp.MustCompile(`(?m)^feedback\.example\.com \{`).ReplaceAllString(sites, "http://:"+port+" {")
	intake := freeAddress(s.t)
	source := fmt.Sprintf(`{
		admin %s
		persist_config off
		default_bind 127.0.0.1
		auto_https off
		storage file_system %s
		userhero {
			queue badger {
				path %s
			}
			webhook of-acme {
				url http://127.0.0.1:9/
				projects proj_acme
			}
			webhook of-globex {
				url http://127.0.0.1:9/
				projects proj_globex
			}
		}
	}
	http://:%s {
		userhero
	}
	%s`, s.admin, filepath.Join(s.dir, "caddy"), s.store(), intake[strings.LastIndexByte(intake, ':')+1:], sites)
	config, _, err := adapt(source)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, source)
	}
	if err := caddy.Load(config, true); err != nil {
		s.t.Fatal(err)
	}
	client.CloseIdleConnections()
	for _, team := range []string{"acme", "globex"} {
		body := fmt.Sprintf(`{"message":"of %s","projectId":"proj_%s"}`, team, team)
		if a, err := request(http.MethodPost, "http://"+intake+"/", body, jsonBody...); err != nil || a.Status != http.StatusAccepted {
			s.t.Fatalf("%d %s (%v)", a.Status, a.Body, err)
		}
	}
}

// checkTeam checks what one team's console shows and takes.
func checkTeam(t *testing.T, team string, readOnly bool, do func(method, path, body string) answer) {
	t.Helper()
	for _, path := range []string{"/api/events", "/api/webhooks"} {
		own := "proj_" + team
		if a := do(http.MethodGet, path, ""); a.Status != 200 || strings.Count(a.Body, `"proj_`) != strings.Count(a.Body, `"`+own+`"`) || !strings.Contains(a.Body, own) {
			t.Errorf("%s, %s: %d %s", team, path, a.Status, a.Body)
		}
	}
	want := http.StatusOK
	if readOnly {
		want = http.StatusForbidden
	}
	if a := do(http.MethodPost, "/api/webhooks/of-"+team+"/disable", ""); a.Status != want {
		t.Errorf("%s pauses its webhook: %d %s", team, a.Status, a.Body)
	}
}

// TestTeamsDocument: with each configuration of docs/teams.md a team gets into its own
// console, which shows its own project, and into no other.
func TestTeamsDocument(t *testing.T) {
	t.Run("passwords", func(t *testing.T) {
		s := newSite(t)
		block := teamsBlock(t, "## With passwords")
		for _, user := range []string{"ada", "bob"} { // the password of ada is "secret", that of bob "other"
			hash := map[string]string{
				"ada": "$2a$04$BQxS9uQ4U8b.xioVgfcUMu6OWrWg3iWqpujI.qaoE2G9sujoTVTGy",
				"bob": "$2a$04$Ft42BAWkGjFrMy.YG6KXzOji0aLHWwXkWp.Zah1a9nvks1Y59H14W",
			}[user]
			block = regexp.MustCompile(user+` \S+`).ReplaceAllLiteralString(block, user+" "+hash)
		}
		s.loadTeams(block)
		basic := map[string]string{"acme": "Basic YWRhOnNlY3JldA==", "globex": "Basic Ym9iOm90aGVy"}
		for mount, other := range map[string]string{"acme": "globex", "globex": "acme"} {
			checkTeam(t, mount, mount == "globex", func(method, path, body string) answer {
				return s.do(method, "/"+mount+path, body, "Authorization", basic[mount])
			})
			// If Caddy does not know a user, it compares the password with a hash of cost 14,
			// which takes many seconds under the race detector.
			patient := &http.Client{Timeout: 5 * time.Minute, Transport: client.Transport}
			for _, credentials := range []string{"", basic[other]} {
				if a := s.doOver(patient, http.MethodGet, "/"+mount+"/api/status", "", "Authorization", credentials); a.Status != 401 {
					t.Errorf("%s with %q: %d %s", mount, credentials, a.Status, a.Body)
				}
			}
		}
	})
	for name, c := range map[string]struct {
		section, address, field string
		allowed                 func(r *http.Request, team string) bool
	}{
		"Authelia": {"### Authelia", "authelia:9091", "Remote-User", func(r *http.Request, team string) bool {
			return r.URL.Path == "/api/authz/forward-auth" && regexp.MustCompile("^/"+team+"/.*$").MatchString(r.Header.Get("X-Forwarded-Uri"))
		}},
		"oauth2-proxy": {"### oauth2-proxy", "oauth2-proxy:4180", "X-Auth-Request-User", func(r *http.Request, team string) bool {
			return r.URL.Path == "/oauth2/auth" && r.URL.Query().Get("allowed_groups") == team
		}},
	} {
		t.Run(name, func(t *testing.T) {
			login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				session, err := r.Cookie("session") // names the team of a user who has logged in
				switch {
				case err != nil:
					w.WriteHeader(http.StatusUnauthorized)
				case !c.allowed(r, session.Value):
					w.WriteHeader(http.StatusForbidden)
				default:
					w.Header().Set(c.field, "user-of-"+session.Value)
				}
			}))
			defer login.Close()
			s := newSite(t)
			s.loadTeams(strings.ReplaceAll(teamsBlock(t, c.section), c.address, login.Listener.Addr().String()))
			for mount, other := range map[string]string{"acme": "globex", "globex": "acme"} {
				as := func(team string) []string { return []string{"Cookie", "session=" + team, c.field, "eve"} }
				checkTeam(t, mount, mount == "globex", func(method, path, body string) answer {
					return s.do(method, "/"+mount+path, body, as(mount)...)
				})
				for _, header := range [][]string{nil, {c.field, "eve"}, as(other)} {
					if a := s.do(http.MethodGet, "/"+mount+"/api/events", "", header...); a.Status < 300 || strings.Contains(a.Body, "proj_") {
						t.Errorf("%s with %q: %d %s", mount, header, a.Status, a.Body)
					}
				}
			}
			if a := s.do(http.MethodGet, "/acme/api/activity", "", "Cookie", "session=acme", c.field, "eve"); !strings.Contains(a.Body, "user-of-acme") || strings.Contains(a.Body, "eve") {
				t.Errorf("the activity names %s", a.Body)
			}
		})
	}
	t.Run("certificates", testTeamsWithCertificates)
}

// TestEmptyProjectOfAConsoleIsRefused: a project that comes to nothing does not open
// everything.
func TestEmptyProjectOfAConsoleIsRefused(t *testing.T) {
	t.Setenv("RELAY_EMPTY", "")
	s := newSite(t)
	for _, project := range []string{"{env.RELAY_EMPTY}", "{env.RELAY_NOT_SET}", "{http.request.host}"} {
		err := caddy.Load(s.config("", "userhero_console {\nno_auth\nproject "+project+"\n}"), true)
		if err == nil || !strings.Contains(err.Error(), "project") {
			t.Errorf("project %s: %v", project, err)
		}
	}
}

func testTeamsWithCertificates(t *testing.T) {
	s := newSite(t)
	block := teamsBlock(t, "## With client certificates")
	port := s.address[strings.LastIndexByte(s.address, ':')+1:]
	server := newTestAuthority(t, "server")
	serverFile := server.write(t, server.issue(t, "server", "acme.example.com", "globex.example.com"))
	block = strings.ReplaceAll(block, "\ttls {", "\ttls "+serverFile+" "+serverFile+" {")
	teams := make(map[string]tls.Certificate)
	for _, team := range []string{"acme", "globex"} {
		authority := newTestAuthority(t, team)
		teams[team] = authority.issue(t, "user-of-"+team)
		block = strings.ReplaceAll(block, "/etc/relay/"+team+"-ca.pem", authority.write(t, authority.own))
		block = strings.ReplaceAll(block, team+".example.com {", "https://"+team+".example.com:"+port+" {")
	}
	s.loadTeams(block)
	for _, team := range []string{"acme", "globex"} {
		if want := `userhero_certificate_lifetime_seconds{kind="site",name="` + team + `.example.com"} 7200`; !strings.Contains(s.metrics(), want) {
			t.Errorf("the metrics do not show %s", want)
		}
	}
	over := func(certificate *tls.Certificate, name, host, method, path, body string) (answer, error) {
		config := &tls.Config{RootCAs: server.pool(), ServerName: name, MinVersion: tls.VersionTLS12}
		if certificate != nil {
			config.Certificates = []tls.Certificate{*certificate}
		}
		c := &http.Client{Timeout: client.Timeout, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		return requestOnce(c, method, "https://127.0.0.1:"+port+path, body, "Host", net.JoinHostPort(host, port))
	}
	for team, other := range map[string]string{"acme": "globex", "globex": "acme"} {
		host, own, foreign := team+".example.com", teams[team], teams[other]
		checkTeam(t, team, team == "globex", func(method, path, body string) answer {
			a, err := over(&own, host, host, method, path, body)
			if err != nil {
				t.Fatal(err)
			}
			return a
		})
		for what, try := range map[string]func() (answer, error){
			"no certificate":             func() (answer, error) { return over(nil, host, host, "GET", "/api/events", "") },
			"the other's certificate":    func() (answer, error) { return over(&foreign, host, host, "GET", "/api/events", "") },
			"the other's TLS connection": func() (answer, error) { return over(&foreign, other+".example.com", host, "GET", "/api/events", "") },
		} {
			if a, err := try(); err == nil && (a.Status < 400 || strings.Contains(a.Body, "proj_")) {
				t.Errorf("%s opens the console of %s: %d %s", what, team, a.Status, a.Body)
			}
		}
	}
}

// testAuthority issues certificates.
type testAuthority struct {
	own tls.Certificate
}

func newTestAuthority(t *testing.T, name string) *testAuthority {
	t.Helper()
	a := new(testAuthority)
	a.own = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name + " authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue makes a certificate for a user or for hosts.
func (a *testAuthority) issue(t *testing.T, name string, hosts ...string) tls.Certificate {
	t.Helper()
	return a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// sign signs a certificate, the first one with its own key.
func (a *testAuthority) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.own.Leaf != nil {
		parent, signer = a.own.Leaf, a.own.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *testAuthority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.own.Leaf)
	return pool
}

// write writes a certificate and its key into one file.
func (a *testAuthority) write(t *testing.T, c tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "certificate.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
