package simulation

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
)

// onDisk is badgerqueue on real files. A crash leaves what they hold at a moment
// when nothing is being written; settlements that wait for company are lost.
type onDisk struct {
	free  atomic.Int64 // on the disk, as the store reads it
	dir   string
	lives int // folders so far
	s     *badgerqueue.Store
}

// plenty is more free space than a store asks for, in bytes.
const plenty = 900 << 20

func newOnDisk(t *testing.T) engine {
	e := &onDisk{dir: memoryFolder(t)}
	e.free.Store(plenty)
	return e
}

// memoryFolder is a folder in memory, where the system has one. Power loss is not
// simulated, and on a disk a world waits for its syncs for three quarters of its
// life.
func memoryFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "simulation") //nolint:usetesting // t.TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fills sets the free space. The store reads it every few milliseconds.
func (e *onDisk) fills(free int64) {
	e.free.Store(free)
	time.Sleep(10 * time.Millisecond)
}

func (e *onDisk) fileSystem(string) (size, free int64, err error) { return 1 << 30, e.free.Load(), nil }

func (e *onDisk) path() string { return filepath.Join(e.dir, fmt.Sprint(e.lives)) }

func (e *onDisk) open() (queue.Queue, error) {
	if e.s != nil {
		return e.s, nil
	}
	s, err := badgerqueue.Open(context.Background(), badgerqueue.Options{Path: e.path(), Retention: retention, FileSystem: e.fileSystem})
	if err != nil {
		return nil, err
	}
	e.s = s
	return s, nil
}

func (e *onDisk) sync()                   { time.Sleep(e.settling()) }
func (e *onDisk) settling() time.Duration { return 100 * time.Millisecond }

func (e *onDisk) close() error {
	if e.s == nil {
		return nil
	}
	err := e.s.Close(context.Background())
	e.s = nil
	return err
}

func (e *onDisk) crash() error {
	from := e.path()
	e.lives++
	if err := exec.Command("cp", "-r", "--sparse=always", from, e.path()).Run(); err != nil {
		return err
	}
	if err := e.close(); err != nil {
		return err
	}
	return os.RemoveAll(from)
}
