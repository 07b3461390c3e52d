package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/s2"
)

// A packed document begins with a byte that says how it is packed. A document that the
// others do not make shorter is kept as it is.
//
// Most of a usual document is names of members, which are in the dictionary. The rest is
// text, of which S2 saves little in so short a document, and the Huffman code a third. Both
// are made beforehand, because a document is too short to carry its own. For usual
// documents of 635, 739 and 991 bytes the three ways take 635, 739 and 991; 330, 349 and
// 575; 249, 269 and 423. DEFLATE and Zstandard with this dictionary take about as much, and
// ten times the time.
const (
	keptPlain   = 0 // as it is
	packedS2    = 1 // a block of S2 with dictionary1
	packedCoded = 2 // the length of such a block, then the block in the code of code1
)

// MostUnpacked is the length of the longest document that is packed, in bytes.
const MostUnpacked = 1 << 20

var (
	words1   = s2.MakeDict([]byte(dictionary1), []byte(`{"event":"feedback.created","timestamp":"`))
	decoder1 = readCode1().Decoder()
)

func readCode1() *huff0.Scratch {
	code, _, err := huff0.ReadTable([]byte(code1), nil)
	if err != nil {
		panic("the table of the code is damaged: " + err.Error())
	}
	code.Reuse = huff0.ReusePolicyMust
	return code
}

// Packer packs documents. It is for one goroutine at a time: S2 takes 64 KiB of stack, which
// grows the stack of each goroutine that uses it. The zero Packer is ready.
type Packer struct {
	block, packed []byte
	code          *huff0.Scratch
}

// Pack returns a document packed. The result is valid until the next call.
func (p *Packer) Pack(document []byte) []byte {
	p.packed = append(p.packed[:0], keptPlain)
	if len(document) > MostUnpacked {
		return append(p.packed, document...)
	}
	if n := s2.MaxEncodedLen(len(document)); cap(p.block) < n {
		p.block = make([]byte, 0, n)
	}
	block := words1.Encode(p.block, document)
	if len(block) >= len(document) {
		block = document
	} else {
		p.packed[0] = packedS2
		if p.code == nil {
			p.code = readCode1()
		}
		if coded, _, err := huff0.Compress1X(block, p.code); err == nil && len(coded)+binary.MaxVarintLen16 < len(block) {
			p.packed[0] = packedCoded
			p.packed = binary.AppendUvarint(p.packed, uint64(len(block)))
			block = coded
		}
	}
	p.packed = append(p.packed, block...)
	return p.packed
}

// blocks holds buffers for blocks of S2.
var blocks = sync.Pool{New: func() any { return new([]byte) }}

var errPacked = errors.New("a packed document that cannot be unpacked")

// Unpack returns the document that Pack was given, in memory of its own.
func Unpack(packed []byte) (document []byte, err error) {
	r := Reader{B: packed}
	how := r.Take(1)
	if how == nil {
		return nil, errPacked
	}
	switch how[0] {
	case keptPlain:
		return bytes.Clone(r.B), nil
	case packedS2:
		return unpackBlock(r.B)
	case packedCoded:
		length := r.Uvarint()
		if r.Bad || length > 8*uint64(len(r.B)) { // a code has at least one bit
			return nil, errPacked
		}
		buffer := blocks.Get().(*[]byte)
		defer blocks.Put(buffer)
		if cap(*buffer) < int(length) {
			*buffer = make([]byte, 0, length)
		}
		block, err := decoder1.Decompress1X((*buffer)[:0:length], r.B)
		if err != nil || uint64(len(block)) != length {
			return nil, errPacked
		}
		return unpackBlock(block)
	}
	return nil, fmt.Errorf("a document that is packed in way %d, which this build does not know", how[0])
}

func unpackBlock(block []byte) ([]byte, error) {
	if n, err := s2.DecodedLen(block); err != nil || n > MostUnpacked {
		return nil, errPacked
	}
	document, err := words1.Decode(nil, block)
	if err != nil {
		return nil, errPacked
	}
	return document, nil
}
