package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
func (s *Store) verifyBehind(in storefile.Inspection) {
	begun := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for _, id := range in.Unverified {
		select {
		case <-pause.C:
		case <-s.stop:
			return
		}
		start := time.Now()
		err := in.VerifyTable(s.o.Path, id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was merged into others
		case err != nil: // Promise 5: damage behind the start is found.
			_ = s.latch(&storefile.DamageError{Path: s.o.Path, Findings: []storefile.Finding{{Where: storefile.TableName(id), What: err.Error()}}})
			s.wakeLanes()
			return
		}
		pause.Reset(time.Since(start))
	}
	if n := len(in.Unverified); n > 0 {
		s.log.Info("every table of the store is verified", "path", s.o.Path, "tables", n, "took", time.Since(begun).Round(time.Second).String())
	}
}

// lockFolder keeps a store from being opened until unlock.
func lockFolder(path string) (unlock func(), err error) {
	if unlock, err = storefile.Lock(path); errors.Is(err, storefile.ErrLocked) {
		err = inUse(path)
	}
	return unlock, err
}

// preflight looks at the files before Badger does, which would cut, delete and
// die, and says what it found.
func (s *Store) preflight(ctx context.Context) (storefile.Inspection, error) {
	in, err := inspectLocked(ctx, s.o, s.bounds.verify)
	if err != nil {
		return in, err
	}
	for _, f := range in.Notes {
		s.log.Warn("the store was not closed in order", "path", s.o.Path, "file", f.Where, "found", f.What)
	}
	if len(in.Damage) > 0 && !s.o.trusting {
		return in, &storefile.DamageError{Path: s.o.Path, Findings: in.Damage}
	}
	return in, nil
}

// inspectLocked inspects a store while nobody can open it.
func inspectLocked(ctx context.Context, o Options, most int64) (storefile.Inspection, error) {
	unlock, err := lockFolder(o.Path)
	if err != nil {
		return storefile.Inspection{}, err
	}
	defer unlock()
	in, err := storefile.Inspect(ctx, o.Path, o.EncryptionKey, most)
	if err != nil {
		return in, fmt.Errorf("looking at the store at %s: %w", o.Path, err)
	}
	return in, nil
}
