package badgerqueue

import (
	"bytes"
	"testing"

	"github.com/userhero/relay/queue"
)

// TestOpensWithLessMemoryThanBefore: a process that is killed leaves a log that fills a
// memtable of a machine with plenty of memory. A process with little memory opens it
// all the same, and has every event; Badger alone would end the process.
func TestOpensWithLessMemoryThanBefore(t *testing.T) {
	t.Parallel()
	const events, size = 160, 90 << 10
	s := openAt(t, Options{Path: fastDir(t)})
	body := func(n int) []byte { return noise(n, size) }
	var ids []queue.EventID
	for n := range events {
		e := entry(n)
		e.Body = body(n)
		ids = append(ids, enqueue(t, s, e).ID)
	}
	left := readFiles(t, s.o.Path)
	little := openAt(t, Options{Path: left.write(t), Memory: 128 << 20})
	if little.bounds.memtable >= s.bounds.memtable || little.bounds.memtable >= events*size {
		t.Fatalf("with little memory a memtable has %d bytes", little.bounds.memtable)
	}
	if got := little.Stats(t.Context()).Events; got != events {
		t.Errorf("%d events of %d", got, events)
	}
	for n, id := range ids {
		if e, err := little.Event(t.Context(), id); err != nil || !bytes.Equal(e.Body, body(n)) {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	enqueue(t, little, entry(events))
}
