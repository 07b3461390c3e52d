package storefile

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strconv"
)

const (
	logHeader = 8 + 12 // number of the data key, start of the initialisation vectors
	maxKey    = 1 << 16
)

// Log describes the content of a log of transactions.
type Log struct {
	Length int64 // of the file, in bytes; most of it was never written
	// First and Last are the numbers of the first and the last transaction that can be read
	// from the start on, which are those that Badger reads. They are 0 if there are none.
	First, Last uint64
	// End is the offset at which these transactions end.
	End int64
	// Tail is how many bytes after End are not zero. A process that dies during a write
	// leaves some: one transaction that was not acknowledged.
	Tail int64
	// Beyond holds the numbers of the complete transactions after End, in the order of the
	// file.
	Beyond []uint64
}

// logEntry is one entry of a log.
type logEntry struct {
	Entry
	meta byte
	end  int64
}

// ReadLog reads a log of transactions. It passes on the entries that Badger would read, and
// the entries after a damaged part that can still be read. It passes on nothing of an
// incomplete transaction, unless a later transaction follows it. Errors wrap ErrDamaged or
// ErrKey.
func ReadLog(path string, keys Keys, visit func(Entry) error) (Log, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Log{}, err
	}
	l := Log{Length: int64(len(b)), End: logHeader}
	if len(b) == 0 {
		return l, nil
	}
	if len(b) < logHeader {
		return l, damaged("%d bytes, too few", len(b))
	}
	r := logReader{b: b, iv: b[8:logHeader]}
	if r.key, err = keys.of(binary.BigEndian.Uint64(b)); err != nil && len(keys) > 0 {
		return l, err
	}
	// If there are no keys, nothing is encrypted, so the number is damaged.
	unknown := err
	used := int64(Used(b))

	// Read as Badger does: each transaction has entries of one version, and a last entry
	// that names the version.
	var open []Entry
	for off := l.End; ; {
		e, ok := r.at(off)
		if !ok {
			break
		}
		off = e.end
		if e.meta&bitFin == 0 {
			if e.meta&bitTxn == 0 || len(open) > 0 && open[0].Version != e.Version {
				break
			}
			open = append(open, e.Entry)
			continue
		}
		n, err := strconv.ParseUint(string(e.Value), 10, 64)
		if err != nil || len(open) == 0 || open[0].Version != n || l.Last != 0 && n != l.Last+1 {
			break
		}
		for _, e := range open {
			if err := visit(e); err != nil {
				return l, err
			}
		}
		open = open[:0]
		if l.First == 0 {
			l.First = n
		}
		l.Last, l.End = n, off
	}
	l.Tail = max(0, used-l.End)
	if l.Tail == 0 {
		return l, unknown
	}

	// After the damage an entry may begin at any byte.
	var rest []Entry
	for off := l.End; off < used; {
		e, ok := r.at(off)
		if !ok {
			off++ // Promise 5: entries after a damaged part are found.
			continue
		}
		off = e.end
		if e.meta&bitFin != 0 {
			l.Beyond = append(l.Beyond, e.Version)
		} else {
			rest = append(rest, e.Entry)
		}
	}
	var last uint64
	for _, n := range l.Beyond {
		last = max(last, n)
	}
	for _, e := range rest {
		if e.Version <= last {
			if err := visit(e); err != nil {
				return l, err
			}
		}
	}
	return l, unknown
}

// logReader finds entries in the bytes of a log:
//
//	meta1 usermeta1 klen vlen expires (varints) key value crc4
//
// Key and value may be encrypted. The checksum covers the bytes as they are written.
type logReader struct {
	b, iv, key []byte
}

// at reads the entry that begins at an offset. No entry begins there if the bytes are zero,
// or do not have the format and the checksum of an entry.
func (r logReader) at(off int64) (e logEntry, ok bool) {
	b := r.b[off:]
	if len(b) < 2 || b[0]&(bitTxn|bitFin) == 0 || b[1] != 0 {
		return e, false
	}
	n := 2
	var head [3]uint64
	for i := range head {
		v, size := binary.Uvarint(b[n:])
		if size <= 0 {
			return e, false
		}
		head[i], n = v, n+size
	}
	klen, vlen := head[0], head[1]
	if klen <= 8 || klen > maxKey || vlen > uint64(len(b)) {
		return e, false
	}
	end := n + int(klen) + int(vlen)
	if end+crc32.Size > len(b) || crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return e, false
	}
	kv := b[n:end]
	if r.key != nil {
		iv := binary.BigEndian.AppendUint32(bytes.Clone(r.iv), uint32(off))
		plain, err := decrypt(kv, r.key, iv)
		if err != nil {
			return e, false
		}
		kv = plain
	}
	key, version, ok := splitKey(kv[:klen])
	if !ok {
		return e, false
	}
	e.Entry = Entry{Key: key, Value: kv[klen:], Version: version, Deleted: b[0]&bitDelete != 0, ExpiresAt: head[2]}
	e.meta, e.end = b[0], off+int64(end)+crc32.Size
	return e, true
}

// Used returns the length of b up to its last byte that is not zero. Most of a log was never
// written.
func Used(b []byte) int {
	n := len(b)
	for ; n >= len(zeros) && bytes.Equal(b[n-len(zeros):n], zeros); n -= len(zeros) {
	}
	return len(bytes.TrimRight(b[:n], "\x00"))
}

var zeros = make([]byte, 64<<10)
