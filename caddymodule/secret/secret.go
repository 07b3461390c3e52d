// Package secret reads secrets from a configuration or from flags: it replaces
// Caddy's placeholders and decodes encryption keys. No error of it holds a
// secret. It is tested by itself.
package secret

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Resolve replaces the placeholders in s, such as {env.TOKEN} and
// {file./run/secrets/token}, and removes the newline at the end of a secret file.
// A placeholder that is unknown or empty is an error: no webhook is better than
// one that does not sign. The error names the placeholder, never its value.
func Resolve(repl *caddy.Replacer, s string) (string, error) {
	v, err := repl.ReplaceOrErr(s, true, true)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(v, "\r\n"), nil
}
