// Package redact writes URLs without the secrets in them.
//
// It promises that what it returns opens nothing: user information, query and
// fragment are left out, and so is the path where services put the secret into
// it. It knows nothing of webhooks.
package redact

import (
	"net/url"
	"strings"
)

// Hidden stands for what is left out of a URL.
const Hidden = "..."

// secretPaths are the domains of services whose URLs grant access by their path.
// Subdomains belong to them.
var secretPaths = []string{
	"slack.com", "slack-gov.com",
	"discord.com", "discordapp.com",
	// Microsoft Teams: connectors, workflows in Azure and in Power Platform.
	"webhook.office.com", "outlook.office.com", "outlook.office365.com", "logic.azure.com", "api.powerplatform.com",
	"chat.googleapis.com",
	"zapier.com",
	"make.com", "integromat.com", "make.celonis.com",
	"ifttt.com",
	"n8n.cloud",
	"pipedream.net",
	"workato.com",
	"pabbly.com",
	"relay.app",
	"tray.io", "trayapp.io",
	"airtable.com",
	"webhook.site", "hookdeck.com", "svix.com",
	"webexapis.com",
	"telegram.org",
	"feishu.cn", "larksuite.com",
	"pagerduty.com", "opsgenie.com", "hc-ping.com", "ntfy.sh",
}

// URL returns a URL for people to see, such as https://crm.example.com/hooks, or
// https://hooks.slack.com/... if the path is the secret. It returns an empty text
// for what is no absolute URL, because it cannot say which part of that is secret.
func URL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return ""
	}
	return Parsed(u)
}

// Marked is URL, with ?... if there is a query: for where the URL can be edited,
// and somebody may miss it.
func Marked(raw string) string {
	shown := URL(raw)
	if u, err := url.Parse(raw); shown != "" && err == nil && u.RawQuery != "" {
		shown += "?" + Hidden
	}
	return shown
}

// Parsed is URL for a URL that has been parsed.
func Parsed(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if strings.Trim(u.Path, "/") != "" && secretPath(u.Hostname()) {
		shown.Path, shown.RawPath = "/"+Hidden, ""
	}
	return shown.String()
}

// secretPath reports whether the path of the host's URLs is a secret.
func secretPath(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, domain := range secretPaths {
		if rest, ok := strings.CutSuffix(host, domain); ok && (rest == "" || strings.HasSuffix(rest, ".")) {
			return true
		}
	}
	return false
}
