#!/bin/sh
# After an installation or an upgrade, of a deb or an rpm.
set -e

getent passwd userhero >/dev/null ||
	useradd --system --user-group --home-dir /var/lib/userhero --no-create-home --shell /usr/sbin/nologin userhero

# Secrets are made once, and no package takes them away: the key that encrypts the
# store, without which it cannot be read, and the one that signs for the webhook of
# the default Caddyfile.
secret() { # NAME CONTENT
	[ -e "/etc/userhero/secrets/$1" ] || (umask 077 && printf '%s\n' "$2" >"/etc/userhero/secrets/$1")
}
secret data_key "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
secret crm "whsec_$(head -c 24 /dev/urandom | base64)"

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart userhero-relay.service # only an upgrade finds it running
fi

# A deb is configured for the first time without a second argument, an rpm with 1.
case "$1:$2" in
configure: | 1:)
	echo "UserHero Relay is installed and not started. Change the three lines of"
	echo "/etc/userhero/Caddyfile that are marked there, then:"
	echo "    systemctl enable --now userhero-relay"
	;;
esac
