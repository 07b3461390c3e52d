package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// verifyAtOnce is the size of tables, in bytes, that are read whole before the
// store opens. A start must not wait for the rest of a large store, 12 GB with
// 10,000,000 waiting events: that is read once the store is open.
const verifyAtOnce = 256 << 20

// verifyBehind reads the tables that were not read before the store opened, until
// it stops. Damage latches the store: what it holds cannot be trusted. Until a
// table's turn has come its records are checked by their own checksums alone. It
// leaves half of one core to others.
func (s *Store) verifyBehind(in inspection) {
	begun := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for _, id := range in.behind {
		select {
		case <-pause.C:
		case <-s.stop:
			return
		}
		start := time.Now()
		t, err := storefile.ReadTable(filepath.Join(s.o.Path, tableName(id)), in.keys, in.tables[id], nil)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was merged into others
		case err == nil && len(t.Lost) > 0: // Promise 5: damage behind the start is found.
			err = fmt.Errorf("%w: %s", errDamaged, t.Lost[0])
			fallthrough
		case err != nil:
			_ = s.latch(&DamageError{Path: s.o.Path, Findings: []Finding{{Where: tableName(id), What: err.Error()}}})
			s.wakeLanes()
			return
		}
		pause.Reset(time.Since(start))
	}
	if n := len(in.behind); n > 0 {
		s.log.Info("every table of the store is verified", "path", s.o.Path, "tables", n, "took", time.Since(begun).Round(time.Second).String())
	}
}

// verifyNow chooses the tables that are read before the store opens, the newest
// first, up to a size; the others are left for behind.
func (in *inspection) verifyNow(ctx context.Context, dir string, ids []uint64, most int64) (now map[uint64]bool, err error) {
	now = make(map[uint64]bool, len(ids))
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		info, err := os.Stat(filepath.Join(dir, tableName(id)))
		if err != nil {
			return nil, fmt.Errorf("reading the store's folder: %w", err)
		}
		if most -= info.Size(); most >= 0 {
			now[id] = true
		} else {
			in.behind = append(in.behind, id)
		}
	}
	return now, nil
}
