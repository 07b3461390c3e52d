// Command caddyembedded is the Caddy that tests of the embedded NATS server run. It is what
// `xcaddy build --with github.com/userhero/relay --with
// github.com/userhero/relay/embeddednats` makes, without a network.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // Caddy's own modules

	_ "github.com/userhero/relay"              // the relay's modules
	_ "github.com/userhero/relay/embeddednats" // the module under test
)

func main() { caddycmd.Main() }
