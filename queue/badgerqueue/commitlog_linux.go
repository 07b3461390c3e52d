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
}

// logFields are where Badger keeps what commitLog needs.
type logFields struct{ memtable, log, file, data, end uintptr }

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
	data, at := field(file, "Data", reflect.Slice)
	f.data = at
	if err == nil && data.Elem().Kind() != reflect.Uint8 {
		err = errors.New("badger's memtable has no bytes where they were in " + knownBadger)
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
	data := *(*[]byte)(unsafe.Add(*(*unsafe.Pointer)(unsafe.Add(log, logAt.file)), logAt.data))
	end := int(*(*uint32)(unsafe.Add(log, logAt.end)))
	// An advice that is not taken costs speed alone.
	if log != l.log {
		l.log, l.synced = log, 0
		// Around a page that is written for the first time the kernel would read
		// others, and then write whole clusters of them at every sync.
		_ = unix.Madvise(data, unix.MADV_RANDOM)
	}
	page := os.Getpagesize()
	written := data[l.synced/page*page : min((end+slack+page-1)/page*page, len(data))]
	_ = unix.Madvise(written, unix.MADV_DONTNEED)
	if err := unix.Msync(written, unix.MS_SYNC); err != nil {
		return os.NewSyscallError("msync", err)
	}
	l.synced = end
	return nil
}
