package deliver

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds how much a receiver may lengthen a rung.
const maxRetryAfter = 24 * time.Hour

// NextDue says when to try again after an attempt that ended at `ended`, having
// failed as the (failed+1)th of its ladder. Retry n comes no earlier than rung n
// after attempt n ended; what the receiver asked for can only lengthen that. No
// due time means that the ladder has run out: 1 + len(ladder) attempts were made.
func NextDue(ladder []time.Duration, failed int, ended time.Time, asked time.Duration) (due time.Time, ok bool) {
	if failed >= len(ladder) {
		return time.Time{}, false
	}
	return ended.Add(max(ladder[failed], min(asked, maxRetryAfter))), true
}

// retryAfter reads how long a 429 or 503 answer asks to wait: seconds or a date
// (RFC 9110 §10.2.3). 0 is no wish.
func retryAfter(status int, h http.Header, now time.Time) time.Duration {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(v, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	if v != "" && strings.Trim(v, "0123456789") == "" {
		return maxRetryAfter // more digits than fit
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
