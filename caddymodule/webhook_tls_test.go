package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestTLSFilesAreReadWithTheConfiguration: `caddy validate` reports a file that is
// missing or invalid, and every load reads the files again.
func TestTLSFilesAreReadWithTheConfiguration(t *testing.T) {
	authority, _, _ := strings.Cut(selfSigned(t), "-----BEGIN PRIVATE KEY")
	t.Setenv("RELAY_TEST_CA", writeFile(t, "ca.pem", authority))
	file := writeFile(t, "own.pem", selfSigned(t))
	w := Webhook{Name: "w", URL: "https://r.example/", TLS: &TLS{
		ClientCertificateFile: file, ClientCertificateKeyFile: file, RootCAFiles: []string{"{env.RELAY_TEST_CA}"},
	}}
	before, err := w.resolve(caddy.NewReplacer())
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Validate(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte(selfSigned(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := w.resolve(caddy.NewReplacer())
	if err != nil {
		t.Fatal(err)
	}
	if before.TLS.Key == after.TLS.Key {
		t.Error("a file that changed was not read again")
	}
	for name, c := range map[string]struct {
		tls  TLS
		want string
	}{
		"a missing file":  {TLS{RootCAFiles: []string{"/nowhere/ca.pem"}}, "tls_ca /nowhere/ca.pem: "},
		"a folder":        {TLS{RootCAFiles: []string{t.TempDir()}}, "is no file"},
		"something else":  {TLS{RootCAFiles: []string{writeFile(t, "x", "hello")}}, "is not PEM"},
		"a key in it":     {TLS{RootCAFiles: []string{file}}, "certificates only"},
		"half a pair":     {TLS{ClientCertificateFile: file}, "both"},
		"the wrong key":   {TLS{ClientCertificateFile: file, ClientCertificateKeyFile: writeFile(t, "k", selfSigned(t))}, "does not match"},
		"no such setting": {TLS{RootCAFiles: []string{"{env.RELAY_TEST_NOWHERE}"}}, "RELAY_TEST_NOWHERE"},
	} {
		wrong := Webhook{Name: "w", URL: "https://r.example/", TLS: &c.tls}
		if _, err := wrong.resolve(caddy.NewReplacer()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// selfSigned returns a certificate of 127.0.0.1 and its key, in PEM.
func selfSigned(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
