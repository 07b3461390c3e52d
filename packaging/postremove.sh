#!/bin/sh
# After a removal. What was accepted stays, and the key to read it with.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ "$1" = purge ]; then
	echo "Kept: /var/lib/userhero with the store and the certificates, /var/lib/userhero-backups, /etc/userhero/secrets with its key."
fi
