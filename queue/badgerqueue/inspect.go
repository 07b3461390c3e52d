package badgerqueue

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// errLost marks a store that has lost acknowledged events.
var errLost = errors.New("acknowledged events may be missing")

// Finding is one thing that is wrong with a store.
type Finding struct {
	Where string `json:"where"` // a file, or a record
	What  string `json:"what"`
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// DamageError says why a store is not opened. Nothing in its folder was changed.
type DamageError struct {
	Path     string
	Findings []Finding
}

// shownFindings bounds an error's length.
const shownFindings = 5

func (e *DamageError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the store at %s is damaged and was left as it is:", e.Path)
	for i, f := range e.Findings {
		if i == shownFindings {
			fmt.Fprintf(&b, " (and %d more)", len(e.Findings)-i)
			break
		}
		fmt.Fprintf(&b, " %s;", f)
	}
	fmt.Fprintf(&b, " restore a backup with `caddy userhero restore`, or save every readable event into a new folder with"+
		" `caddy userhero check --salvage NEW %s` and set path to that one", e.Path)
	return b.String()
}

// Unwrap makes a DamageError an errLost.
func (e *DamageError) Unwrap() error { return errLost }

// inspection is what the files of a store look like before Badger touches them.
type inspection struct {
	exists bool
	// damage must be dealt with first: Badger would open the store with less
	// than was acknowledged, or take the process down.
	damage []Finding
	// notes are worth saying, and no obstacle.
	notes  []Finding
	commit uint64 // the newest transaction on disk
	mark   mark
	tables map[uint64]uint64 // by number, with their data keys
	keys   storefile.Keys
	// behind are tables of which the index alone was read, the newest first.
	behind []uint64
}

func (in *inspection) damaged(where, format string, args ...any) {
	in.damage = append(in.damage, Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

func (in *inspection) note(where, format string, args ...any) {
	in.notes = append(in.notes, Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

// inspect reads every file of a store and checks every checksum; of its tables no
// more than `most` bytes, and of the rest their indexes. What it relies on: Badger
// numbers transactions without a gap, and each of ours writes the state record, so
// the newest version of that record in the tables is the newest transaction that is
// in a table. So a log that is missing, a table that the MANIFEST has forgotten and
// an end that was cut off all leave a gap to be seen.
//
// It returns an error only where it cannot look, or the key is another.
func inspect(ctx context.Context, dir string, key []byte, most int64) (in inspection, err error) {
	files, err := storeFiles(dir)
	if err != nil {
		return in, err
	}
	in.exists = files.any
	if !files.any {
		return in, nil
	}
	in.keys, err = storefile.ReadKeys(dir, key)
	switch {
	case errors.Is(err, storefile.ErrKey):
		return in, wrongKey(dir)
	case errors.Is(err, storefile.ErrDamaged):
		in.damaged(badger.KeyRegistryFileName, "%v", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return in, err
	}
	if in.tables, err = in.manifest(dir, files.tables); err != nil {
		return in, err
	}
	if in.commit, err = in.checkTables(ctx, dir, most); err != nil { // Promise 5: a damaged table is seen before Badger maps it.
		return in, err
	}
	beside, err := readHighWater(dir)
	in.mark = beside.mark
	switch {
	case errors.Is(err, errDamaged):
		in.damaged(highWaterFile, "%v; where nothing else is wrong, remove the file to go on without it", err)
	case err != nil:
		return in, err
	case beside.lost != "": // Promise 5: tables that Badger has given up are read before it removes them.
		in.damaged(highWaterFile, "%s", beside.lost)
	}
	if err := in.checkLogs(dir, files.logs); err != nil {
		return in, err
	}
	in.checkValueLogs(dir, files.values)
	switch {
	case !beside.found && in.commit > 0:
		in.note(highWaterFile, "is missing: whether the store has lost its newest events cannot be told")
	case in.mark.commit > in.commit && len(in.damage) == 0: // Promise 5: a store that ends early is not taken for one that held less.
		in.damaged(highWaterFile, "transaction %d had been acknowledged and the store ends with %d: files of it are missing, or older ones took their place;"+
			" to go on without what is missing, remove %s", in.mark.commit, in.commit, highWaterFile)
	}
	return in, nil
}

// folder is what lies in a store's folder.
type folder struct {
	any    bool
	logs   []string // by number
	tables map[uint64]string
	values []string
}

func storeFiles(dir string) (f folder, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("reading the store's folder: %w", err)
	}
	f.tables = make(map[uint64]string)
	for _, e := range entries {
		name := e.Name()
		number, err := strconv.ParseUint(strings.TrimSuffix(name, filepath.Ext(name)), 10, 64)
		numbered := err == nil
		switch ext := filepath.Ext(name); {
		case name == badger.ManifestFilename, name == badger.KeyRegistryFileName, name == highWaterFile:
			f.any = true
		case ext == ".mem" && numbered:
			f.any = true
			if info, err := e.Info(); err == nil && info.Size() == 0 {
				continue // made, and the process died: it never held anything
			}
			f.logs = append(f.logs, name)
		case ext == tableExt && numbered:
			f.any = true
			f.tables[number] = name
		case ext == ".vlog" && numbered:
			f.values = append(f.values, name)
		}
	}
	slices.SortFunc(f.logs, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return f, nil
}

// manifest returns the tables that count.
func (in *inspection) manifest(dir string, present map[uint64]string) (map[uint64]uint64, error) {
	m, err := storefile.ReadManifest(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if len(present) > 0 {
			in.damaged(badger.ManifestFilename, "is missing, and nothing else tells which of %d tables count", len(present))
		}
	case errors.Is(err, storefile.ErrDamaged):
		in.damaged(badger.ManifestFilename, "%v", err)
	case err != nil:
		return nil, err
	case m.Torn > 0:
		in.note(badger.ManifestFilename, "ends within a change, as it does when a process dies; %d bytes are left out", m.Torn)
	}
	for id := range m.Tables {
		if _, ok := present[id]; !ok {
			in.damaged(tableName(id), "is missing")
			delete(m.Tables, id)
		}
	}
	return m.Tables, nil
}

// tableExt ends the name of a table.
const tableExt = ".sst"

func tableName(id uint64) string { return fmt.Sprintf("%06d", id) + tableExt }

// tableReaders is how many tables are checked at a time.
const tableReaders = 4

// checkTables reads the tables that count, and returns the newest transaction
// in them.
func (in *inspection) checkTables(ctx context.Context, dir string, most int64) (newest uint64, err error) {
	order := slices.SortedFunc(maps.Keys(in.tables), func(a, b uint64) int { return cmp.Compare(b, a) })
	now, err := in.verifyNow(ctx, dir, order, most)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex // guards in, newest and failed
	var failed error
	var readers sync.WaitGroup
	ids := make(chan uint64)
	for range tableReaders {
		readers.Go(func() {
			for id := range ids {
				path := filepath.Join(dir, tableName(id))
				var t storefile.Table
				var err error
				if now[id] {
					t, err = storefile.ReadTable(path, in.keys, in.tables[id], nil)
				} else {
					t, err = storefile.ReadTableIndex(path, in.keys, in.tables[id])
				}
				mu.Lock()
				newest = max(newest, t.Last)
				for _, lost := range t.Lost {
					in.damaged(tableName(id), "%s", lost)
				}
				if !in.unreadable(tableName(id), err) {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	for _, id := range order {
		if ctx.Err() != nil {
			break
		}
		ids <- id
	}
	close(ids)
	readers.Wait()
	slices.SortFunc(in.damage, func(a, b Finding) int { return cmp.Compare(a.Where, b.Where) })
	return newest, errors.Join(failed, ctx.Err())
}

// unreadable notes a file that cannot be read for what is in it; false where the
// error is another one.
func (in *inspection) unreadable(where string, err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, storefile.ErrDamaged), errors.Is(err, storefile.ErrKey):
		in.damaged(where, "%v", err)
		return true
	}
	return false
}

// checkLogs follows the transactions from the tables through the logs.
func (in *inspection) checkLogs(dir string, names []string) error {
	for i, name := range names {
		l, err := storefile.ReadLog(filepath.Join(dir, name), in.keys, func(storefile.Entry) error { return nil })
		if !in.unreadable(name, err) {
			return err
		}
		if err != nil {
			continue
		}
		if l.First > in.commit+1 { // Promise 5: a file that is missing is missed.
			in.damaged(name, "it begins with transaction %d, and before it the store ends with %d: a log or a table is missing", l.First, in.commit)
		}
		in.commit = max(in.commit, l.Last)
		if l.Tail == 0 {
			continue
		}
		// A process that dies leaves one transaction unfinished, in the last log.
		// Where it was finished, or others follow, it was acknowledged.
		acknowledged := len(l.Beyond) > 1 || i < len(names)-1
		for _, n := range l.Beyond {
			acknowledged = acknowledged || n <= in.mark.commit
		}
		if acknowledged { // Promise 5: a log is not cut at its damage.
			in.damaged(name, "unreadable from byte %d on, with %d finished transactions behind that", l.End, len(l.Beyond))
			in.commit = slices.Max(append(l.Beyond, in.commit))
			continue
		}
		in.note(name, "ends within a transaction that nobody was told of, as it does when a process dies or the power goes; %d bytes are left out", l.Tail)
	}
	return nil
}

// checkValueLogs looks at what should be empty: our values are in the tree.
func (in *inspection) checkValueLogs(dir string, names []string) {
	for _, name := range names {
		if err := valueLogKey(filepath.Join(dir, name), in.keys); err != nil {
			in.damaged(name, "%v; it holds no event: remove the file", err)
		}
	}
}

// valueLogKey checks that a log of values names a data key that exists.
func valueLogKey(path string, keys storefile.Keys) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var id [8]byte
	switch _, err := io.ReadFull(f, id[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil // Badger makes it anew
	case err != nil:
		return err
	}
	if n := binary.BigEndian.Uint64(id[:]); n != 0 && keys[n] == nil {
		return fmt.Errorf("its data key, number %d, is not in %s", n, badger.KeyRegistryFileName)
	}
	return nil
}

// preflight looks at the files before Badger does, which would cut, delete and
// die, and says what it found.
func (s *Store) preflight(ctx context.Context) (inspection, error) {
	in, err := inspectLocked(ctx, s.o, s.bounds.verify)
	if err != nil {
		return in, err
	}
	for _, f := range in.notes {
		s.log.Warn("the store was not closed in order", "path", s.o.Path, "file", f.Where, "found", f.What)
	}
	if len(in.damage) > 0 && !s.o.trusting {
		return in, &DamageError{Path: s.o.Path, Findings: in.damage}
	}
	return in, nil
}
