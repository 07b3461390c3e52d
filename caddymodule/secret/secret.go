// Package secret reads secrets from a configuration or from flags: it replaces
// Caddy's placeholders and decodes encryption keys. No error of it holds a
// secret. It is tested by itself.
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
// {file./run/secrets/token}, and removes the newline at the end of a secret file.
// A placeholder that is unknown or empty is an error: no webhook is better than
// one that does not sign. The error names the placeholder, never its value, and
// says whether a file is missing, unreadable or empty.
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

// checkFiles reports the first file that a {file.…} placeholder names and that
// has no content. To Caddy's replacer a file that cannot be read is an empty one.
func checkFiles(s string) error {
	for _, match := range filePlaceholder.FindAllStringSubmatch(s, -1) {
		content, err := os.ReadFile(match[1])
		if err != nil {
			return fmt.Errorf("reading the secret: %w", err) // it names the file
		}
		if len(bytes.TrimRight(content, "\r\n")) == 0 {
			return fmt.Errorf("reading the secret: the file %s is empty", match[1])
		}
	}
	return nil
}
