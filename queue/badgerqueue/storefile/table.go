package storefile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"google.golang.org/protobuf/proto"
)

// Table describes the content of a table.
type Table struct {
	Last uint64 // the newest transaction of all entries; 0 if the index is lost
	Keys uint32 // entries, by the index
	// Lost describes the position of each block that cannot be read.
	Lost []string
}

// ReadTable reads a table that is not compressed and checks every checksum. If visit is not
// nil, it gets the entries of every undamaged block. Errors wrap ErrDamaged or ErrKey: the
// index is lost. If visit is not nil, ReadTable has then searched for blocks without the
// index.
//
//	block… index indexLen4 checksum checksumLen4
func ReadTable(path string, keys Keys, keyID uint64, visit func(Entry) error) (Table, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Table{}, err
	}
	return readTable(b, keys, keyID, visit)
}

// indexTail is how many bytes of a table's end are read to find its index.
const indexTail = 64 << 10

// ReadTableIndex reads only the index of a table and checks its checksum. It does not check
// the blocks. It returns the errors of ReadTable.
func ReadTableIndex(path string, keys Keys, keyID uint64) (t Table, err error) {
	key, err := keys.of(keyID)
	if err != nil {
		return t, err
	}
	f, err := os.Open(path)
	if err != nil {
		return t, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return t, err
	}
	size := info.Size()
	tail := make([]byte, min(size, indexTail))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return t, err
	}
	if body, _, ok := cutChecksum(tail); ok && len(body) >= 4 {
		index := int64(binary.BigEndian.Uint32(body[len(body)-4:]))
		if whole := int64(len(tail)-len(body)) + 4 + index; whole > int64(len(tail)) && whole <= size {
			tail = make([]byte, whole)
			if _, err := f.ReadAt(tail, size-whole); err != nil {
				return t, err
			}
		}
	}
	defer func() {
		// The decoder may panic if the index is random bytes.
		if nonsense := recover(); nonsense != nil {
			err = damaged("its index does not decode: %v", nonsense)
		}
	}()
	index, err := tableIndex(tail, key)
	if err != nil {
		return t, err
	}
	return Table{Last: index.MaxVersion(), Keys: index.KeyCount()}, nil
}

// ReadAnyTable reads a table whose data key is not known from a MANIFEST. It uses the key
// with which the checksum of a block is right.
func ReadAnyTable(path string, keys Keys, visit func(Entry) error) (Table, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Table{}, err
	}
	found := errors.New("found")
	for _, id := range append([]uint64{0}, slices.Sorted(maps.Keys(keys))...) {
		if _, err := readTable(b, keys, id, func(Entry) error { return found }); errors.Is(err, found) {
			return readTable(b, keys, id, visit)
		}
	}
	return Table{}, damaged("no block of it can be read")
}

func readTable(b []byte, keys Keys, keyID uint64, visit func(Entry) error) (t Table, err error) {
	key, err := keys.of(keyID)
	if err != nil {
		return t, err
	}
	defer func() {
		// An index that was decrypted with a wrong key is random bytes, and the decoder
		// does not notice that.
		if nonsense := recover(); nonsense != nil {
			err = damaged("its index does not decode: %v", nonsense)
		}
	}()
	index, err := tableIndex(b, key)
	if err != nil {
		if visit != nil {
			if searching := searchBlocks(b, key, visit); searching != nil {
				return t, searching
			}
		}
		return t, err
	}
	t.Last, t.Keys = index.MaxVersion(), index.KeyCount()
	var at fb.BlockOffset
	for i := range index.OffsetsLength() {
		if !index.Offsets(&at, i) {
			return t, damaged("its index names no block %d", i)
		}
		from, to := uint64(at.Offset()), uint64(at.Offset())+uint64(at.Len())
		err := readBlock(b, from, to, key, visit)
		switch {
		case errors.Is(err, ErrDamaged):
			t.Lost = append(t.Lost, fmt.Sprintf("bytes %d to %d: %v", from, to, err))
		case err != nil:
			return t, err
		}
	}
	return t, nil
}

// tableIndex finds the index at the end of a table.
func tableIndex(b, key []byte) (*fb.TableIndex, error) {
	body, sum, ok := cutChecksum(b)
	if !ok || len(body) < 4 {
		return nil, damaged("it does not end as a table does")
	}
	n, size := len(body)-4, uint64(binary.BigEndian.Uint32(body[len(body)-4:]))
	if size > uint64(n) {
		return nil, damaged("its index is longer than the file")
	}
	index := body[uint64(n)-size : n]
	if crc32.Checksum(index, castagnoli) != sum {
		return nil, damaged("the checksum of its index is wrong")
	}
	index, err := unlock(index, key)
	if err != nil {
		return nil, err
	}
	if len(index) < 8 {
		return nil, damaged("its index is empty")
	}
	return fb.GetRootAsTableIndex(index, 0), nil
}

// cutChecksum separates the checksum from the end of a block or a table:
//
//	… checksum checksumLen4
func cutChecksum(b []byte) (body []byte, sum uint32, ok bool) {
	if len(b) < 4 {
		return nil, 0, false
	}
	n, size := len(b)-4, binary.BigEndian.Uint32(b[len(b)-4:])
	// A number of 32 bits as a protocol buffer: two bytes at least, seven at most.
	if size > 16 || int(size) > n {
		return nil, 0, false
	}
	var c pb.Checksum
	if err := proto.Unmarshal(b[n-int(size):n], &c); err != nil || c.Algo != pb.Checksum_CRC32C {
		return nil, 0, false
	}
	return b[:n-int(size)], uint32(c.Sum), true
}

// unlock decrypts a block or an index. Its initialisation vector follows it.
func unlock(b, key []byte) ([]byte, error) {
	if key == nil {
		return b, nil
	}
	if len(b) < blockSize {
		return nil, damaged("%d bytes, too few", len(b))
	}
	n := len(b) - blockSize
	return decrypt(b[:n], key, b[n:])
}

// readBlock checks one block and passes on its entries:
//
//	entry… offset4… count4 checksum checksumLen4
func readBlock(b []byte, from, to uint64, key []byte, visit func(Entry) error) error {
	if from > to || to > uint64(len(b)) {
		return damaged("it ends behind the end of the file")
	}
	block, err := unlock(b[from:to], key)
	if err != nil {
		return err
	}
	body, sum, ok := cutChecksum(block)
	if !ok || crc32.Checksum(body, castagnoli) != sum {
		return damaged("the checksum is wrong")
	}
	if visit == nil {
		return nil
	}
	return blockEntries(body, visit)
}

// blockEntries passes on the entries of a block whose checksum is right. Each entry holds
// how many bytes of its key are the same as in the block's first key.
//
//	overlap2 diff2 key meta1 usermeta1 expires (varint) value
func blockEntries(body []byte, visit func(Entry) error) error {
	wrong := damaged("entries do not decode")
	if len(body) < 4 {
		return wrong
	}
	n := uint64(binary.BigEndian.Uint32(body[len(body)-4:]))
	if n*4+4 > uint64(len(body)) {
		return wrong
	}
	end := uint64(len(body)) - 4 - n*4
	offsets := body[end : len(body)-4]
	var base []byte
	for i := range n {
		from, to := uint64(binary.NativeEndian.Uint32(offsets[i*4:])), end
		if i+1 < n {
			to = uint64(binary.NativeEndian.Uint32(offsets[i*4+4:]))
		}
		if from+4 > to || to > end {
			return wrong
		}
		b := body[from:to]
		overlap, diff := int(binary.NativeEndian.Uint16(b)), int(binary.NativeEndian.Uint16(b[2:]))
		if b = b[4:]; diff > len(b) || overlap > len(base) {
			return wrong
		}
		stored := append(base[:overlap:overlap], b[:diff]...)
		if i == 0 {
			base = stored
		}
		key, version, ok := splitKey(stored)
		if b = b[diff:]; !ok || len(b) < 3 {
			return wrong
		}
		expires, size := binary.Uvarint(b[2:])
		if size <= 0 {
			return wrong
		}
		e := Entry{Key: key, Value: b[2+size:], Version: version, Deleted: b[0]&bitDelete != 0, ExpiresAt: expires}
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}
