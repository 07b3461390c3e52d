package redact

import (
	"strings"
	"testing"
)

func TestURLHidesSecrets(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://crm.example.com/hooks/userhero":                             "https://crm.example.com/hooks/userhero",
		"http://127.0.0.1:3000/webhook":                                      "http://127.0.0.1:3000/webhook",
		"https://example.com":                                                "https://example.com",
		"https://example.com/a%2Fb":                                          "https://example.com/a%2Fb",
		"https://example.com/ü":                                              "https://example.com/%C3%BC",
		"https://example.com/hook?token=s3cret":                              "https://example.com/hook",
		"https://example.com/hook?s3cret":                                    "https://example.com/hook",
		"https://example.com/hook?%zz;a":                                     "https://example.com/hook",
		"https://ada:s3cret@example.com/hook#s3cret":                         "https://example.com/hook",
		"https://hooks.slack.com/services/T0/B0/s3cret":                      "https://hooks.slack.com/...",
		"https://HOOKS.SLACK.COM.:443/services/T0/B0/s3cret":                 "https://HOOKS.SLACK.COM.:443/...",
		"https://hooks.slack.com/%73ervices/s3cret":                          "https://hooks.slack.com/...",
		"https://hooks.slack-gov.com/services/T0/B0/s3cret":                  "https://hooks.slack-gov.com/...",
		"https://discord.com/api/webhooks/1/s3cret?wait=true":                "https://discord.com/...",
		"https://canary.discord.com/api/webhooks/1/s3cret":                   "https://canary.discord.com/...",
		"https://discordapp.com/api/webhooks/1/s3cret":                       "https://discordapp.com/...",
		"https://acme.webhook.office.com/webhookb2/s3cret/IncomingWebhook/s": "https://acme.webhook.office.com/...",
		"https://prod-1.westeurope.logic.azure.com:443/workflows/w?sig=s":    "https://prod-1.westeurope.logic.azure.com:443/...",
		"https://default1.2.environment.api.powerplatform.com/x/s3cret":      "https://default1.2.environment.api.powerplatform.com/...",
		"https://hooks.zapier.com/hooks/catch/1/s3cret/":                     "https://hooks.zapier.com/...",
		"https://hook.eu1.make.com/s3cret":                                   "https://hook.eu1.make.com/...",
		"https://hook.integromat.com/s3cret":                                 "https://hook.integromat.com/...",
		"https://chat.googleapis.com/v1/spaces/s/messages?key=k&token=t":     "https://chat.googleapis.com/...",
		"https://api.telegram.org/bot1:s3cret/sendMessage":                   "https://api.telegram.org/...",
		"https://notslack.com/hooks":                                         "https://notslack.com/hooks",
		"https://slack.com.example.com/hooks":                                "https://slack.com.example.com/hooks",
		"https://hooks.slack.com/":                                           "https://hooks.slack.com/",
		"hooks.slack.com/services/s3cret":                                    "",
		"mailto:ada@example.com":                                             "",
		"https://[::1":                                                       "",
		"":                                                                   "",
	} {
		if got := URL(raw); got != want {
			t.Errorf("%s is shown as %s, want %s", raw, got, want)
		}
		if strings.Contains(raw, "?") {
			want += "?..."
		}
		if got := Marked(raw); got != want {
			t.Errorf("%s is shown as %s, want %s", raw, got, want)
		}
	}
}
