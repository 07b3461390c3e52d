package console

import (
	"embed"
	"strings"
)

//go:embed snippets
var snippetFiles embed.FS

// snippet is how to verify a signature in one language.
type snippet struct{ Name, Code string }

// snippets are shown where a secret is. They are run by the tests as they are.
func snippets() []snippet {
	list := []snippet{{"Node", "verify.mjs"}, {"Python", "verify.py"}, {"Go", "verify.go.txt"}, {"PHP", "verify.php"}}
	for i := range list {
		code, err := snippetFiles.ReadFile("snippets/" + list[i].Code)
		if err != nil {
			panic(err) // it is embedded
		}
		list[i].Code = strings.TrimSpace(string(code))
	}
	return list
}
