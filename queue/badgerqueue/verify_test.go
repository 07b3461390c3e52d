package badgerqueue

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// TestDamagedTableIsFoundAtTheStartOrSoonAfter: a flipped bit in a table keeps a
// small store from opening, and of a large one, which opens at once and takes it
// for sound, it is found behind its back.
func TestDamagedTableIsFoundAtTheStartOrSoonAfter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(context.Background(), Options{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	w := newWebhook(t, s, "w")
	for i := range 200 {
		enqueue(t, s, entry(i, w))
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(tables[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(context.Background(), Options{Path: dir}); err == nil {
		t.Error("a small store opens with a damaged table")
		_ = s.Close(context.Background())
	}
	large := defaultBounds
	large.verify = 1
	if s, err = open(context.Background(), Options{Path: dir}, large); err != nil {
		t.Fatal("a large store is not opened: ", err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	eventually(t, "the damage is found", func() bool { return errors.Is(s.Health(), queue.ErrFailed) && errors.Is(s.Health(), storefile.ErrLost) })
	if _, err := s.Enqueue(context.Background(), entry(201, w)); !errors.Is(err, queue.ErrFailed) {
		t.Errorf("a damaged store answers %v", err)
	}
}
