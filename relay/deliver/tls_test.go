package deliver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// authority is a certificate authority for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{key: key, certificate: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue makes a certificate. change may make it invalid.
func (a authority) issue(t *testing.T, name string, change func(*x509.Certificate)) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.certificate, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// tlsReceiver is a TLS server that answers with the name of the client's certificate.
func tlsReceiver(t *testing.T, certificate, key string, change func(*tls.Config)) *httptest.Server {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if change != nil {
		change(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func tlsTarget(t *testing.T, c *Client, url string, settings TLS) *Receiver {
	t.Helper()
	config := Config{URL: url, TLS: settings, Timeout: 5 * time.Second}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	to, err := c.Receiver(config)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestEachWebhookHasItsOwnTLSIdentity: a receiver that asks for certificates sees each
// webhook's own, in whatever order attempts come. No connection carries requests of two
// webhooks.
func TestEachWebhookHasItsOwnTLSIdentity(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "authority")
	certificate, key := ca.issue(t, "receiver", nil)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM([]byte(ca.pem))
	s := tlsReceiver(t, certificate, key, func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, clients
	})
	c, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]*Receiver{"": tlsTarget(t, c, s.URL, TLS{CA: ca.pem})}
	for _, name := range []string{"sales", "support"} {
		certificate, key := ca.issue(t, name, nil)
		targets[name] = tlsTarget(t, c, s.URL, TLS{Certificate: certificate, Key: key, CA: ca.pem})
	}
	for range 3 {
		for name, to := range targets {
			a, o := to.Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()})
			if !o.OK || string(a.ResponseBody) != name {
				t.Errorf("webhook %q was seen as %q: %+v", name, a.ResponseBody, a.Error)
			}
		}
	}
	// Only this webhook trusts the authority.
	to := tlsTarget(t, c, s.URL, TLS{})
	if a, o := to.Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()}); o.OK || a.ErrorClass != classTLS {
		t.Errorf("a webhook without the authority: %+v", a)
	}
}

func TestReceiversWithoutProofAreNotTrusted(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "authority"), newAuthority(t, "another")
	for _, c := range []struct {
		name   string
		from   authority
		change func(*x509.Certificate)
		server func(*tls.Config)
		ok     bool
	}{
		{name: "what is right", from: ca, ok: true},
		{name: "another name", from: ca, change: func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }},
		{name: "expired", from: ca, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }},
		{name: "not valid yet", from: ca, change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }},
		{name: "another authority", from: other},
		{name: "a client's", from: ca, change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		{name: "TLS 1.1", from: ca, server: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
		{name: "who asks for a certificate", from: ca, server: func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			certificate, key := c.from.issue(t, "receiver", c.change)
			s := tlsReceiver(t, certificate, key, c.server)
			relay, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			a, o := tlsTarget(t, relay, s.URL, TLS{CA: ca.pem}).Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()})
			// In TLS 1.3 a receiver that got no certificate closes the connection after
			// the handshake, and its reason may be lost.
			late := c.name == "who asks for a certificate" && a.ErrorClass == classReset
			if o.OK != c.ok || !c.ok && a.ErrorClass != classTLS && !late {
				t.Errorf("%+v, class %q, error %q", o, a.ErrorClass, a.Error)
			}
		})
	}
}

func TestWrongTLSSettingsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "authority")
	certificate, key := ca.issue(t, "client", nil)
	_, otherKey := ca.issue(t, "client", nil)
	for _, c := range []struct {
		name string
		url  string
		tls  TLS
		want string
	}{
		{"no key", "https://r.example/", TLS{Certificate: certificate}, "given together"},
		{"no certificate", "https://r.example/", TLS{Key: key}, "given together"},
		{"the key of another", "https://r.example/", TLS{Certificate: certificate, Key: otherKey}, "does not match"},
		{"the other way round", "https://r.example/", TLS{Certificate: key, Key: certificate}, "client certificate"},
		{"a passphrase", "https://r.example/", TLS{Certificate: certificate, Key: "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"}, "passphrase"},
		{"no PEM", "https://r.example/", TLS{CA: "MIIB"}, "there is no certificate"},
		{"a key among authorities", "https://r.example/", TLS{CA: ca.pem + key}, "give certificates only"},
		{"a cut authority", "https://r.example/", TLS{CA: "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"}, "certificate 1"},
		{"http", "http://r.example/", TLS{CA: ca.pem}, "https"},
	} {
		err := Config{URL: c.url, TLS: c.tls}.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), key[40:80]) || strings.Contains(err.Error(), otherKey[40:80])) {
			t.Errorf("%s: the error holds the key", c.name)
		}
	}
}
