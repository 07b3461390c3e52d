package api

import (
	"errors"
	"testing"

	"github.com/userhero/relay/relay/redact"
)

func TestMaskNeverTakesTheSecretsPlace(t *testing.T) {
	t.Parallel()
	const (
		token = "https://a.example/hook?token=t%2F1&id=7"
		slack = "https://hooks.slack.com/services/T0/B1/se%2Fcret?x=1"
	)
	for _, c := range []struct {
		given, stored, want string
		refused             bool
	}{
		{redact.Marked(token), token, token, false},
		{"https://a.example/other?...", token, "https://a.example/other?token=t%2F1&id=7", false},
		{"https://b.example/hook?...&new=1", token, "https://b.example/hook?token=t%2F1&id=7&new=1", false},
		{"https://a.example/hook?token=fresh", token, "https://a.example/hook?token=fresh", false},
		{"https://a.example/hook", token, "https://a.example/hook", false},
		{"https://a.example/hook?...", "https://a.example/hook", "", true},
		{"https://a.example/hook?...", "", "", true},
		{redact.Marked(slack), slack, slack, false},
		{"https://hooks.slack.com/...", slack, "https://hooks.slack.com/services/T0/B1/se%2Fcret", false},
		{"https://hooks.slack.com/services/T0/B1/new", slack, "https://hooks.slack.com/services/T0/B1/new", false},
		{"https://b.example/...", slack, "", true},
		{"https://hooks.slack.com/...", token, "", true},
		{"https://hooks.slack.com/...", "", "", true},
		{"https://a.example/...", token, "https://a.example/...", false},
		{"nowhere...", token, "nowhere...", false},
		{"://...", token, "://...", false},
	} {
		got, err := UnmaskURL(c.given, c.stored)
		if c.refused != errors.Is(err, errMasked) || !c.refused && got != c.want {
			t.Errorf("%s over %s: %s, %v; want %s", c.given, c.stored, got, err, c.want)
		}
	}
}
