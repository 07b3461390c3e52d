package install

import (
	"strings"
	"testing"
	"time"
)

const (
	unit       = "../../examples/systemd/userhero-relay.service"
	backups    = "../../examples/systemd/userhero-relay-backup.service"
	production = "../../examples/production/Caddyfile"
)

// TestServiceIsHardened: at most 1.6 of 10 by systemd's own measure, and no
// setting that systemd does not know.
func TestServiceIsHardened(t *testing.T) {
	if !onMachine(t, map[string]string{"/usr/bin/caddy": "caddy"}) {
		return
	}
	for _, unit := range []string{unit, backups} {
		t.Log(must(t, "systemd-analyze security --offline=true --threshold=16 --no-pager "+unit+" | tail -1"))
	}
	if out := must(t, "systemd-analyze verify --man=no --recursive-errors=no "+unit+" "+backups+" "+strings.Replace(backups, ".service", ".timer", 1)); out != "" {
		t.Error(out)
	}
}

// installed follows the comment at the head of the unit, with the production
// Caddyfile and its secrets, up to the start.
func installed(t *testing.T) {
	t.Helper()
	head, _, _ := strings.Cut(read(t, unit), "[Unit]")
	var lines []string
	for line := range strings.Lines(head) {
		if command, ok := strings.CutPrefix(line, "#   "); ok && !strings.HasPrefix(command, "systemctl enable") {
			lines = append(lines, command)
		}
	}
	must(t, "cd $(mktemp -d); cp /usr/local/share/caddy-under-test caddy; cp "+absolute(t, production)+" Caddyfile; cp "+absolute(t, unit)+" .\n"+
		strings.Join(lines, ""))
	must(t, `umask 077; cd /etc/userhero/secrets
		echo crm-secret >crm; echo chat-secret >chat; caddy hash-password --plaintext 'correct horse' >console`)
}

// TestService: the unit and the production Caddyfile start together as they are
// written, and the service lives as systemd's services do.
func TestService(t *testing.T) {
	if !onMachine(t, map[string]string{"/usr/local/share/caddy-under-test": "caddy"}) {
		return
	}
	installed(t)
	const healthy = "curl -sf http://localhost:2019/userhero/healthz"

	t.Run("starts", func(t *testing.T) {
		must(t, "systemctl enable --now userhero-relay || { journalctl -u userhero-relay --no-pager; false; }")
		must(t, healthy)
		pid := "/proc/$(systemctl show -P MainPID userhero-relay)/"
		must(t, "test $(stat -c %U "+pid+") = userhero")
		must(t, "grep -q '^NoNewPrivs:.1' "+pid+"status && grep -q '^Seccomp:.2' "+pid+"status")
		must(t, "curl -sf -o /dev/null -H 'Host: feedback.example.com' http://localhost/") // port 80, without being root
		for _, folder := range []string{"/var/lib/userhero", "/var/lib/userhero/store", "/var/lib/userhero/caddy"} {
			must(t, "test \"$(stat -c '%U %a' "+folder+")\" = 'userhero 700'")
		}
	})
	t.Run("is validated as root with the same secrets", func(t *testing.T) {
		must(t, "caddy validate --config /etc/userhero/Caddyfile")
	})
	t.Run("reloads", func(t *testing.T) {
		must(t, `sed -i 's/webhook chat/webhook talk/' /etc/userhero/Caddyfile; systemctl reload userhero-relay`)
		must(t, "caddy userhero webhooks | grep talk")
		must(t, "cp /etc/userhero/Caddyfile /tmp/good; echo '}' >>/etc/userhero/Caddyfile; ! systemctl reload userhero-relay")
		must(t, healthy)
		must(t, "cp /tmp/good /etc/userhero/Caddyfile; systemctl reload userhero-relay")
	})
	t.Run("is started again after a crash", func(t *testing.T) {
		must(t, "systemctl kill -s KILL userhero-relay")
		eventually(t, 20*time.Second, healthy+" && test $(systemctl show -P NRestarts userhero-relay) = 1")
	})
	t.Run("stops within its time", func(t *testing.T) {
		must(t, "systemctl stop userhero-relay && test $(systemctl show -P Result userhero-relay) = success")
		must(t, "journalctl -u userhero-relay --no-pager | grep attempts_ended")
	})
	t.Run("gives up on a broken Caddyfile", func(t *testing.T) {
		// Five times in a row, with less waiting in between than the unit has.
		must(t, `mkdir /etc/systemd/system/userhero-relay.service.d
			printf '[Service]\nRestartSec=100ms\n' >/etc/systemd/system/userhero-relay.service.d/fast.conf; systemctl daemon-reload`)
		must(t, "systemctl reset-failed userhero-relay; echo 'userhero {' >>/etc/userhero/Caddyfile; ! systemctl start userhero-relay")
		eventually(t, 20*time.Second, "journalctl -u userhero-relay --no-pager -n 3 | grep 'Start request repeated too quickly'")
		must(t, "systemctl is-failed userhero-relay && test $(systemctl show -P NRestarts userhero-relay) = 5")
		must(t, "cp /tmp/good /etc/userhero/Caddyfile; systemctl reset-failed userhero-relay; systemctl start userhero-relay; "+healthy)
	})
	t.Run("names a secret that is missing or empty", func(t *testing.T) {
		for damage, want := range map[string]string{
			"rm /etc/userhero/secrets/crm": "secrets_crm: no such file",
			": >/etc/userhero/secrets/crm": "secrets_crm is empty",
		} {
			must(t, "systemctl reset-failed userhero-relay; "+damage+"; systemctl restart userhero-relay || true")
			eventually(t, 20*time.Second, "journalctl -u userhero-relay --no-pager -n 30 | grep '"+want+"'")
			must(t, "systemctl stop userhero-relay")
		}
	})
}
