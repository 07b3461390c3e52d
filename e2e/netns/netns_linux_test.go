package netns_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/netns"
)

// TestCut: hosts reach each other, those that are cut off reach only themselves and each
// other, and all do again after the cut.
func TestCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	n, err := netns.New(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	hosts := n.Hosts()
	for _, h := range hosts {
		l, err := h.Listen(t.Context(), "0.0.0.0:7")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(h.Address))
				_ = c.Close()
			}
		}()
	}
	reaches := func(from, to *netns.Host, within time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := from.DialContext(ctx, "tcp", to.Address+":7")
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		b, err := io.ReadAll(c)
		return err == nil && string(b) == to.Address
	}
	check := func(when string, together func(i, j int) bool) {
		t.Helper()
		for i, from := range hosts {
			for j, to := range hosts {
				want, within := together(i, j), 200*time.Millisecond
				if want {
					within = 5 * time.Second
				}
				if got := reaches(from, to, within); got != want {
					t.Errorf("%s: host %d reaches host %d: %v, want %v", when, i, j, got, want)
				}
			}
		}
	}
	always := func(int, int) bool { return true }
	check("at first", always)
	for _, cut := range [][]*netns.Host{hosts[:1], hosts[:2]} {
		if err := n.Cut(cut...); err != nil {
			t.Fatal(err)
		}
		check("cut", func(i, j int) bool { return i < len(cut) == (j < len(cut)) })
		if err := n.Join(cut...); err != nil {
			t.Fatal(err)
		}
		check("joined", always)
	}
	out, err := exec.Command(hosts[1].Command()[0], append(hosts[1].Command()[1:], "ip", "-brief", "address")...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), hosts[1].Address) || strings.Contains(string(out), hosts[0].Address) {
		t.Errorf("a program on a host has other addresses: %v\n%s", err, out)
	}
}
