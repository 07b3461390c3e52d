// Command caddy is Caddy with its standard modules and UserHero Relay: what the
// packages, archives and images of a release contain. `xcaddy build --with
// github.com/userhero/relay` makes the same program with other modules beside it.
package main

import (
	_ "time/tzdata" // for machines and images without a time zone database

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // Caddy's own modules

	_ "github.com/userhero/relay" // the relay's modules
	"github.com/userhero/relay/caddymodule/version"
)

func main() {
	// `caddy version` prints this before Caddy's own version.
	caddy.CustomVersion = "userhero-relay " + version.String() + ", caddy"
	caddycmd.Main()
}
