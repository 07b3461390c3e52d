#!/bin/sh
# Before a removal or an upgrade. An upgrade restarts the service afterwards.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now userhero-relay.service userhero-relay-backup.timer
	fi
	;;
esac
