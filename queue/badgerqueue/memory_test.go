package badgerqueue

import (
	"bytes"
	"testing"

	"github.com/userhero/relay/queue"
)

// TestOpensALogOfLargerMemtables: a process of an earlier version that is killed leaves a
// log of a memtable of 16 MiB. A process with smaller memtables opens it all the same, and
// has every event; Badger alone would end the process.
func TestOpensALogOfLargerMemtables(t *testing.T) {
	t.Parallel()
	const events, size = 160, 90 << 10
	b := defaultBounds
	b.memtable = 16 << 20
	s := openBounded(t, Options{Path: fastDir(t)}, b)
	body := func(n int) []byte { return noise(n, size) }
	var ids []queue.EventID
	for n := range events {
		e := entry(n)
		e.Body = body(n)
		ids = append(ids, enqueue(t, s, e).ID)
	}
	left := readFiles(t, s.o.Path)
	now := openAt(t, Options{Path: left.write(t)})
	if now.bounds.memtable >= events*size {
		t.Fatalf("a memtable has %d bytes", now.bounds.memtable)
	}
	if got := now.Stats(t.Context()).Events; got != events {
		t.Errorf("%d events of %d", got, events)
	}
	for n, id := range ids {
		if e, err := now.Event(t.Context(), id); err != nil || !bytes.Equal(e.Body, body(n)) {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	enqueue(t, now, entry(events))
}
