// Package words holds what the console says: times, sizes and numbers, the states of
// webhooks and deliveries, what happened after an action and what to do about an error.
//
// It promises that the same state is said in the same words on every page, and that a
// sentence is true of the state that it is given. It knows neither requests nor pages: it
// gets states and returns text, which the templates escape. The tests of package console
// read its sentences on the pages, each after the action that leads to it.
package words

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// Span formats a duration in one unit.
func Span(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return "0 ms"
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d.Round(10*time.Microsecond))/float64(time.Millisecond), 'f', -1, 64) + " ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Round(100*time.Millisecond).Seconds(), 'f', -1, 64) + " s"
	case d < 100*time.Second:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// When is a time as a page shows it.
type When struct{ Machine, Absolute, Relative string }

// WhenOf returns a time and how far it is from now.
func WhenOf(t, now time.Time) When {
	w := When{
		Machine:  t.UTC().Format(time.RFC3339),
		Absolute: t.UTC().Format("2 January 2006, 15:04:05 UTC"),
	}
	switch d := now.Sub(t); {
	case d >= 5*time.Second:
		w.Relative = Span(d.Truncate(time.Second)) + " ago"
	case d > -time.Second:
		w.Relative = "just now"
	default:
		w.Relative = "in " + Span((-d).Truncate(time.Second))
	}
	return w
}

// Rung formats a delay of a ladder: 30s, 5m, 2h, 1h30m, 3d.
func Rung(d time.Duration) string {
	if days := d / (24 * time.Hour); d%(24*time.Hour) == 0 && days > 1 {
		return fmt.Sprintf("%dd", days)
	}
	return api.FormatDuration(d)
}

// Size formats a number of bytes: 1.2 kB, 34 MB.
func Size(n int64) string { return humanize.Bytes(uint64(n)) }

// Number formats 1234567 as 1,234,567.
func Number(n int64) string { return humanize.Comma(n) }

// Counted returns a number with its noun: "1 event", "14 events".
func Counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Number(n) + " " + many
}

// Stars draws a rating.
func Stars(rating int) string {
	rating = min(max(rating, 0), 5)
	return strings.Repeat("★", rating) + strings.Repeat("☆", 5-rating)
}

// Share formats a part in percent. Only everything is 100 %, and only nothing is 0 %.
func Share(part, whole int64) string {
	switch {
	case whole == 0:
		return "–"
	case part == whole:
		return "100 %"
	case part == 0:
		return "0 %"
	}
	p := float64(part) / float64(whole) * 100
	switch {
	case p >= 99:
		return strconv.FormatFloat(min(p, 99.9), 'f', 1, 64) + " %"
	case p < 1:
		return "under 1 %"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + " %"
}

// Mark is a state: a sign, its colour and words.
type Mark struct {
	Kind string // good, bad, wait, hold or none
	Text string
}

// WebhookMark returns the state of a webhook, as the user sees it.
func WebhookMark(w relay.WebhookStatus, user string, now time.Time) Mark {
	switch {
	case w.Parked:
		return Mark{"hold", "No longer in the Caddyfile"}
	case w.State == relay.Failing:
		return Mark{"bad", "Failing for " + Span(now.Sub(w.FailingSince))}
	case w.State == relay.Disabled:
		return Mark{"hold", pausedBy(w, user)}
	case w.LastAttempt.IsZero():
		return Mark{"none", "Active, nothing sent yet"}
	case w.Probing:
		return Mark{"wait", "Active, does not answer"}
	case w.Counts.Retrying > 0 && w.LastAnswer.Error != "":
		return Mark{"wait", "Active, retrying"}
	}
	return Mark{"good", "Active"}
}

// PausedByOwner reports whether a person paused the webhook; otherwise it is
// disabled, by the receiver's 410 or in the Caddyfile.
func PausedByOwner(w relay.WebhookStatus) bool {
	_, ok := relay.PausedBy(w.Reason)
	return ok
}

// pausedBy returns who or what paused or disabled a webhook.
func pausedBy(w relay.WebhookStatus, user string) string {
	who, owner := relay.PausedBy(w.Reason)
	switch {
	case w.Reason == "":
		return "Disabled in the Caddyfile"
	case !owner:
		return "Disabled: " + w.Reason
	case who == user:
		return "Paused by you"
	case who == "admin":
		return "Paused by the admin endpoint"
	}
	return "Paused by " + who
}

// DeliveryMark returns the state of a delivery. The webhook is nil if it was deleted.
func DeliveryMark(d queue.Delivery, state string, w *relay.WebhookStatus, user string, now time.Time) Mark {
	switch state {
	case api.StateDelivered:
		if d.Attempts > 1 {
			return Mark{"good", fmt.Sprintf("Delivered at the %s attempt", humanize.Ordinal(d.Attempts))}
		}
		return Mark{"good", "Delivered"}
	case api.StateFailed:
		if w == nil && d.Ended.IsZero() {
			return Mark{"bad", "Cancelled: the webhook was deleted"}
		}
		return Mark{"bad", "Failed after " + Counted(int64(d.Attempts), "attempt", "attempts")}
	case api.StateHeld:
		if w == nil {
			return Mark{"hold", "Held"}
		}
		reason := WebhookMark(*w, user, now).Text
		return Mark{"hold", "Held: " + strings.ToLower(reason[:1]) + reason[1:]}
	case api.StateRetrying:
		if left := d.Due.Sub(now); left > 0 {
			return Mark{"wait", "Sending in " + Span(left.Truncate(time.Second)+time.Second)}
		}
	}
	// It is due. An attempt may be in progress.
	if w != nil && (w.State == relay.Failing || w.Probing) {
		return Mark{"wait", "Waiting until the webhook answers"}
	}
	if state == api.StateRetrying {
		return Mark{"wait", "Retrying, next in turn"}
	}
	return Mark{"wait", "Pending, next in turn"}
}

// Answer names an answer, which is a status or a class of errors.
func Answer(answer string) string {
	if status, err := strconv.Atoi(answer); err == nil {
		return strings.TrimSpace(answer + " " + http.StatusText(status))
	}
	return "no answer: " + answer
}
