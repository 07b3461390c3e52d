package event

import (
	"bytes"
	"regexp"
	"time"
)

// timeSize is how many bytes appendTime appends.
const timeSize = len("2026-01-07T15:30:00Z")

// appendTime appends a time in UTC, to the second.
func appendTime(dst []byte, t time.Time) []byte { return t.UTC().AppendFormat(dst, time.RFC3339) }

// dateTime is a date-time of RFC 3339 §5.6. time.Parse alone accepts more ("T5:30:00Z", a comma,
// offsets such as +24:00) and less (no lower case, no leap seconds).
var dateTime = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):([0-5]\d|60)(?:\.\d+)?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$`)

// parseTime reads a date-time of RFC 3339 §5.6 and returns it in UTC, to the second. A leap
// second, 23:59:60 in UTC, becomes the second after it, which every receiver can read.
func parseTime(s []byte) (at time.Time, ok bool) {
	m := dateTime.FindSubmatch(s)
	if m == nil {
		return time.Time{}, false
	}
	second, leap := m[3], string(m[3]) == "60"
	if leap {
		second = []byte("59")
	}
	at, err := time.Parse(time.RFC3339, string(m[1])+"T"+string(m[2])+":"+string(second)+string(bytes.ToUpper(m[4])))
	if err != nil {
		return time.Time{}, false
	}
	at = at.UTC()
	if leap {
		return at.Add(time.Second), at.Hour() == 23 && at.Minute() == 59
	}
	return at, true
}
