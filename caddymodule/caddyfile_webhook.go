package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/relay"
)

// unmarshalBlock reads the webhook's block. Its syntax is in App.UnmarshalCaddyfile.
func (w *Webhook) unmarshalBlock(d *caddyfile.Dispenser) error {
	var tls TLS
	err := option.Block(d, 1, "webhook",
		option.Text("url", &w.URL),
		option.Values("secret", 1, &w.Secret, &w.PreviousSecret),
		option.Values("signing_key", 1, &w.SigningKey, &w.PreviousSigningKey),
		option.Texts("projects", &w.Projects),
		option.Texts("events", &w.Events),
		option.Text("filter", &w.Filter),
		option.Text("body", &w.Body),
		option.Option{Name: "header", Read: w.unmarshalHeader, Repeats: true},
		tls.clientOption(),
		option.Texts("tls_ca", &tls.RootCAFiles),
		w.Retry.option(),
		option.Texts("notify", &w.Notify),
		option.Duration("timeout", &w.Timeout),
		option.Number("concurrency", "for example 8", &w.Concurrency),
		option.Option{Name: "rate", Read: w.unmarshalRate},
		option.Duration("warn_after", &w.WarnAfter),
		option.Flag("ordered", &w.Ordered),
		option.Flag("disabled", &w.Disabled),
	)
	w.TLS = tls.orNil()
	return err
}

func (w *Webhook) unmarshalHeader(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.Args(&name, &value) || d.NextArg() {
		return d.ArgErr()
	}
	if w.Headers == nil {
		w.Headers = make(http.Header)
	}
	w.Headers[name] = append(w.Headers[name], value) // not Add, which would change the spelling of the name
	return nil
}

func (w *Webhook) unmarshalRate(d *caddyfile.Dispenser) error {
	if err := option.Argument(d, &w.Rate); err != nil {
		return err
	}
	if _, err := relay.ParseRate(w.Rate); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// option returns the Caddyfile option `retry <delay…>|none`.
func (l *Ladder) option() option.Option {
	return option.Option{Name: "retry", Read: func(d *caddyfile.Dispenser) error {
		delays := d.RemainingArgs()
		switch {
		case len(delays) == 0:
			return d.ArgErr()
		case len(delays) == 1 && delays[0] == "none":
			*l = Ladder{}
			return nil
		}
		rungs := make(Ladder, 0, len(delays))
		for _, text := range delays {
			v, err := caddy.ParseDuration(text)
			if err != nil || v <= 0 {
				return d.Errf("retry: %q is no duration above zero; write for example: 1m 5m 30m 2h 24h, or none", text)
			}
			rungs = append(rungs, caddy.Duration(v))
		}
		*l = rungs
		return nil
	}}
}
