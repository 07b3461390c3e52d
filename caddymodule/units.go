package caddymodule

import (
	"fmt"
	"math"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// options are the names of those that a block has had so far.
type options map[string]bool

// add reports an option that is given twice in its block, where it would replace
// itself silently. Those that add up, such as a list or a named block, may be
// repeated.
func (o options) add(d *caddyfile.Dispenser, repeatable ...string) error {
	name := d.Val()
	if o[name] && !slices.Contains(repeatable, name) {
		return d.Errf("%s is given twice; keep one", name)
	}
	o[name] = true
	return nil
}

// oneArgument reads the one argument of an option.
func oneArgument(d *caddyfile.Dispenser, to *string) error {
	if !d.Args(to) || d.NextArg() {
		return d.ArgErr()
	}
	if *to == "" {
		return d.Err("the value is empty")
	}
	return nil
}

// noArgument checks that an option stands alone.
func noArgument(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// duration reads one positive duration, such as 30s, 1h30m or 30d.
func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	var text string
	option := d.Val()
	if !d.Args(&text) || d.NextArg() {
		return d.ArgErr()
	}
	v, err := caddy.ParseDuration(text)
	if err != nil || v <= 0 {
		return d.Errf("%s: %q is no duration above zero; write for example 500ms, 30s, 2h or 30d", option, text)
	}
	*to = caddy.Duration(v)
	return nil
}

// ladder reads the delays before each retry, or "none".
func ladder(d *caddyfile.Dispenser, to *Ladder) error {
	option := d.Val()
	args := d.RemainingArgs()
	switch {
	case len(args) == 0:
		return d.ArgErr()
	case len(args) == 1 && args[0] == "none":
		*to = Ladder{}
		return nil
	}
	rungs := make(Ladder, 0, len(args))
	for _, text := range args {
		v, err := caddy.ParseDuration(text)
		if err != nil || v <= 0 {
			return d.Errf("%s: %q is no duration above zero; write for example: 1m 5m 30m 2h 24h, or none", option, text)
		}
		rungs = append(rungs, caddy.Duration(v))
	}
	*to = rungs
	return nil
}

// size reads one number of bytes, such as 64KiB or 10GiB.
func size(d *caddyfile.Dispenser, to *int64) error {
	var text string
	option := d.Val()
	if !d.Args(&text) || d.NextArg() {
		return d.ArgErr()
	}
	v, err := parseSize(text)
	if err != nil {
		return d.Errf("%s: %v", option, err)
	}
	*to = v
	return nil
}

func parseSize(text string) (int64, error) {
	v, err := humanize.ParseBytes(text)
	if err != nil || v == 0 || v > math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size above zero; write for example 64KiB or 10GiB", text)
	}
	return int64(v), nil
}
