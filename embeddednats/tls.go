package embeddednats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// config returns the TLS settings of the connections between servers. Both sides verify the
// certificate of the other side. The certificate is read for each connection, so that a
// renewed one is used. The authority is read once.
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
