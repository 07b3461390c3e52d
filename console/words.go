package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// span formats a duration in one unit.
func span(d time.Duration) string {
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

// when is a time as a page shows it.
type when struct{ Machine, Absolute, Relative string }

// whenOf returns a time and how far it is from now.
func whenOf(t, now time.Time) when {
	w := when{
		Machine:  t.UTC().Format(time.RFC3339),
		Absolute: t.UTC().Format("2 January 2006, 15:04:05 UTC"),
	}
	switch d := now.Sub(t); {
	case d >= 5*time.Second:
		w.Relative = span(d.Truncate(time.Second)) + " ago"
	case d > -time.Second:
		w.Relative = "just now"
	default:
		w.Relative = "in " + span((-d).Truncate(time.Second))
	}
	return w
}

// rung formats a delay of a ladder: 30s, 5m, 2h, 1h30m, 3d.
func rung(d time.Duration) string {
	if days := d / (24 * time.Hour); d%(24*time.Hour) == 0 && days > 1 {
		return fmt.Sprintf("%dd", days)
	}
	return api.FormatDuration(d)
}

// size formats a number of bytes.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1000, 0
	for f >= 999.5 && unit < 3 {
		f, unit = f/1000, unit+1
	}
	digits := 0
	if f < 10 {
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + " " + []string{"kB", "MB", "GB", "TB"}[unit]
}

// number formats 1234567 as 1,234,567.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted returns a number with its noun: "1 event", "14 events".
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// stars draws a rating.
func stars(rating int) string {
	rating = min(max(rating, 0), 5)
	return strings.Repeat("★", rating) + strings.Repeat("☆", 5-rating)
}

// share formats a part in percent. Only everything is 100 %, and only nothing is 0 %.
func share(part, whole int64) string {
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

// mark is a state: a sign, its colour and words.
type mark struct {
	Kind string // good, bad, wait, hold or none
	Text string
}

// disabledBy begins the reason of a webhook that a person paused.
const disabledBy = "disabled by "

// webhookMark returns the state of a webhook, as the user sees it.
func webhookMark(w relay.WebhookStatus, user string, now time.Time) mark {
	switch {
	case w.Parked:
		return mark{"hold", "No longer in the Caddyfile"}
	case w.State == relay.Failing:
		return mark{"bad", "Failing for " + span(now.Sub(w.FailingSince))}
	case w.State == relay.Disabled:
		return mark{"hold", pausedBy(w, user)}
	case w.LastAttempt.IsZero():
		return mark{"none", "Active, nothing sent yet"}
	case w.Probing:
		return mark{"wait", "Active, does not answer"}
	case w.Counts.Retrying > 0 && w.LastAnswer.Error != "":
		return mark{"wait", "Active, retrying"}
	}
	return mark{"good", "Active"}
}

// pausedByOwner reports whether a person paused the webhook; otherwise it is
// disabled, by the receiver's 410 or in the Caddyfile.
func pausedByOwner(w relay.WebhookStatus) bool { return strings.HasPrefix(w.Reason, disabledBy) }

// pausedBy returns who or what paused or disabled a webhook.
func pausedBy(w relay.WebhookStatus, user string) string {
	who, owner := strings.CutPrefix(w.Reason, disabledBy)
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

// deliveryMark returns the state of a delivery. The webhook is nil if it was deleted.
func deliveryMark(d queue.Delivery, state string, w *relay.WebhookStatus, user string, now time.Time) mark {
	switch state {
	case api.StateDelivered:
		if d.Attempts > 1 {
			return mark{"good", fmt.Sprintf("Delivered at the %s attempt", ordinal(d.Attempts))}
		}
		return mark{"good", "Delivered"}
	case api.StateFailed:
		if w == nil && d.Ended.IsZero() {
			return mark{"bad", "Cancelled: the webhook was deleted"}
		}
		return mark{"bad", "Failed after " + counted(int64(d.Attempts), "attempt", "attempts")}
	case api.StateHeld:
		if w == nil {
			return mark{"hold", "Held"}
		}
		reason := webhookMark(*w, user, now).Text
		return mark{"hold", "Held: " + strings.ToLower(reason[:1]) + reason[1:]}
	case api.StateRetrying:
		if left := d.Due.Sub(now); left > 0 {
			return mark{"wait", "Sending in " + span(left.Truncate(time.Second)+time.Second)}
		}
	}
	// It is due. An attempt may be in progress.
	if w != nil && (w.State == relay.Failing || w.Probing) {
		return mark{"wait", "Waiting until the webhook answers"}
	}
	if state == api.StateRetrying {
		return mark{"wait", "Retrying, next in turn"}
	}
	return mark{"wait", "Pending, next in turn"}
}

func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}
