package console

import (
	"embed"
	"strings"
)

//go:embed snippets
var snippetFiles embed.FS

// snippet is code that verifies a signature in one language.
type snippet struct{ Name, Code string }

// snippets returns the code that is shown with a new secret. The tests run it.
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
