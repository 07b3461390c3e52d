package caddymodule

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/intake"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("userhero", parseHandler)
	// After authentication and encode, before everything that answers.
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
	d.Next() // consume the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	given := make(options)
	for d.NextBlock(0) {
		if err := given.add(d, "allow_origin", "rate_limit"); err != nil {
			return err
		}
		var err error
		switch option := d.Val(); option {
		case "project":
			err = oneArgument(d, &h.Project)
		case "widget":
			err = oneArgument(d, &h.Widget)
		case "allow_origin":
			origins := d.RemainingArgs()
			if len(origins) == 0 {
				return d.ArgErr()
			}
			h.AllowOrigins = append(h.AllowOrigins, origins...)
			if wrong := intake.CheckOrigins(origins); wrong != nil {
				err = d.WrapErr(wrong)
			}
		case "max_body":
			err = size(d, &h.MaxBody)
			if err == nil && h.MaxBody > intake.LargestMaxBody {
				err = d.Errf("max_body: at most 1MiB, because a finished event has at most 100KiB")
			}
		case "passthrough":
			h.Passthrough = true
			err = noArgument(d)
		case "country_header":
			err = oneArgument(d, &h.CountryHeader)
		case "update_auth":
			err = oneArgument(d, &h.UpdateAuth)
		case "geoip":
			err = oneArgument(d, &h.GeoIP)
		case "rate_limit":
			err = h.unmarshalLimit(d)
		case "honeypot":
			err = oneArgument(d, &h.Honeypot)
		default:
			err = d.Errf("unrecognized option '%s' of userhero; known are project, widget, allow_origin, max_body, passthrough, country_header, update_auth, geoip, rate_limit and honeypot", option)
		}
		if err != nil {
			return err
		}
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
