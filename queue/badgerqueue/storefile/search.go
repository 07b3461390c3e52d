package storefile

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/big"
)

// longestBlock is the longest block that the search finds, in bytes. A block ends after the
// entry that makes it longer than 4 KiB.
const longestBlock = 256 << 10

// searchBlocks passes on the blocks of a table whose index is lost. The blocks follow each
// other without a gap, and a checksum shows where each ends. After a damaged block the
// search tries every byte as the start of the next one. In an encrypted table the start of
// a block has no visible format, so the search ends at a damaged block.
func searchBlocks(b, key []byte, visit func(Entry) error) error {
	s := blockSearch{b: b, key: key}
	if key != nil {
		var err error
		if s.cipher, err = aes.NewCipher(key); err != nil {
			return err
		}
	}
	for from := 0; from < len(b); {
		to := s.end(from)
		switch {
		case to != 0:
			if err := readBlock(b, uint64(from), uint64(to), key, visit); err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
			from = to
		case key != nil:
			return nil
		default:
			from++
		}
	}
	return nil
}

type blockSearch struct {
	b, key []byte
	cipher cipher.Block
}

// end returns the end of the block that begins at from, or 0 if none begins there.
func (s blockSearch) end(from int) int {
	if !s.begins(s.b[from:]) {
		return 0
	}
	for to := from + 16; to <= min(len(s.b), from+longestBlock); to++ {
		if s.ends(s.b[from:to]) && readBlock(s.b, uint64(from), uint64(to), s.key, nil) == nil {
			return to
		}
	}
	return 0
}

// begins reports whether a block may begin with b: its first entry shares nothing
// with a key before it, and has no user's bits.
func (s blockSearch) begins(b []byte) bool {
	if s.key != nil {
		return true
	}
	if len(b) < 4 || binary.NativeEndian.Uint16(b) != 0 {
		return false
	}
	diff := int(binary.NativeEndian.Uint16(b[2:]))
	return diff > 8 && 4+diff+2 <= len(b) && b[4+diff+1] == 0
}

// ends reports whether b may be a whole block: its last four bytes say how long
// its checksum is, 2 to 8 bytes.
func (s blockSearch) ends(b []byte) bool {
	var last [4]byte
	if s.key == nil {
		copy(last[:], b[len(b)-4:])
	} else {
		n := len(b) - blockSize - 4
		if n < 0 {
			return false
		}
		stream := append(s.stream(b[n+4:], n/blockSize), s.stream(b[n+4:], n/blockSize+1)...)
		for i := range last {
			last[i] = b[n+i] ^ stream[n%blockSize+i]
		}
	}
	size := binary.BigEndian.Uint32(last[:])
	return size >= 2 && size <= 8
}

// stream returns block i of the key stream (AES in counter mode).
func (s blockSearch) stream(iv []byte, i int) []byte {
	n := new(big.Int).SetBytes(iv)
	n.Add(n, big.NewInt(int64(i)))
	var counter [blockSize + 1]byte // has one more byte, because the counter may overflow
	n.FillBytes(counter[:])
	out := make([]byte, blockSize)
	s.cipher.Encrypt(out, counter[1:])
	return out
}
