package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/netns"
)

// TestArchiveRuns: the demonstration in an archive runs as docs/install.md says, takes a
// feedback and delivers it to its own receiver. It has a host of its own, because its ports
// are fixed.
func TestArchiveRuns(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	network, err := netns.New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	host := network.Hosts()[0]
	folder := t.TempDir()
	must(t, "tar xzf "+dist(t)+"/*_linux_amd64.tar.gz --strip-components=1 -C "+folder)

	args := append(host.Command(), "../caddy", "run")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = filepath.Join(folder, "demo")
	cmd.Env = append(os.Environ(), "HOME="+folder)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	on := strings.Join(host.Command(), " ") + " "
	eventually(t, 30*time.Second, on+"curl -sSf -o /dev/null http://localhost:8080/")
	must(t, on+submit)
	eventually(t, 30*time.Second, on+"curl -sSf -H 'Accept: application/json' http://localhost:8080/receiver | grep hello")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		t.Errorf("it does not end by itself: %v\n%s", <-ended, log.String())
	}
}
