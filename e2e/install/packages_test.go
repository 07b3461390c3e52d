package install

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// dist is the folder of the release under test.
func dist(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RELAY_DIST")
	if path == "" {
		path = "../../dist"
	}
	if _, err := os.Stat(filepath.Join(path, "SHA256SUMS")); err != nil {
		t.Fatalf("no release to test (%v): run `make release PLATFORMS=linux/amd64`, or `make e2e`", err)
	}
	return absolute(t, path)
}

// block is a fenced block of a document.
type block struct{ language, text string }

var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// blocks are those of one section of a document, in order.
func blocks(t *testing.T, document, section string) []block {
	t.Helper()
	_, text, ok := strings.Cut(read(t, document), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", document, section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var found []block
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		found = append(found, block{m[1], m[2]})
	}
	return found
}

// TestInstallGuide does what docs/install.md says for Debian, word for word: its
// sh blocks are run, its diff blocks change the Caddyfile, its text blocks are what
// the commands before them print. Then the package is upgraded and removed.
func TestInstallGuide(t *testing.T) {
	folder := dist
	if os.Getenv("RELAY_MACHINE") != "" {
		folder = func(*testing.T) string { return "/srv/release" }
	}
	if !onMachine(t, map[string]string{"/srv/release": folder(t)}) {
		return
	}
	must(t, "rm -f /var/lib/man-db/auto-update; echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe") // for speed
	const config = "/etc/userhero/Caddyfile"
	var out, hash string
	for _, b := range blocks(t, "../../docs/install.md", "Debian and Ubuntu") {
		switch b.language {
		case "sh":
			out = must(t, "cd /srv/release\n"+b.text)
			if strings.HasPrefix(out, "$2a$") {
				hash = out
			}
		case "diff":
			text := read(t, config)
			lines := strings.Split(strings.ReplaceAll(b.text, "HASH", hash), "\n")
			for i := 0; i+1 < len(lines); i += 2 {
				before, after := "\n"+strings.TrimPrefix(lines[i], "-")+"\n", "\n"+strings.TrimPrefix(lines[i+1], "+")+"\n"
				if strings.Count(text, before) != 1 {
					t.Fatalf("%s does not have the line %q once", config, before)
				}
				text = strings.Replace(text, before, after, 1)
			}
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			must(t, "chmod 644 "+config)
		case "text":
			want := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(b.text)), "…", ".*")
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("printed:\n%s\nwant:\n%s", out, b.text)
			}
		default:
			t.Errorf("a block of %s in a section that is walked", b.language)
		}
	}

	version := must(t, "dpkg-query -W -f '${Version}' userhero-relay")
	for _, line := range []string{
		"caddy version | grep -F 'userhero-relay " + strings.Replace(version, "~", "-", 1) + ", caddy v2.'",
		"caddy userhero status | grep -F '" + strings.Replace(version, "~", "-", 1) + "'",
		"test -e /usr/share/man/man8/caddy-userhero-health.8.gz && test -e /usr/share/man/man8/caddy.8.gz",
		"bash -c 'source /usr/share/bash-completion/completions/caddy && declare -F __start_caddy'",
		`test "$(stat -c '%U %a' /etc/userhero/secrets /etc/userhero/secrets/data_key | xargs)" = 'root 700 root 600'`,
		"grep '^whsec_' /etc/userhero/secrets/crm",
	} {
		must(t, line)
	}

	t.Run("the timer makes up for a backup that was due while the machine was off", func(t *testing.T) {
		const count = "ls /var/lib/userhero-backups/*.backup | wc -l"
		before := must(t, count)
		must(t, `mkdir /etc/systemd/system/userhero-relay-backup.timer.d
			printf '[Timer]\nRandomizedDelaySec=0\n' >/etc/systemd/system/userhero-relay-backup.timer.d/now.conf; systemctl daemon-reload
			systemctl stop userhero-relay-backup.timer; touch -d '2 days ago' /var/lib/systemd/timers/stamp-userhero-relay-backup.timer
			systemctl start userhero-relay-backup.timer`)
		eventually(t, 30*time.Second, "test $("+count+") -gt "+before+" && test $(systemctl show -P Result userhero-relay-backup.service) = success")
	})
	t.Run("upgrade", func(t *testing.T) {
		before := must(t, "sha256sum "+config+" /etc/userhero/secrets/*; systemctl show -P MainPID userhero-relay")
		must(t, "apt-get install -y --reinstall /srv/release/userhero-relay_*_amd64.deb")
		eventually(t, 20*time.Second, "caddy userhero health")
		after := must(t, "sha256sum "+config+" /etc/userhero/secrets/*; systemctl show -P MainPID userhero-relay")
		filesBefore, pidBefore := before[:strings.LastIndex(before, "\n")], before[strings.LastIndex(before, "\n"):]
		if filesAfter := after[:strings.LastIndex(after, "\n")]; filesAfter != filesBefore {
			t.Errorf("the upgrade changed files:\n%s\n%s", filesBefore, filesAfter)
		}
		if strings.HasSuffix(after, pidBefore) {
			t.Error("the upgrade did not restart the service")
		}
		must(t, "caddy userhero deliveries | grep crm")
	})
	t.Run("removal", func(t *testing.T) {
		must(t, "apt-get purge -y userhero-relay && ! systemctl is-active userhero-relay && ! command -v caddy")
		must(t, "test -e /etc/userhero/secrets/data_key && test -d /var/lib/userhero/store && test ! -e /etc/userhero/Caddyfile")
	})
}

// TestReleaseIsWhole: the checksums are right, every binary has a bill of
// materials, and the rpm holds what the deb holds.
func TestReleaseIsWhole(t *testing.T) {
	t.Parallel()
	folder := dist(t)
	must(t, "cd "+folder+" && sha256sum --check --quiet --strict SHA256SUMS")
	must(t, "cd "+folder+" && jq -e '.bomFormat == \"CycloneDX\" and (.components | map(.name) | contains([\"github.com/caddyserver/caddy/v2\"]))' *_linux_amd64.sbom.json")
	if out := must(t, "cd "+folder+" && tar tzf *_linux_amd64.tar.gz"); !strings.Contains(out, "/man/caddy-userhero.8.gz") || !strings.Contains(out, "/completions/caddy.fish") {
		t.Errorf("the archive holds:\n%s", out)
	}
	deb := must(t, "cd "+folder+" && dpkg-deb -c *_amd64.deb | awk '{print $6}' | sed 's/^\\.//; s#/$##; s#^/lib/systemd#/usr/lib/systemd#' | grep . | sort")
	rpm := must(t, "cd "+folder+" && rpm --dbpath $(mktemp -d) -qpl *.x86_64.rpm | sort")
	for path := range strings.SplitSeq(rpm, "\n") {
		if !strings.Contains("\n"+deb+"\n", "\n"+path+"\n") {
			t.Errorf("the deb does not hold %s", path)
		}
	}
	if n := strings.Count(rpm, "\n"); n < 20 {
		t.Errorf("the rpm holds %d files", n)
	}
}
