package storefile

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/userhero/relay/queue/badgerqueue/codec"
)

// A backup is one stream:
//
//	"userhero backup\n"  16 bytes
//	version              1 byte: 1
//	encrypted            1 byte: 1 or 0
//	salt                 16 random bytes
//	frame…               length (4 bytes, big endian), content, seal
//
// A frame's content begins with its kind: B begin, R records, E end. The end frame holds the
// number of records, so a reader notices a truncated stream. The seal of frame n is the
// CRC-32C of the stream's head, of n (8 bytes) and of the content. In the backup of an
// encrypted store, content and seal are AES-256-GCM. The key belongs only to this stream: it
// is HKDF-SHA256 of the store's encryption key and the salt. n is the nonce, and the head is
// authenticated.
//
//	B  format version, newest event, newest transaction (varints), made at (unix ms, varint)
//	R  length and bytes of key, length and bytes of record, expiry (unix s; varints), …
//	E  how many records (varint)
const (
	backupMagic   = "userhero backup\n"
	backupVersion = 1
	backupHead    = len(backupMagic) + 2 + 16
	// longestRecord is longer than any record of a store.
	longestRecord = 1 << 20
	// backupFrame is how long frames get, in bytes; the longest record and one
	// frame's worth may be longest.
	backupFrame   = 64 << 10
	longestFrame  = backupFrame + longestRecord + 1024
	frameBegin    = 'B'
	frameRecords  = 'R'
	frameEnd      = 'E'
	backupPurpose = "userhero backup 1"
)

// ErrBackup marks a file that is not a complete backup.
var ErrBackup = errors.New("this is no whole backup")

// ErrBackupKey is returned if an encrypted backup cannot be read without its key.
var ErrBackupKey = errors.New("the backup is encrypted: give the encryption key that the store had when it was backed up")

// BackupInfo counts what a backup holds.
type BackupInfo struct {
	Made      time.Time `json:"made"`
	Records   int64     `json:"records"`
	Newest    uint64    `json:"newest_event"` // sequence number
	Encrypted bool      `json:"encrypted"`
}

// BackupBegin is the first frame.
type BackupBegin struct {
	Format uint64 // of the store
	Mark   Mark
	Made   time.Time
}

func (b BackupBegin) encode() []byte {
	p := binary.AppendUvarint([]byte{frameBegin}, b.Format)
	p = binary.AppendUvarint(p, b.Mark.Seq)
	p = binary.AppendUvarint(p, b.Mark.Commit)
	return binary.AppendVarint(p, b.Made.UnixMilli())
}

// seals closes frames and opens them.
type seals struct {
	head []byte
	aead cipher.AEAD // nil: checksums
	n    uint64
}

// newSeals makes the seals of a stream from its head, and from the store's key if the head
// says that the stream is encrypted.
func newSeals(head, key []byte) (*seals, error) {
	s := &seals{head: head}
	if head[len(backupMagic)+1] == 0 {
		return s, nil
	}
	derived, err := hkdf.Key(sha256.New, key, head[backupHead-16:], backupPurpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	s.aead, err = cipher.NewGCM(block)
	return s, err
}

func (s *seals) next() (n []byte) {
	n = binary.BigEndian.AppendUint64(nil, s.n)
	s.n++
	return n
}

func (s *seals) close(content []byte) []byte {
	n := s.next()
	if s.aead != nil {
		return s.aead.Seal(nil, append(make([]byte, 4), n...), content, s.head)
	}
	return binary.BigEndian.AppendUint32(content, s.checksum(n, content))
}

func (s *seals) checksum(n, content []byte) uint32 {
	return crc32.Update(crc32.Update(crc32.Checksum(s.head, castagnoli), castagnoli, n), castagnoli, content)
}

func (s *seals) open(frame []byte) ([]byte, error) {
	n := s.next()
	if s.aead != nil {
		content, err := s.aead.Open(nil, append(make([]byte, 4), n...), frame, s.head)
		if err != nil {
			return nil, fmt.Errorf("%w: part %d is damaged, or the encryption key is not the one of the store that was backed up", ErrBackup, s.n)
		}
		return content, nil
	}
	if len(frame) < crc32.Size {
		return nil, fmt.Errorf("%w: part %d is too short", ErrBackup, s.n)
	}
	content, sum := frame[:len(frame)-crc32.Size], frame[len(frame)-crc32.Size:]
	if s.checksum(n, content) != binary.BigEndian.Uint32(sum) {
		return nil, fmt.Errorf("%w: the checksum of part %d is wrong", ErrBackup, s.n)
	}
	return content, nil
}

// BackupWriter writes a backup.
type BackupWriter struct {
	w       io.Writer
	seals   *seals
	frame   []byte
	Records uint64 // added so far
}

// NewBackupWriter writes the head and the first frame. Without a key the backup is not
// encrypted.
func NewBackupWriter(w io.Writer, key []byte, b BackupBegin) (*BackupWriter, error) {
	head := append([]byte(backupMagic), backupVersion, 0)
	if len(key) > 0 {
		head[len(head)-1] = 1
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	head = append(head, salt...)
	s, err := newSeals(head, key)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	bw := &BackupWriter{w: w, seals: s}
	return bw, bw.write(b.encode())
}

func (bw *BackupWriter) write(content []byte) error {
	frame := bw.seals.close(content)
	if _, err := bw.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(frame)))); err != nil {
		return err
	}
	_, err := bw.w.Write(frame)
	return err
}

// Record adds one record. full reports whether a frame was written.
func (bw *BackupWriter) Record(key, rec []byte, expires uint64) (full bool, err error) {
	if len(bw.frame) == 0 {
		bw.frame = append(bw.frame, frameRecords)
	}
	bw.frame = codec.AppendString(bw.frame, key)
	bw.frame = codec.AppendString(bw.frame, rec)
	bw.frame = binary.AppendUvarint(bw.frame, expires)
	bw.Records++
	if len(bw.frame) < backupFrame {
		return false, nil
	}
	return true, bw.flush()
}

func (bw *BackupWriter) flush() error {
	if len(bw.frame) == 0 {
		return nil
	}
	err := bw.write(bw.frame)
	bw.frame = bw.frame[:0]
	return err
}

// End writes the buffered records and the end frame, which shows a reader that nothing is
// missing.
func (bw *BackupWriter) End() error {
	if err := bw.flush(); err != nil {
		return err
	}
	return bw.write(binary.AppendUvarint([]byte{frameEnd}, bw.Records))
}

// ReadBackup reads a backup. It passes on every record after it has checked the record's
// frame. The backup is complete only if ReadBackup returns no error.
func ReadBackup(r io.Reader, key []byte, begin func(BackupBegin) error, visit func(key, rec []byte, expires uint64) error) (info BackupInfo, err error) {
	br := bufio.NewReaderSize(r, 1<<16)
	head := make([]byte, backupHead)
	if _, err := io.ReadFull(br, head); err != nil || !bytes.HasPrefix(head, []byte(backupMagic)) {
		return info, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	if v := head[len(backupMagic)]; v != backupVersion {
		return info, fmt.Errorf("%w: it has version %d and this build reads version %d: use a newer build", ErrBackup, v, backupVersion)
	}
	info.Encrypted = head[len(backupMagic)+1] != 0
	if info.Encrypted && len(key) == 0 {
		return info, ErrBackupKey
	}
	s, err := newSeals(head, key)
	if err != nil {
		return info, err
	}
	for {
		content, err := readFrame(br, s)
		if err != nil {
			return info, err // Promise 5: a backup counts only if its end was read.
		}
		kind, p := content[0], codec.Reader{B: content[1:]}
		switch first := s.n == 1; {
		case kind == frameBegin && first:
			b := BackupBegin{Format: p.Uvarint(), Mark: Mark{Seq: p.Uvarint(), Commit: p.Uvarint()}, Made: time.UnixMilli(p.Varint()).UTC()}
			info.Made, info.Newest = b.Made, b.Mark.Seq
			if err := begin(b); err != nil {
				return info, err
			}
		case kind == frameRecords && !first:
			for len(p.B) > 0 && !p.Bad {
				key, rec, expires := p.Bytes(), p.Bytes(), p.Uvarint()
				if p.Bad {
					break
				}
				info.Records++
				if err := visit(key, rec, expires); err != nil {
					return info, err
				}
			}
		case kind == frameEnd && !first:
			if n := p.Uvarint(); p.Bad || n != uint64(info.Records) {
				return info, fmt.Errorf("%w: it says that it holds %d records, and has %d", ErrBackup, n, info.Records)
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				return info, fmt.Errorf("%w: something follows its end", ErrBackup)
			}
			return info, nil
		default:
			p.Bad = true
		}
		if p.Bad {
			return info, fmt.Errorf("%w: part %d does not decode", ErrBackup, s.n)
		}
	}
}

func readFrame(r io.Reader, s *seals) (content []byte, err error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, cutOff(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > longestFrame {
		return nil, fmt.Errorf("%w: part %d is longer than any", ErrBackup, s.n+1)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, cutOff(err)
	}
	if content, err = s.open(frame); err == nil && len(content) == 0 {
		err = fmt.Errorf("%w: part %d is empty", ErrBackup, s.n)
	}
	return content, err
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early: was it copied whole, and was there room for it?", ErrBackup)
	}
	return fmt.Errorf("reading the backup: %w", err)
}
