package caddymodule

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/caddymodule/secret"
	"github.com/userhero/relay/relay/notify"
	smtpnotify "github.com/userhero/relay/relay/notify/smtp"
)

func init() { caddy.RegisterModule(SMTPNotifier{}) }

// SMTPNotifier sends an e-mail when a webhook fails, recovers or is disabled by its
// receiver. Changes within a minute (`group_notices`) go out in one mail. A mail that the
// server does not take is tried again for more than a day. No mail contains feedback or
// secrets.
type SMTPNotifier struct {
	// The mail server as `host:port`. Placeholders are replaced when the configuration
	// is loaded. Required.
	Host string `json:"host,omitempty"`

	// The sender's e-mail address. Required.
	From string `json:"from,omitempty"`

	// The e-mail addresses of those who get the notices of all webhooks. The owners of a
	// webhook are named in its `notify`. Required.
	To []string `json:"to,omitempty"`

	// The user name, if the server needs a login. Default: no login.
	Username string `json:"username,omitempty"`

	// The password of `username`. Write it as a placeholder, such as
	// `{env.SMTP_PASSWORD}`.
	Password string `json:"password,omitempty"`

	// How the connection is encrypted: `starttls`, `implicit` or `none`.
	// Default: `starttls`.
	TLS string `json:"tls,omitempty"`

	// The name that the relay sends to the mail server in EHLO. Default: the machine's
	// host name if it is fully qualified, otherwise the domain of `from`.
	Hello string `json:"hello,omitempty"`

	smtp *smtpnotify.Notifier
}

// CaddyModule returns the Caddy module information.
func (SMTPNotifier) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "userhero.notifiers.smtp",
		New: func() caddy.Module { return new(SMTPNotifier) },
	}
}

// Provision resolves placeholders and checks the settings, without the network.
func (n *SMTPNotifier) Provision(ctx caddy.Context) error {
	repl := caddy.NewReplacer()
	c := smtpnotify.Config{From: n.From, To: n.To, TLS: n.TLS, Logger: ctx.Slogger()}
	for _, field := range []struct {
		name, value string
		to          *string
	}{
		{"host", n.Host, &c.Host}, {"hello", n.Hello, &c.Hello}, {"username", n.Username, &c.Username}, {"password", n.Password, &c.Password},
	} {
		v, err := secret.Resolve(repl, field.value)
		if err != nil {
			return fmt.Errorf("%s: %w", field.name, err)
		}
		*field.to = v
	}
	var err error
	n.smtp, err = smtpnotify.New(c)
	return err
}

// Notify implements notify.Notifier.
func (n *SMTPNotifier) Notify(ctx context.Context, notices []notify.Notice) error {
	return n.smtp.Notify(ctx, notices)
}

// Reaches implements notify.Mailer.
func (n *SMTPNotifier) Reaches(address string) bool { return n.smtp.Reaches(address) }

// UnmarshalCaddyfile sets up the notifier from Caddyfile tokens. Syntax:
//
//	smtp {
//	    host     <host:port>
//	    from     <address>
//	    to       <address…>
//	    username <name>
//	    password <password>
//	    tls      starttls|implicit|none
//	    hello    <name>
//	}
func (n *SMTPNotifier) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "notify smtp",
		option.Text("host", &n.Host),
		option.Text("from", &n.From),
		option.Texts("to", &n.To),
		option.Text("username", &n.Username),
		option.Text("password", &n.Password),
		option.Text("tls", &n.TLS),
		option.Text("hello", &n.Hello),
	)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*SMTPNotifier)(nil)
	_ caddyfile.Unmarshaler = (*SMTPNotifier)(nil)
	_ notify.Mailer         = (*SMTPNotifier)(nil)
)
