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

// CommitLog syncs the log that holds the commits, on its own file descriptor. Badger's
// SyncWrites would also sync the value log, which the store does not use, and it cannot
// write the log ahead.
//
// The log is the .mem file with the highest number. If the log has no room for a commit,
// Badger first makes the log with the next number. A commit is never in two logs. A sync of
// the file covers what was written through Badger's memory map, because the kernel has only
// one copy of each page.
//
// Call the methods of a CommitLog only between two commits, when Badger writes nothing. So
// a log is synced before the next log replaces it.
type CommitLog struct {
	dir      string
	memtable int    // the size of one; its log may become twice as long
	zeros    bool   // write zeros ahead, not only allocate blocks: see Extend
	id       uint64 // the number of the log
	file     *os.File
	end      int // no commit has written after this offset
	ready    int // the file is written ahead up to this offset
}

// SyncsCommits reports whether a CommitLog syncs commits. If not, Badger must.
const SyncsCommits = true

// slack is more than Badger writes after the end of its log, which is an empty header.
const slack = 64

// OpenCommitLog opens the newest log of an open store. memtable is the size of the store's
// memtables in bytes. The log must hold only what opening the store has written: with slack,
// less than a page.
func OpenCommitLog(dir, newest string, memtable int) (*CommitLog, error) {
	l := &CommitLog{dir: dir, memtable: memtable, zeros: mayJournal(dir)}
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

// Sync makes the last commit durable. The commit has written at most n bytes.
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
	if l.ready == 0 { // so that the part written ahead begins at the log's end, without a hole
		if err := l.findEnd(); err != nil {
			return err
		}
	}
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(l.file.Fd())))
}

// findEnd finds the end of the commits in a new log. A commit may end with zero bytes, but
// at most with the four bytes of its checksum.
func (l *CommitLog) findEnd() error {
	b := make([]byte, l.end)
	n, err := l.file.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	l.end = min(l.end, len(bytes.TrimRight(b[:n], "\x00"))+crc32.Size)
	return nil
}

// Place returns the file that is synced, and an offset after which it holds no commit.
func (l *CommitLog) Place() (name string, end int) { return l.name(l.id), l.end }

// Close closes the file.
func (l *CommitLog) Close() {
	if l != nil && l.file != nil {
		_ = l.file.Close()
	}
}

const (
	// ReadyLeast is a number of bytes. When less than that is left of the part written
	// ahead, the next readyStep bytes are written.
	ReadyLeast = readyStep / 4
	readyStep  = 512 << 10
)

var zeros [readyStep]byte

// Short reports whether more of the log should be written ahead.
func (l *CommitLog) Short() bool {
	return l != nil && l.ready-l.end < ReadyLeast && max(l.ready, l.end) < l.memtable
}

// Reserve allocates the next n bytes of the log on the disk before they are written, because
// writing into a hole on a full disk would end the process. It returns ENOSPC or EDQUOT if
// the disk has no room. The first commit of a new log is not reserved.
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

// Extend writes zeros ahead of the log's end. Badger makes the log as one hole, which reads
// as zeros. A sync after a write into a hole, or into blocks that are allocated and not
// written, also writes the file system's journal, which takes longer than all other work.
// If there is no journal, Extend only allocates blocks, and the log is written once, not
// twice. Call Extend only between two commits.
func (l *CommitLog) Extend() error {
	page := os.Getpagesize()
	from := max(l.ready, (l.end+slack+page-1)/page*page)
	to := min(from+readyStep, 2*l.memtable)
	if !l.zeros {
		err := unix.Fallocate(int(l.file.Fd()), 0, int64(from), int64(to-from))
		if err == nil {
			l.ready = to
			return nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) { // of a file system that was made as ext3
			return os.NewSyscallError("fallocate", err)
		}
		l.zeros = true
	}
	if _, err := l.file.WriteAt(zeros[:to-from], int64(from)); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	l.ready = to
	return nil
}

// mayJournal reports whether the file system of a folder may have a journal. It returns
// false only for ext4 without one.
func mayJournal(dir string) bool {
	var system unix.Statfs_t
	var folder unix.Stat_t
	if unix.Statfs(dir, &system) != nil || system.Type != unix.EXT4_SUPER_MAGIC || unix.Stat(dir, &folder) != nil {
		return true
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(folder.Dev), unix.Minor(folder.Dev)))
	if err != nil {
		return true
	}
	device := filepath.Base(link)
	if _, err := os.Stat("/proc/fs/ext4/" + device); err != nil {
		return true // the journals may not be shown either
	}
	journals, err := filepath.Glob("/proc/fs/jbd2/" + device + "-*")
	return err != nil || len(journals) > 0
}
