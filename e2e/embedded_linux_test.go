package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/caddyproc"
)

// embeddedBinary builds a Caddy with the embedded NATS server. TestMain removes it.
var embeddedBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "caddyembedded-")
	if err != nil {
		return "", err
	}
	embeddedFolder = dir
	path := filepath.Join(dir, "caddy")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/caddyembedded").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// embeddedFolder is where embeddedBinary has built; empty if it has not.
var embeddedFolder string

func TestMain(m *testing.M) {
	status := m.Run()
	if embeddedFolder != "" {
		_ = os.RemoveAll(embeddedFolder)
	}
	os.Exit(status)
}

func embeddedCaddy(t *testing.T) string {
	t.Helper()
	path, err := embeddedBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// nodeCertificate returns the files of a certificate of some addresses, its key and its
// authority, which is the same certificate.
func nodeCertificate(t *testing.T, addresses ...string) (pair, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair, authority = filepath.Join(dir, "node.pem"), filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{
		authority: certificate,
		pair:      append(certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...),
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair, authority
}

// startEmbedded starts three Caddys, which are their own NATS servers.
func startEmbedded(t *testing.T) *relayCluster {
	t.Helper()
	c := newEmbedded(t)
	c.startTogether()
	return c
}

// newEmbedded is startEmbedded for Caddys that the caller starts.
func newEmbedded(t *testing.T) *relayCluster {
	t.Helper()
	c := newCluster(t)
	c.routes = []string{freeAddress(t), freeAddress(t), freeAddress(t)}
	pair, authority := nodeCertificate(t, "127.0.0.1")
	c.tls = strings.Join([]string{pair, pair, authority}, " ")
	for i, address := range c.routes {
		c.relays = append(c.relays, newRelay(t, c.embedded(fmt.Sprintf("n%d", i+1), address, c.routes)))
	}
	return c
}

// startTogether starts all relays at the same time: the first one waits for a second one.
func (c *relayCluster) startTogether() {
	c.t.Helper()
	var starting sync.WaitGroup
	errs := make([]error, len(c.relays))
	for i, relay := range c.relays {
		starting.Go(func() { errs[i] = relay.launch() })
	}
	starting.Wait()
	for _, err := range errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.t.Cleanup(c.stopTogether)
}

// embedded are the options of a Caddy that is the NATS server of a name.
func (c *relayCluster) embedded(name, listen string, routes []string) relayOptions {
	c.t.Helper()
	return relayOptions{binary: embeddedCaddy(c.t), app: c.webhooks(), embedded: fmt.Sprintf(
		"name %s\nlisten %s\nroutes %s\npath nats\ntls %s", name, listen, strings.Join(routes, " "), c.tls)}
}

// stopTogether stops all relays at the same time. The last ones have no majority any
// more, and each thing that they would still store takes its time to fail.
func (c *relayCluster) stopTogether() {
	var stopping sync.WaitGroup
	for _, relay := range c.relays {
		stopping.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
			defer cancel()
			if err := relay.process.Stop(ctx); err != nil {
				c.t.Errorf("stopping all at once: %v", err)
			}
		})
	}
	stopping.Wait()
}

// TestThreeCaddysAreACluster: three Caddyfiles and nothing else. Each Caddy is killed
// under load and comes back, one of them with an empty folder.
func TestThreeCaddysAreACluster(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	c.submitting(c.relays...)
	for i, relay := range c.relays {
		c.progress()
		relay.process.Kill()
		if i == 2 { // it comes back with nothing
			if err := os.RemoveAll(filepath.Join(relay.dir, "nats")); err != nil {
				t.Fatal(err)
			}
		}
		c.progress()
		relay.start()
	}
	c.progress()
	c.keepsAll()
}

// TestThreeCaddysRestartAsPlanned: each of them in turn, under load, costs no submission and
// no duplicate. Submissions wait up to 12 s for a relay that starts. On a machine on which a
// start takes longer, an election may too, and then a few may be told to try again.
func TestThreeCaddysRestartAsPlanned(t *testing.T) {
	c := startEmbedded(t)
	c.submitting(c.relays...)
	start, most := c.restartRelays(40*time.Second), 0
	if start > 12*time.Second {
		most = 3
	}
	n := c.keepsAll()
	if n.duplicates > 0 || c.load.refusals() > most || c.load.broken > 0 {
		t.Errorf("%d duplicates, %d without an answer, %d refused with a start of %v: %v", n.duplicates, c.load.broken, c.load.refusals(), start, c.load.refused)
	}
}

// TestServerLeavesForGood: a Caddy is lost with its disk, and another one of another name
// takes its place. It is not removed before the other one is there, and afterwards the
// cluster does without any one of those that it has.
func TestServerLeavesForGood(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	c.submitting(c.relays[:2]...)
	c.progress()
	lost := c.relays[2]
	lost.abandon()
	c.progress()
	remove := func(name string) (string, error) {
		return c.relays[0].process.Run(t.Context(), "userhero", "cluster", "remove", name, "--address", c.relays[0].admin)
	}
	for name, want := range map[string]string{"n2": "n2 runs", "n9": "has no server n9"} {
		if out, err := remove(name); err == nil || !strings.Contains(out, want) {
			t.Errorf("removing %s: %v: %s", name, err, out)
		}
	}
	// The others see it as offline after some seconds.
	said := ""
	t.Cleanup(func() { t.Log(said) })
	eventually(t, time.Minute, "without a replacement it is not removed", func() bool {
		out, err := remove("n3")
		said = out
		if err == nil {
			t.Fatalf("removed without a replacement: %s", out)
		}
		return strings.Contains(out, "start the server that replaces n3 first")
	})

	address := freeAddress(t)
	c.relays[2] = newRelay(t, c.embedded("n4", address, []string{c.routes[0], c.routes[1], address}))
	c.relays[2].start()
	eventually(t, time.Minute, "the lost server is removed", func() (done bool) {
		out, err := remove("n3")
		said = out
		return err == nil
	})
	eventually(t, time.Minute, "the others are the cluster", func() bool {
		var cluster struct {
			Servers []struct {
				Name    string
				Current bool
			}
		}
		c.relays[1].get("/cluster", &cluster)
		names := ""
		for _, s := range cluster.Servers {
			if s.Current {
				names += s.Name + " "
			}
		}
		return names == "n1 n2 n4 " && len(cluster.Servers) == 3
	})
	// Its streams move to the new server.
	c.healthyWithin(time.Minute)
	c.progress()

	c.relays[0].process.Kill()
	c.progress() // with the new one
	c.relays[0].start()
	c.progress()
	c.keepsAll()
}

// TestRestoreIntoThreeCaddys: the backup of one Caddy on Badger is restored by a command on
// one of three machines, while Caddy runs on the others and takes nothing. What waited is
// delivered once.
func TestRestoreIntoThreeCaddys(t *testing.T) {
	badgerOnly(t, "a backup of its store")
	t.Parallel()
	m := newMove(t)
	c := newEmbedded(t)
	for _, relay := range c.relays {
		relay.options.app = m.app
	}
	before := startRelay(t, relayOptions{app: m.app})
	m.submit(before, 3)
	want := m.waits(before, 2)
	file := filepath.Join(t.TempDir(), "relay.backup")
	m.run(before, "backup", file, "--address", before.admin)
	m.stop(before)

	first := c.relays[0]
	var starting sync.WaitGroup
	errs := make([]error, len(c.relays))
	for i, relay := range c.relays[1:] {
		starting.Go(func() { errs[i+1] = relay.launch() })
	}
	m.restore(first, file, "--config", "Caddyfile")
	starting.Go(func() { errs[0] = first.launch() })
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.abandon) // to stop the last one of three takes a minute
	m.same("on three Caddys", want, m.waits(c.relays[1], 2))
	m.well.Store(100)
	m.run(c.relays[2], "redeliver", "--webhook", "app", "--waiting", "--yes", "--address", c.relays[2].admin)
	m.deliversAll(c.relays[1], 6)
}

// TestReloadKeepsTheEmbeddedServer: a reload neither restarts the server nor changes its
// folder, and a build without the server says how to get it.
func TestReloadKeepsTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, nil)
	s := newRelay(t, relayOptions{binary: embeddedCaddy(t), app: "webhook app {\n url " + r.url + "\n secret " + secret + "\n}", embedded: "name n1\npath nats"})
	s.start()
	s.mustSubmit("before")
	if err := s.reload(s.caddyfile(s.options) + "\n# changed\n"); err != nil {
		t.Fatal(err)
	}
	id := s.mustSubmit("after")
	r.await(t, 20*time.Second, "the event has arrived", func(all []arrival) bool { return feedbackIDs(t, all)[id] > 0 })
	if opened := strings.Count(s.process.Log(), "the store is open"); opened != 1 {
		t.Errorf("the store was opened %d times", opened)
	}
	s.killAndRestart()
	id = s.mustSubmit("after a kill")
	r.await(t, 30*time.Second, "the event has arrived", func(all []arrival) bool { return feedbackIDs(t, all)[id] > 0 })

	out, err := caddyproc.Run(t.Context(), binary(t), s.dir, "validate", "--config", "Caddyfile")
	if err == nil || !strings.Contains(out, "--with github.com/userhero/relay/embeddednats") {
		t.Errorf("a Caddy without the server: %v, %s", err, out)
	}
}
