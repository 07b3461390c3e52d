package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestChatToolHearsOfFeedbackAndOfFailingWebhooks: a Caddyfile's bodies make what is
// sent, without Caddy's placeholders, and a webhook that fails is reported to the one
// that subscribes.
func TestChatToolHearsOfFeedbackAndOfFailingWebhooks(t *testing.T) {
	s, chat, own, broken := newSite(t), newHook(t), newHook(t), newHook(t)
	broken.status = 500
	s.load(`console_url https://feedback.example.com/relay
	webhook chat {
		url `+chat.URL+`
		body discord
		events feedback.created webhook.failing
	}
	webhook own {
		url `+own.URL+"\nbody `{\"text\": \"{http.request.host} \" + data.message, \"low\": data.rating <= 2}`"+`
	}
	webhook broken {
		url `+broken.URL+`/hook?token=canary
		retry none
	}`, "userhero")
	s.post(`{"message":"does @everyone see <this>?"}`)
	if got := own.await(t, 1)[0]; string(got.Body) != `{"text":"{http.request.host} does @everyone see <this>?","low":false}` {
		t.Errorf("own got %s", got.Body)
	}
	arrived := chat.await(t, 2)
	var all string
	for _, a := range arrived {
		var message struct {
			Embeds []struct{ Title, Description, URL string }
		}
		if err := json.Unmarshal(a.Body, &message); err != nil || len(message.Embeds) != 1 {
			t.Fatalf("chat got %s, %v", a.Body, err)
		}
		all += a.Header.Get("X-UserHero-Event") + " " + string(a.Body) + "\n"
	}
	for _, want := range []string{"feedback.created ", "@\u200beveryone", "webhook.failing ", `Webhook \"broken\" is failing`, "https://feedback.example.com/relay/webhooks/broken", "/relay/events/evt_"} {
		if !strings.Contains(strings.ReplaceAll(all, `\\`, ""), want) {
			t.Errorf("chat does not hear %s:\n%s", want, all)
		}
	}
	if strings.Contains(all, "canary") {
		t.Errorf("chat reads a secret: %s", all)
	}
}

// TestWrongSettingsOfBodiesOwnersAndKeysAreRefused: the configuration says what is wrong
// and where, before anything is loaded.
func TestWrongSettingsOfBodiesOwnersAndKeysAreRefused(t *testing.T) {
	s := newSite(t)
	for option, want := range map[string]string{
		"body `{\"text\": dta.message}`":               "body: 1:10: undeclared reference to 'dta'",
		"body `data.rating <= 2`":                      "gives a bool; it must give a map, a list or a string",
		"body slak":                                    "it can be discord, slack, teams",
		"body `{\"a\": data.m.matches(data.pattern)}`": "must be written as a text in quotes",
		"notify owner@example.com":                     "nothing sends mails; configure notify smtp",
		"notify nobody":                                "is no e-mail address",
		"events webhook.paused":                        "there is no event type \"webhook.paused\"",
		"signing_key secret":                           "signing_key: a signing key is an ed25519 private key in PEM, or begins with whsk_",
	} {
		config := s.config("webhook w {\nurl https://w.example.com\n"+option+"\n}", "respond ok")
		var parsed caddy.Config
		if err := json.Unmarshal(config, &parsed); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&parsed); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want an error with %q, got %v", option, want, err)
		}
	}
}
