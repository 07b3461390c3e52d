package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/relay/deliver"
)

// TLS names the files of the TLS settings of a webhook or of a queue's servers; the names are those of Caddy's
// `reverse_proxy`. The files are read whenever a configuration is loaded. The lowest
// TLS version is always 1.2.
type TLS struct {
	// The PEM file of the client certificate, followed by its intermediate
	// certificates. At most 1 MiB. Default: no client certificate.
	ClientCertificateFile string `json:"client_certificate_file,omitempty"`

	// The PEM file of the client certificate's private key, without a passphrase. At
	// most 1 MiB. Required with a client certificate.
	ClientCertificateKeyFile string `json:"client_certificate_key_file,omitempty"`

	// The PEM files of the authorities that may have issued the receiver's certificate.
	// If any are given, only these are trusted. At most 1 MiB each. Default: the
	// system's authorities.
	RootCAFiles []string `json:"root_ca_pem_files,omitempty"`
}

// orNil returns nil if no file is named.
func (t TLS) orNil() *TLS {
	if t.ClientCertificateFile+t.ClientCertificateKeyFile == "" && t.RootCAFiles == nil {
		return nil
	}
	return &t
}

// resolve reads and checks the files. A nil TLS has none.
func (t *TLS) resolve(repl *caddy.Replacer) (deliver.TLS, error) {
	var c deliver.TLS
	if t == nil {
		return c, nil
	}
	if (t.ClientCertificateFile == "") != (t.ClientCertificateKeyFile == "") {
		return c, errors.New("tls_client_auth: name the files of both the certificate and its key")
	}
	var err error
	if t.ClientCertificateFile != "" {
		if c.Certificate, err = readPEM(repl, t.ClientCertificateFile); err == nil {
			c.Key, err = readPEM(repl, t.ClientCertificateKeyFile)
		}
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			return c, fmt.Errorf("tls_client_auth %s %s: %w", t.ClientCertificateFile, t.ClientCertificateKeyFile, err)
		}
	}
	var all []string
	for _, file := range t.RootCAFiles {
		text, err := readPEM(repl, file)
		if err == nil {
			err = deliver.TLS{CA: text}.Validate()
		}
		if err != nil {
			return c, fmt.Errorf("tls_ca %s: %w", file, err)
		}
		all = append(all, text)
	}
	c.CA = strings.Join(all, "\n")
	return c, nil
}

// maxPEM is the largest size of a file in bytes. The largest bundles of public
// authorities have a third of it.
const maxPEM = 1 << 20

func readPEM(repl *caddy.Replacer, file string) (string, error) {
	name, err := secret.Resolve(repl, file)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(name)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxPEM) {
		return "", fmt.Errorf("%s is no file of at most 1 MiB", name)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return "", fmt.Errorf("%w; name a file that the user Caddy runs as can read", err)
	}
	if !strings.Contains(string(text), "-----BEGIN ") {
		return "", fmt.Errorf("%s is not PEM, which begins with -----BEGIN", name)
	}
	return string(text), nil
}

// clientOption returns the option `tls_client_auth <cert_file> <key_file>`.
func (t *TLS) clientOption() option.Option {
	return option.Values("tls_client_auth", 2, &t.ClientCertificateFile, &t.ClientCertificateKeyFile)
}
