package badgerqueue

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// TestCommitLogIsTheMemtables: that what is synced is the log that grows on the disk,
// from one memtable to the next, that no commit ends behind the end that is counted,
// and that nothing gets into the value log, which nobody syncs.
func TestCommitLogIsTheMemtables(t *testing.T) {
	t.Parallel()
	s, err := open(t.Context(), Options{Path: t.TempDir()}, smallMemtables)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	seen := map[string]bool{}
	for i := range 30 { // of 60 KiB: more than a memtable
		e := entry(i)
		e.Body = noise(i, 60<<10)
		if _, err := s.Enqueue(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		logs, err := filepath.Glob(filepath.Join(s.o.Path, "*.mem"))
		if err != nil || len(logs) == 0 {
			t.Fatalf("no log: %v", err)
		}
		newest := logs[len(logs)-1]
		seen[newest] = true
		name, end := s.commitLog.Place()
		if name != newest {
			t.Fatalf("%s is synced, and event %d is in %s", name, i, newest)
		}
		if last := lastWritten(t, newest); last > end || end-last > 8<<10*(i+1) {
			t.Fatalf("event %d ends at %d, and the end is counted as %d", i, last, end)
		}
	}
	if len(seen) < 2 {
		t.Error("the memtable was never exchanged")
	}
	e := entry(1000)
	e.Body = noise(1000, s.bounds.maxValue())
	if _, err := s.Enqueue(context.Background(), e); err == nil {
		t.Error("a value was written to the log that is not synced")
	}
	if _, err := s.Enqueue(context.Background(), entry(1001)); err != nil {
		t.Errorf("the next one was refused: %v", err)
	}
	if events := s.Stats(context.Background()).Events; events != 31 {
		t.Errorf("%d events; want 31", events)
	}
}

// TestLogIsWrittenAheadOfItsCommits: that no commit is written into a hole but the
// first of a log, and that what is written or allocated ahead is zeros and over nothing else.
func TestLogIsWrittenAheadOfItsCommits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const memtable, size = 4 << 20, 16 << 10
	const events = 3 * memtable / size
	b := defaultBounds
	b.memtable = memtable
	s, err := open(t.Context(), Options{Path: dir}, b)
	if err != nil {
		t.Fatal(err)
	}
	logs := map[string]bool{}
	for i := range events {
		e := entry(i)
		e.Body = noise(i, size)
		if _, err := s.Enqueue(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		if i%8 != 7 {
			continue
		}
		// What the next operation in the same log waits for has come after the extension.
		for last, log := "", "-"; last != log; {
			last = log
			if err := s.commit(context.Background(), 1, 1, func(*batch) error { return nil }); err != nil {
				t.Fatal(err)
			}
			log, _ = s.commitLog.Place()
		}
		found, err := filepath.Glob(filepath.Join(dir, "*.mem"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no log: %v", err)
		}
		newest := found[len(found)-1]
		_, end := s.commitLog.Place()
		logs[newest] = true
		if blocks := allocated(t, newest); blocks < min(end+badgercompat.ReadyLeast, memtable) {
			t.Errorf("%s ends at %d and has blocks for %d bytes", newest, end, blocks)
		}
	}
	if len(logs) < 2 {
		t.Error("the memtable was never exchanged")
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, Options{Path: dir})
	report, err := s.Check(context.Background())
	if err != nil || report.Found > 0 || report.Events != events {
		t.Errorf("after %d events: %+v, %v", events, report, err)
	}
}

// allocated is how many bytes of a file have blocks.
func allocated(t *testing.T, file string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Blocks) * 512
}

// lastWritten is where a file has its last byte that is not zero.
func lastWritten(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return storefile.Used(b)
}
