package caddymodule

import (
	"runtime/debug"
	"strings"
	"sync"
)

const modulePath = "github.com/userhero/relay"

// version is the module's version as the build recorded it, without the "v";
// "dev" where it is built from its own source tree.
var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path != modulePath || m.Version == "" || m.Version == "(devel)" || m.Version == "v0.0.0" {
			continue
		}
		return strings.TrimPrefix(m.Version, "v")
	}
	return "dev"
})
