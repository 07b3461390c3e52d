// Package secret reads the secrets of a configuration or of command-line flags: it
// replaces Caddy's placeholders and decodes encryption keys. It promises that no error
// contains a secret. It does not know what a secret is used for. It has tests of its
// own.
package secret

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Resolve replaces the placeholders in s, such as {env.TOKEN} and
// {file./run/secrets/token}, and removes newlines at the end. It returns an error if a
// placeholder is unknown or empty, because an empty secret would turn signing off. The
// error names the placeholder, never its value, and says whether a file is missing,
// unreadable or empty.
func Resolve(repl *caddy.Replacer, s string) (string, error) {
	if err := checkFiles(s); err != nil {
		return "", err
	}
	v, err := repl.ReplaceOrErr(s, true, true)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(v, "\r\n"), nil
}

var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// checkFiles returns an error for the first {file.…} placeholder whose file cannot be
// read or is empty. Caddy's replacer does not distinguish these: it replaces both with
// an empty text.
func checkFiles(s string) error {
	for _, match := range filePlaceholder.FindAllStringSubmatch(s, -1) {
		content, err := os.ReadFile(match[1])
		if err != nil {
			return fmt.Errorf("reading the secret: %w", err) // err names the file
		}
		if len(bytes.TrimRight(content, "\r\n")) == 0 {
			return fmt.Errorf("reading the secret: the file %s is empty", match[1])
		}
	}
	return nil
}
