package caddymodule

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/caddymodule/option"
	"github.com/userhero/relay/intake"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("userhero", parseHandler)
	// After authentication and encode, before every directive that answers.
	httpcaddyfile.RegisterDirectiveOrder("userhero", httpcaddyfile.Before, "invoke")
}

func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	var handler Handler
	return &handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	userhero [<matcher>] {
//	    project        <id>
//	    widget         <id>
//	    allow_origin   <origin…>
//	    max_body       <size>
//	    passthrough
//	    country_header <field>
//	    update_auth    <token>
//	    geoip          <file.mmdb>
//	    rate_limit     [project] <rate> [burst <n>]
//	    honeypot       <member>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "userhero",
		option.Text("project", &h.Project),
		option.Text("widget", &h.Widget),
		option.Option{Name: "allow_origin", Read: h.unmarshalOrigins, Repeats: true},
		option.Option{Name: "max_body", Read: h.unmarshalMaxBody},
		option.Flag("passthrough", &h.Passthrough),
		option.Text("country_header", &h.CountryHeader),
		option.Text("update_auth", &h.UpdateAuth),
		option.Text("geoip", &h.GeoIP),
		option.Option{Name: "rate_limit", Read: h.unmarshalLimit, Repeats: true},
		option.Text("honeypot", &h.Honeypot),
	)
}

func (h *Handler) unmarshalOrigins(d *caddyfile.Dispenser) error {
	if err := option.Texts("allow_origin", &h.AllowOrigins).Read(d); err != nil {
		return err
	}
	if err := intake.CheckOrigins(h.AllowOrigins); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) unmarshalMaxBody(d *caddyfile.Dispenser) error {
	if err := option.Size("max_body", &h.MaxBody).Read(d); err != nil {
		return err
	}
	if h.MaxBody > intake.LargestMaxBody {
		return d.Errf("max_body: at most 1MiB, because a finished event has at most 100KiB")
	}
	return nil
}

// unmarshalLimit reads `[project] <rate> [burst <n>]`.
func (h *Handler) unmarshalLimit(d *caddyfile.Dispenser) error {
	args, to := d.RemainingArgs(), &h.RateLimit
	if len(args) > 0 && args[0] == "project" {
		args, to = args[1:], &h.ProjectRateLimit
	}
	if *to != nil {
		return d.Err("this rate_limit is given twice; keep one for clients and one for the project")
	}
	l := new(Limit)
	switch {
	case len(args) == 3 && args[1] == "burst":
		burst, err := strconv.Atoi(args[2])
		if err != nil || burst < 1 {
			return d.Errf("rate_limit: %q is no burst; write a number above zero", args[2])
		}
		l.Burst = burst
	case len(args) != 1:
		return d.ArgErr()
	}
	l.Rate = args[0]
	if _, err := l.resolve(); err != nil {
		return d.WrapErr(err)
	}
	*to = l
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
