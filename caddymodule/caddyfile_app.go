package caddymodule

import (
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/userhero/relay/relay"
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
//	    max_disk  <size>
//	    webhook <name> {
//	        url         <url>
//	        secret      <secret> [<previous>]
//	        events      <type…>
//	        filter      <expression>
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
	d.Next() // consume the option's name
	if d.NextArg() {
		return d.ArgErr()
	}
	given := make(options)
	for d.NextBlock(0) {
		if err := given.add(d, "webhook", "notify"); err != nil {
			return err
		}
		var err error
		switch option := d.Val(); option {
		case "queue":
			err = a.unmarshalQueue(d)
		case "retry":
			err = ladder(d, &a.Retry)
		case "timeout":
			err = duration(d, &a.Timeout)
		case "retention":
			err = duration(d, &a.Retention)
		case "max_disk":
			err = size(d, &a.MaxDisk)
		case "webhook":
			err = a.unmarshalWebhook(d)
		case "egress":
			err = a.unmarshalEgress(d)
		case "notify":
			err = a.unmarshalNotify(d)
		case "group_notices":
			err = duration(d, &a.GroupNotices)
		case "warn_after":
			err = duration(d, &a.WarnAfter)
		case "console_url":
			err = oneArgument(d, &a.ConsoleURL)
		default:
			err = d.Errf("unrecognized option '%s' of userhero; known are queue, retry, timeout, retention, max_disk, webhook, egress, notify, group_notices, warn_after and console_url", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *App) unmarshalQueue(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	engine := d.Val()
	module, err := caddyfile.UnmarshalModule(d, "userhero.queues."+engine)
	if err != nil {
		return err
	}
	a.QueueRaw = caddyconfig.JSONModuleObject(module, "engine", engine, nil)
	return nil
}

func (a *App) unmarshalNotify(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	notifier := d.Val()
	module, err := caddyfile.UnmarshalModule(d, "userhero.notifiers."+notifier)
	if err != nil {
		return err
	}
	a.NotifiersRaw = append(a.NotifiersRaw, caddyconfig.JSONModuleObject(module, "notifier", notifier, nil))
	return nil
}

func (a *App) unmarshalEgress(d *caddyfile.Dispenser) error {
	if err := noArgument(d); err != nil {
		return err
	}
	a.Egress = new(Egress)
	given := make(options)
	for d.NextBlock(1) {
		if err := given.add(d, "allow"); err != nil {
			return err
		}
		switch option := d.Val(); option {
		case "allow":
			allowed := d.RemainingArgs()
			if len(allowed) == 0 {
				return d.ArgErr()
			}
			a.Egress.Allow = append(a.Egress.Allow, allowed...)
		case "proxy":
			if err := oneArgument(d, &a.Egress.Proxy); err != nil {
				return err
			}
		default:
			return d.Errf("unrecognized option '%s' of egress; known are allow and proxy", option)
		}
	}
	return nil
}

func (a *App) unmarshalWebhook(d *caddyfile.Dispenser) error {
	w := new(Webhook)
	if !d.Args(&w.Name) || d.NextArg() {
		return d.ArgErr()
	}
	for _, other := range a.Webhooks {
		if other.Name == w.Name {
			return d.Errf("webhook %s is there twice; names must be unique", w.Name)
		}
	}
	given := make(options)
	for d.NextBlock(1) {
		if err := given.add(d, "events", "header", "tls_ca"); err != nil {
			return err
		}
		if err := w.unmarshalOption(d); err != nil {
			return err
		}
	}
	if w.URL == "" {
		return d.Errf("webhook %s needs a url", w.Name)
	}
	a.Webhooks = append(a.Webhooks, w)
	return nil
}

func (w *Webhook) unmarshalOption(d *caddyfile.Dispenser) error {
	switch option := d.Val(); option {
	case "url":
		return oneArgument(d, &w.URL)
	case "secret":
		secrets := d.RemainingArgs()
		if len(secrets) < 1 || len(secrets) > 2 {
			return d.ArgErr()
		}
		w.Secret = secrets[0]
		if len(secrets) == 2 {
			w.PreviousSecret = secrets[1]
		}
	case "events":
		types := d.RemainingArgs()
		if len(types) == 0 {
			return d.ArgErr()
		}
		w.Events = append(w.Events, types...)
	case "filter":
		return oneArgument(d, &w.Filter)
	case "header":
		var name, value string
		if !d.Args(&name, &value) || d.NextArg() {
			return d.ArgErr()
		}
		if w.Headers == nil {
			w.Headers = make(http.Header)
		}
		w.Headers[name] = append(w.Headers[name], value) // goes out spelled as it is
	case "tls_client_auth", "tls_ca":
		return w.unmarshalTLS(d)
	case "retry":
		return ladder(d, &w.Retry)
	case "timeout":
		return duration(d, &w.Timeout)
	case "concurrency":
		var text string
		if !d.Args(&text) || d.NextArg() {
			return d.ArgErr()
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return d.Errf("concurrency: %q is no number above zero", text)
		}
		w.Concurrency = n
	case "rate":
		if err := oneArgument(d, &w.Rate); err != nil {
			return err
		}
		if _, err := relay.ParseRate(w.Rate); err != nil {
			return d.WrapErr(err)
		}
	case "warn_after":
		return duration(d, &w.WarnAfter)
	case "ordered":
		w.Ordered = true
		return noArgument(d)
	case "disabled":
		w.Disabled = true
		return noArgument(d)
	default:
		return d.Errf("unrecognized option '%s' of webhook; known are url, secret, events, filter, header, tls_client_auth, tls_ca, retry, timeout, concurrency, rate, warn_after, ordered and disabled", option)
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*App)(nil)
