package deliver

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/http/httpguts"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/redact"
	"github.com/userhero/relay/relay/signature"
)

// Config holds the settings for one webhook's receiver.
type Config struct {
	// URL is the receiver's address: absolute, http or https.
	URL string
	// Secret signs the requests. If it is empty, requests are not signed.
	Secret string
	// PreviousSecret also signs requests while the secret is being rotated.
	PreviousSecret string
	// PreviousUntil is when the previous secret stops signing. If it is zero, it signs
	// for as long as it is configured.
	PreviousUntil time.Time
	// SigningKey and PreviousSigningKey are ed25519 private keys that sign besides, both
	// of them. Empty means none.
	SigningKey, PreviousSigningKey string
	// PreviousSigningUntil is when the previous key stops signing. If it is zero, it signs
	// for as long as it is configured.
	PreviousSigningUntil time.Time
	// Header is sent with every attempt, in this spelling.
	Header http.Header
	// TLS holds a client certificate if the receiver asks for one, and the authorities
	// that sign the receiver's certificate if they are not public.
	TLS TLS
	// Timeout bounds one attempt.
	Timeout time.Duration
	// UserAgent is the value of the User-Agent header.
	UserAgent string
}

// SettingError reports what is wrong with one setting of a webhook.
type SettingError struct {
	Setting string // its name in the Caddyfile: url, header, …
	Err     error
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }

// Unwrap returns the error without the name of the setting.
func (e *SettingError) Unwrap() error { return e.Err }

// Validate checks URL, secrets, header and TLS. It returns a SettingError for each
// wrong setting, joined.
func (c Config) Validate() error {
	var errs []error
	wrong := func(setting, format string, args ...any) {
		errs = append(errs, &SettingError{setting, fmt.Errorf(format, args...)})
	}
	switch u, err := parseURL(c.URL); {
	case err != nil && !errors.Is(err, errNoURL):
		wrong("url", "%w", err)
	case err != nil || u.Scheme != "http" && u.Scheme != "https":
		wrong("url", "%w", errNoURL)
	case u.User != nil:
		wrong("url", "credentials do not belong into the URL; send them with header Authorization")
	case u.Fragment != "":
		wrong("url", "a fragment is never sent; leave it out")
	}
	for setting, secret := range map[string]string{"secret": c.Secret, "previous secret": c.PreviousSecret} {
		if _, err := newSigner(secret); err != nil {
			wrong(setting, "%w", err)
		}
	}
	for setting, key := range map[string]string{"signing_key": c.SigningKey, "previous signing_key": c.PreviousSigningKey} {
		if key != "" {
			if _, err := signature.ParseKey(key); err != nil {
				wrong(setting, "%w", err)
			}
		}
	}
	if c.PreviousSigningKey != "" && c.SigningKey == "" {
		wrong("signing_key", "a previous key needs a present one")
	}
	if c.PreviousSecret != "" && c.Secret == "" {
		wrong("secret", "a previous secret needs a present one")
	}
	for name, values := range c.Header {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			wrong("header", "%q is no header name", name)
		case isOwnHeader(canonical):
			wrong("header", "%s is the relay's own and cannot be set", canonical)
		}
		for _, v := range values {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				wrong("header", "the value of %s has a control character", canonical)
			}
		}
	}
	if c.TLS != (TLS{}) {
		if err := c.TLS.Validate(); err != nil {
			wrong("tls", "%w", err)
		}
		if !strings.HasPrefix(strings.ToLower(c.URL), "https:") {
			wrong("tls", "is for https URLs; over http nobody would ask for it")
		}
	}
	return errors.Join(errs...)
}

// Receiver is one webhook's receiver. Its settings are compiled once and never change.
// All methods may be called from any goroutine.
type Receiver struct {
	config   Config
	url      *url.URL // in the form that is sent
	client   *Client
	secret   *signature.Signer // nil: requests are not signed
	previous *signature.Signer // nil: no rotation
	keys     []*signature.Key  // of asymmetric signatures: the present one, then the previous one
	tls      TLSStatus
	// refused is why nothing may be sent to the URL, whatever its host resolves to.
	refused error
	// request is the template of every request.
	request  *http.Request
	template templateHeader
	// described holds the attributes that the spans of all requests share.
	described []attribute.KeyValue

	// usePresent reports whether, during a rotation, X-UserHero-Signature is made with
	// the present secret, because that signature worked last.
	usePresent atomic.Bool
}

// Receiver compiles the settings of a receiver. A URL that an older version accepted
// may be invalid now: each attempt then fails with the reason.
func (c *Client) Receiver(config Config) (*Receiver, error) {
	u, err := parseURL(config.URL)
	if errors.Is(err, errNoURL) {
		return nil, fmt.Errorf("url: %w", err)
	}
	r := &Receiver{config: config, url: u, refused: c.egress.target(u)}
	if err != nil {
		r.refused = fmt.Errorf("%w: %w", errEgress, err)
	}
	if r.client, r.tls, err = c.withTLS(config.TLS); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if r.secret, err = newSigner(config.Secret); err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	if r.previous, err = newSigner(config.PreviousSecret); err != nil {
		return nil, fmt.Errorf("previous secret: %w", err)
	}
	for _, key := range []string{config.SigningKey, config.PreviousSigningKey} {
		if key == "" {
			continue
		}
		k, err := signature.ParseKey(key)
		if err != nil {
			return nil, fmt.Errorf("signing_key: %w", err)
		}
		r.keys = append(r.keys, k)
	}
	r.request = &http.Request{Method: http.MethodPost, URL: u, Header: make(http.Header)}
	r.template = newTemplate(config)
	r.described = describe(u)
	return r, nil
}

// newSigner returns nil if the secret is empty: requests are not signed.
func newSigner(secret string) (*signature.Signer, error) {
	if secret == "" {
		return nil, nil
	}
	return signature.NewSigner(secret)
}

// Inherit copies from a receiver with the same secrets which signature worked last.
func (t *Receiver) Inherit(former *Receiver) {
	if t.config.Secret == former.config.Secret && t.config.PreviousSecret == former.config.PreviousSecret {
		t.usePresent.Store(former.usePresent.Load())
	}
}

// Rotating reports whether the previous secret still signs.
func (t *Receiver) Rotating(now time.Time) bool {
	return t.previous != nil && (t.config.PreviousUntil.IsZero() || now.Before(t.config.PreviousUntil))
}

// keysAt returns the keys that sign at a time.
func (t *Receiver) keysAt(now time.Time) []*signature.Key {
	if until := t.config.PreviousSigningUntil; len(t.keys) > 1 && !until.IsZero() && !now.Before(until) {
		return t.keys[:1]
	}
	return t.keys
}

// PublicKeys returns the public keys of the asymmetric signatures that are made at a time.
func (t *Receiver) PublicKeys(now time.Time) (keys []signature.JWK) {
	for _, k := range t.keysAt(now) {
		keys = append(keys, k.JWK())
	}
	return keys
}

// Host returns the URL's host and port.
func (t *Receiver) Host() string { return t.url.Host }

// ShownURL returns the URL without its secrets, see package redact.
func (t *Receiver) ShownURL() string { return redact.Parsed(t.url) }

// TLS returns the parts of the TLS settings that may be shown.
func (t *Receiver) TLS() TLSStatus { return t.tls }

// Message is the content of an attempt.
type Message struct {
	ID     string // of the delivery
	Type   string // of the event
	Number int    // of the attempt within its ladder, from 1
	Body   []byte
	// MediaType is that of the body. Empty means application/json.
	MediaType string
	Trace     queue.TraceContext // of the event
	Tracer    trace.Tracer       // nil: no spans
	Test      bool               // sent with X-UserHero-Test
	Started   time.Time          // start of the attempt's time limit
	// Lease, if it is not nil, is asked right before each request is written whether
	// another relay may have the delivery. Then the attempt is cancelled.
	Lease interface{ Lost() bool }
}
