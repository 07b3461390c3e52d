// Package storefile reads the files of a Badger store without Badger.
//
// It promises to change nothing, to read everything that can be read, and to report what
// cannot be read. Badger itself truncates a damaged log at the damage, deletes tables that
// a torn MANIFEST does not name, and ends the process if the index of a table is damaged.
// It does so before the store could be inspected. The package knows Badger's formats (v4,
// manifest version 8), but not what is stored.
//
// A folder holds
//
//	MANIFEST      the tables that are in use, as a log of changes
//	KEYREGISTRY   the data keys, encrypted with the store's key
//	NNNNN.mem     a log: the transactions not yet in a table
//	NNNNNN.sst    a table: sorted entries in blocks, an index, checksums
//	NNNNNN.vlog   values too long for the tree
package storefile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// ErrDamaged marks a file whose content has changed since it was written.
var ErrDamaged = errors.New("damaged")

// ErrKey is returned if a file cannot be decrypted: its data key is missing, or the
// encryption key is wrong.
var ErrKey = errors.New("wrong encryption key")

// Entry is one version of one key. Key and Value are valid only during the call that passes
// the entry.
type Entry struct {
	Key       []byte
	Value     []byte
	Version   uint64 // the number of the transaction that wrote it
	Deleted   bool
	ExpiresAt uint64 // seconds since 1970; 0 means never
}

// Bits of an entry's meta byte.
const (
	bitDelete = 1 << 0
	bitTxn    = 1 << 6
	bitFin    = 1 << 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// splitKey separates the version from a stored key. Badger stores the version inverted, so
// that the newest version comes first.
func splitKey(k []byte) (key []byte, version uint64, ok bool) {
	if len(k) <= 8 {
		return nil, 0, false
	}
	n := len(k) - 8
	return k[:n], math.MaxUint64 - binary.BigEndian.Uint64(k[n:]), true
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}
