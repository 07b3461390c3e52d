package caddymodule

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestSingleValuedOptionGivenTwiceIsAnError gives each block an unknown option. The
// error lists the known options. Then it gives each of these twice.
func TestSingleValuedOptionGivenTwiceIsAnError(t *testing.T) {
	t.Parallel()
	app := func(option string) string { return "{\nuserhero {\n" + option + "\n}\n}\n" }
	within := func(block string) func(string) string {
		return func(option string) string { return app(block + " {\n" + option + "\n}") }
	}
	site := func(directive string) func(string) string {
		return func(option string) string { return ":80 {\n" + directive + " {\n" + option + "\n}\n}\n" }
	}
	for name, block := range map[string]struct {
		around func(option string) string
		values map[string]string // by option; two values if the second one must differ
		lists  string            // options that may be repeated
	}{
		"userhero": {app, map[string]string{
			"queue": "badger", "retry": "1m", "timeout": "1s", "retention": "1d", "max_disk": "1GiB",
			"webhook": "a {\nurl http://a.example\n}", "egress": "{\nallow 10.0.0.0/8\n}", "notify": "smtp {\nhost a:25\n}", "group_notices": "1m", "console_url": "https://a.example", "warn_after": "1h", "redact_after": "1d",
		}, "notify"},
		"webhook": {within("webhook a"), map[string]string{
			"url": "http://a.example", "secret": "s", "signing_key": "k", "projects": "p", "body": "slack", "notify": "a@example.com", "events": "feedback.created", "filter": "true", "header": "A b", "tls_client_auth": "a b",
			"tls_ca": "a", "retry": "none", "timeout": "1s", "concurrency": "1", "rate": "1/s", "warn_after": "1h", "ordered": "", "disabled": "",
		}, "events header tls_ca projects notify"},
		"egress":       {within("egress"), map[string]string{"allow": "10.0.0.0/8", "proxy": "http://a.example"}, "allow"},
		"notify smtp":  {within("notify smtp"), map[string]string{"host": "a:25", "from": "a@example.com", "to": "b@example.com", "username": "a", "password": "p", "tls": "none", "hello": "a.example"}, "to"},
		"queue badger": {within("queue badger"), map[string]string{"path": "/a", "encryption_key": "0123456789abcdef"}, ""},
		"queue jetstream": {within("queue jetstream"), map[string]string{
			"servers": "nats://a:4222", "credentials": "a.creds", "user": "a p", "token": "t", "nkey": "a.nk", "tls_ca": "a", "tls_client_auth": "a b",
			"prefix": "p", "encryption_key": "0123456789abcdef", "replicas": "3", "embedded": "",
		}, "servers tls_ca"},
		"directive userhero": {site("userhero"), map[string]string{
			"project": "p", "widget": "w", "allow_origin": "*", "max_body": "1KiB", "passthrough": "", "country_header": "X-Country",
			"update_auth": "t", "geoip": "/a", "rate_limit": "1/s", "honeypot": "h",
		}, "allow_origin"},
		"userhero_receiver": {site("userhero_receiver"), map[string]string{"secret": "s", "reject": "500"}, ""},
		"userhero_console":  {site("userhero_console"), map[string]string{"user_header": "X-User", "no_auth": "", "project": "p", "read_only": ""}, "project"},
	} {
		for _, option := range knownOptions(t, name, block.around) {
			value, ok := block.values[option]
			if !ok {
				t.Errorf("%s: give option %s a value here", name, option)
				continue
			}
			if name+" "+option == "queue jetstream embedded" {
				continue // it is not built in here; package embeddednats tests it
			}
			once := block.around(option + " " + value)
			if _, _, err := adapt(once); err != nil && !strings.Contains(err.Error(), "needs a url") {
				t.Errorf("%s: %s once: %v", name, option, err)
			}
			twice := block.around(option + " " + value + "\n\n" + option + " " + value)
			line := strings.Count(twice[:strings.LastIndex(twice, "\n"+option)], "\n") + 2
			_, _, err := adapt(twice)
			if strings.Contains(" "+block.lists+" ", " "+option+" ") {
				if err != nil && !strings.Contains(err.Error(), "needs a url") {
					t.Errorf("%s: %s is a list, twice: %v", name, option, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), "twice") || !strings.Contains(err.Error(), fmt.Sprintf("Caddyfile:%d", line)) {
				t.Errorf("%s: %s twice, in line %d: %v", name, option, line, err)
			}
		}
	}
	if _, _, err := adapt(":80 {\nuserhero {\nrate_limit 1/s\nrate_limit project 2/s\n}\n}\n"); err != nil {
		t.Errorf("a limit for clients and one for the project: %v", err)
	}
}

var known = regexp.MustCompile(`known are (.*?)(?:, at |$)`)

// knownOptions are the options that a block's error about an unknown one names.
func knownOptions(t *testing.T, name string, around func(string) string) []string {
	t.Helper()
	_, _, err := adapt(around("unheard_of"))
	if err == nil {
		t.Fatalf("%s takes an unknown option", name)
	}
	found := known.FindStringSubmatch(err.Error())
	if found == nil {
		t.Fatalf("%s: the error does not name the known options: %v", name, err)
	}
	return strings.Split(strings.ReplaceAll(found[1], " and ", ", "), ", ")
}
