package jetstreamqueue_test

import (
	"testing"

	"github.com/userhero/relay/e2e/natsproc"
)

// server is a nats-server on 127.0.0.1.
type server struct {
	*natsproc.Server
	name, url string
}

// oneServer starts a server that ends with the test.
func oneServer(t testing.TB) *server { return startServers(t, 1)[0] }

// cluster starts three servers that know each other.
func cluster(t testing.TB) []*server { return startServers(t, 3) }

func startServers(t testing.TB, n int) (all []*server) {
	t.Helper()
	if _, err := natsproc.Binary(); err != nil {
		t.Skip(err)
	}
	// Nothing here survives a power cut, so the servers need not wait for the disk.
	started, err := natsproc.Cluster(t.Context(), natsproc.Options{Dir: t.TempDir(), NoSync: true}, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		natsproc.End(started)
		for _, s := range started {
			if log := s.Log(); t.Failed() {
				t.Logf("the end of the log of nats-server %s:\n%s", s.Name, log[max(0, len(log)-4000):])
			}
		}
	})
	for _, s := range started {
		all = append(all, &server{s, s.Name, s.URL()})
	}
	return all
}

func (s *server) start(t testing.TB) {
	t.Helper()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
}

// ready waits until JetStream answers.
func (s *server) ready(t testing.TB) {
	t.Helper()
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func urls(all []*server) (list []string) {
	for _, s := range all {
		list = append(list, s.url)
	}
	return list
}
