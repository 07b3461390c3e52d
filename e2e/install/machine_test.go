package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// onMachine reports whether the test runs on a machine of its own. If it does
// not, onMachine boots one that has the files (by their path there; values are
// paths here, "caddy" is the binary under test), runs the test on it, and passes
// its outcome on.
func onMachine(t *testing.T, files map[string]string) bool {
	t.Helper()
	if os.Getenv("RELAY_MACHINE") != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("booting a machine in a container needs root")
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("booting a machine needs the Debian package systemd-container")
	}
	out, err := boot(t, files)
	t.Log(out)
	if err != nil {
		t.Error(err)
	}
	return false
}

// testUnit is what the machine boots instead of its services. It ends the machine
// with the exit status of the test.
const testUnit = `[Unit]
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
Environment=RELAY_MACHINE=1 HOME=/root
WorkingDirectory=%s
ExecStart=/run/machine/test -test.run ^%s$ -test.v -test.timeout 5m
StandardOutput=file:/run/machine/out/log
StandardError=inherit
`

// boot starts systemd in namespaces of its own, over this machine's root folder,
// and returns what the test on it printed, or the console if there was no test.
func boot(t *testing.T, files map[string]string) (string, error) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root, out := t.TempDir(), t.TempDir()
	unit := filepath.Join(t.TempDir(), "relay-test.service")
	repository := absolute(t, "../..")
	text := fmt.Sprintf(testUnit, filepath.Join(repository, "e2e", "install"), t.Name())
	if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	args := []string{"--mount", "--propagation", "private", "sh", "-c", `mount --bind / "$0" && exec systemd-nspawn "$@"`, root,
		"--quiet", "--directory=" + root, "--volatile=overlay", "--private-network",
		"--register=no", "--keep-unit", "--machine=" + filepath.Base(filepath.Dir(root)),
		"--bind-ro=" + repository,
		"--bind-ro=" + executable + ":/run/machine/test", "--bind=" + out + ":/run/machine/out",
		"--bind-ro=" + unit + ":/etc/systemd/system/relay-test.service"}
	for there, here := range files {
		if here == "caddy" {
			here = caddy(t)
		}
		args = append(args, "--bind-ro="+absolute(t, here)+":"+there)
	}
	// Waiting for a network would take two minutes.
	args = append(args, "--boot", "--", "systemd.unit=relay-test.service",
		"systemd.mask=systemd-networkd-wait-online.service", "systemd.mask=NetworkManager-wait-online.service")
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	console, err := cmd.CombinedOutput()
	log, readErr := os.ReadFile(filepath.Join(out, "log"))
	if readErr != nil {
		return string(console), fmt.Errorf("the machine did not get as far as the test: %w", readErr)
	}
	if err == nil && !strings.Contains(string(log), "PASS: "+t.Name()) {
		return string(log) + string(console), fmt.Errorf("the machine ended without an outcome of %s", t.Name())
	}
	return string(log), err
}

// shell runs a command line on the machine and returns what it printed.
func shell(t *testing.T, line string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute) // also for cleaning up
	defer cancel()
	out, err := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", line).CombinedOutput()
	return strings.TrimRight(string(out), "\n"), err
}

// must is shell for a command line that has to succeed.
func must(t *testing.T, line string) string {
	t.Helper()
	out, err := shell(t, line)
	if err != nil {
		t.Fatalf("%s\n%v\n%s", line, err, out)
	}
	return out
}

// eventually fails the test if the command line does not succeed within the time.
func eventually(t *testing.T, within time.Duration, line string) {
	t.Helper()
	var out string
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if out, err = shell(t, line); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %s\n%v\n%s", within, line, err, out)
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// caddy is the path of the binary under test.
func caddy(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RELAY_CADDY")
	if path == "" {
		path = "../../caddy"
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no caddy to test (%v): run `make build`, or `make e2e`", err)
	}
	return absolute(t, path)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
