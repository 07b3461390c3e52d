package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"net/http"
)

// openAPI is the OpenAPI document of the API, written by hand. Tests compare it with
// the routes, the types and every answer.
//
//go:embed openapi.json
var openAPI []byte

// describe returns the OpenAPI document with the relay's version.
func (s *server) describe(*http.Request) (any, error) {
	version, err := json.Marshal(s.version)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(bytes.Replace(openAPI, []byte(`"version": "0"`), append([]byte(`"version": `), version...), 1)), nil
}
