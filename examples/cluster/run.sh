#!/bin/sh
# Three NATS servers, two relays and a load balancer on this machine, on loopback only:
#
#   ./run.sh            then open http://127.0.0.1:8080/relay/
#
#   curl http://127.0.0.1:8080/feedback -H 'Content-Type: application/json' -d '{"message":"hello"}'
#
# It needs Go, and builds what is missing: Caddy with this module, nats-server. Ctrl-C
# stops everything. Kill any one of the processes, whose ids it prints, and watch.
#
#   PORT    of the load balancer; the others are those after it. Default 8080
#   DATA    where the NATS servers keep their data. Default ./data
#   CADDY   another Caddy than the one of this repository
set -eu

NATS_VERSION=v2.15.2
first=${PORT:-8080}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=$(CDPATH='' cd -- "$here/../.." && pwd -P)
DATA=${DATA:-$here/data}
CADDY=${CADDY:-$root/caddy}
nats=$root/.bin/nats-server@$NATS_VERSION/nats-server

say() { printf '%s\n' "run.sh: $*" >&2; }
die() { say "$*"; exit 1; }

[ -x "$CADDY" ] || "$root/xcaddy.sh" build
if ! [ -x "$nats" ]; then
	say "installing nats-server $NATS_VERSION into .bin (a minute, once)"
	GOBIN=${nats%/*} go install "github.com/nats-io/nats-server/v2@$NATS_VERSION"
fi

# Ports: the balancer, the relays, their admin endpoints, NATS' clients, NATS' routes.
relay() { echo $((first + $1)); }
admin() { echo $((first + 10 + $1)); }
client() { echo $((first + 20 + $1)); }
route() { echo $((first + 30 + $1)); }

pids=
stopped=
stop() {
	[ -z "$stopped" ] || return 0
	stopped=1
	# The balancer and the relays first, then the servers, which they still need.
	for pid in $front $relays; do kill "$pid" 2>/dev/null || true; done
	for pid in $front $relays; do wait "$pid" 2>/dev/null || true; done
	for pid in $pids; do kill "$pid" 2>/dev/null || true; done
	for pid in $pids; do wait "$pid" 2>/dev/null || true; done
}
front='' relays=''
trap stop EXIT
trap 'stop; exit 130' INT TERM

mkdir -p "$DATA"
for i in 1 2 3; do
	cat >"$DATA/n$i.conf" <<CONF
server_name: n$i
listen: "127.0.0.1:$(client $i)"
jetstream {
	store_dir: "$DATA/n$i"
	sync_interval: always # what is acknowledged is on the disk
}
cluster {
	name: relay
	ping_interval: "2s" # the end of a cut in the network is noticed in seconds
	listen: "127.0.0.1:$(route $i)"
	routes: [nats://127.0.0.1:$(route 1), nats://127.0.0.1:$(route 2), nats://127.0.0.1:$(route 3)]
}
CONF
	"$nats" -c "$DATA/n$i.conf" >"$DATA/n$i.log" 2>&1 &
	pids="$pids $!"
	say "nats-server n$i is process $!"
done

export NATS_SERVERS="nats://127.0.0.1:$(client 1) nats://127.0.0.1:$(client 2) nats://127.0.0.1:$(client 3)"
export RECEIVER="http://127.0.0.1:$first/receiver"
export RELAYS="127.0.0.1:$(relay 1) 127.0.0.1:$(relay 2)"
for i in 1 2; do
	PORT=$(relay $i) ADMIN=127.0.0.1:$(admin $i) \
		"$CADDY" run --adapter caddyfile --config "$here/relay.Caddyfile" >"$DATA/relay$i.log" 2>&1 &
	relays="$relays $!"
	say "relay $i is process $!; its log is $DATA/relay$i.log"
done
PORT=$first "$CADDY" run --adapter caddyfile --config "$here/front.Caddyfile" >"$DATA/front.log" 2>&1 &
front=$!

# The first start makes the streams, which takes some seconds.
for _ in $(seq 60); do
	for pid in $front $relays $pids; do
		kill -0 "$pid" 2>/dev/null || die "a process has ended; see the logs in $DATA. Are the ports from $first to $(route 3) in use?"
	done
	if "$CADDY" userhero health --address "127.0.0.1:$(admin 1)" >/dev/null 2>&1 &&
		"$CADDY" userhero health --address "127.0.0.1:$(admin 2)" >/dev/null 2>&1; then
		say "ready: http://127.0.0.1:$first/relay/ (Ctrl-C stops everything)"
		wait "$front"
		die "the load balancer has ended; see $DATA/front.log"
	fi
	sleep 1
done
die "not healthy after a minute; see the logs in $DATA"
