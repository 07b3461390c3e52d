package event

import "time"

// timeSize is how many bytes appendTime appends.
const timeSize = len("2026-01-07T15:30:00Z")

// appendTime appends a time in UTC, to the second.
func appendTime(dst []byte, t time.Time) []byte { return t.UTC().AppendFormat(dst, time.RFC3339) }

// parseTime reads a date-time of RFC 3339 §5.6 and returns it in UTC, to the second. A leap
// second, 23:59:60 in UTC, becomes the second after it, which every receiver can read.
// (time.Parse accepts "T5:30:00Z", a comma and offsets such as +24:00, and refuses lower case
// and leap seconds.)
func parseTime(s []byte) (at time.Time, ok bool) {
	p := timeParser{s, true}
	year := p.number(4, 0, 9999)
	p.one("-")
	month := p.number(2, 1, 12)
	p.one("-")
	day := p.number(2, 1, 31)
	p.one("Tt")
	hour := p.number(2, 0, 23)
	p.one(":")
	minute := p.number(2, 0, 59)
	p.one(":")
	second := p.number(2, 0, 60)
	p.fraction()
	offset := p.offset()
	if !p.ok || len(p.rest) > 0 {
		return time.Time{}, false
	}
	at = time.Date(year, time.Month(month), day, hour, minute, 0, 0, time.UTC)
	if at.Day() != day { // time.Date makes 1 March of 30 February
		return time.Time{}, false
	}
	at = at.Add(-offset)
	if second == 60 && (at.Hour() != 23 || at.Minute() != 59) {
		return time.Time{}, false
	}
	return at.Add(time.Duration(second) * time.Second), true
}

// timeParser reads a time from its beginning. ok becomes false at the first error and stays
// false.
type timeParser struct {
	rest []byte
	ok   bool
}

// number reads a number of exactly this many digits, from least to most.
func (p *timeParser) number(digits, least, most int) (n int) {
	if len(p.rest) < digits {
		p.ok = false
		return 0
	}
	for _, c := range p.rest[:digits] {
		if c < '0' || c > '9' {
			p.ok = false
		}
		n = 10*n + int(c-'0')
	}
	p.rest = p.rest[digits:]
	p.ok = p.ok && n >= least && n <= most
	return n
}

// one reads one of the characters of a string and returns it.
func (p *timeParser) one(of string) byte {
	if len(p.rest) > 0 {
		for i := range len(of) {
			if p.rest[0] == of[i] {
				p.rest = p.rest[1:]
				return of[i]
			}
		}
	}
	p.ok = false
	return 0
}

// fraction skips the fraction of a second, if there is one.
func (p *timeParser) fraction() {
	if len(p.rest) == 0 || p.rest[0] != '.' {
		return
	}
	n := 1
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	p.ok = p.ok && n > 1
	p.rest = p.rest[n:]
}

// offset reads how much local time is ahead of UTC.
func (p *timeParser) offset() time.Duration {
	sign := p.one("Zz+-")
	if sign != '+' && sign != '-' {
		return 0
	}
	hour := p.number(2, 0, 23)
	p.one(":")
	offset := time.Duration(hour)*time.Hour + time.Duration(p.number(2, 0, 59))*time.Minute
	if sign == '-' {
		return -offset
	}
	return offset
}
