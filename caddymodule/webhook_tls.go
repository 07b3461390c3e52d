package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/relay/deliver"
)

// TLS are the files of a webhook's TLS settings, named as in Caddy's
// reverse_proxy. They are read when the configuration is loaded; a reload reads
// them again. TLS 1.2 is the least whatever they say.
type TLS struct {
	// The file of the certificate the relay shows to a receiver that asks for
	// one, followed by those that lead to its authority, in PEM.
	ClientCertificateFile string `json:"client_certificate_file,omitempty"`

	// The file of that certificate's private key, in PEM, without a passphrase.
	ClientCertificateKeyFile string `json:"client_certificate_key_file,omitempty"`

	// The files of the authorities the receiver's certificate may come from, in
	// PEM. Where they are given, no others count. Default: the system's.
	RootCAFiles []string `json:"root_ca_pem_files,omitempty"`
}

// resolve reads the files; nil has none.
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

// maxPEM bounds a file: the largest bundles of public authorities are a third of
// this.
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

// unmarshalClient reads `tls_client_auth <cert_file> <key_file>`.
func (t *TLS) unmarshalClient(d *caddyfile.Dispenser) error {
	if !d.Args(&t.ClientCertificateFile, &t.ClientCertificateKeyFile) || d.NextArg() {
		return d.ArgErr()
	}
	return nil
}
