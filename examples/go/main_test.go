package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReceiverAcceptsOnlySignedBodies(t *testing.T) {
	t.Parallel()
	const body = `{"event":"feedback.created","data":{"id":"fb_1","message":"hi"}}`
	// printf %s "$body" | openssl dgst -sha256 -hmac demo-secret
	const signature = "sha256=a07d887e5f56dd835af0b05e88f8fc5f9b7a062462f4af5b25409cf28ae414db"
	for _, c := range []struct {
		name, body, signature string
		status                int
	}{
		{"signed", body, signature, http.StatusNoContent},
		{"changed", body + " ", signature, http.StatusUnauthorized},
		{"unsigned", body, "", http.StatusUnauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			request := httptest.NewRequest(http.MethodPost, "/webhook/userhero", strings.NewReader(c.body))
			request.Header.Set("X-UserHero-Signature", c.signature)
			answer := httptest.NewRecorder()
			receiver("demo-secret")(answer, request)
			if answer.Code != c.status {
				t.Errorf("status %d, want %d", answer.Code, c.status)
			}
		})
	}
}
