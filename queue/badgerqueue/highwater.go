package badgerqueue

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// highWaterFile keeps, beside Badger's files, how far the store has surely come.
// A log of Badger's that is damaged is read up to the damage and no further,
// without a word, and everything in it agrees; only somebody who stands beside
// it can tell that there was more.
const highWaterFile = "HIGHWATER"

// highWaterEvery bounds how often the mark is synced.
const highWaterEvery = time.Second

// mark is how far the store has come.
type mark struct {
	seq    uint64 // of the newest event
	commit uint64 // the newest transaction; they are numbered without a gap
}

// highWater is the file with the mark. It is one line of fixed length,
//
//	newest event, newest transaction, CRC-32C of both
//
// overwritten in place after every commit and before anybody is told of it. So
// it is never ahead of the disk, exact after a process was killed, and about a
// second old after a power loss.
type highWater struct{ f *os.File }

// openHighWater opens the file, or makes it with a mark.
func openHighWater(path string, m mark) (*highWater, error) {
	f, err := os.OpenFile(filepath.Join(path, highWaterFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store's high-water mark: %w", err)
	}
	h := &highWater{f: f}
	if err := errors.Join(h.set(m), h.sync(), syncFolder(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the store's high-water mark: %w", err), f.Close())
	}
	return h, nil
}

// set writes the mark. The system keeps it when the process dies.
func (h *highWater) set(m mark) error {
	_, err := h.f.WriteAt(m.encode(), 0)
	return err
}

func (h *highWater) sync() error { return h.f.Sync() }

func (m mark) encode() []byte {
	b := fmt.Appendf(make([]byte, 0, 64), "%020d %020d ", m.seq, m.commit)
	return fmt.Appendf(b, "%08x\n", crc32.Checksum(b, castagnoli))
}

// readHighWater reads the mark; found is false where there is no file. Errors
// wrap errDamaged where the file is not one that was written here.
func readHighWater(path string) (m mark, found bool, err error) {
	text, err := os.ReadFile(filepath.Join(path, highWaterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("reading the store's high-water mark: %w", err)
	}
	fields := strings.Fields(string(text))
	if len(fields) == 3 {
		var err1, err2 error
		m.seq, err1 = strconv.ParseUint(fields[0], 10, 64)
		m.commit, err2 = strconv.ParseUint(fields[1], 10, 64)
		if err1 == nil && err2 == nil && string(m.encode()) == string(text) {
			return m, true, nil
		}
	}
	return mark{}, true, fmt.Errorf("%w: it does not read as a mark", errDamaged)
}

// keepHighWater syncs the mark after commits that moved it, until the store
// stops, and once more then.
func (s *Store) keepHighWater() {
	sync := func() {
		if err := s.high.sync(); err != nil {
			s.log.Warn("syncing the store's high-water mark", "error", err)
		}
	}
	pause := time.NewTimer(highWaterEvery)
	defer pause.Stop()
	for {
		select {
		case <-s.moved:
			sync()
		case <-s.stop:
			s.committed.Wait()
			sync()
			_ = s.high.f.Close()
			return
		}
		pause.Reset(highWaterEvery)
		select {
		case <-pause.C:
		case <-s.stop:
		}
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		err = nil // a system whose folders cannot be synced
	}
	return errors.Join(err, d.Close())
}
