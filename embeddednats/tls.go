package embeddednats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// config returns the TLS of the connections between servers: each verifies the other's
// certificate. The certificate is read at each connection, so that one that was renewed
// is used; the authority is read once.
func (t *RouteTLS) config() (*tls.Config, error) {
	if t.CertificateFile == "" || t.KeyFile == "" || t.CAFile == "" {
		return nil, errors.New("name the files of the certificate, its key and the authority")
	}
	if _, err := tls.LoadX509KeyPair(t.CertificateFile, t.KeyFile); err != nil {
		return nil, fmt.Errorf("%s, %s: %w", t.CertificateFile, t.KeyFile, err)
	}
	text, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", t.CAFile)
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(t.CertificateFile, t.KeyFile)
		return &pair, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() },
		ClientAuth:           tls.RequireAndVerifyClientCert,
		ClientCAs:            authority,
		RootCAs:              authority,
	}, nil
}
