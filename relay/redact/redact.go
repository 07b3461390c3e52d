// Package redact writes URLs without the secrets in them.
//
// It promises that nobody can use what it returns to gain access: it leaves out user
// information, query and fragment. It leaves out the path too if the service keeps its
// secret there. It does not know webhooks.
package redact

import (
	"net/url"
	"strings"
)

// Hidden replaces the secret part of a URL.
const Hidden = "..."

// secretPaths lists the domains of services whose URLs hold a secret in the path. Their
// subdomains are included.
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

// URL returns a URL that is safe to show, such as https://crm.example.com/hooks, or
// https://hooks.slack.com/... if the path is secret. If the text is not an absolute
// URL, it returns "", because any part of it could be secret.
func URL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return ""
	}
	return Parsed(u)
}

// Marked returns what URL returns, followed by ?... if the URL has a query. Use it
// where people edit the URL, so that they know that a query exists.
func Marked(raw string) string {
	shown := URL(raw)
	if u, err := url.Parse(raw); shown != "" && err == nil && u.RawQuery != "" {
		shown += "?" + Hidden
	}
	return shown
}

// Parsed does what URL does for a parsed URL.
func Parsed(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if strings.Trim(u.Path, "/") != "" && secretPath(u.Hostname()) {
		shown.Path, shown.RawPath = "/"+Hidden, ""
	}
	return shown.String()
}

// secretPath reports whether URLs of this host have a secret path.
func secretPath(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, domain := range secretPaths {
		if rest, ok := strings.CutSuffix(host, domain); ok && (rest == "" || strings.HasSuffix(rest, ".")) {
			return true
		}
	}
	return false
}
