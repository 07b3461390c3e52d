package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"net/http"
)

// openAPI describes the API to people and programs. Its tests hold it against
// the routes, the types of the answers and real answers.
//
//go:embed openapi.json
var openAPI []byte

// describe answers with the OpenAPI document, which bears the relay's version.
func (s *server) describe(*http.Request) (any, error) {
	version, err := json.Marshal(s.version)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(bytes.Replace(openAPI, []byte(`"version": "0"`), append([]byte(`"version": `), version...), 1)), nil
}
