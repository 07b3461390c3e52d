package smtp_test

import (
	"strings"
	"testing"
	"time"

	smtpnotify "github.com/userhero/relay/relay/notify/smtp"
)

func TestConfigurationMistakesAreNamedWithTheirOption(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*smtpnotify.Config)
		want   string
	}{
		"no host":              {func(c *smtpnotify.Config) { c.Host = "" }, "host"},
		"no port":              {func(c *smtpnotify.Config) { c.Host = "smtp.example.com" }, "smtp.example.com:587"},
		"port zero":            {func(c *smtpnotify.Config) { c.Host = "smtp.example.com:0" }, "1 to 65535"},
		"port too high":        {func(c *smtpnotify.Config) { c.Host = "smtp.example.com:65536" }, "1 to 65535"},
		"URL as host":          {func(c *smtpnotify.Config) { c.Host = "smtp://x:25" }, "host"},
		"host with line break": {func(c *smtpnotify.Config) { c.Host = "a\r\nb:25" }, "host"},
		"no sender":            {func(c *smtpnotify.Config) { c.From = "" }, "from"},
		"sender without @":     {func(c *smtpnotify.Config) { c.From = "relay" }, "from"},
		"sender injects":       {func(c *smtpnotify.Config) { c.From = "a <a@example.com>\r\n Bcc: b@example.com" }, "from"},
		"nobody":               {func(c *smtpnotify.Config) { c.To = nil }, "to"},
		"recipient injects":    {func(c *smtpnotify.Config) { c.To = []string{"a@example.com\r\nRCPT TO:<b@example.com>"} }, "line break"},
		"recipient with blank": {func(c *smtpnotify.Config) { c.To = []string{`"a b"@example.com`} }, "blanks"},
		"no password":          {func(c *smtpnotify.Config) { c.Username = "u" }, "password"},
		"no username":          {func(c *smtpnotify.Config) { c.Password = "canary" }, "username"},
		"unknown TLS":          {func(c *smtpnotify.Config) { c.TLS = "ssl" }, `"ssl"`},
		"hello with a blank":   {func(c *smtpnotify.Config) { c.Hello = "relay\r\nQUIT" }, "hello"},
		"negative timeout":     {func(c *smtpnotify.Config) { c.Timeout = -time.Second }, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := smtpnotify.Config{Host: "smtp.example.com:587", From: "relay@example.com", To: []string{"ops@example.com"}}
			if _, err := smtpnotify.New(config); err != nil {
				t.Fatalf("before the mistake: %v", err)
			}
			test.change(&config)
			_, err := smtpnotify.New(config)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("New returned %v, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := smtpnotify.New(smtpnotify.Config{TLS: "ssl"})
	if err == nil {
		t.Fatal("New returned no error")
	}
	for _, option := range []string{"host", "from", "to:", "tls"} {
		if !strings.Contains(err.Error(), option) {
			t.Errorf("the error does not speak of %q: %v", option, err)
		}
	}
}
