package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// fakeDisk is a file system whose free space a test sets.
type fakeDisk struct{ avail atomic.Int64 }

const (
	diskSize = 1 << 30
	plenty   = 900 << 20
)

func newFakeDisk() *fakeDisk {
	d := &fakeDisk{}
	d.avail.Store(plenty)
	return d
}

func (d *fakeDisk) read(string) (size, free int64, err error) { return diskSize, d.avail.Load(), nil }

// becomes sets the free space, and returns when the store has seen it.
func (d *fakeDisk) becomes(free int64) {
	d.avail.Store(free)
	<-time.After(2 * badgercompat.FreeAge)
}

// heard is a log that sends each message to a channel.
type heard struct {
	slog.Handler
	lines chan string
}

func listen() (*slog.Logger, heard) {
	h := heard{slog.DiscardHandler, make(chan string, 1000)}
	return slog.New(h), h
}

func (h heard) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (h heard) Handle(_ context.Context, r slog.Record) error {
	h.lines <- r.Message
	return nil
}

// await waits for a message that contains a text.
func (h heard) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.After(10 * time.Second); ; {
		select {
		case line := <-h.lines:
			if strings.Contains(line, text) {
				return
			}
		case <-deadline:
			t.Fatalf("the log does not say %q", text)
		}
	}
}

// stalled is a store on a full disk whose committer holds one settlement.
func stalled(t *testing.T) (*Store, *fakeDisk, heard, queue.WebhookID, queue.Lane) {
	t.Helper()
	d := newFakeDisk()
	log, says := listen()
	s := openAt(t, Options{Path: t.TempDir(), FileSystem: d.read, Logger: log})
	w := newWebhook(t, s, "w")
	l, err := s.Lane(w, queue.LaneOptions{MaxInFlight: 1000})
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, entry(1, w))
	settleOnFullDisk(t, d, says, l)
	return s, d, says, w, l
}

// settleOnFullDisk has one of the waiting deliveries settled while nothing can be written.
func settleOnFullDisk(t *testing.T, d *fakeDisk, says heard, l queue.Lane) {
	t.Helper()
	leases, err := l.Next(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	d.becomes(0)
	if err := leases[0].Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
		t.Fatal(err)
	}
	says.await(t, "nothing is written")
}

// TestEnqueueThatFindsRoomAgainIsStored: while a settlement waits for room, the
// disk gets some, and an event comes before the committer has looked again. The
// event is stored.
func TestEnqueueThatFindsRoomAgainIsStored(t *testing.T) {
	t.Parallel()
	s, d, says, w, l := stalled(t)
	for round := range 10 {
		d.becomes(plenty)
		r, err := s.Enqueue(t.Context(), entry(100+round, w))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Event(t.Context(), r.Event.ID); err != nil {
			t.Fatalf("round %d: acknowledged and not stored: %v", round, err)
		}
		for waiting := true; waiting; { // the settlement is written too
			waiting = s.Stats(context.Background()).Webhooks[w].Delivered == 0
		}
		settleOnFullDisk(t, d, says, l)
	}
	d.becomes(plenty)
}

// TestStoreClosesOnAFullDisk: Close ends within its context, and Health never
// waits, whatever waits for room: settlements, a webhook that is to be stored.
func TestStoreClosesOnAFullDisk(t *testing.T) {
	t.Parallel()
	s, _, _, _, _ := stalled(t)
	put := make(chan error, 1)
	go func() {
		_, err := s.PutWebhook(context.Background(), queue.Webhook{Name: "another"})
		put <- err
	}()
	<-time.After(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- s.Close(ctx) }()
	<-time.After(50 * time.Millisecond)
	healthy := make(chan error, 1)
	go func() { healthy <- s.Health() }()
	select {
	case err := <-healthy:
		if !errors.Is(err, queue.ErrClosed) {
			t.Errorf("health says %v", err)
		}
	case <-time.After(time.Second):
		t.Error("health waits for the store to close")
	}
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the store does not close")
	}
	if err := <-put; !errors.Is(err, queue.ErrFull) {
		t.Errorf("storing a webhook on a full disk ends with %v", err)
	}
}

// TestReadersGoOnWhileACommitWaits: when Badger cannot get rid of its memtables, for
// example because a merge of tables has no room, a commit waits, and nobody else:
// events are read, deliveries handed out, Health answers, and Close ends in time.
func TestReadersGoOnWhileACommitWaits(t *testing.T) {
	t.Parallel()
	d := newFakeDisk()
	b := defaultBounds
	b.slow = time.Hour // health is not about this commit
	s := openBounded(t, Options{Path: t.TempDir(), FileSystem: d.read, MinFree: 1, trusting: true}, b)
	// Files in the place of its next tables keep Badger from writing them.
	var inTheWay []string
	for id := range uint64(500) {
		name := filepath.Join(s.o.Path, storefile.TableName(id))
		if _, err := os.Stat(name); err == nil {
			continue
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		inTheWay = append(inTheWay, name)
	}
	w := newWebhook(t, s, "w")
	first := enqueue(t, s, entry(0, w))
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.becomes(badgercompat.ReserveTable)
	eventually(t, "the disk falls no more", s.disk.RoomToWrite)
	filler := make([]byte, fillerSize)
	commits := make(chan error, 1)
	go func() {
		for err := error(nil); err == nil; {
			err = s.commit(context.Background(), 2, fillerSize, func(b *batch) error { return b.set(layout.KeyFiller, filler) })
			commits <- err
		}
	}()
	for stands := false; !stands; {
		select {
		case err := <-commits:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(2 * time.Second):
			stands = true
		}
	}
	within := func(what string, do func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- do(ctx) }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-ctx.Done():
			t.Errorf("%s waits for the commit", what)
		}
	}
	within("reading an event", func(ctx context.Context) error {
		_, err := s.Event(ctx, first.ID)
		return err
	})
	within("listing", func(ctx context.Context) error {
		_, err := s.Events(ctx, queue.EventQuery{})
		return err
	})
	within("a lane", func(ctx context.Context) error {
		_, err := l.Next(ctx, 1)
		return err
	})
	within("health", func(context.Context) error { return s.Health() })
	within("closing", func(context.Context) error {
		if err := s.Close(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("it ends otherwise: %w", errors.Join(err, errors.New("and not at its deadline")))
		}
		return nil
	})
	for _, name := range inTheWay {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
	d.becomes(plenty)
}

// TestBatchThatIsGivenUpChangesNothing: what does not fit one transaction is
// refused by itself. What came with it is committed, the counters are right, and
// the store goes on.
func TestBatchThatIsGivenUpChangesNothing(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: t.TempDir()})
	w := newWebhook(t, s, "w")
	waiting := enqueue(t, s, entry(0, w))
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leases, err := l.Next(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	holding, hold := make(chan struct{}), make(chan struct{})
	go func() {
		_ = s.commit(context.Background(), 1, 1, func(*batch) error { close(holding); <-hold; return nil })
	}()
	<-holding
	// All of these come in one batch, which the third outgrows.
	if err := leases[0].Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
		t.Fatal(err)
	}
	got := make(chan queue.Event, 2)
	put := func(n int) {
		r, err := s.Enqueue(context.Background(), entry(n, w))
		if err != nil {
			t.Error(err)
		}
		got <- r.Event
	}
	go put(1)
	big := make(chan error, 1)
	go func() {
		big <- s.commit(context.Background(), 1, 1, func(b *batch) error {
			b.count(s.webhook(w), queue.Failed, 1000)
			for n := range uint64(30_000) {
				if err := b.set(layout.EndedKey(farKey(n)), nil); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	go put(2)
	eventually(t, "four wait", func() bool { return len(s.ops) >= 4 })
	close(hold)
	if err := <-big; !errors.Is(err, queue.ErrTooLarge) {
		t.Errorf("what is too large ends with %v", err)
	}
	for range 2 {
		if e := <-got; gone(t, s, e.ID) {
			t.Errorf("%s was acknowledged and is not there", e.ID)
		}
	}
	if gone(t, s, waiting.ID) {
		t.Error("an event is gone")
	}
	eventually(t, "the counters are those of what was committed", func() bool {
		return s.Stats(context.Background()).Webhooks[w].Counts == queue.Counts{Pending: 2, Delivered: 1}
	})
	if err := s.Health(); err != nil {
		t.Error(err)
	}
	checkCounters(t, s)
}

func farKey(n uint64) layout.Waiting { return layout.Waiting{Due: 1, Seq: 1<<40 + n} }

// TestEventForTooManyWebhooksIsRefused: at the door, and the store goes on, also
// after it was opened again.
func TestEventForTooManyWebhooksIsRefused(t *testing.T) {
	t.Parallel()
	o := Options{Path: t.TempDir()}
	for round := range 2 {
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		w := addWebhooks(t, s, maxDeliveries)
		for len(w) < 26_300 {
			w = append(w, w[len(w)-1]+1) // they need not be there
		}
		if _, err := s.Enqueue(t.Context(), entry(1, w...)); !errors.Is(err, queue.ErrTooLarge) {
			t.Errorf("an event for %d webhooks ends with %v", len(w), err)
		}
		if wide := enqueue(t, s, entry(2+round, w[:maxDeliveries]...)); gone(t, s, wide.ID) {
			t.Error("the widest event is not there")
		}
		if err := s.Health(); err != nil {
			t.Error(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// addWebhooks adds webhooks up to a number, and returns them all. It looks for no
// name that is taken, which takes long with many.
func addWebhooks(t *testing.T, s *Store, n int) (ids []queue.WebhookID) {
	t.Helper()
	for len(ids) < n {
		err := s.commit(t.Context(), 10_000, 1<<20, func(b *batch) error {
			for range min(5000, n-len(ids)) {
				id := queue.WebhookID(len(ids) + 1)
				ids = append(ids, id)
				if s.webhook(id) != nil {
					continue
				}
				b.stateOf.Webhook = id
				key := layout.WebhookKey(id)
				if err := b.set(key, layout.EncodeWebhook(key, queue.Webhook{ID: id, Name: fmt.Sprint(id), Revision: 1})); err != nil {
					return err
				}
				h := newWebhookState(id, s.bounds)
				b.change(h, laneChange{})
				b.effects = append(b.effects, func() { s.webhooks[id] = h })
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// TestRemovedFolderAcknowledgesNothing: once the store's folder is removed, or
// another is in its place, no event is acknowledged, Health says why, and the
// store closes.
func TestRemovedFolderAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(path string) error{
		"removed": os.RemoveAll,
		"renamed": func(path string) error { return os.Rename(path, path+".old") },
		"emptied": func(path string) error { return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openAt(t, Options{Path: filepath.Join(t.TempDir(), "store")})
			enqueue(t, s, entry(1))
			if err := do(s.o.Path); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Enqueue(t.Context(), entry(2)); !errors.Is(err, queue.ErrFailed) {
				t.Errorf("an event is answered with %v", err)
			}
			if err := s.Health(); !errors.Is(err, queue.ErrFailed) || !strings.Contains(err.Error(), "folder") {
				t.Errorf("health says %v", err)
			}
		})
	}
}

// TestParkedDeliveriesExpireHoweverMany: finished events with more parked
// deliveries than one transaction holds are removed in several, and an event with
// more attempts too.
func TestParkedDeliveriesExpireHoweverMany(t *testing.T) {
	t.Parallel()
	const wide, events, retention = 205, 20, time.Second
	ctx := t.Context()
	s := openSmall(t, Options{Path: t.TempDir(), Retention: retention})
	if most := s.db.MaxBatchCount(); wide*events <= most {
		t.Fatalf("one transaction takes %d entries: the events fit", most)
	}
	ids := addWebhooks(t, s, wide)
	for n := range events {
		enqueue(t, s, entry(n, ids...))
	}
	old := time.After(retention)
	// Each waits for an attempt later, and its webhook leaves the configuration; the
	// last when every event is old, so that all of them may go at once.
	later := time.Now().Add(time.Hour)
	for _, id := range ids {
		l, err := s.Lane(id, queue.LaneOptions{MaxInFlight: events})
		if err != nil {
			t.Fatal(err)
		}
		for got := 0; got < events; {
			leases, err := l.Next(ctx, events)
			if err != nil {
				t.Fatal(err)
			}
			for _, lease := range leases {
				if err := lease.Defer(later); err != nil {
					t.Fatal(err)
				}
			}
			got += len(leases)
		}
	}
	for n, id := range ids {
		if n == wide-1 {
			<-old
		}
		if _, err := s.PutWebhook(ctx, queue.Webhook{ID: id, Name: fmt.Sprint(id), Revision: 1, Expires: true}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every event is removed", func() bool { return s.Stats(context.Background()).Events == 0 || s.Health() != nil })
	if err := s.Health(); err != nil {
		t.Fatal(err)
	}
	checkCounters(t, s)
}

// TestDiskThatDoesNotAnswerIsSaid: while a commit takes longer than it may, the store is not
// healthy and refuses new events at once, and stores nothing of them. What waits for the
// commit is stored when it ends.
func TestDiskThatDoesNotAnswerIsSaid(t *testing.T) {
	t.Parallel()
	b := defaultBounds
	b.slow = 20 * time.Millisecond
	s := openBounded(t, Options{Path: t.TempDir()}, b)
	answers := make(chan struct{})
	commit := make(chan error, 1)
	go func() {
		commit <- s.commit(context.Background(), 1, 1024, func(*batch) error {
			<-answers
			return nil
		})
	}()
	eventually(t, "a commit is slow", func() bool { return s.Health() != nil })
	if err := s.Health(); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("its health is %v", err)
	}
	before := s.Stats(t.Context()).Events
	if _, err := s.Enqueue(t.Context(), entry(1)); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("an event is answered with %v", err)
	}
	close(answers)
	if err := <-commit; err != nil {
		t.Error(err)
	}
	if got := s.Stats(t.Context()).Events; got != before {
		t.Errorf("%d events, want %d", got, before)
	}
	eventually(t, "the store is healthy again", func() bool { return s.Health() == nil })
	eventually(t, "it takes events again", func() bool {
		_, err := s.Enqueue(context.Background(), entry(2))
		return err == nil
	})
}
