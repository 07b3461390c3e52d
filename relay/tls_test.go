package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
)

// TestTLSSettingsAreKept: the TLS settings of an API webhook are stored and in force
// after a restart.
func TestTLSSettingsAreKept(t *testing.T) {
	t.Parallel()
	certificate, key := selfSigned(t, "sales")
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	defer s.Close()
	q := memqueue.New(memqueue.Options{})
	for i := range 2 {
		r := New(Options{Queue: q})
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Attach(Config{Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			w := WebhookConfig{Name: "w", URL: s.URL, TLS: deliver.TLS{Certificate: certificate, Key: key, CA: certificate}}
			if err := r.Add(t.Context(), w, "ada"); err != nil {
				t.Fatal(err)
			}
		}
		if result, err := r.Test(t.Context(), "w"); err != nil || !result.OK || string(result.Attempt.ResponseBody) != "sales" {
			t.Errorf("start %d: %v, %+v", i+1, err, result)
		}
		if w, _ := r.Webhook("w"); w.TLS.Certificate.Subject != "CN=sales" || len(w.TLS.CA) != 1 {
			t.Errorf("start %d: shown as %+v", i+1, w.TLS)
		}
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// selfSigned creates a self-signed certificate for a receiver at 127.0.0.1 and for a
// client.
func selfSigned(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
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
