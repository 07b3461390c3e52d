// Package version knows the version of this module.
package version

import (
	"runtime/debug"
	"strings"
	"sync"
)

const modulePath = "github.com/userhero/relay"

// String is the module's version as the build recorded it, without the "v", or
// "dev" if it was built from its own source tree.
var String = sync.OnceValue(func() string {
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
