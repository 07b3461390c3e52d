package badgerqueue

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCommitLogIsTheMemtables: that Badger still has its log where it was, that
// what is synced is the log that grows on the disk, from one memtable to the next,
// and that nothing gets into the value log, which nobody syncs.
func TestCommitLogIsTheMemtables(t *testing.T) {
	t.Parallel()
	if errNoLog != nil {
		t.Fatalf("each commit is synced by Badger: %v", errNoLog)
	}
	s := openAt(t, Options{Path: t.TempDir()})
	seen := map[string]bool{}
	for i := range 30 { // of 900 KiB: more than a memtable
		e := entry(i)
		e.Body = bytes.Repeat([]byte{byte('a' + i%26)}, 900<<10)
		if _, err := s.Enqueue(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		logs, err := filepath.Glob(filepath.Join(s.o.Path, "*.mem"))
		if err != nil || len(logs) == 0 {
			t.Fatalf("no log: %v", err)
		}
		newest := logs[len(logs)-1]
		seen[newest] = true
		if tail, body := lastKiB(t, newest, s.committer.log.synced), e.Body[:256]; !bytes.Contains(tail, body) {
			t.Fatalf("event %d is not what ends %s where it is synced, at %d", i, newest, s.committer.log.synced)
		}
	}
	if len(seen) < 2 {
		t.Error("the memtable was never exchanged")
	}
	e := entry(1000)
	e.Body = make([]byte, maxValue)
	if _, err := s.Enqueue(context.Background(), e); err == nil {
		t.Error("a value was written to the log that is not synced")
	}
	if _, err := s.Enqueue(context.Background(), entry(1001)); err != nil {
		t.Errorf("the next one was refused: %v", err)
	}
	if events := s.Stats().Events; events != 31 {
		t.Errorf("%d events; want 31", events)
	}
}

// TestLogIsWrittenAheadOfItsCommits: that no commit is written into a hole but the
// first of a log, and that what is written ahead is zeros and over nothing else.
func TestLogIsWrittenAheadOfItsCommits(t *testing.T) {
	t.Parallel()
	if errNoLog != nil {
		t.Fatalf("each commit is synced by Badger: %v", errNoLog)
	}
	dir := t.TempDir()
	s := openAt(t, Options{Path: dir})
	const size, events = 16 << 10, 3 * memTableSize / (16 << 10)
	logs := map[string]bool{}
	for i := range events {
		e := entry(i)
		e.Body = bytes.Repeat([]byte{byte('a' + i%26)}, size)
		if _, err := s.Enqueue(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		if i%8 != 7 {
			continue
		}
		// What the next operation waits for has come after the extension.
		if err := s.commit(context.Background(), 1, 1, func(*batch) error { return nil }); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(dir, "*.mem"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no log: %v", err)
		}
		newest, end := found[len(found)-1], s.committer.log.synced
		logs[newest] = true
		if hole := holeIn(t, newest, end); hole < min(end+readyLeast, memTableSize) {
			t.Errorf("%s ends at %d and has a hole at %d", newest, end, hole)
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

// holeIn is where the first hole of a file is that is not before an offset.
func holeIn(t *testing.T, file string, from int) int {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	at, err := unix.Seek(int(f.Fd()), int64(from), unix.SEEK_HOLE)
	if err != nil {
		t.Fatal(err)
	}
	return int(at)
}

// lastKiB is what a file has before an offset.
func lastKiB(t *testing.T, file string, end int) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	tail := make([]byte, 1<<10)
	if _, err := f.ReadAt(tail, int64(end-len(tail))); err != nil {
		t.Fatal(err)
	}
	return tail
}
