package deliver

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// TLS holds a webhook's TLS settings if they differ from the public web's. The zero
// value means that the relay sends no client certificate and trusts the system's
// authorities. All fields are PEM.
type TLS struct {
	// Certificate is the client certificate, followed by the chain to its authority.
	// The relay sends it if a receiver asks. Key is its private key, which is never
	// shown again. Set both or none.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	// CA holds the authorities that may sign the receiver's certificate. If it is set,
	// no other authority is trusted.
	CA string `json:"ca,omitempty"`
}

// Validate checks the settings.
func (t TLS) Validate() error {
	_, _, err := t.compile()
	return err
}

// TLSStatus holds what may be shown of a webhook's TLS settings.
type TLSStatus struct {
	Certificate CertificateStatus   // client certificate; zero if there is none
	CA          []CertificateStatus // empty means the system's
}

// CertificateStatus describes a certificate.
type CertificateStatus struct {
	Subject         string
	Begins, Expires time.Time
}

// defaultTLS returns the TLS settings for receivers without their own. It offers only
// HTTP/1.1, because net/http's client does not bound the cost of HTTP/2 control frames.
func defaultTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}} // Guard: HTTP/2 is not offered.
}

// compile reads the PEM. Its errors reveal nothing of the key.
func (t TLS) compile() (*tls.Config, TLSStatus, error) {
	c, s := defaultTLS(), TLSStatus{}
	if (t.Certificate == "") != (t.Key == "") {
		return nil, s, errors.New("a client certificate and its key are given together")
	}
	if t.Certificate != "" {
		pair, err := clientCertificate(t.Certificate, t.Key)
		if err != nil {
			return nil, s, fmt.Errorf("client certificate: %w", err)
		}
		// Send the certificate whatever authorities the receiver lists. Many lists are
		// incomplete, and crypto/tls would then send none.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		s.Certificate = certificateStatus(pair.Leaf)
	}
	if t.CA != "" {
		authorities, err := certificates(t.CA)
		if err != nil {
			return nil, s, fmt.Errorf("own authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		for _, a := range authorities {
			c.RootCAs.AddCert(a)
			s.CA = append(s.CA, certificateStatus(a))
		}
	}
	return c, s, nil
}

func certificateStatus(c *x509.Certificate) CertificateStatus {
	return CertificateStatus{Subject: c.Subject.String(), Begins: c.NotBefore, Expires: c.NotAfter}
}

func clientCertificate(certificate, key string) (tls.Certificate, error) {
	if block, _ := pem.Decode([]byte(key)); block != nil && (block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")) {
		return tls.Certificate{}, errors.New("the key has a passphrase; give it without, for example by: openssl pkey -in KEY -out PLAIN")
	}
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return pair, errors.New(strings.TrimPrefix(err.Error(), "tls: "))
	}
	return pair, nil
}

// certificates reads all of a PEM text. The text must contain only certificates: a key
// in it must be a mistake.
func certificates(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a %s; give certificates only", strings.ToLower(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate; give PEM, which begins with -----BEGIN CERTIFICATE-----")
	}
	return all, nil
}
