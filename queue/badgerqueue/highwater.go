package badgerqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// highWaterFile keeps, beside Badger's files, the number of an event that is
// surely on disk. A log of Badger's that is damaged is read up to the damage and
// no further, without a word, and everything in it agrees; only somebody who
// stands beside it can tell that there was more.
const highWaterFile = "HIGHWATER"

// highWaterEvery bounds how often the mark is written.
const highWaterEvery = time.Second

// errLost marks a store that has lost acknowledged events.
var errLost = errors.New("acknowledged events are missing")

// checkHighWater compares what the store holds with the mark.
func (s *Store) checkHighWater(newest uint64) error {
	mark, err := readHighWater(s.o.Path)
	if err != nil {
		return err
	}
	if newest < mark {
		return fmt.Errorf("%w: the store at %s ends with event number %d, and number %d had been acknowledged. "+
			"A file of it is damaged or was replaced. Restore a copy; or, to go on without what is missing, remove %s",
			errLost, s.o.Path, newest, mark, filepath.Join(s.o.Path, highWaterFile))
	}
	return nil
}

// readHighWater is 0 where there is no mark yet.
func readHighWater(path string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(path, highWaterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the store's high-water mark: %w", err)
	}
	mark, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s holds %q, which is no number; check the disk, and remove the file to go on without it",
			errDamaged, filepath.Join(path, highWaterFile), text)
	}
	return mark, nil
}

// writeHighWater replaces the mark. A crash leaves the old one or the new one.
func writeHighWater(path string, mark uint64) error {
	next := filepath.Join(path, highWaterFile+".new")
	f, err := os.Create(next)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", mark)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(path, highWaterFile))
}

// keepHighWater writes the mark after commits that moved it, until the store
// stops, and once more then.
func (s *Store) keepHighWater() {
	var written uint64
	write := func() {
		mark := s.shown.Load().seq
		if mark == written || !s.disk.roomToWrite() {
			return
		}
		if err := writeHighWater(s.o.Path, mark); err != nil {
			s.log.Warn("writing the store's high-water mark", "error", err)
			return
		}
		written = mark
	}
	pause := time.NewTimer(highWaterEvery)
	defer pause.Stop()
	for {
		select {
		case <-s.moved:
			write()
		case <-s.stop:
			s.committed.Wait()
			write()
			return
		}
		pause.Reset(highWaterEvery)
		select {
		case <-pause.C:
		case <-s.stop:
		}
	}
}
