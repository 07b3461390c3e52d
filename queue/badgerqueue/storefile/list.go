package storefile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// TableExt ends the name of a table.
const TableExt = ".sst"

// TableName is the name of a table's file.
func TableName(id uint64) string { return fmt.Sprintf("%06d", id) + TableExt }

// Files are the names of Badger's files in a store's folder.
type Files struct {
	Any       bool              // there is a store
	Logs      []string          // of memtables, by number
	Tables    map[uint64]string // by number; also those that no longer count
	valueLogs []string
}

// NewestLog is the name of the log that Badger writes to; empty if there is none.
func NewestLog(dir string) (string, error) {
	files, err := List(dir)
	if err != nil || len(files.Logs) == 0 {
		return "", err
	}
	return files.Logs[len(files.Logs)-1], nil
}

// List returns the files of a store; no folder is no error.
func List(dir string) (f Files, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("reading the store's folder: %w", err)
	}
	f.Tables = make(map[uint64]string)
	for _, e := range entries {
		name := e.Name()
		number, err := strconv.ParseUint(strings.TrimSuffix(name, filepath.Ext(name)), 10, 64)
		numbered := err == nil
		switch ext := filepath.Ext(name); {
		case name == badger.ManifestFilename, name == badger.KeyRegistryFileName, name == HighWaterFile:
			f.Any = true
		case ext == ".mem" && numbered:
			f.Any = true
			if info, err := e.Info(); err == nil && info.Size() == 0 {
				continue // made, and the process died: it never held anything
			}
			f.Logs = append(f.Logs, name)
		case ext == TableExt && numbered:
			f.Any = true
			f.Tables[number] = name
		case ext == ".vlog" && numbered:
			f.valueLogs = append(f.valueLogs, name)
		}
	}
	slices.SortFunc(f.Logs, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return f, nil
}
