package deliver

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds how long Retry-After may delay a retry.
const maxRetryAfter = 24 * time.Hour

// NextDue returns when to try again after an attempt that ended at `ended`. failed is
// the number of failed attempts before it on this ladder. Retry n comes no earlier than
// rung n after attempt n ended; Retry-After (asked) can only make it later. If the
// ladder has run out, after 1 + len(ladder) attempts, there is no due time.
func NextDue(ladder []time.Duration, failed int, ended time.Time, asked time.Duration) (due time.Time, ok bool) {
	if failed >= len(ladder) {
		return time.Time{}, false
	}
	return ended.Add(max(ladder[failed], min(asked, maxRetryAfter))), true
}

// retryAfter returns how long a 429 or 503 response asks to wait, given in seconds or
// as a date (RFC 9110 §10.2.3). 0 means that it does not ask.
func retryAfter(status int, h http.Header, now time.Time) time.Duration {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(v, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	if v != "" && strings.Trim(v, "0123456789") == "" {
		return maxRetryAfter // the number does not fit
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
