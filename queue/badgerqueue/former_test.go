package badgerqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// testdata/format2 is a store that a build of format 2 wrote and closed, and
// testdata/format2.backup a backup of it. Before that, through directives of proj_a,
// proj_b and of no project:
//
//	1 POST  only_a of proj_a     4 POST  plain of no project       7 PUT    plain
//	2 POST  shared of proj_a     5 POST  of proj_a, with a key     8 PATCH  shared, by proj_a: it
//	3 POST  shared of proj_b     6 PATCH only_a                             changed that of proj_b
//
// Webhook 1 has got everything; all wait for webhook 2 on a rung; webhook 3 has got
// the first, the others have never been attempted; webhook 4 is parked.
const former = "testdata/format2"

var (
	onlyA   = queue.FeedbackID{Project: "proj_a", ID: "only_a"}
	sharedA = queue.FeedbackID{Project: "proj_a", ID: "shared"}
	sharedB = queue.FeedbackID{Project: "proj_b", ID: "shared"}
	plain   = queue.FeedbackID{ID: "plain"}
)

// soonAfter is a clock that was set two days after that store was closed.
type soonAfter struct{ began time.Time }

func (c soonAfter) Wall() time.Time {
	return time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC).Add(time.Since(c.began))
}

func (soonAfter) Slept() time.Duration { return 0 }

// formerStore copies the store, for this test to open.
func formerStore(t *testing.T) Options {
	t.Helper()
	return copied(t, former)
}

// copied copies a golden store, for this test to open.
func copied(t *testing.T, path string) Options {
	t.Helper()
	o := Options{Path: filepath.Join(t.TempDir(), "store"), Clock: soonAfter{time.Now()}}
	if err := os.CopyFS(o.Path, os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	return o
}

func latestSeq(t *testing.T, s *Store, id queue.FeedbackID) uint64 {
	t.Helper()
	e, err := s.Latest(t.Context(), id)
	if errors.Is(err, queue.ErrNotFound) {
		return 0
	}
	if err != nil || e.Feedback != id {
		t.Fatalf("the latest event of %s is of %s (%v)", id, e.Feedback, err)
	}
	return e.ID.Seq()
}

func projectsOf(t *testing.T, s *Store, id string) []string {
	t.Helper()
	projects, err := s.Projects(t.Context(), id, 10)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(projects)
	return projects
}

// isWhole checks a store, which must have so many events and feedbacks.
func isWhole(t *testing.T, s *Store, events, feedbacks int64) {
	t.Helper()
	r, err := s.Check(t.Context())
	if err != nil || r.Found != 0 || r.Events != events || r.Feedbacks != feedbacks {
		t.Errorf("the check finds %d events and %d feedbacks, want %d and %d; %v (%v)", r.Events, r.Feedbacks, events, feedbacks, r.Findings, err)
	}
}

// formatOnDisk is the format that the store says it has.
func formatOnDisk(t *testing.T, s *Store) (version uint64) {
	t.Helper()
	if err := s.view(t.Context(), func(txn *badger.Txn) error {
		f, err := getRecord(txn, layout.KeyFormat, func(_, rec []byte) (layout.Format, error) { return layout.DecodeFormat(rec) })
		version = f.Version
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return version
}

// TestStoreOfTheFormerFormatGoesOn: it is found in as it was, an id counts for the
// project of its latest event, and every change moves one feedback on.
func TestStoreOfTheFormerFormatGoesOn(t *testing.T) {
	t.Parallel()
	o := formerStore(t)
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := map[queue.FeedbackID]uint64{onlyA: 6, sharedA: 0, sharedB: 8, plain: 7, {ID: "only_a"}: 0, {Project: "proj_b", ID: "plain"}: 0}
	check := func(when string) {
		t.Helper()
		for id, seq := range want {
			if got := latestSeq(t, s, id); got != seq {
				t.Errorf("%s: the latest event of %s is number %d, want %d", when, id, got, seq)
			}
		}
	}
	check("as it was")
	isWhole(t, s, 8, 4)
	if got := formatOnDisk(t, s); got != 2 {
		t.Errorf("looking into it made it a store of format %d", got)
	}
	if got := projectsOf(t, s, "shared"); !slices.Equal(got, []string{"proj_b"}) {
		t.Errorf("shared is held by %q", got)
	}
	if page, err := s.Events(t.Context(), queue.EventQuery{ProjectID: "proj_a"}); err != nil || len(page.Items) != 4 {
		t.Errorf("proj_a has %d events, want 4 (%v)", len(page.Items), err)
	}

	update := func(id queue.FeedbackID) (queue.Event, error) {
		latest, err := s.Latest(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		e := entry(0)
		e.Feedback, e.Replaces = id, latest.ID
		r, err := s.Enqueue(t.Context(), e)
		return r.Event, err
	}
	stranger := entry(0)
	stranger.Feedback = sharedA
	stranger.Replaces = eventNumber(t, s, 8)
	if _, err := s.Enqueue(t.Context(), stranger); !errors.Is(err, queue.ErrConflict) {
		t.Errorf("proj_a replaces an event of proj_b: %v", err)
	}
	if got := formatOnDisk(t, s); got != layout.FormatVersion {
		t.Errorf("after a commit the store has format %d, want %d: older builds must refuse it", got, layout.FormatVersion)
	}
	again := entry(0)
	again.Feedback = sharedB
	if _, err := s.Enqueue(t.Context(), again); !errors.Is(err, queue.ErrExists) {
		t.Errorf("creating what is there: %v", err)
	}
	created := entry(0)
	created.Feedback = sharedA
	want[sharedA] = enqueue(t, s, created).ID.Seq()
	check("after proj_a has created shared")
	if got := projectsOf(t, s, "shared"); !slices.Equal(got, []string{"proj_a", "proj_b"}) {
		t.Errorf("shared is held by %q", got)
	}
	for id := range maps.Clone(want) {
		if want[id] == 0 {
			continue
		}
		e, err := update(id)
		if err != nil {
			t.Fatal(err)
		}
		want[id] = e.ID.Seq()
		check("after an update of " + id.String())
	}
	if n := keysLeft(t, s, layout.PrefixFormer); n != 1 { // of number 5, which nobody has changed
		t.Errorf("%d keys of the older format are left, want 1", n)
	}
	isWhole(t, s, 13, 5)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, o)
	check("after reopening")
	isWhole(t, s, 13, 5)
}

// eventNumber is the id of an event.
func eventNumber(t *testing.T, s *Store, seq uint64) (id queue.EventID) {
	t.Helper()
	if err := s.view(t.Context(), func(txn *badger.Txn) error {
		e, err := s.getEvent(txn, seq)
		id = e.ID
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestStoreOfTheFormerFormatDelivers: what waits goes out with the bytes it was
// stored with, and ends.
func TestStoreOfTheFormerFormatDelivers(t *testing.T) {
	t.Parallel()
	s := openAt(t, formerStore(t))
	for w, waiting := range map[queue.WebhookID]int{2: 8, 3: 7} {
		l, err := s.Lane(w, queue.LaneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range waiting {
			leases, err := l.Next(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			e, err := s.Event(t.Context(), leases[0].Event.ID)
			if err != nil || !bytes.Equal(e.Body, leases[0].Event.Body) || leases[0].Event.Feedback != e.Feedback || leases[0].Delivery.Feedback != e.Feedback {
				t.Errorf("handed out %+v, want the event %+v (%v)", leases[0], e, err)
			}
			if !bytes.HasPrefix(e.Body, []byte(`{"event":"feedback.`)) || !bytes.Contains(e.Body, []byte(`"id":"`+e.Feedback.ID+`"`)) {
				t.Errorf("the document of %s is %s", e.Feedback, e.Body)
			}
			if err := leases[0].Ack(queue.Attempt{Status: 204}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "everything is delivered", func() bool { return s.Stats(context.Background()).Webhooks[w].Delivered == 8 })
	}
	isWhole(t, s, 8, 4)
}

// TestStoreOfTheFormerFormatForgets: retention takes the old keys with their events.
func TestStoreOfTheFormerFormatForgets(t *testing.T) {
	t.Parallel()
	o := formerStore(t)
	o.Retention = time.Hour
	s := openAt(t, o)
	ws, err := s.Webhooks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ws {
		if _, err := s.DeleteWebhook(t.Context(), w.ID, w.Revision); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every event is gone", func() bool { return s.Stats(context.Background()).Events == 0 })
	isWhole(t, s, 0, 0)
	if n := keysLeft(t, s, layout.PrefixFormer) + keysLeft(t, s, layout.PrefixFeedback); n != 0 {
		t.Errorf("%d keys of feedback are left", n)
	}
}

// TestRepeatsOfTheFormerFormatAreKnown: its idempotency keys have no answer, and a
// client's id was one of them. Badger has let those of testdata expire, so they are
// written anew.
func TestRepeatsOfTheFormerFormatAreKnown(t *testing.T) {
	t.Parallel()
	s := openAt(t, formerStore(t))
	hash := [32]byte{7}
	// What format 2 called the id only_a of proj_a, by `caddymodule/idempotency.go` of then.
	const idName = "id:38EDCxYL6YUXfnfkVBDoU2_NZ0WMgkn8g8YQPT5wi1k"
	if err := s.commit(t.Context(), 4, 1024, func(b *batch) error {
		for name, seq := range map[string]uint64{"key:k": 5, idName: 1} {
			key := layout.IdempotencyKey(name)
			rec := append(binary.BigEndian.AppendUint64(layout.Record(40), seq), hash[:]...)
			if err := b.setFor(keyWindow, key, layout.Seal(key, rec)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Repeat(t.Context(), queue.Key{Name: "key:k", Hash: hash})
	if err != nil || r.Event.ID.Seq() != 5 || len(r.Answer) != 0 || !r.Replayed {
		t.Errorf("Repeat with a key of format 2: %+v, %v", r, err)
	}
	again := entry(0)
	again.Feedback, again.Origin = onlyA, hash
	if r, err := s.Enqueue(t.Context(), again); err != nil || !r.Replayed || r.Event.Feedback != onlyA {
		t.Errorf("the submission of only_a again: %+v, %v", r, err)
	}
	again.Origin = [32]byte{8}
	if _, err := s.Enqueue(t.Context(), again); !errors.Is(err, queue.ErrExists) {
		t.Errorf("another submission with the id only_a: %v", err)
	}
}

// TestBackupAndSalvageReadTheFormerFormat: what is made of them is a store of this
// format, and salvage finds the feedback that an id led away from.
func TestBackupAndSalvageReadTheFormerFormat(t *testing.T) {
	t.Parallel()
	o := formerStore(t)
	backup, err := os.Open(former + ".backup")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backup.Close() }()
	restored, salvaged := o, o
	restored.Path, salvaged.Path = o.Path+".restored", o.Path+".salvaged"
	if _, _, err := Restore(t.Context(), backup, RestoreOptions{Path: restored.Path}); err != nil {
		t.Fatal(err)
	}
	if r, err := Salvage(t.Context(), SalvageOptions{From: o.Path, To: salvaged.Path}); err != nil || r.LostCount != 0 {
		t.Fatalf("salvage: %+v, %v", r, err)
	}
	s := openAt(t, restored)
	if got := latestSeq(t, s, sharedB); got != 8 {
		t.Errorf("restored: the latest event of %s is number %d, want 8", sharedB, got)
	}
	isWhole(t, s, 8, 4)
	s = openAt(t, salvaged)
	for id, seq := range map[queue.FeedbackID]uint64{onlyA: 6, sharedA: 2, sharedB: 8, plain: 7} {
		if got := latestSeq(t, s, id); got != seq {
			t.Errorf("salvaged: the latest event of %s is number %d, want %d", id, got, seq)
		}
	}
	isWhole(t, s, 8, 5)
	if got := formatOnDisk(t, s); got != layout.FormatVersion {
		t.Errorf("salvaged: the store has format %d, want %d", got, layout.FormatVersion)
	}
}

// TestSalvageKeepsOrigins: a repeat of what created a feedback is one afterwards too.
func TestSalvageKeepsOrigins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	s, err := Open(t.Context(), Options{Path: from})
	if err != nil {
		t.Fatal(err)
	}
	e := entry(1)
	e.Origin, e.Answer = [32]byte{7}, []byte("the first answer")
	enqueue(t, s, e)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := Salvage(t.Context(), SalvageOptions{From: from, To: to}); err != nil {
		t.Fatal(err)
	}
	again := entry(1)
	again.Feedback, again.Origin = e.Feedback, e.Origin
	if r, err := openAt(t, Options{Path: to}).Enqueue(t.Context(), again); err != nil || !r.Replayed || string(r.Answer) != string(e.Answer) {
		t.Errorf("the submission again: %+v, %v", r, err)
	}
}
