package badgerqueue

import (
	"errors"
	"os"
	"reflect"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// commitLog is the log of Badger's memtable, which a commit is in. We sync it
// ourselves, because Badger's way costs more the more cores work: it syncs pages
// that are still mapped for writing, and for each the kernel takes the right to
// write from every core that runs a thread of the process, one interrupt a page.
// Here the commit's pages are unmapped first, all with one; the kernel keeps
// what they hold, and the next commit writes to others. Nor is Badger's value
// log synced beside it, in which nothing of ours is ever written (batch.setFor
// refuses what would be).
//
// It may be used when a commit has returned and before the next begins: between
// the two nothing writes and no memtable is exchanged, for there is one writer.
// So the log that a commit is in is synced before another takes its place.
//
// Badger v4.9.6 has no way to it, so it is found among private fields. Where
// they are not what they were, Badger syncs as it does, and a test fails.
type commitLog struct {
	memtable *unsafe.Pointer // Badger's field: the memtable it writes to
	log      unsafe.Pointer  // of the memtable synced last
	synced   int             // how far
	ready    int             // how far it is written ahead
}

// logFields are where Badger keeps what commitLog needs.
type logFields struct{ memtable, log, file, fd, data, end uintptr }

// slack is more than Badger writes behind the end of its log: an empty header.
const slack = 64

// findLog looks the fields up by name and type.
func findLog() (f logFields, err error) {
	field := func(of reflect.Type, name string, kind reflect.Kind) (reflect.Type, uintptr) {
		found, ok := of.FieldByName(name)
		if err != nil || !ok || found.Type.Kind() != kind || len(found.Index) != 1 {
			err = errors.New("badger's memtable has no log where it was in " + knownBadger)
			return reflect.TypeFor[struct{}](), 0
		}
		if kind == reflect.Pointer {
			return found.Type.Elem(), found.Offset
		}
		return found.Type, found.Offset
	}
	memtable, at := field(reflect.TypeFor[badger.DB](), "mt", reflect.Pointer)
	f.memtable = at
	log, at := field(memtable, "wal", reflect.Pointer)
	f.log = at
	_, f.end = field(log, "writeAt", reflect.Uint32)
	file, at := field(log, "MmapFile", reflect.Pointer)
	f.file = at
	fd, at := field(file, "Fd", reflect.Pointer)
	f.fd = at
	data, at := field(file, "Data", reflect.Slice)
	f.data = at
	if err == nil && (data.Elem().Kind() != reflect.Uint8 || fd != reflect.TypeFor[os.File]()) {
		err = errors.New("badger's memtable has no file where it was in " + knownBadger)
	}
	return f, err
}

var logAt, errNoLog = findLog()

// badgerSyncs tells that Badger must sync what it commits.
func badgerSyncs() bool { return errNoLog != nil }

// newCommitLog must not be called where Badger syncs.
func newCommitLog(db *badger.DB) *commitLog {
	return &commitLog{memtable: (*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(db), logAt.memtable))}
}

// sync makes durable what was committed since it was called last.
func (l *commitLog) sync() error {
	log := *(*unsafe.Pointer)(unsafe.Add(*l.memtable, logAt.log))
	end := int(*(*uint32)(unsafe.Add(log, logAt.end)))
	_, data := fileOf(log)
	// An advice that is not taken costs speed alone.
	if log != l.log {
		l.log, l.synced, l.ready = log, 0, 0
		// Around a page that is written for the first time the kernel would read
		// others, and then write whole clusters of them at every sync.
		_ = unix.Madvise(data, unix.MADV_RANDOM)
	}
	page := os.Getpagesize()
	written := data[l.synced/page*page : min(roundUp(end+slack, page), len(data))]
	_ = unix.Madvise(written, unix.MADV_DONTNEED)
	if err := unix.Msync(written, unix.MS_SYNC); err != nil {
		return os.NewSyscallError("msync", err)
	}
	l.synced = end
	return nil
}

const (
	// readyStep is how much of the log is written ahead at once, and readyLeast how
	// little is left of it when that happens.
	readyStep  = 512 << 10
	readyLeast = readyStep / 4
)

var zeros [readyStep]byte

// short tells that more of the log is to be written ahead.
func (l *commitLog) short() bool {
	return l != nil && l.log != nil && l.ready-l.synced < readyLeast && max(l.ready, l.synced) < memTableSize
}

// reserve has the next n bytes of the log on the disk before they are written:
// writing into a hole of a full disk would end the process. It returns ENOSPC or
// EDQUOT if there is no room. Before the first commit into a log nothing is known
// of it, and nothing is reserved.
func (l *commitLog) reserve(n int) error {
	if l == nil || l.log == nil {
		return nil
	}
	for l.synced < memTableSize && l.ready < l.synced+n+slack {
		if err := l.extend(); err != nil {
			return err
		}
	}
	return nil
}

// extend writes the log ahead, with the zeros that it reads as anyway: Badger makes
// it as one hole. Syncing what was written into a hole writes the file system's
// journal too, or whatever else tells where the blocks are, and that takes longer
// than all the rest. Like sync it may be used only between two commits.
func (l *commitLog) extend() error {
	file, data := fileOf(l.log)
	from := max(l.ready, roundUp(l.synced+slack, os.Getpagesize()))
	to := min(from+readyStep, len(data))
	if _, err := file.WriteAt(zeros[:to-from], int64(from)); err != nil {
		return err
	}
	if err := unix.Msync(data[from:to], unix.MS_SYNC); err != nil {
		return os.NewSyscallError("msync", err)
	}
	l.ready = to
	return nil
}

// fileOf is the file of a log, and its memory map.
func fileOf(log unsafe.Pointer) (*os.File, []byte) {
	file := *(*unsafe.Pointer)(unsafe.Add(log, logAt.file))
	return *(**os.File)(unsafe.Add(file, logAt.fd)), *(*[]byte)(unsafe.Add(file, logAt.data))
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }
