package codec

import "encoding/binary"

// AppendString appends a string with its length before it.
func AppendString[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// AppendBool appends a byte of 1 or 0.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// Reader takes bytes apart, field by field. After a read behind the end every field
// is zero, and Bad is set.
type Reader struct {
	B   []byte // what is left
	Bad bool
}

// Take reads n bytes.
func (r *Reader) Take(n int) []byte {
	if n < 0 || n > len(r.B) { // Promise 5: reading a record never leaves its bytes.
		r.Bad, r.B = true, nil
		return nil
	}
	p := r.B[:n:n]
	r.B = r.B[n:]
	return p
}

// Uvarint reads an unsigned varint.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.B)
	if n <= 0 {
		r.Bad, r.B = true, nil
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Varint reads a signed varint.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.B)
	if n <= 0 {
		r.Bad, r.B = true, nil
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Bytes reads what AppendString has written; it is a slice of B.
func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if n > uint64(len(r.B)) {
		r.Bad, r.B = true, nil
		return nil
	}
	return r.Take(int(n))
}

// String reads what AppendString has written.
func (r *Reader) String() string { return string(r.Bytes()) }

// Bool reads what AppendBool has written.
func (r *Reader) Bool() bool {
	b := r.Take(1)
	return b != nil && b[0] == 1
}
