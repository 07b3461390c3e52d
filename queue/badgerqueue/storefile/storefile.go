// Package storefile reads the files of a Badger store without Badger.
//
// It promises to change nothing, to read what can be read, and to say what
// cannot: Badger itself cuts a damaged log at the damage, deletes tables that a
// torn MANIFEST does not name, and takes the process down over a table whose
// index is garbage, all of it before anybody could look. The package knows
// Badger's formats (v4, manifest version 8) and nothing of what is stored.
//
// A folder holds
//
//	MANIFEST      the tables that count, as a log of changes
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

// ErrDamaged marks a file that is not as it was written.
var ErrDamaged = errors.New("damaged")

// ErrKey says that a file cannot be decrypted: its data key is missing, or the
// encryption key is another.
var ErrKey = errors.New("wrong encryption key")

// Entry is one version of one key. Key and Value are valid only within the call
// that hands them out.
type Entry struct {
	Key       []byte
	Value     []byte
	Version   uint64 // the number of the transaction that wrote it
	Deleted   bool
	ExpiresAt uint64 // seconds since 1970; 0 is never
}

// Bits of an entry's meta byte.
const (
	bitDelete = 1 << 0
	bitTxn    = 1 << 6
	bitFin    = 1 << 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// splitKey takes the version off a stored key; Badger keeps it inverted, so
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
