// Package relay is what a Caddy build imports: it registers the modules of
// UserHero Relay and does nothing else.
//
//	xcaddy build --with github.com/userhero/relay
package relay

import _ "github.com/userhero/relay/caddymodule" // registers the modules
