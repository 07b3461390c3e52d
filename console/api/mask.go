package api

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/userhero/relay/relay/redact"
)

// errMasked refuses a URL with a hidden part that is not stored.
var errMasked = fmt.Errorf("has %s in place of a hidden part that is not stored; write the full URL", redact.Hidden)

// UnmaskURL completes a URL that a person edited in its shown form. It replaces each
// redact.Hidden by the part of the stored URL that it hides: the query, and the path on
// hosts whose path is the secret.
func UnmaskURL(given, stored string) (string, error) {
	if !strings.Contains(given, redact.Hidden) {
		return given, nil
	}
	to, err := url.Parse(given)
	if err != nil {
		return given, nil //nolint:nilerr // WebhookConfig.Validate reports it
	}
	from, err := url.Parse(stored)
	if err != nil {
		from = new(url.URL)
	}
	var errs []error
	pairs := strings.Split(to.RawQuery, "&")
	for i, pair := range pairs {
		if pair != redact.Hidden {
			continue
		}
		if pairs[i] = from.RawQuery; from.RawQuery == "" {
			errs = append(errs, errMasked)
		}
	}
	to.RawQuery = strings.Join(pairs, "&")
	const hidden = "/" + redact.Hidden
	if to.Path == hidden {
		shown, _ := url.Parse(redact.URL(stored)) // redact.URL returns a URL
		switch {
		case shown.Path == hidden && strings.EqualFold(to.Host, from.Host):
			to.Path, to.RawPath = from.Path, from.RawPath
		case shown.Path == hidden || hidesPath(to):
			errs = append(errs, errMasked)
		}
	}
	return to.String(), errors.Join(errs...)
}

// hidesPath reports whether a path on this host is hidden.
func hidesPath(u *url.URL) bool {
	other := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/x"}
	return redact.Parsed(&other) != other.String()
}
