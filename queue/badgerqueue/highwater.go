package badgerqueue

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
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

// highWater is the file with the mark. Its first line has a fixed length,
//
//	newest event, newest transaction, CRC-32C of both
//
// and is overwritten in place after every commit and before anybody is told of
// it. So it is never ahead of the disk, exact after a process was killed, and
// about a second old after a power loss. The second line is a copy of the
// store's tags, of which the store itself has one record. A third is added where
// the store must not be opened as it is, and says why.
type highWater struct {
	f    *os.File
	file os.FileInfo // of f
}

// aside is what the file says.
type aside struct {
	found bool
	mark  mark
	tags  tags
	lost  string // the third line; empty: there is none
}

// openHighWater makes the file anew and puts it in the place of the one before.
func openHighWater(path string, m mark, t tags) (*highWater, error) {
	name := filepath.Join(path, highWaterFile)
	f, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the store's high-water mark: %w", err)
	}
	_, err = f.Write(append(m.encode(), t.encode()...))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err = errors.Join(err, syncFolder(path)); err != nil {
		return nil, fmt.Errorf("making the store's high-water mark: %w", err)
	}
	if f, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("opening the store's high-water mark: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store's high-water mark: %w", err), f.Close())
	}
	return &highWater{f: f, file: info}, nil
}

// inPlace reports whether the file is still where it was made. It is not when the
// store's folder was removed or replaced.
func (h *highWater) inPlace() bool {
	info, err := os.Stat(h.f.Name())
	return err == nil && os.SameFile(info, h.file)
}

// set writes the mark. The system keeps it when the process dies.
func (h *highWater) set(m mark) error {
	_, err := h.f.WriteAt(m.encode(), 0)
	return err
}

func (h *highWater) sync() error { return h.f.Sync() }

func (m mark) encode() []byte { return sealLine(fmt.Sprintf("%020d %020d", m.seq, m.commit)) }

func (t tags) encode() []byte {
	line := "tags"
	for _, life := range t {
		line += fmt.Sprintf(" %d:%08x", life.from, life.tag)
	}
	return sealLine(line)
}

func sealLine(line string) []byte {
	return fmt.Appendf(nil, "%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli))
}

// noteLost adds the line that says why the store must not be opened as it is. The
// file has room for it: it is shorter than the block it is in.
func noteLost(path, why string) error {
	f, err := os.OpenFile(filepath.Join(path, highWaterFile), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(why + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("and this could not be kept for the next start: %w; so copy the folder before it", err)
	}
	return nil
}

// readHighWater reads the file. Errors wrap errDamaged where a line is not one
// that was written here; what could be read is returned.
func readHighWater(path string) (a aside, err error) {
	text, err := os.ReadFile(filepath.Join(path, highWaterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, fmt.Errorf("reading the store's high-water mark: %w", err)
	}
	a.found = true
	first, rest, _ := strings.Cut(string(text), "\n")
	second, third, _ := strings.Cut(rest, "\n")
	if _, bad := fmt.Sscanf(first, "%d %d", &a.mark.seq, &a.mark.commit); bad != nil || string(a.mark.encode()) != first+"\n" {
		a.mark = mark{}
		err = fmt.Errorf("%w: its first line is none of a mark", errDamaged)
	}
	if a.tags = readTags(second + "\n"); a.tags == nil {
		err = errors.Join(err, fmt.Errorf("%w: its second line does not name the store's tags", errDamaged))
	}
	a.lost, _, _ = strings.Cut(third, "\n")
	return a, err
}

func readTags(line string) (t tags) {
	for _, field := range strings.Fields(line) {
		var life tagFrom
		if n, _ := fmt.Sscanf(field, "%d:%x", &life.from, &life.tag); n == 2 {
			t = append(t, life)
		}
	}
	if string(t.encode()) != line {
		return nil
	}
	return t
}

// keepHighWater syncs the mark after commits that moved it, until the store
// stops, and once more then.
func (s *Store) keepHighWater() {
	sync := func() {
		if err := s.high.sync(); err != nil {
			_ = s.latch(fmt.Errorf("syncing the high-water mark: %w", err))
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
