package codec

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/queue"
)

// Header fields make up most of an attempt's record, and nearly all of them are
// the same words and the same kinds of numbers each time, or repeat what the record
// says anyway. They are stored in shorthand, which reads back exactly. Measured with
// a usual attempt: 215 bytes instead of 742 with plain length prefixes, and of 309 if
// values that follow from the attempt were spelled out. DEFLATE with these words as
// its dictionary needs more, and 120 µs for each attempt instead of 3.
//
//	field  word (1 byte; 0: the name follows, spelled out)  value
//	value  word (1 byte; 0: none)  rest
//	rest   uvarint: number<<3 | coding  bytes
//
// The number is how many bytes follow. The last four codings have no bytes. Of codedAs
// the number is the place of an earlier field in the list, of codedSeconds and codedDate
// the seconds since the attempt began, as a zigzag number.
const (
	codedPlain    = iota // as they are
	codedHex             // of lower-case hexadecimal digits
	codedBase64          // of base64 with padding
	codedAs              // the value of an earlier field
	codedTrace           // of a traceparent of W3C Trace Context: version 00, ids, flags; no bytes: the attempt's
	codedDelivery        // the id of the delivery
	codedSeconds         // a time in seconds since 1970
	codedDate            // a time as HTTP writes it
	codingBits    = 3
)

// Attempt is what the record of an attempt holds anyway. Values of header fields that
// follow from it take no bytes.
type Attempt struct {
	Delivery string   // the delivery's id
	Began    int64    // when the attempt began, in seconds since 1970
	Trace    [25]byte // trace id, span id and flags
}

// httpDate is the layout of times in HTTP (RFC 9110 §5.6.7).
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// nearby is the most seconds between the attempt and a time that is stored as their
// difference.
const nearby = 1 << 12

// refer returns the number and the coding of a value that follows from the attempt.
func (a *Attempt) refer(value string) (number uint64, coding int, ok bool) {
	var at int64
	switch {
	case len(value) == traceparentLength:
		text := a.traceparent()
		return 0, codedTrace, value == string(text[:])
	case value != "" && value == a.Delivery:
		return 0, codedDelivery, true
	case len(value) == len("1764000000") && value[0] >= '1' && value[0] <= '9':
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		at, coding = n, codedSeconds
	case len(value) == len(httpDate) && strings.HasSuffix(value, " GMT"):
		var text [len(httpDate)]byte
		t, err := time.Parse(httpDate, value)
		if err != nil || string(t.AppendFormat(text[:0], httpDate)) != value {
			return 0, 0, false
		}
		at, coding = t.Unix(), codedDate
	default:
		return 0, 0, false
	}
	d := at - a.Began
	return uint64(d<<1) ^ uint64(d>>63), coding, d > -nearby && d < nearby
}

// seconds returns the time in seconds since 1970 that refer has given a number.
func (a *Attempt) seconds(number uint64) int64 {
	return a.Began + (int64(number>>1) ^ -int64(number&1))
}

const traceparentLength = 55

// traceparent returns the header of the attempt's trace context.
func (a *Attempt) traceparent() (text [traceparentLength]byte) {
	copy(text[:], "00-")
	hex.Encode(text[3:], a.Trace[:16])
	text[35] = '-'
	hex.Encode(text[36:], a.Trace[16:24])
	text[52] = '-'
	hex.Encode(text[53:], a.Trace[24:])
	return text
}

// words are what records name by number. A number never changes its word: new
// ones are added at the end.
var words = [...]string{
	"",
	// Names of what is sent.
	"Content-Type", "User-Agent", "X-UserHero-Event", "X-UserHero-Delivery", "X-UserHero-Attempt", "X-UserHero-Signature",
	"X-UserHero-Test", "webhook-id", "webhook-timestamp", "webhook-signature", "traceparent", "tracestate",
	// Names of what comes back.
	"Content-Length", "Date", "Connection", "Keep-Alive", "Server", "Etag", "X-Powered-By", "Cache-Control", "Vary",
	"Transfer-Encoding", "Strict-Transport-Security", "X-Content-Type-Options", "X-Frame-Options", "X-Request-Id", "Via",
	"Retry-After", "Location", "Set-Cookie", "Alt-Svc", "Cf-Ray", "Access-Control-Allow-Origin", "Referrer-Policy",
	// Values, and how some begin.
	"application/json", "application/json; charset=utf-8", "text/html; charset=utf-8", "text/plain; charset=utf-8",
	"text/plain", "text/html", "feedback.created", "feedback.updated", "sha256=", "v1,", "keep-alive", "timeout=5", "close",
	"chunked", "Express", "nginx", "cloudflare", "UserHero-Relay/", "no-cache", "no-store", "nosniff", "Accept-Encoding", "[redacted]",
	"Accept", "*/*",
}

// wordNumbers finds a word's number: at the place that its length and three of its
// letters say, or behind it. It is asked for some forty strings of each attempt,
// and takes a quarter of a map's time.
var wordNumbers = func() (table [256]byte) {
	for n, word := range words[1:] {
		at := wordPlace(word)
		for table[at] != 0 {
			at++
		}
		table[at] = byte(n + 1)
	}
	return table
}()

func wordPlace(s string) byte {
	return byte(len(s))*7 + s[0]*31 + s[len(s)/2]*13 + s[len(s)-1]
}

// wordNumber is a word's number, or 0.
func wordNumber(s string) byte {
	if s == "" {
		return 0
	}
	for at := wordPlace(s); ; at++ {
		if n := wordNumbers[at]; n == 0 || words[n] == s {
			return n
		}
	}
}

// beginnings are the words that something follows.
var beginnings = []byte{wordNumber("sha256="), wordNumber(beforeBase64), wordNumber("UserHero-Relay/")}

// beforeBase64 is what the sum of a Standard Webhooks signature follows.
const beforeBase64 = "v1,"

var strictBase64 = base64.StdEncoding.Strict()

// AppendHeaders appends header fields of an attempt in shorthand.
func AppendHeaders(b []byte, hs []queue.Header, a *Attempt) []byte {
	b = binary.AppendUvarint(b, uint64(len(hs)))
	for i := range hs {
		n := wordNumber(hs[i].Name)
		b = append(b, n)
		if n == 0 {
			b = AppendString(b, hs[i].Name)
		}
		b = appendValue(b, hs, i, a)
	}
	return b
}

// appendValue appends the value of field i.
func appendValue(b []byte, hs []queue.Header, i int, a *Attempt) []byte {
	const long = 32 // what is looked for among earlier fields
	value := hs[i].Value
	n := wordNumber(value)
	if n != 0 {
		value = ""
	} else {
		for _, begin := range beginnings {
			if rest, ok := strings.CutPrefix(value, words[begin]); ok {
				n, value = begin, rest
				break
			}
		}
	}
	b = append(b, n)
	if n == 0 {
		if number, coding, ok := a.refer(value); ok {
			return binary.AppendUvarint(b, number<<codingBits|uint64(coding))
		}
	}
	if n == 0 && len(value) >= long {
		for j := range hs[:i] {
			if hs[j].Value == value {
				return binary.AppendUvarint(b, uint64(j)<<codingBits|codedAs)
			}
		}
	}
	return appendRest(b, value, words[n] == beforeBase64)
}

func appendRest(b []byte, s string, base64ed bool) []byte {
	begin := len(b)
	head := func(n, coding int) { b = binary.AppendUvarint(b, uint64(n)<<codingBits|uint64(coding)) }
	ok := false
	switch {
	case len(s) == traceparentLength && s[:3] == "00-" && s[35] == '-' && s[52] == '-':
		head(25, codedTrace)
		b, ok = appendHex(b, s[3:35], s[36:52], s[53:])
	case base64ed && len(s) == base64.StdEncoding.EncodedLen(sha256.Size) && !strings.ContainsAny(s, "\r\n"):
		var sum [sha256.Size + 1]byte
		var text [(sha256.Size + 2) / 3 * 4]byte
		copy(text[:], s)
		n, err := strictBase64.Decode(sum[:], text[:])
		head(n, codedBase64)
		b, ok = append(b, sum[:n]...), err == nil
	case len(s) >= 8 && len(s)%2 == 0:
		head(len(s)/2, codedHex)
		b, ok = appendHex(b, s)
	}
	if ok {
		return b
	}
	b = b[:begin]
	head(len(s), codedPlain)
	return append(b, s...)
}

// hexDigits are the values of lower-case hexadecimal digits; 0xff is none.
var hexDigits = func() (values [256]byte) {
	for i := range values {
		values[i] = 0xff
	}
	for i, digit := range []byte("0123456789abcdef") {
		values[digit] = byte(i)
	}
	return values
}()

// appendHex appends what hexadecimal digits say; false where some are none.
func appendHex(b []byte, texts ...string) ([]byte, bool) {
	for _, digits := range texts {
		for i := 0; i+1 < len(digits); i += 2 {
			high, low := hexDigits[digits[i]], hexDigits[digits[i+1]]
			if high|low > 0x0f {
				return b, false
			}
			b = append(b, high<<4|low)
		}
	}
	return b, true
}

// Headers reads what AppendHeaders has written for the same attempt.
func (r *Reader) Headers(a *Attempt) []queue.Header {
	n := r.Uvarint()
	if n == 0 || n > uint64(len(r.B)) {
		r.Bad = r.Bad || n != 0
		return nil
	}
	hs := make([]queue.Header, n)
	for i := range hs {
		name, known := r.word()
		if !known {
			name = r.String()
		}
		value, begun := r.word()
		before := hs[:i]
		if begun {
			before = nil
		}
		hs[i] = queue.Header{Name: name, Value: value + r.rest(before, a)}
	}
	return hs
}

// word reads a word; none is empty and false.
func (r *Reader) word() (word string, ok bool) {
	b := r.Take(1)
	if b == nil || int(b[0]) >= len(words) {
		r.Bad = true
		return "", false
	}
	return words[b[0]], b[0] != 0
}

func (r *Reader) rest(before []queue.Header, a *Attempt) string {
	head := r.Uvarint()
	n, coding := head>>codingBits, head&(1<<codingBits-1)
	switch coding {
	case codedDelivery:
		return a.Delivery
	case codedSeconds:
		return strconv.FormatInt(a.seconds(n), 10)
	case codedDate:
		return time.Unix(a.seconds(n), 0).UTC().Format(httpDate)
	case codedAs:
		if n >= uint64(len(before)) {
			r.Bad = true
			return ""
		}
		return before[n].Value
	}
	if n > uint64(len(r.B)) {
		r.Bad = true
		return ""
	}
	p := r.Take(int(n))
	switch coding {
	case codedPlain:
		return string(p)
	case codedHex:
		return hex.EncodeToString(p)
	case codedBase64:
		return base64.StdEncoding.EncodeToString(p)
	case codedTrace:
		if len(p) == len(a.Trace) {
			a = &Attempt{Trace: [25]byte(p)}
		}
		if len(p) == 0 || len(p) == len(a.Trace) {
			text := a.traceparent()
			return string(text[:])
		}
	}
	r.Bad = true
	return ""
}
