#!/bin/sh
# Builds Caddy with this module, and runs it.
#
#   ./xcaddy.sh build          Caddy and this module into ./caddy
#   ./xcaddy.sh run [ARG…]     the same, then `caddy run` with ./Caddyfile, unless
#                              its ports are in use
#
# It needs Go and nothing else. It may be called from any directory. What it
# fetches, it fetches once: the module cache is asked first, so that later runs
# work without a network and take seconds.
#
#   CADDY_VERSION   another Caddy than the pinned one
#   OUTPUT          another file than ./caddy
#   GOOS, GOARCH    another system than this one
#   VERBOSE=1       show what xcaddy does
set -eu

XCADDY_VERSION=v0.4.5
MODULE=github.com/userhero/relay

say() { printf '%s\n' "xcaddy.sh: $*" >&2; }
die() { say "$*"; exit 1; }
usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$root/xcaddy.sh"; }

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)

prepare() {
	command -v go >/dev/null 2>&1 ||
		die "Go is not on the PATH. Install Go $(awk '$1 == "go" {print $2}' "$root/go.mod") or newer from https://go.dev/dl/, then run this again."
	# Fails with Go's own explanation where the installed Go is too old.
	caddy_pinned=$(cd "$root" && go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2) ||
		die "go.mod could not be read; see the message above."
	caddy_version=${CADDY_VERSION:-$caddy_pinned}
	output=${OUTPUT:-$root/caddy}
	case $output in /*) ;; *) output=$PWD/$output ;; esac

	# The module cache is itself a valid module proxy. With it in front, even
	# questions such as "is there a newer version" need no network.
	modcache=$(go env GOMODCACHE)
	GOPROXY="file://$modcache/cache/download,$(go env GOPROXY)"
	export GOPROXY
}

install_xcaddy() {
	xcaddy=$root/.bin/xcaddy@$XCADDY_VERSION/xcaddy
	[ -x "$xcaddy" ] && return
	say "installing xcaddy $XCADDY_VERSION into .bin"
	env -u GOOS -u GOARCH -u GOFLAGS GOBIN="${xcaddy%/*}" \
		go install "github.com/caddyserver/xcaddy/cmd/xcaddy@$XCADDY_VERSION" ||
		die "xcaddy could not be installed; see the message above. The first build needs a network or a filled module cache."
}

build() {
	prepare
	install_xcaddy
	log=$(mktemp "${TMPDIR:-/tmp}/xcaddy.XXXXXX")
	trap 'rm -f "$log"' EXIT
	trap 'exit 130' INT TERM
	# A checkout of a tag calls itself by it, any other one "dev".
	version=$(git -C "$root" describe --tags --exact-match --dirty --match 'v[0-9]*' 2>/dev/null || echo v0.0.0)
	say "building Caddy $caddy_version with $MODULE into $output (minutes at first, then seconds)"
	set -- build "$caddy_version" --output "$output" --with "$MODULE@$version=$root"
	if [ -n "${VERBOSE:-}" ]; then
		(cd "$root" && "$xcaddy" "$@")
	elif ! (cd "$root" && "$xcaddy" "$@") >"$log" 2>&1; then
		grep -v '^20.*\[INFO\]' "$log" | tail -n 40 >&2
		die "the build failed; run it with VERBOSE=1 to see all of it."
	fi
	say "built $output"
	rm -f "$log"
	trap - EXIT INT TERM
}

case ${1:-} in
build)
	[ $# -eq 1 ] || { usage >&2; exit 2; }
	build
	;;
run)
	shift
	build
	cd "$root"
	used=$("$output" userhero ports --config Caddyfile 2>&1) ||
		die "$(printf '%s\n' "$used" | sed -n 's/^Error: //p')"
	exec "$output" run --config Caddyfile "$@"
	;;
-h | --help | help)
	usage
	;;
*)
	usage >&2
	exit 2
	;;
esac
