package intake

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// maxIdempotencyKey bounds the header field, in bytes. A UUID has 36.
const maxIdempotencyKey = 255

// idempotencyKey reads the Idempotency-Key of a request. Without one it returns zero.
// identity is what a repeat must equal. scope is where the key counts: for a POST the
// project, for an update the project, the method and the feedback's id.
func idempotencyKey(h http.Header, identity []byte, scope ...string) (queue.Key, error) {
	values := h["Idempotency-Key"]
	if len(values) == 0 {
		return queue.Key{}, nil
	}
	if len(values) > 1 || values[0] == "" || len(values[0]) > maxIdempotencyKey {
		return queue.Key{}, event.NewProblem(http.StatusBadRequest, "Send one Idempotency-Key of 1 to 255 bytes, new for each feedback.")
	}
	return queue.Key{Name: keyName(append(scope, values[0])...), Hash: sha256.Sum256(identity)}, nil
}

// keyName returns a short name that is different for different names.
func keyName(names ...string) string {
	h := sha256.New()
	for _, name := range append([]string{"key"}, names...) {
		inner := sha256.Sum256([]byte(name))
		h.Write(inner[:])
	}
	return "key:" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
