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
