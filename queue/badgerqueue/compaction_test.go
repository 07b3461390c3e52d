package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/badgercompat"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// smallMemtables have Badger merge tables after a sixteenth of the bytes.
var smallMemtables = func() bounds {
	b := defaultBounds
	b.memtable = 1 << 20
	return b
}()

// mergedWithout writes events until Badger merges tables, one of which cannot be
// written: something else has its name. It returns what was acknowledged, by id,
// and the store.
func mergedWithout(t *testing.T, o Options) (s *Store, acked map[string][]byte) {
	t.Helper()
	s, err := open(t.Context(), o, smallMemtables)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{2})
	acked = make(map[string][]byte)
	accept := func() error {
		e := entry(len(acked))
		e.Body = make([]byte, 50<<10)
		_, _ = random.Read(e.Body)
		r, err := s.Enqueue(t.Context(), e)
		if err == nil {
			acked[r.Event.ID.String()] = e.Body
		}
		return err
	}
	newest := func() (id uint64, tables int) {
		for _, one := range s.db.Tables() {
			if one.Level == 0 {
				id = max(id, one.ID)
				tables++
			}
		}
		return id, tables
	}
	for {
		if err := accept(); err != nil {
			t.Fatal(err)
		}
		if id, tables := newest(); tables == badgercompat.LevelZeroTables-1 {
			// One more memtable, and then those that they are merged into.
			obstacle := filepath.Join(o.Path, storefile.TableName(id+5))
			if err := os.WriteFile(obstacle, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(obstacle) })
			break
		}
	}
	merged := func() bool {
		_, tables := newest()
		return s.failure() != nil || tables < badgercompat.LevelZeroTables-1
	}
	for range 60 {
		if err := accept(); err != nil {
			break
		}
	}
	eventually(t, "the tables are merged", merged)
	return s, acked
}

// missingOf counts what a store does not have.
func missingOf(t *testing.T, s *Store, acked map[string][]byte) (missing int) {
	t.Helper()
	for id, body := range acked {
		eid, err := queue.ParseEventID(id)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := s.Event(t.Context(), eid); err != nil || !bytes.Equal(e.Body, body) {
			missing++
		}
	}
	return missing
}

// TestTableThatCannotBeWrittenLosesNothing: where a compaction leaves out a table,
// the store takes no more, is not opened again as it is, and all that was
// acknowledged is saved from it.
func TestTableThatCannotBeWrittenLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, acked := mergedWithout(t, Options{Path: dir})
	eventually(t, "the store says that it failed", func() bool { return errors.Is(s.Health(), queue.ErrFailed) })
	if _, err := s.Enqueue(t.Context(), entry(0)); !errors.Is(err, queue.ErrFailed) || !strings.Contains(err.Error(), "could not be written") {
		t.Errorf("the store goes on with %v", err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	_, err := Open(t.Context(), Options{Path: dir})
	if damage := (*storefile.DamageError)(nil); !errors.As(err, &damage) || !strings.Contains(err.Error(), "could not be written") {
		t.Fatalf("opening it again ends with %v", err)
	}
	saved := filepath.Join(t.TempDir(), "saved")
	if _, err := Salvage(t.Context(), SalvageOptions{From: dir, To: saved}); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, Options{Path: saved})
	if n := missingOf(t, s, acked); n > 0 {
		t.Errorf("of %d acknowledged %d are lost", len(acked), n)
	}
	wantNoFindings(t, s)
}

// TestUnwatchedCompactionLosesEvents is the negative control: what Badger does
// alone, without a word.
func TestUnwatchedCompactionLosesEvents(t *testing.T) {
	t.Parallel()
	s, acked := mergedWithout(t, Options{Path: t.TempDir(), trusting: true})
	defer func() { _ = s.Close(context.Background()) }()
	if n := missingOf(t, s, acked); n == 0 || s.Health() != nil {
		t.Errorf("%d are lost, and the store says %v: the test above sees nothing", n, s.Health())
	}
}

// TestCompactionsAreWatched: each compaction is seen, nothing is missed that is
// there, and nothing is held when it is over.
func TestCompactionsAreWatched(t *testing.T) {
	t.Parallel()
	s, err := open(t.Context(), Options{Path: t.TempDir()}, smallMemtables)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	random := rand.NewChaCha8([32]byte{3})
	merged := func() bool {
		for _, l := range s.db.Levels()[1:] {
			if l.NumTables > 0 {
				return true
			}
		}
		return false
	}
	for n := 0; !merged(); n++ {
		e := entry(n)
		e.Body = make([]byte, 50<<10)
		_, _ = random.Read(e.Body)
		enqueue(t, s, e)
	}
	eventually(t, "the compaction ends", func() bool {
		idle, _ := s.compactions.Idle()
		return idle
	})
	if _, begun := s.compactions.Idle(); begun.IsZero() {
		t.Error("no table was announced")
	}
	if err := s.Health(); err != nil {
		t.Error(err)
	}
	eventually(t, "no file is left of tables that were merged", func() bool {
		files, err := filepath.Glob(filepath.Join(s.o.Path, "*.sst"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files) == len(s.db.Tables())
	})
}
