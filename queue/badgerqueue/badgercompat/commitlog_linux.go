package badgercompat

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CommitLog syncs the log that commits are in, on a descriptor of its own. Badger's
// own way, SyncWrites, syncs its value log too, in which nothing of ours is ever
// written, and cannot write ahead.
//
// The log is the .mem file with the highest number: Badger makes the next one, with
// the next number, before it writes a commit that the full one has no room for, and
// a commit is never in two. A sync of the file covers what was written through
// Badger's memory map, for the kernel has one copy of each page.
//
// A CommitLog may be used when a commit has returned and before the next begins:
// between the two nothing writes. So a log is synced before another takes its place.
type CommitLog struct {
	dir      string
	memtable int    // the size of one; its log may become twice as long
	id       uint64 // the number of the log
	file     *os.File
	end      int // no commit has written behind it
	ready    int // how far the file is written ahead
}

// SyncsCommits reports whether a CommitLog syncs commits; else Badger must.
const SyncsCommits = true

// slack is more than Badger writes behind the end of its log: an empty header.
const slack = 64

// OpenCommitLog opens the newest log of an open store, whose memtables have so many
// bytes. Into it was written so far what
// opening writes: less than a page, also with slack.
func OpenCommitLog(dir, newest string, memtable int) (*CommitLog, error) {
	l := &CommitLog{dir: dir, memtable: memtable}
	if _, err := fmt.Sscanf(newest, "%d.mem", &l.id); err != nil {
		return nil, fmt.Errorf("the store has no log: %w", err)
	}
	return l, l.open()
}

func (l *CommitLog) name(id uint64) string { return filepath.Join(l.dir, fmt.Sprintf("%05d.mem", id)) }

func (l *CommitLog) open() (err error) {
	l.Close()
	l.end, l.ready = os.Getpagesize()-slack, 0
	l.file, err = os.OpenFile(l.name(l.id), os.O_RDWR, 0)
	return err
}

// Sync makes durable what a commit has written, no more than n bytes.
func (l *CommitLog) Sync(n int) error {
	for {
		if err := unix.Access(l.name(l.id+1), unix.F_OK); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		l.id++
		if err := l.open(); err != nil {
			return err
		}
	}
	l.end += n
	if l.ready == 0 { // so that what is written ahead begins where the log ends, and leaves no hole
		if err := l.findEnd(); err != nil {
			return err
		}
	}
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(l.file.Fd())))
}

// findEnd looks where the commits of a new log end. The last byte of one may be zero,
// but not more than the four of a checksum.
func (l *CommitLog) findEnd() error {
	b := make([]byte, l.end)
	n, err := l.file.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	l.end = min(l.end, len(bytes.TrimRight(b[:n], "\x00"))+crc32.Size)
	return nil
}

// Place returns the file that is synced, and an offset that no commit in it is
// behind.
func (l *CommitLog) Place() (name string, end int) { return l.name(l.id), l.end }

// Close closes the file.
func (l *CommitLog) Close() {
	if l != nil && l.file != nil {
		_ = l.file.Close()
	}
}

const (
	// ReadyLeast is how little of what is written ahead is left, in bytes, when more is
	// written, readyStep at once.
	ReadyLeast = readyStep / 4
	readyStep  = 512 << 10
)

var zeros [readyStep]byte

// Short reports whether more of the log is to be written ahead.
func (l *CommitLog) Short() bool {
	return l != nil && l.ready-l.end < ReadyLeast && max(l.ready, l.end) < l.memtable
}

// Reserve has the next n bytes of the log on the disk before they are written:
// writing into a hole of a full disk would end the process. It returns ENOSPC or
// EDQUOT if there is no room. The first commit of a log is not reserved: the log is
// made for it.
func (l *CommitLog) Reserve(n int) error {
	if l == nil {
		return nil
	}
	for l.end < l.memtable && l.ready < l.end+n+slack {
		if err := l.Extend(); err != nil {
			return err
		}
	}
	return nil
}

// Extend writes the log ahead, with the zeros that it reads as anyway: Badger makes
// it as one hole. Syncing what was written into a hole writes the file system's
// journal too, which takes longer than all the rest. Like Sync it may be used only
// between two commits.
func (l *CommitLog) Extend() error {
	page := os.Getpagesize()
	from := max(l.ready, (l.end+slack+page-1)/page*page)
	to := min(from+readyStep, 2*l.memtable)
	if _, err := l.file.WriteAt(zeros[:to-from], int64(from)); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	l.ready = to
	return nil
}
