// Package option reads the options of a Caddyfile block.
//
// It promises that an unknown option is refused with the names of those that are
// known, and that an option with a single value is refused if it is given twice: it
// would replace itself silently. Errors name the file and the line. It does not know
// what the options mean. The tests of caddymodule read every block of the Caddyfile
// through it.
package option

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// Option is an option that a block knows.
type Option struct {
	Name string
	// Read reads the arguments and the block that follow the name.
	Read func(*caddyfile.Dispenser) error
	// Repeats says that the option may be given more than once: its values add up.
	Repeats bool
}

// Directive reads the name of a directive or module, which takes no arguments, and
// its block.
func Directive(d *caddyfile.Dispenser, name string, known ...Option) error {
	d.Next() // the name
	return Block(d, 0, name, known...)
}

// Block reads a block of options at a level of nesting. The name is that of the
// directive or option that the block belongs to, which takes no more arguments.
func Block(d *caddyfile.Dispenser, nesting int, name string, known ...Option) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	given := make(map[string]bool)
	for d.NextBlock(nesting) {
		option := d.Val()
		i := slices.IndexFunc(known, func(o Option) bool { return o.Name == option })
		if i < 0 {
			return d.Errf("unrecognized option '%s' of %s; known are %s", option, name, list(known))
		}
		if given[option] && !known[i].Repeats {
			return d.Errf("%s is given twice; keep one", option)
		}
		given[option] = true
		if err := known[i].Read(d); err != nil {
			return err
		}
	}
	return nil
}

func list(known []Option) string {
	names := make([]string, len(known))
	for i, o := range known {
		names[i] = o.Name
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// Text has one argument, which is not empty.
func Text(name string, to *string) Option {
	return Option{Name: name, Read: func(d *caddyfile.Dispenser) error { return Argument(d, to) }}
}

// Argument reads the one argument of an option, which is not empty.
func Argument(d *caddyfile.Dispenser, to *string) error {
	if !d.Args(to) || d.NextArg() {
		return d.ArgErr()
	}
	if *to == "" {
		return d.Err("the value is empty")
	}
	return nil
}

// Values has an argument for each of to, or at least least of them. None is empty.
func Values(name string, least int, to ...*string) Option {
	return Option{Name: name, Read: func(d *caddyfile.Dispenser) error {
		values := d.RemainingArgs()
		switch {
		case len(values) < least || len(values) > len(to):
			return d.ArgErr()
		case slices.Contains(values, ""):
			return d.Err("a value is empty")
		}
		for i, v := range values {
			*to[i] = v
		}
		return nil
	}}
}

// Number has one whole number above zero. advice says what to write, such as "1, 3 or 5".
func Number(name, advice string, to *int) Option {
	return Option{Name: name, Read: func(d *caddyfile.Dispenser) error {
		var text string
		if err := Argument(d, &text); err != nil {
			return err
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 1 {
			return d.Errf("%s: %q is no number above zero; write %s", name, text, advice)
		}
		*to = v
		return nil
	}}
}

// Texts has one argument or more, and adds up.
func Texts(name string, to *[]string) Option {
	return Option{Name: name, Repeats: true, Read: func(d *caddyfile.Dispenser) error {
		arguments := d.RemainingArgs()
		if len(arguments) == 0 {
			return d.ArgErr()
		}
		*to = append(*to, arguments...)
		return nil
	}}
}

// Flag is true if it is given. It has no argument.
func Flag(name string, to *bool) Option {
	return Option{Name: name, Read: func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		*to = true
		return nil
	}}
}

// Duration has one duration above zero, such as 30s, 1h30m or 30d.
func Duration(name string, to *caddy.Duration) Option {
	return Option{Name: name, Read: func(d *caddyfile.Dispenser) error {
		var text string
		if !d.Args(&text) || d.NextArg() {
			return d.ArgErr()
		}
		v, err := caddy.ParseDuration(text)
		if err != nil || v <= 0 {
			return d.Errf("%s: %q is no duration above zero; write for example 500ms, 30s, 2h or 30d", name, text)
		}
		*to = caddy.Duration(v)
		return nil
	}}
}

// Size has one number of bytes above zero, such as 64KiB or 10GiB.
func Size(name string, to *int64) Option {
	return Option{Name: name, Read: func(d *caddyfile.Dispenser) error {
		var text string
		if !d.Args(&text) || d.NextArg() {
			return d.ArgErr()
		}
		v, err := humanize.ParseBytes(text)
		if err != nil || v == 0 || v > math.MaxInt64 {
			return d.Errf("%s: %q is no size above zero; write for example 64KiB or 10GiB", name, text)
		}
		*to = int64(v)
		return nil
	}}
}
