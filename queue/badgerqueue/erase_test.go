package badgerqueue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// telltale is a feedback whose every piece names it, to be looked for in files.
type telltale struct {
	name string
	id   queue.FeedbackID
}

func newTelltale(name string) telltale {
	return telltale{name: name, id: queue.FeedbackID{Project: "proj_of_" + name, ID: "fb_" + name}}
}

// live makes a feedback of two events. The first was delivered to one webhook at once
// and to the other at the second attempt; the second waits on a rung. It returns the
// entry that created it.
func (x telltale) live(t *testing.T, s *Store, webhooks ...queue.WebhookID) queue.Entry {
	t.Helper()
	e := entry(1, webhooks...)
	e.Feedback, e.Body = x.id, []byte(`{"message":"message of `+x.name+`"}`)
	e.Key, e.Origin, e.Answer = queue.Key{Name: fmt.Sprintf("key:%x", sha256.Sum256([]byte(x.name)))}, [32]byte{1}, []byte("answer to "+x.name)
	first, err := s.Enqueue(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	attempt := func(status int) queue.Attempt {
		return queue.Attempt{
			At: time.Now(), Status: status, ResponseBody: []byte("echo of " + x.name + strings.Repeat(".", 2000)), // too long for the B record
			ResponseHeaders: []queue.Header{{Name: "X-Echo", Value: "header of " + x.name}},
		}
	}
	lanes := make([]queue.Lane, len(webhooks))
	for i, w := range webhooks {
		if lanes[i], err = s.Lane(w, queue.LaneOptions{}); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := leaseOne(t, lanes[i]).Retry(time.Now(), attempt(500)); err != nil {
				t.Fatal(err)
			}
		}
		if err := leaseOne(t, lanes[i]).Ack(attempt(200)); err != nil {
			t.Fatal(err)
		}
	}
	update := e
	update.Replaces, update.Body, update.Key, update.Answer = first.Event.ID, []byte(`{"message":"new message of `+x.name+`"}`), queue.Key{}, nil
	if _, err := s.Enqueue(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	for _, l := range lanes {
		if err := leaseOne(t, l).Retry(time.Now().Add(time.Hour), attempt(500)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func leaseOne(t *testing.T, l queue.Lane) *queue.Lease {
	t.Helper()
	leases, err := l.Next(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return leases[0]
}

// inRecords counts the records that name a telltale: every version in every table and
// log, whether or not it counts.
func (x telltale) inRecords(t *testing.T, path string) (n int) {
	t.Helper()
	_, err := storefile.ReadAll(path, nil, func(e storefile.Entry) error {
		if bytes.Contains(e.Key, []byte(x.name)) || bytes.Contains(legible(t, e), []byte(x.name)) {
			n++
		}
		return nil
	}, func(where, what string) {
		if where != "KEYREGISTRY" && what != "is missing" { // it was merged meanwhile
			t.Errorf("%s: %s", where, what)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// legible returns the value of a record. If it is an event, its document is unpacked.
func legible(t *testing.T, e storefile.Entry) []byte {
	t.Helper()
	if e.Key[0] != layout.PrefixEvent || e.Deleted {
		return e.Value
	}
	event, err := decodeWhole(e.Key, e.Value, storefile.Tags{{}})
	if err != nil {
		t.Error(err)
	}
	return append(bytes.Clone(e.Value), event.Body...)
}

// inFiles reports the files whose bytes name a telltale.
func (x telltale) inFiles(t *testing.T, path string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(path, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(x.name)) {
			names = append(names, f.Name())
		}
	}
	return names
}

// TestErasedFeedbackIsInNoFile erases one feedback of many. After Compact, no record of
// any file and no new backup has anything of it; a feedback that was not erased is
// found the same way. make soak takes 100,000 feedbacks, which under -race is a minute of
// processor time; 20,000 are in the same files before and after.
func TestErasedFeedbackIsInNoFile(t *testing.T) {
	t.Parallel()
	large := 20_000
	if soak() > 0 {
		large = 100_000
	}
	for name, many := range map[string]int{"a small store": 100, "a large store": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := t.TempDir()
			s, err := Open(t.Context(), Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close(context.Background()) })
			a, b := newWebhook(t, s, "a"), newWebhook(t, s, "b")
			fill := func(from, to int) {
				const writers = 64
				var wg sync.WaitGroup
				for g := range writers {
					wg.Go(func() {
						for i := from + g; i < to; i += writers {
							e := entry(i)
							e.Feedback.ID = fmt.Sprintf("fb_%d", i)
							if _, err := s.Enqueue(t.Context(), e); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			fill(0, many/2)
			gone, kept := newTelltale("canary-that-goes"), newTelltale("canary-that-stays")
			created := gone.live(t, s, a, b)
			kept.live(t, s, a, b)
			fill(many/2, many)
			events := s.Stats(t.Context()).Events
			if n := gone.inRecords(t, path); n < 8 {
				t.Fatalf("before, %d records name what will be erased", n)
			}

			began := time.Now()
			sum, err := s.Erase(t.Context(), []queue.FeedbackID{gone.id})
			if err != nil {
				t.Fatal(err)
			}
			if want := (queue.Erased{Feedbacks: 1, Events: 2, Deliveries: 4, Waiting: 2, Attempts: 5, Keys: 1}); sum != want {
				t.Errorf("erased %+v, want %+v", sum, want)
			}
			if gone.inRecords(t, path) == 0 {
				t.Error("before Compact, no record names what was erased: this test finds nothing")
			}
			t.Logf("erasing took %v", time.Since(began))
			began = time.Now()
			if err := s.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("compacting took %v", time.Since(began))
			if n, files := gone.inRecords(t, path), gone.inFiles(t, path); n > 0 || len(files) > 0 {
				t.Errorf("after Compact, %d records and the files %v name what was erased", n, files)
			}
			if kept.inRecords(t, path) < 8 || len(kept.inFiles(t, path)) == 0 {
				t.Error("after Compact, what was not erased is not found")
			}
			var backup bytes.Buffer
			if _, err := s.Backup(t.Context(), &backup); err != nil {
				t.Fatal(err)
			}
			restored := filepath.Join(t.TempDir(), "restored")
			if _, _, err := Restore(t.Context(), &backup, RestoreOptions{Path: restored}); err != nil {
				t.Fatal(err)
			}
			if gone.inRecords(t, restored) > 0 || kept.inRecords(t, restored) == 0 {
				t.Error("a backup made afterwards has what was erased, or lacks what was not")
			}

			if _, err := s.Enqueue(t.Context(), created); !errors.Is(err, queue.ErrErased) {
				t.Errorf("a repeat: %v", err)
			}
			if n := s.Stats(t.Context()).Events; n != events-2 {
				t.Errorf("%d events are left of %d", n, events)
			}
			if e, err := s.Latest(t.Context(), kept.id); err != nil || !bytes.Contains(e.Body, []byte(kept.name)) {
				t.Errorf("what was not erased: %v", err)
			}
			report, err := s.Check(t.Context())
			if err != nil || report.Found > 0 {
				t.Errorf("check: %v, %+v", err, report.Findings)
			}
		})
	}
}

// TestCompactWaitsForReaders: what a reader still sees, a merge leaves in the files.
func TestCompactWaitsForReaders(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	gone := newTelltale("canary-that-goes")
	gone.live(t, s, newWebhook(t, s, "a"))
	_, release := s.reading() // a backup, for example
	if _, err := s.Erase(t.Context(), []queue.FeedbackID{gone.id}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Compact(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while somebody reads: %v", err)
	}
	release()
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := gone.inRecords(t, path); n > 0 {
		t.Errorf("%d records name what was erased", n)
	}
}

// TestSalvageBringsNothingErasedBack: salvage reads older versions too, and the record
// that removes one may be what cannot be read.
func TestSalvageBringsNothingErasedBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	w := newWebhook(t, s, "a")
	gone, kept := newTelltale("canary-that-goes"), newTelltale("canary-that-stays")
	gone.live(t, s, w)
	kept.live(t, s, w)
	if err := s.commit(t.Context(), 2, 256, func(b *batch) error { return b.markErased(gone.id) }); err != nil { // as if what removed its records were lost
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "salvaged")
	report, err := Salvage(t.Context(), SalvageOptions{From: path, To: to})
	if err != nil {
		t.Fatal(err)
	}
	if report.Events != 2 || report.LostCount > 0 {
		t.Errorf("%+v", report)
	}
	saved, err := Open(t.Context(), Options{Path: to})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = saved.Close(context.Background()) })
	if _, err := saved.Latest(t.Context(), gone.id); !errors.Is(err, queue.ErrErased) {
		t.Errorf("what was erased: %v", err)
	}
	if _, err := saved.Latest(t.Context(), kept.id); err != nil {
		t.Errorf("what was not: %v", err)
	}
	if r, err := saved.Check(t.Context()); err != nil || r.Found > 0 {
		t.Errorf("check: %v, %+v", err, r.Findings)
	}
}
