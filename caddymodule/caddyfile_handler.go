package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
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
			if _, cerr := newCORS(origins); cerr != nil {
				err = d.WrapErr(cerr)
			}
		case "max_body":
			err = size(d, &h.MaxBody)
			if err == nil && h.MaxBody > largestMaxBody {
				err = d.Errf("max_body: at most 1MiB, because a finished event has at most 100KiB")
			}
		case "passthrough":
			h.Passthrough = true
			err = noArgument(d)
		case "country_header":
			err = oneArgument(d, &h.CountryHeader)
		case "update_auth":
			err = oneArgument(d, &h.UpdateAuth)
		default:
			err = d.Errf("unrecognized option '%s' of userhero; known are project, widget, allow_origin, max_body, passthrough, country_header and update_auth", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
