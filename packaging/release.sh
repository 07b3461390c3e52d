#!/bin/bash
# Builds a release into a folder; `make release` calls it.
#
#   VERSION    1.2.3, or 1.2.3-rc.1; without the "v" of its tag
#   PLATFORMS  linux/amd64 linux/arm64 linux/arm/7 … : archives for each, packages
#              for each Linux, images for amd64 and arm64
#   DIST       the folder; what it held is gone afterwards
#   NFPM, CYCLONEDX   the tools
#
# The same commit gives the same files, wherever it is built: paths are trimmed,
# times are the commit's. The machine's ca-certificates go into the images.
set -euo pipefail
cd "$(dirname "$0")/.."

MODULE=github.com/userhero/relay
certificates=/etc/ssl/certs/ca-certificates.crt
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH VERSION CGO_ENABLED=0
umask 022

case $VERSION in
[0-9]*.[0-9]*.[0-9]*) ;;
*) echo "release: VERSION is \"$VERSION\"; it must be like 1.2.3" >&2; exit 2 ;;
esac

rm -rf "$DIST"
mkdir -p "$DIST"
DIST=$(cd "$DIST" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build OUTPUT: with the tags that xcaddy sets too.
build() {
	go build -trimpath -buildvcs=false -tags nobadger,nomysql,nopgx \
		-ldflags "-s -w -buildid= -X $MODULE/caddymodule/version.release=$VERSION" -o "$1" ./cmd/caddy
}

pack() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" "$@"; }

echo "manual pages and completions"
native=$(go env GOOS)/$(go env GOARCH)
build "$work/native"
mkdir "$work/man" "$work/completions"
"$work/native" manpage --directory "$work/man" >/dev/null
gzip -9n "$work"/man/*
for shell in bash zsh fish; do "$work/native" completion $shell >"$work/completions/caddy.$shell"; done
export MAN=$work/man COMPLETIONS=$work/completions

for platform in $PLATFORMS; do
	IFS=/ read -r GOOS GOARCH arm <<<"$platform"
	export GOOS GOARCH GOARM=${arm:-}
	ARCH=$GOARCH${arm:+v$arm}
	name=userhero-relay_${VERSION}_${GOOS}_$ARCH
	echo "$name"
	folder=$work/$name
	mkdir "$folder"
	suffix=
	[ "$GOOS" = windows ] && suffix=.exe
	if [ "$platform" = "$native" ]; then cp "$work/native" "$folder/caddy$suffix"; else build "$folder/caddy$suffix"; fi
	"$CYCLONEDX" bin -json -std -noserial -version "v$VERSION" -output "$work/sbom.json" "$folder/caddy$suffix" 2>/dev/null
	jq --arg time "$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)" '.metadata.timestamp = $time' "$work/sbom.json" >"$DIST/$name.sbom.json"

	cp LICENSE CHANGELOG.md packaging/Caddyfile "$folder"
	mkdir "$folder/demo"
	cp -r --parents Caddyfile examples/demo "$folder/demo" # ../caddy run, there
	case $GOOS in
	windows)
		find "$folder" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
		(cd "$work" && TZ=UTC zip -qrX -9 "$DIST/$name.zip" "$name")
		;;
	*)
		cp -r "$MAN" "$COMPLETIONS" "$folder"
		[ "$GOOS" = linux ] && cp examples/systemd/userhero-relay* "$folder"
		pack -C "$work" -c "$name" | gzip -9n >"$DIST/$name.tar.gz"
		;;
	esac

	[ "$GOOS" = linux ] || continue
	export ARCH=$GOARCH${arm:-} BINARY=$folder/caddy # nfpm's names: amd64, arm64, arm7
	for packager in deb rpm; do
		"$NFPM" package --config packaging/nfpm.yaml --packager $packager --target "$DIST/" >/dev/null
	done
	case $GOARCH in
	amd64 | arm64) images="${images:-} $GOARCH=$BINARY" ;;
	esac
done
unset GOOS GOARCH GOARM

if [ -n "${images:-}" ]; then
	echo "images"
	(cd packaging/image && go build -o "$work/image" .)
	# shellcheck disable=SC2086 # one argument for each image
	"$work/image" -version "$VERSION" -created "$SOURCE_DATE_EPOCH" -revision "$(git rev-parse HEAD)" \
		-certificates "$certificates" -config packaging/image/Caddyfile -out "$DIST" $images
fi

cd "$DIST"
sha256sum -- * >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" .
