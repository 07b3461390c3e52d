// Package version knows the version of this module.
package version

import (
	"cmp"
	"runtime/debug"
	"strings"
	"sync"
)

const modulePath = "github.com/userhero/relay"

// release is set by the linker in the binaries of a release: "1.2.3".
var release string

// String is the version of the release, else the module's version as the build
// recorded it, without the "v", or "dev" if it was built from its own source tree.
var String = sync.OnceValue(func() string { return cmp.Or(release, recorded(), "dev") })

func recorded() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path != modulePath || m.Version == "" || m.Version == "(devel)" || m.Version == "v0.0.0" {
			continue
		}
		return strings.TrimPrefix(m.Version, "v")
	}
	return ""
}
