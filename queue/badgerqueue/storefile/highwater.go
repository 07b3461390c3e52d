package storefile

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// HighWaterFile is the name of the file, beside Badger's, that keeps how far the
// store has come. Badger reads a damaged log up to the damage and no further,
// without an error; only a number kept outside the log shows that there was more.
const HighWaterFile = "HIGHWATER"

// Mark is how far a store has come.
type Mark struct {
	Seq    uint64 // of the newest event
	Commit uint64 // the newest transaction; they are numbered without a gap
}

// Tags are the random numbers in a store's event ids, one for each of its lives.
// A store that was restored from a copy goes on with a new tag: the store that was
// copied may have given the next sequence numbers to other events since.
type Tags []Tag // ascending, the first from 0

// Tag is one of a store's tags.
type Tag struct {
	From uint64 // the first sequence number it counts for
	Tag  uint32
}

// NewTag makes a tag for sequence numbers from one on.
func NewTag(from uint64) Tag {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return Tag{From: from, Tag: binary.BigEndian.Uint32(b[:])}
}

// Of returns the tag of an event.
func (t Tags) Of(seq uint64) (tag uint32) {
	for _, life := range t {
		if seq < life.From {
			break
		}
		tag = life.Tag
	}
	return tag
}

// HighWater is what the file holds. Its first line has a fixed length,
//
//	newest event, newest transaction, CRC-32C of both
//
// and is overwritten in place after every commit, before anybody gets an answer.
// So it is never ahead of the disk, exact after a process was killed, and about a
// second old after a power loss. The second line is a copy of the store's tags, of
// which the store itself has one record. A third line is added when the store must
// not be opened as it is, and says why.
type HighWater struct {
	Found bool // there is a file
	Mark  Mark
	Tags  Tags
	Lost  string // the third line; empty if there is none
}

// HighWaterWriter writes the file of an open store.
type HighWaterWriter struct {
	f    *os.File
	info os.FileInfo // of f
}

// CreateHighWater writes a new file and renames it over the one before.
func CreateHighWater(path string, m Mark, t Tags) (*HighWaterWriter, error) {
	name := filepath.Join(path, HighWaterFile)
	f, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the store's high-water mark: %w", err)
	}
	_, err = f.Write(append(m.line(), t.line()...))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err = errors.Join(err, SyncFolder(path)); err != nil {
		return nil, fmt.Errorf("making the store's high-water mark: %w", err)
	}
	if f, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("opening the store's high-water mark: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store's high-water mark: %w", err), f.Close())
	}
	return &HighWaterWriter{f: f, info: info}, nil
}

// InPlace reports whether the file is still where it was made. It is not when the
// store's folder was removed or replaced.
func (h *HighWaterWriter) InPlace() bool {
	info, err := os.Stat(h.f.Name())
	return err == nil && os.SameFile(info, h.info)
}

// Set writes the mark. The system keeps it when the process dies.
func (h *HighWaterWriter) Set(m Mark) error {
	_, err := h.f.WriteAt(m.line(), 0)
	return err
}

// Sync makes the mark durable.
func (h *HighWaterWriter) Sync() error { return h.f.Sync() }

// Close closes the file.
func (h *HighWaterWriter) Close() error { return h.f.Close() }

func (m Mark) line() []byte { return sealedLine(fmt.Sprintf("%020d %020d", m.Seq, m.Commit)) }

func (t Tags) line() []byte {
	line := "tags"
	for _, life := range t {
		line += fmt.Sprintf(" %d:%08x", life.From, life.Tag)
	}
	return sealedLine(line)
}

func sealedLine(line string) []byte {
	return fmt.Appendf(nil, "%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli))
}

// NoteLost adds the line that says why the store must not be opened as it is. It
// fits on a full disk: the file is shorter than the block it is in.
func NoteLost(path, why string) error {
	f, err := os.OpenFile(filepath.Join(path, HighWaterFile), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(why + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("and this could not be kept for the next start: %w; so copy the folder before it", err)
	}
	return nil
}

// ReadHighWater reads the file; no file is no error. Errors wrap ErrDamaged if a
// line is not one that this package writes; what could be read is returned.
func ReadHighWater(path string) (h HighWater, err error) {
	text, err := os.ReadFile(filepath.Join(path, HighWaterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("reading the store's high-water mark: %w", err)
	}
	h.Found = true
	first, rest, _ := strings.Cut(string(text), "\n")
	second, third, _ := strings.Cut(rest, "\n")
	if _, bad := fmt.Sscanf(first, "%d %d", &h.Mark.Seq, &h.Mark.Commit); bad != nil || string(h.Mark.line()) != first+"\n" {
		h.Mark = Mark{}
		err = damaged("its first line is none of a mark")
	}
	if h.Tags = readTags(second + "\n"); h.Tags == nil {
		err = errors.Join(err, damaged("its second line does not name the store's tags"))
	}
	h.Lost, _, _ = strings.Cut(third, "\n")
	return h, err
}

func readTags(line string) (t Tags) {
	for _, field := range strings.Fields(line) {
		var life Tag
		if n, _ := fmt.Sscanf(field, "%d:%x", &life.From, &life.Tag); n == 2 {
			t = append(t, life)
		}
	}
	if string(t.line()) != line {
		return nil
	}
	return t
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) error {
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
