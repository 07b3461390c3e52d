package event

import (
	"bytes"
	"math"
	"strconv"
	"unsafe"
)

// number reads a number and returns it as ECMAScript prints it (ECMA-262
// §6.1.6.1.20). A literal whose value the print does not have is refused: the
// receiver would sign for another number than was submitted.
func (p *parser) number() ([]byte, error) {
	start := p.pos
	if p.peek() == '-' {
		p.pos++
	}
	switch c := p.peek(); {
	case c == '0':
		p.pos++
	case c >= '1' && c <= '9':
		p.digits()
	default:
		return nil, p.malformed("a digit is due")
	}
	integer := true
	if p.peek() == '.' {
		p.pos++
		integer = false
		if p.digits() == 0 {
			return nil, p.malformed("a digit is due")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.pos++
		integer = false
		if c := p.peek(); c == '+' || c == '-' {
			p.pos++
		}
		if p.digits() == 0 {
			return nil, p.malformed("a digit is due")
		}
	}
	literal := p.in[start:p.pos:p.pos]
	if integer {
		return p.integer(literal)
	}
	f, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(literal), len(literal)), 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, p.unstable("the number is too large")
	}
	printed := AppendNumber(make([]byte, 0, 24), f)
	if !sameDecimal(literal, printed) {
		return nil, p.unstable("the number has more digits than JavaScript keeps; it would become " + string(printed))
	}
	if !bytes.ContainsAny(printed, ".e") {
		return p.integer(printed) // as such it must read back
	}
	return printed, nil
}

// integer is number for a literal without fraction and exponent.
func (p *parser) integer(literal []byte) ([]byte, error) {
	digits := bytes.TrimPrefix(literal, []byte{'-'})
	if len(digits) > 16 {
		return nil, p.unstable("the integer is beyond ±(2^53-1)")
	}
	if len(digits) == 16 {
		if n, err := strconv.ParseInt(string(digits), 10, 64); err != nil || n > maxSafeInteger {
			return nil, p.unstable("the integer is beyond ±(2^53-1)")
		}
	}
	if len(digits) == 1 && digits[0] == '0' {
		return digits, nil // -0 prints as 0
	}
	return literal, nil
}

func (p *parser) digits() (n int) {
	for p.pos < len(p.in) && p.in[p.pos] >= '0' && p.in[p.pos] <= '9' {
		p.pos++
		n++
	}
	return n
}

// AppendNumber appends a finite number as ECMAScript's Number::toString does:
// the shortest digits that read back the same, in positional notation from 1e-6
// up to 1e21.
func AppendNumber(dst []byte, f float64) []byte {
	abs := math.Abs(f)
	if abs == 0 {
		return append(dst, '0')
	}
	if abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// Go writes at least two digits of exponent, ECMAScript no leading zero.
	if e := start + bytes.IndexByte(dst[start:], 'e') + 2; dst[e] == '0' {
		dst = append(dst[:e], dst[e+1:]...)
	}
	return dst
}

// sameDecimal tells whether two number literals are the same decimal value.
func sameDecimal(a, b []byte) bool {
	x, y := decimalOf(a), decimalOf(b)
	return x.negative == y.negative && x.exponent == y.exponent && bytes.Equal(x.digits, y.digits)
}

// decimal is 0.digits × 10^exponent, with no zero at either end of digits; zero
// has none.
type decimal struct {
	negative bool
	digits   []byte
	exponent int
}

func decimalOf(literal []byte) (d decimal) {
	if literal[0] == '-' {
		d.negative, literal = true, literal[1:]
	}
	if e := bytes.IndexAny(literal, "eE"); e >= 0 {
		// An exponent that does not fit has overflowed or is of a zero.
		d.exponent, _ = strconv.Atoi(string(bytes.TrimPrefix(literal[e+1:], []byte{'+'})))
		literal = literal[:e]
	}
	whole, fraction, _ := bytes.Cut(literal, []byte{'.'})
	d.exponent += len(whole)
	d.digits = append(append(make([]byte, 0, len(literal)), whole...), fraction...)
	for len(d.digits) > 0 && d.digits[0] == '0' {
		d.digits = d.digits[1:]
		d.exponent--
	}
	d.digits = bytes.TrimRight(d.digits, "0")
	if len(d.digits) == 0 {
		return decimal{} // also -0
	}
	return d
}
