package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// backupOf is a backup of a store that is written to meanwhile, with the ids of
// the events that were acknowledged before it began.
func backupOf(t *testing.T, s *Store) (backup []byte, before []queue.EventID) {
	t.Helper()
	w, err := onlyWebhook(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		e := entry(i, w)
		e.Key = queue.Key{Name: fmt.Sprint("key ", i)}
		before = append(before, enqueue(t, s, e).ID)
	}
	settleSome(t, s, w, 30)
	done := make(chan struct{})
	writing, stop := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for i := 60; writing.Err() == nil; i++ {
			_, _ = s.Enqueue(writing, entry(i, w))
		}
	}()
	var b bytes.Buffer
	info, err := s.Backup(t.Context(), &b)
	stop()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if info.Newest < 60 || info.Records < 120 {
		t.Errorf("the backup says %+v", info)
	}
	return b.Bytes(), before
}

// deliverAll hands out and acknowledges n deliveries that are due.
func deliverAll(t *testing.T, s *Store, n int) (ids []queue.EventID) {
	t.Helper()
	w, err := onlyWebhook(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lane(w, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(ids) < n {
		leases, err := l.Next(ctx, n-len(ids))
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(ids), n, err)
		}
		for _, lease := range leases {
			ids = append(ids, lease.Event.ID)
			if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ids
}

// wantNoFindings checks an open store.
func wantNoFindings(t *testing.T, s *Store) {
	t.Helper()
	r, err := s.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("the check finds %s", f)
	}
}

// TestBackupRestoresAndDelivers backs up a store that is being written to, and
// restores it: every event is there under its id, what waited is delivered, a
// key is held, and no id is given twice.
func TestBackupRestoresAndDelivers(t *testing.T) {
	t.Parallel()
	for name, key := range map[string][]byte{"plain": nil, "encrypted": []byte("0123456789abcdef0123456789abcdef")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old := openAt(t, Options{Path: fastDir(t), EncryptionKey: key})
			backup, before := backupOf(t, old)
			if clear := bytes.Contains(backup, []byte(`{"n":17}`)); clear != (key == nil) {
				t.Errorf("in the clear: %v", clear)
			}
			path := filepath.Join(fastDir(t), "restored")
			info, _, err := Restore(t.Context(), bytes.NewReader(backup), RestoreOptions{Path: path, EncryptionKey: key})
			if err != nil {
				t.Fatal(err)
			}
			s := openAt(t, Options{Path: path, EncryptionKey: key})
			for _, id := range before {
				if _, err := s.Event(t.Context(), id); err != nil {
					t.Errorf("event %s: %v", id, err)
				}
			}
			wantNoFindings(t, s)
			again := entry(3)
			again.Key = queue.Key{Name: "key 3"}
			if r, err := s.Enqueue(t.Context(), again); err != nil || !r.Replayed || r.Event.ID != before[3] {
				t.Errorf("a repeat after the restore: %+v, %v", r, err)
			}
			w, err := onlyWebhook(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			// The old store lives on and gives the next numbers too.
			mine, theirs := enqueue(t, s, entry(1000, w)).ID, enqueue(t, old, entry(1000, w)).ID
			if mine.Tag() == theirs.Tag() || mine.Tag() == before[0].Tag() {
				t.Errorf("the restored store goes on as the one that was copied: %s, %s", mine, theirs)
			}
			delivered := deliverAll(t, s, int(info.Newest)-30+1)
			if last := delivered[len(delivered)-1]; last != mine {
				t.Errorf("delivered last is %s, accepted last %s", last, mine)
			}
		})
	}
}

// TestDamagedBackupIsRefused: whatever is done to a backup, it restores whole or
// not at all, and leaves nothing behind.
func TestDamagedBackupIsRefused(t *testing.T) {
	t.Parallel()
	for name, key := range map[string][]byte{"plain": nil, "encrypted": []byte("0123456789abcdef")} {
		backup, _ := backupOf(t, openAt(t, Options{Path: fastDir(t), EncryptionKey: key}))
		for _, c := range append(changes(2, 20, 10), change{"doubled", func(f *file) { f.used = append(f.used, f.used...) }}) {
			if c.do == nil {
				continue
			}
			f := file{used: bytes.Clone(backup), length: len(backup)}
			c.do(&f)
			if bytes.Equal(f.used, backup) {
				continue
			}
			parent := fastDir(t)
			_, _, err := Restore(t.Context(), bytes.NewReader(f.used), RestoreOptions{Path: filepath.Join(parent, "s"), EncryptionKey: key})
			if !errors.Is(err, ErrBackup) && !strings.Contains(fmt.Sprint(err), "encrypted") {
				t.Errorf("%s backup %s: %v", name, c.name, err)
			}
			if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
				t.Errorf("%s backup %s leaves %v, %v", name, c.name, left, err)
			}
		}
	}
}

// TestRestoreLeavesAStoreAlone: only who says so replaces a store, which is kept.
func TestRestoreLeavesAStoreAlone(t *testing.T) {
	t.Parallel()
	backup, _ := backupOf(t, openAt(t, Options{Path: fastDir(t)}))
	dir := filepath.Join(fastDir(t), "s")
	there := openAt(t, Options{Path: dir})
	enqueue(t, there, entry(1))
	restore := func(replace bool) (string, error) {
		_, kept, err := Restore(t.Context(), bytes.NewReader(backup), RestoreOptions{Path: dir, Replace: replace})
		return kept, err
	}
	if _, err := restore(false); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restoring over a store ends with %v", err)
	}
	if _, err := restore(true); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("replacing an open store ends with %v", err)
	}
	if err := there.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept, err := restore(true)
	if err != nil {
		t.Fatal(err)
	}
	if n := openAt(t, Options{Path: kept}).Stats(context.Background()).Events; n != 1 {
		t.Errorf("the store that was replaced has %d events", n)
	}
	if n := openAt(t, Options{Path: dir}).Stats(context.Background()).Events; n < 60 {
		t.Errorf("the restored store has %d events", n)
	}
}

// TestBackupGivesWay: a store closes while it is being backed up.
func TestBackupGivesWay(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Options{Path: fastDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		e := entry(i)
		e.Body = noise(i, 16<<10)
		enqueue(t, s, e)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := s.Backup(t.Context(), w)
		ended <- errors.Join(err, w.Close())
	}()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close(context.Background()) }()
	<-s.ending
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, queue.ErrClosed) {
		t.Errorf("the backup ended with %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
