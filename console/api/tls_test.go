package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestClientCertificatesByTheAPI: they are sent as PEM, used, named in answers,
// replaced as a whole, and their keys are never shown.
func TestClientCertificatesByTheAPI(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.String())
	}))
	receiver.Config.ErrorLog = log.New(io.Discard, "", 0)
	receiver.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	receiver.StartTLS()
	defer receiver.Close()
	pair := receiver.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	settings, err := json.Marshal(map[string]any{
		"name": "bank", "url": receiver.URL,
		"tls": map[string]string{"client_certificate": certificate, "client_certificate_key": keyPEM, "root_ca": certificate},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := newManaged(t)
	_, text := m.do("POST", "/webhooks", string(settings), 201)
	if !strings.Contains(text, `"tls":{"client_certificate":{"subject":"O=Acme Co"`) || !strings.Contains(text, `"root_ca":[{"subject":"O=Acme Co"`) {
		t.Errorf("the certificates are not named: %s", text)
	}
	if got, _ := m.do("POST", "/webhooks/bank/test", "", 200); got["ok"] != true || got["response_body"] != "O=Acme Co" {
		t.Errorf("tested: %v", got)
	}
	m.do("PATCH", "/webhooks/bank", `{"concurrency":2}`, 200)
	for _, path := range []string{"/webhooks", "/webhooks/bank", "/activity"} {
		if _, text := m.do("GET", path, "", 200); strings.Contains(text, "BEGIN") || strings.Contains(text, keyPEM[40:80]) {
			t.Errorf("%s shows PEM: %s", path, text)
		}
	}
	if _, text := m.do("PATCH", "/webhooks/bank", `{"tls":{"client_certificate":"`+strings.ReplaceAll(certificate, "\n", `\n`)+`"}}`, 422); !strings.Contains(text, "given together") {
		t.Errorf("a certificate without its key: %s", text)
	}
	if got, _ := m.do("PATCH", "/webhooks/bank", `{"tls":{}}`, 200); got["tls"] != nil {
		t.Errorf("taken away: %v", got)
	}
	if got, _ := m.do("POST", "/webhooks/bank/test", "", 200); got["ok"] != false || got["error_class"] != "tls" {
		t.Errorf("tested without: %v", got)
	}
}
