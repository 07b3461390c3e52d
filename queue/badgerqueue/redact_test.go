package badgerqueue

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// TestRedactedTextIsInNoFile: after Compact nothing is left of documents and bodies, and
// the counters agree with the records.
func TestRedactedTextIsInNoFile(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	w := newWebhook(t, s, "w")
	lane, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []queue.EventID
	for range 100 {
		e := entry(1, w)
		e.Body = []byte(`{"message":"canary"}`)
		r, err := s.Enqueue(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.Event.ID)
		a := queue.Attempt{At: time.Now(), Status: 500, ResponseBody: bytes.Repeat([]byte("canary"), 300)}
		if err := leaseOne(t, lane).Retry(time.Now(), a); err != nil {
			t.Fatal(err)
		}
		a.Status, a.RequestBody = 200, []byte("canary")
		if err := leaseOne(t, lane).Ack(a); err != nil {
			t.Fatal(err)
		}
	}
	inRecords := func() (n int) {
		if _, err := storefile.ReadAll(path, nil, func(e storefile.Entry) error {
			if bytes.Contains(legible(t, e), []byte("canary")) {
				n++
			}
			return nil
		}, func(string, string) {}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := inRecords(); n < 200 {
		t.Fatalf("before, %d records have what will be redacted", n)
	}
	s.SetLimits(queue.Limits{Retention: time.Hour, RedactAfter: time.Millisecond, Redact: func([]byte) []byte { return []byte("{}") }})
	for _, id := range ids {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			e, err := s.Event(t.Context(), id)
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%s is not redacted: %v", id, err)
			}
			if e.Redacted {
				break
			}
		}
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := inRecords(); n > 0 {
		t.Errorf("after Compact, %d records have what was redacted", n)
	}
	if r, err := s.Check(t.Context()); err != nil || r.Found > 0 || r.Events != 100 || r.Attempts != 200 {
		t.Errorf("check: %v, %+v", err, r)
	}
}
