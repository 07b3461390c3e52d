package event

import (
	"bytes"
	"math"
	"strconv"
	"unsafe"
)

// printNumber returns the literal of a JSON number as ECMAScript prints it (ECMA-262
// §6.1.6.1.20), or says what is wrong with it. A literal with a fraction or an exponent is a
// double, whatever its digits: serialisers write 17 of them where 15 say the same. An integer
// is exact, because it may be an identifier: it is wrong if JavaScript would change it.
func printNumber(literal []byte, integer bool, exponentDigits int) (printed []byte, wrong string) {
	if integer && len(literal) <= safeDigits {
		if string(literal) == "-0" {
			return literal[1:], ""
		}
		return literal, ""
	}
	f, err := double(literal, exponentDigits)
	if err != nil || math.IsInf(f, 0) {
		return nil, "the number is too large"
	}
	printed = AppendNumber(make([]byte, 0, 24), f)
	if integer && !sameDecimal(literal, printed) {
		return nil, "JavaScript would read the integer as " + string(printed) + "; send it as a string"
	}
	return printed, ""
}

// safeDigits is the length, sign included, up to which a double holds every integer: 10^15
// is below 2^53.
const safeDigits = 15

// double returns the double nearest to a literal. strconv reads five digits of an exponent at
// most, so a literal with more is rewritten first: its leading or trailing zeros may make up
// for the exponent.
func double(literal []byte, exponentDigits int) (float64, error) {
	if exponentDigits > 4 {
		literal = decimalOf(literal).literal()
	}
	return strconv.ParseFloat(unsafe.String(unsafe.SliceData(literal), len(literal)), 64)
}

// AppendNumber appends a finite number as ECMAScript's Number::toString does: the fewest digits
// that read back as the same number, in positional notation from 1e-6 up to 1e21.
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

// sameDecimal reports whether two number literals are the same decimal value.
func sameDecimal(a, b []byte) bool {
	x, y := decimalOf(a), decimalOf(b)
	return x.negative == y.negative && x.exponent == y.exponent && bytes.Equal(x.digits, y.digits)
}

// decimal is 0.digits × 10^exponent. digits has no zero at either end, and is empty for zero.
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
		// Atoi returns the largest int for an exponent that does not fit. No literal has
		// enough digits to bring such an exponent near zero.
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

// literal writes the value without zeros at either end of its digits.
func (d decimal) literal() []byte {
	b := make([]byte, 0, len(d.digits)+24)
	if d.negative {
		b = append(b, '-')
	}
	b = append(append(b, "0."...), d.digits...)
	return strconv.AppendInt(append(b, "0e"...), int64(d.exponent), 10)
}
