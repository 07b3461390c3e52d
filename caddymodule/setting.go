package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/caddymodule/secret"
)

// setting is an option that may contain placeholders. If all of them are known when the
// configuration is loaded, the value is fixed then. Otherwise each request has its own value.
type setting struct {
	text       string
	perRequest bool
}

// newSetting reads an option. It returns an error if a placeholder that is known now is empty.
func newSetting(text string) (setting, error) {
	repl := caddy.NewReplacer()
	perRequest := false
	_, err := repl.ReplaceFunc(text, func(name string, value any) (any, error) {
		_, known := repl.Get(name)
		perRequest = perRequest || !known
		if known && caddy.ToString(value) == "" {
			_, err := secret.Resolve(repl, "{"+name+"}")
			return nil, cmp.Or(err, fmt.Errorf("the placeholder {%s} is empty", name))
		}
		return value, nil
	})
	if err != nil || perRequest {
		return setting{text, perRequest}, err
	}
	value, err := secret.Resolve(repl, text)
	if err == nil && value == "" && text != "" {
		err = errors.New("the value is empty")
	}
	return setting{text: value}, err
}

// of returns the value for a request. It returns an error if a placeholder has no value.
func (s setting) of(r *http.Request) (string, error) {
	if !s.perRequest {
		return s.text, nil
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return "", errors.New("the request has no placeholders")
	}
	value, err := secret.Resolve(repl, s.text)
	if err == nil && value == "" { // Promise 6: an empty placeholder never means every project.
		err = fmt.Errorf("%s is empty", s.text)
	}
	return value, err
}
