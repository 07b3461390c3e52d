package badgerqueue_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
	"github.com/userhero/relay/queue/queuetest"
)

// TestKeepsEveryPromise runs the suite that every engine runs.
func TestKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	var opened sync.Map // of a queue.Queue: its options
	open := func(t *testing.T, o badgerqueue.Options) queue.Queue {
		t.Helper()
		s, err := badgerqueue.Open(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		opened.Store(s, o)
		return s
	}
	optionsOf := func(t *testing.T, q queue.Queue) badgerqueue.Options {
		t.Helper()
		o, ok := opened.Load(q)
		if !ok {
			t.Fatal("the suite gave back a queue that it did not get")
		}
		return o.(badgerqueue.Options)
	}
	queuetest.Run(t, queuetest.Harness{
		Open: func(t *testing.T) queue.Queue {
			t.Helper()
			return open(t, badgerqueue.Options{Path: t.TempDir()})
		},
		// The clock is looked at as often as the retention asks for.
		OpenOn: func(t *testing.T, c queue.Clock) queue.Queue {
			t.Helper()
			return open(t, badgerqueue.Options{Path: t.TempDir(), Retention: 10 * time.Second, Clock: c})
		},
		Erases:  true,
		Redacts: true,
		OpenWithin: func(t *testing.T, l queue.Limits) queue.Queue {
			t.Helper()
			return open(t, badgerqueue.Options{Path: t.TempDir(), Retention: l.Retention, MaxDisk: l.MaxDisk})
		},
		Reopen: func(t *testing.T, q queue.Queue) queue.Queue {
			t.Helper()
			return open(t, optionsOf(t, q))
		},
		// What a killed process leaves is what its files hold at that moment.
		Crash: func(t *testing.T, q queue.Queue) queue.Queue {
			t.Helper()
			o, left := optionsOf(t, q), t.TempDir()
			copyFiles(t, o.Path, left)
			if err := q.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			o.Path = left
			return open(t, o)
		},
	})
}

// copyFiles copies the files of a store that is open. Where Badger makes or
// removes one meanwhile, the copy is of no moment there ever was, and is made
// anew.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	for range 100 {
		names := filesIn(t, from)
		var err error
		for _, name := range names {
			if err = errors.Join(err, badgerqueue.CopySparse(filepath.Join(from, name), filepath.Join(to, name))); err != nil {
				break
			}
		}
		if err == nil && slices.Equal(names, filesIn(t, from)) {
			return
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, name := range filesIn(t, to) {
			if err := os.Remove(filepath.Join(to, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatal("the store's files never rest")
}

// filesIn lists a store's files, without the lock of the process that is taken
// for dead. The mark comes first: it is never ahead of the other files.
func filesIn(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "LOCK" {
			names = append(names, e.Name())
		}
	}
	if i := slices.Index(names, "HIGHWATER"); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, "HIGHWATER")
	}
	return names
}
