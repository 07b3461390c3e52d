package caddymodule

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// resolveSecret replaces the placeholders in s, such as {env.TOKEN} and
// {file./run/secrets/token}, and takes away the newline that secret files end
// with. A placeholder that is unknown or empty is an error: a webhook without
// its signature would be worse than one that is not there. The error names the
// placeholder, never its value.
func resolveSecret(repl *caddy.Replacer, s string) (string, error) {
	v, err := repl.ReplaceOrErr(s, true, true)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(v, "\r\n"), nil
}
