package event

import (
	"bytes"
	"math"
	"strconv"
	"unsafe"
)

// number reads a number and returns it as ECMAScript prints it (ECMA-262
// §6.1.6.1.20). A literal with a fraction or an exponent is a double, whatever
// digits it has: serialisers write 17 of them where 15 say the same. An integer
// is exact: it may be an identifier, so one that JavaScript would change is
// refused.
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
	integer, exponent := true, 0 // exponent counts digits
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
		if exponent = p.digits(); exponent == 0 {
			return nil, p.malformed("a digit is due")
		}
	}
	literal := p.in[start:p.pos:p.pos]
	if integer && len(literal) <= safeDigits {
		if string(literal) == "-0" {
			return literal[1:], nil
		}
		return literal, nil
	}
	f, err := double(literal, exponent)
	if err != nil || math.IsInf(f, 0) {
		return nil, p.unstable("the number is too large")
	}
	printed := AppendNumber(make([]byte, 0, 24), f)
	if integer && !sameDecimal(literal, printed) {
		return nil, p.unstable("JavaScript would read the integer as " + string(printed) + "; send it as a string")
	}
	return printed, nil
}

// safeDigits is how long an integer may be that a double holds for sure, its
// sign included: 10^15 is below 2^53.
const safeDigits = 15

// double is the double nearest to a literal. strconv looks at five digits of an
// exponent, so a literal with more of them is written anew: the digits that its
// many zeros stand for count.
func double(literal []byte, exponent int) (float64, error) {
	if exponent > 4 {
		literal = decimalOf(literal).literal()
	}
	return strconv.ParseFloat(unsafe.String(unsafe.SliceData(literal), len(literal)), 64)
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
		// An exponent that does not fit comes back as the largest there is; no
		// literal has digits enough to bring it near zero again.
		d.exponent, _ = strconv.Atoi(string(bytes.TrimPrefix(literal[e+1:], []byte{'+'})))
		d.exponent = min(max(d.exponent, -math.MaxInt32), math.MaxInt32)
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

// literal writes the value in a form whose exponent alone says how large it is.
func (d decimal) literal() []byte {
	b := make([]byte, 0, len(d.digits)+24)
	if d.negative {
		b = append(b, '-')
	}
	b = append(append(b, "0."...), d.digits...)
	return strconv.AppendInt(append(b, "0e"...), int64(d.exponent), 10)
}
