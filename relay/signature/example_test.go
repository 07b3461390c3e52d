package signature_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/userhero/relay/relay/signature"
)

// A receiver reads the raw body first and verifies it before anything else.
func ExampleVerify() {
	const secret = "demo-secret"
	receiver := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 128<<10))
		if err != nil {
			http.Error(w, "the body is too long", http.StatusBadRequest)
			return
		}
		if err := signature.Verify(secret, r.Header, body); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})

	// What the relay sends.
	const body = `{"event":"feedback.created"}`
	signer, err := signature.NewSigner(secret)
	if err != nil {
		panic(err)
	}
	for _, sent := range []string{body, body + "\n"} {
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(sent))
		request.Header.Set("X-UserHero-Signature", string(signer.AppendPlain(nil, []byte(body))))
		answer := httptest.NewRecorder()
		receiver.ServeHTTP(answer, request)
		fmt.Println(answer.Code)
	}
	// Output:
	// 204
	// 401
}

// A receiver of asymmetric signatures needs no secret, only the public key from the
// console's .well-known/webhook-keys.json.
func ExampleVerifyPublic() {
	key, err := signature.ParseKey("whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=") // the relay's own
	if err != nil {
		panic(err)
	}
	const body = `{"event":"feedback.created"}`
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	request.Header.Set("webhook-id", "dlv_1")
	request.Header.Set("webhook-timestamp", "1767799800")
	request.Header.Set("webhook-signature", string(key.AppendStandard(nil, "dlv_1", 1767799800, []byte(body))))

	public := key.JWK().X // "x" of the published key
	fmt.Println(public)
	fmt.Println(signature.VerifyPublic(public, request.Header, []byte(body)))
	fmt.Println(signature.VerifyPublic(public, request.Header, []byte(body+" ")))
	// Output:
	// 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo
	// <nil>
	// the signature is wrong
}
