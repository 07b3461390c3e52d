package caddymodule

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// maxIdempotencyKey bounds the header field, in bytes: a UUID has 36.
const maxIdempotencyKey = 255

// idempotencyKeys are the names under which a repeat is known: the
// Idempotency-Key of the request and the id the client has chosen, each within
// the project. identity is what the repeat must equal.
func idempotencyKeys(h http.Header, project, clientID string, identity []byte) ([]queue.Key, error) {
	values := h["Idempotency-Key"]
	if len(values) == 0 && clientID == "" {
		return nil, nil
	}
	hash := sha256.Sum256(identity)
	keys := make([]queue.Key, 0, 2)
	if len(values) > 0 {
		if len(values) > 1 || values[0] == "" || len(values[0]) > maxIdempotencyKey {
			return nil, event.NewProblem(http.StatusBadRequest, "Send one Idempotency-Key of 1 to 255 bytes, new for each feedback.")
		}
		keys = append(keys, queue.Key{Name: keyName("key", project, values[0]), Hash: hash})
	}
	if clientID != "" {
		keys = append(keys, queue.Key{Name: keyName("id", project, clientID), Hash: hash})
	}
	return keys, nil
}

// keyName is short whatever the client sends, and different for each kind,
// project and key.
func keyName(kind, project, key string) string {
	h := sha256.New()
	for _, part := range []string{kind, project, key} {
		inner := sha256.Sum256([]byte(part))
		h.Write(inner[:])
	}
	return kind + ":" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
