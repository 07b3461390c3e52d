package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
)

// openAPI is the OpenAPI document of the API, written by hand. Tests compare it with
// the routes, the types and every answer.
//
//go:embed openapi.json
var openAPI []byte

// describe returns the OpenAPI document with the relay's version and the bounds of the
// scope.
func (s *server) describe(*http.Request) (any, error) {
	version, err := json.Marshal(s.version)
	if err != nil {
		return nil, err
	}
	text := bytes.Replace(openAPI, []byte(`"version": "0"`), append([]byte(`"version": `), version...), 1)
	if !s.relay.Scoped() && !s.relay.ReadOnly() {
		return json.RawMessage(text), nil
	}
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	info := document["info"].(map[string]any)
	description := info["description"].(string)
	if s.relay.Scoped() {
		description += "\n\nThis address has the feedback of " + strings.Join(s.relay.Projects(), ", ") + ", its deliveries, " +
			"and the webhooks whose projects are not empty and all among these. Everything else is answered as what does not exist. " +
			"A webhook that is added here gets these projects, or those of them that it names, and reaches public addresses only."
	}
	if s.relay.ReadOnly() {
		description += "\n\nThis address is read-only: every other request is answered 403."
		onlyReads(document["paths"].(map[string]any))
	}
	info["description"] = description
	return document, nil
}

// onlyReads removes the requests that change anything from a document's paths.
func onlyReads(paths map[string]any) {
	for path, item := range paths {
		operations := item.(map[string]any)
		maps.DeleteFunc(operations, func(method string, _ any) bool { return method != "get" && method != "parameters" })
		if operations["get"] == nil {
			delete(paths, path)
		}
	}
}
