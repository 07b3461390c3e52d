package caddymodule

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/userhero/relay/caddymodule/option"
)

func init() { httpcaddyfile.RegisterGlobalOption("userhero", parseApp) }

func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("the global option userhero is given twice; write one block")
	}
	var app App
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "userhero", Value: caddyconfig.JSON(&app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	userhero {
//	    queue <engine> {
//	        …
//	    }
//	    retry     <delay…>|none
//	    timeout   <duration>
//	    retention <duration>
//	    redact_after  <duration>
//	    max_disk  <size>
//	    webhook <name> {
//	        url         <url>
//	        secret      <secret> [<previous>]
//	        signing_key <key> [<previous>]
//	        projects    <project…>
//	        events      <type…>
//	        filter      <expression>
//	        body        slack|discord|teams|<expression>
//	        notify      <address…>
//	        header      <field> <value>
//	        tls_client_auth <cert_file> <key_file>
//	        tls_ca      <file…>
//	        retry       <delay…>|none
//	        timeout     <duration>
//	        concurrency <number>
//	        rate        <number>/<unit>
//	        warn_after  <duration>
//	        ordered
//	        disabled
//	    }
//	    egress {
//	        allow <address|network|host…>
//	        proxy <url>
//	    }
//	    notify <notifier> {
//	        …
//	    }
//	    group_notices <duration>
//	    warn_after    <duration>
//	    console_url   <url>
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "userhero",
		option.Option{Name: "queue", Read: a.unmarshalQueue},
		a.Retry.option(),
		option.Duration("timeout", &a.Timeout),
		option.Duration("retention", &a.Retention),
		option.Duration("redact_after", &a.RedactAfter),
		option.Size("max_disk", &a.MaxDisk),
		option.Option{Name: "webhook", Read: a.unmarshalWebhook, Repeats: true},
		option.Option{Name: "egress", Read: a.unmarshalEgress},
		option.Option{Name: "notify", Read: a.unmarshalNotify, Repeats: true},
		option.Duration("group_notices", &a.GroupNotices),
		option.Duration("warn_after", &a.WarnAfter),
		option.Text("console_url", &a.ConsoleURL),
	)
}

func (a *App) unmarshalQueue(d *caddyfile.Dispenser) (err error) {
	a.QueueRaw, err = unmarshalModule(d, "userhero.queues", "engine")
	return err
}

func (a *App) unmarshalNotify(d *caddyfile.Dispenser) error {
	notifier, err := unmarshalModule(d, "userhero.notifiers", "notifier")
	if err == nil {
		a.NotifiersRaw = append(a.NotifiersRaw, notifier)
	}
	return err
}

// unmarshalModule reads a guest module and its block. The option's argument is the
// module's name, which the member key has in JSON.
func unmarshalModule(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, key, name, nil), nil
}

func (a *App) unmarshalEgress(d *caddyfile.Dispenser) error {
	a.Egress = new(Egress)
	return option.Block(d, 1, "egress",
		option.Texts("allow", &a.Egress.Allow),
		option.Text("proxy", &a.Egress.Proxy),
	)
}

func (a *App) unmarshalWebhook(d *caddyfile.Dispenser) error {
	w := new(Webhook)
	if !d.Args(&w.Name) {
		return d.ArgErr()
	}
	if slices.ContainsFunc(a.Webhooks, func(other *Webhook) bool { return other.Name == w.Name }) {
		return d.Errf("webhook %s is there twice; names must be unique", w.Name)
	}
	if err := w.unmarshalBlock(d); err != nil {
		return err
	}
	if w.URL == "" {
		return d.Errf("webhook %s needs a url", w.Name)
	}
	a.Webhooks = append(a.Webhooks, w)
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*App)(nil)
