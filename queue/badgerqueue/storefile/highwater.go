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

// HighWaterFile is the name of the file, beside Badger's files, that holds the store's newest
// event and transaction. Badger reads a damaged log only up to the damage, and returns no
// error. Only a number outside the log shows that the log held more.
const HighWaterFile = "HIGHWATER"

// Mark names the newest event and the newest transaction of a store.
type Mark struct {
	Seq    uint64 // number of the newest event
	Commit uint64 // number of the newest transaction; the numbers have no gap
}

// Tags are the random numbers in a store's event ids. A store gets a new tag when it is
// restored from a copy, because the original store may have given the next sequence numbers
// to other events.
type Tags []Tag // ascending, the first from 0

// Tag is one of a store's tags.
type Tag struct {
	From uint64 // the first sequence number that has the tag
	Tag  uint32
}

// NewTag makes a tag for all sequence numbers from `from` on.
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

// HighWater is the content of the file. Its first line has a fixed length:
//
//	newest event, newest transaction, CRC-32C of both
//
// It is overwritten in place after every commit, before the callers get an answer. So it is
// never ahead of the disk. It is exact after the process was killed, and about a second old
// after a power loss. The second line is a copy of the store's tags, because the store
// itself has only one record of them. If the store must not be opened, a third line says
// why.
type HighWater struct {
	Found bool // the file exists
	Mark  Mark
	Tags  Tags
	Lost  string // the third line; empty if there is none
}

// HighWaterWriter writes the file of an open store.
type HighWaterWriter struct {
	f    *os.File
	info os.FileInfo // of f
}

// CreateHighWater writes a new file and renames it over the old one.
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

// InPlace reports whether the file is still where it was made. It returns false if the
// store's folder was removed or replaced.
func (h *HighWaterWriter) InPlace() bool {
	info, err := os.Stat(h.f.Name())
	return err == nil && os.SameFile(info, h.info)
}

// Set writes the mark. The system keeps it even if the process dies.
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

// NoteLost adds the line that says why the store must not be opened. The line can be written
// on a full disk, because the file is shorter than its block.
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

// ReadHighWater reads the file. A missing file is not an error. Errors wrap ErrDamaged if a
// line has a wrong format. The lines that could be read are returned with the error.
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
		err = nil // this system cannot sync folders
	}
	return errors.Join(err, d.Close())
}
