package storefile

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
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"
)

// ErrLost marks a store that has lost acknowledged events.
var ErrLost = errors.New("acknowledged events may be missing")

// Finding is one fault of a store.
type Finding struct {
	Where string `json:"where"` // a file, or a record
	What  string `json:"what"`
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// DamageError explains why a store is not opened. Nothing in its folder was changed.
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

// Unwrap makes a DamageError an ErrLost.
func (e *DamageError) Unwrap() error { return ErrLost }

// Inspection is the state of a store's files before Badger opens them.
type Inspection struct {
	Exists bool // there is a store
	// Damage lists faults with which the store must not be opened: Badger would lose
	// acknowledged events, or end the process.
	Damage []Finding
	// Notes lists observations that do not prevent opening the store.
	Notes []Finding
	// Mark is the high-water mark; zero if it cannot be read.
	Mark Mark
	// Unverified are the tables of which only the index was read, the newest first.
	Unverified []uint64

	commit uint64            // the newest transaction on disk
	tables map[uint64]uint64 // by number, with their data keys
	keys   Keys
}

func (in *Inspection) damaged(where, format string, args ...any) {
	in.Damage = append(in.Damage, Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

func (in *Inspection) note(where, format string, args ...any) {
	in.Notes = append(in.Notes, Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

// Inspect reads every file of a store and checks every checksum. It reads at most `most`
// bytes of tables; of the other tables it reads only the indexes. It relies on two facts:
// Badger numbers transactions without a gap, and every transaction of the store writes the
// state record. So the newest version of that record in the tables is the newest transaction
// in a table. A missing log, a table that the MANIFEST lacks and a truncated file all leave
// a gap in the numbers.
//
// It returns an error only if it cannot read the files, or if the key is wrong.
func Inspect(ctx context.Context, dir string, key []byte, most int64) (in Inspection, err error) {
	files, err := List(dir)
	if err != nil {
		return in, err
	}
	in.Exists = files.Any
	if !files.Any {
		return in, nil
	}
	in.keys, err = ReadKeys(dir, key)
	switch {
	case errors.Is(err, ErrKey):
		return in, WrongKey(dir)
	case errors.Is(err, ErrDamaged):
		in.damaged(badger.KeyRegistryFileName, "%v", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return in, err
	}
	if in.tables, err = in.manifest(dir, files.Tables); err != nil {
		return in, err
	}
	if in.commit, err = in.checkTables(ctx, dir, most); err != nil { // Promise 5: a damaged table is found before Badger maps it.
		return in, err
	}
	beside, err := ReadHighWater(dir)
	in.Mark = beside.Mark
	switch {
	case errors.Is(err, ErrDamaged):
		in.damaged(HighWaterFile, "%v; where nothing else is wrong, remove the file to go on without it", err)
	case err != nil:
		return in, err
	case beside.Lost != "": // Promise 5: tables that Badger no longer uses are read before it removes them.
		in.damaged(HighWaterFile, "%s", beside.Lost)
	}
	if err := in.checkLogs(dir, files.Logs); err != nil {
		return in, err
	}
	in.checkValueLogs(dir, files.valueLogs)
	switch {
	case !beside.Found && in.commit > 0:
		in.note(HighWaterFile, "is missing: whether the store has lost its newest events cannot be told")
	case in.Mark.Commit > in.commit && len(in.Damage) == 0: // Promise 5: a store that has lost its newest transactions is not opened.
		in.damaged(HighWaterFile, "transaction %d had been acknowledged and the store ends with %d: files of it are missing, or older ones took their place;"+
			" to go on without what is missing, remove %s", in.Mark.Commit, in.commit, HighWaterFile)
	}
	return in, nil
}

// manifest returns the tables that are in use.
func (in *Inspection) manifest(dir string, present map[uint64]string) (map[uint64]uint64, error) {
	m, err := ReadManifest(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if len(present) > 0 {
			in.damaged(badger.ManifestFilename, "is missing, and nothing else says which of %d tables count", len(present))
		}
	case errors.Is(err, ErrDamaged):
		in.damaged(badger.ManifestFilename, "%v", err)
	case err != nil:
		return nil, err
	case m.Torn > 0:
		in.note(badger.ManifestFilename, "ends within a change, as it does when a process dies; %d bytes are left out", m.Torn)
	}
	for id := range m.Tables {
		if _, ok := present[id]; !ok {
			in.damaged(TableName(id), "is missing")
			delete(m.Tables, id)
		}
	}
	return m.Tables, nil
}

// tableReaders is how many tables are checked at the same time.
const tableReaders = 4

// checkTables reads the tables that are in use, and returns the newest transaction in them.
func (in *Inspection) checkTables(ctx context.Context, dir string, most int64) (newest uint64, err error) {
	order := slices.SortedFunc(maps.Keys(in.tables), func(a, b uint64) int { return cmp.Compare(b, a) })
	now, err := in.verifyNow(ctx, dir, order, most)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex // guards in and newest
	readers, until := errgroup.WithContext(ctx)
	readers.SetLimit(tableReaders)
	for _, id := range order {
		readers.Go(func() error {
			if err := until.Err(); err != nil {
				return err
			}
			read := ReadTableIndex
			if now[id] {
				read = func(path string, keys Keys, keyID uint64) (Table, error) { return ReadTable(path, keys, keyID, nil) }
			}
			t, err := read(filepath.Join(dir, TableName(id)), in.keys, in.tables[id])
			mu.Lock()
			defer mu.Unlock()
			newest = max(newest, t.Last)
			for _, lost := range t.Lost {
				in.damaged(TableName(id), "%s", lost)
			}
			if !in.unreadable(TableName(id), err) {
				return err
			}
			return nil
		})
	}
	err = readers.Wait()
	slices.SortFunc(in.Damage, func(a, b Finding) int { return cmp.Compare(a.Where, b.Where) })
	return newest, err
}

// unreadable notes a file that cannot be read because of its content. It returns false for
// any other error.
func (in *Inspection) unreadable(where string, err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrKey):
		in.damaged(where, "%v", err)
		return true
	}
	return false
}

// checkLogs follows the transactions from the tables through the logs.
func (in *Inspection) checkLogs(dir string, names []string) error {
	for i, name := range names {
		l, err := ReadLog(filepath.Join(dir, name), in.keys, func(Entry) error { return nil })
		if !in.unreadable(name, err) {
			return err
		}
		if err != nil {
			continue
		}
		if l.First > in.commit+1 { // Promise 5: a missing file is found.
			in.damaged(name, "it begins with transaction %d, and before it the store ends with %d: a log or a table is missing", l.First, in.commit)
		}
		in.commit = max(in.commit, l.Last)
		if l.Tail == 0 {
			continue
		}
		// A process that dies leaves one incomplete transaction, in the last log. If the
		// transaction is complete, or others follow, it was acknowledged.
		acknowledged := len(l.Beyond) > 1 || i < len(names)-1
		for _, n := range l.Beyond {
			acknowledged = acknowledged || n <= in.Mark.Commit
		}
		if acknowledged { // Promise 5: a damaged log is not truncated.
			in.damaged(name, "unreadable from byte %d on, with %d finished transactions behind that", l.End, len(l.Beyond))
			in.commit = slices.Max(append(l.Beyond, in.commit))
			continue
		}
		in.note(name, "ends within a transaction that nobody was told of, as it does when a process dies or the power goes; %d bytes are left out", l.Tail)
	}
	return nil
}

// checkValueLogs checks that the value logs are empty, because the store's values are in the
// tree.
func (in *Inspection) checkValueLogs(dir string, names []string) {
	for _, name := range names {
		if err := valueLogKey(filepath.Join(dir, name), in.keys); err != nil {
			in.damaged(name, "%v; it holds no event: remove the file", err)
		}
	}
}

// valueLogKey checks that a log of values names a data key that exists.
func valueLogKey(path string, keys Keys) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var id [8]byte
	switch _, err := io.ReadFull(f, id[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil // Badger makes the file again
	case err != nil:
		return err
	}
	if n := binary.BigEndian.Uint64(id[:]); n != 0 && keys[n] == nil {
		return fmt.Errorf("its data key, number %d, is not in %s", n, badger.KeyRegistryFileName)
	}
	return nil
}

// verifyNow chooses the tables that are read before the store opens: the newest first, up to
// a size. The other tables become Unverified.
func (in *Inspection) verifyNow(ctx context.Context, dir string, ids []uint64, most int64) (now map[uint64]bool, err error) {
	now = make(map[uint64]bool, len(ids))
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		info, err := os.Stat(filepath.Join(dir, TableName(id)))
		if err != nil {
			return nil, fmt.Errorf("reading the store's folder: %w", err)
		}
		if most -= info.Size(); most >= 0 {
			now[id] = true
		} else {
			in.Unverified = append(in.Unverified, id)
		}
	}
	return now, nil
}

// VerifyTable reads a table that Inspect left unverified. Errors wrap ErrDamaged, ErrKey, or
// fs.ErrNotExist if the table was merged into others in the meantime.
func (in *Inspection) VerifyTable(dir string, id uint64) error {
	t, err := ReadTable(filepath.Join(dir, TableName(id)), in.keys, in.tables[id], nil)
	if err == nil && len(t.Lost) > 0 {
		err = damaged("%s", t.Lost[0])
	}
	return err
}

// WrongKey returns the error for a store that does not open with a key. It explains what to
// do.
func WrongKey(dir string) error {
	return fmt.Errorf("the encryption key is not the one the store at %s was made with: set encryption_key to that one, or leave it out for a store that is not encrypted;"+
		" where the key is right, %s is damaged and must come from a copy", dir, badger.KeyRegistryFileName)
}
