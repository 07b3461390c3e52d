package words

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/resend"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// What the console says after an action: what happened, then what to do. A sentence
// depends on the state after the action. TestSentencesAreTrue has a row for each.

// Flash is one line about what a form did.
type Flash struct {
	Kind     string // good or bad
	Text     string
	Link, To string // what to do next: words, and an address relative to the root
}

// good is the line about what worked.
func good(format string, args ...any) *Flash {
	return &Flash{Kind: "good", Text: fmt.Sprintf(format, args...)}
}

// Bad is the line about what did not work.
func Bad(format string, args ...any) *Flash {
	return &Flash{Kind: "bad", Text: fmt.Sprintf(format, args...)}
}

// Added is shown after a webhook was added.
func Added(w relay.WebhookStatus) *Flash {
	return good("Webhook %s added. New events that match its settings are sent to it.", w.Name)
}

// Paused is shown after a webhook was paused.
func Paused(w relay.WebhookStatus) *Flash {
	if w.State != relay.Disabled {
		return Bad("%s is not paused: somebody else resumed it at the same time.", w.Name)
	}
	f := good("Paused. New events are not queued for %s; use Recover to send them after you resume.", w.Name)
	if w.Counts.Held > 0 {
		f.Text += fmt.Sprintf(" %s held until then.", are(w.Counts.Held, "waiting delivery", "waiting deliveries"))
	}
	return f
}

// Resumed is shown after a webhook was resumed or enabled; before is the webhook
// before that. missed is how many events it did not get meanwhile; if whole is false,
// there are more. recoverAt is the address that sends them.
func Resumed(before, w relay.WebhookStatus, missed int64, whole bool, recoverAt string) *Flash {
	switch {
	case before.State != relay.Disabled:
		return good("%s was not paused. Nothing changed.", w.Name)
	case w.State == relay.Disabled:
		return Bad("%s is still paused: somebody else paused it at the same time.", w.Name)
	}
	word := "Resumed"
	if !PausedByOwner(before) {
		word = "Enabled"
	}
	verb := "sent to"
	if !w.HeldUntil.IsZero() {
		verb = "queued for"
	}
	f := good("%s. New events are %s %s again.", word, verb, w.Name)
	switch {
	case before.DisabledSince.IsZero():
		f.Text += " Use Recover to send the events it missed."
	case missed > 0 || !whole:
		more := ""
		if !whole {
			more = "More than "
		}
		f.Text += " " + more + Counted(missed, "event was", "events were") + " missed meanwhile."
		f.Link, f.To = "Send what it missed", recoverAt+"?span="+url.QueryEscape(before.DisabledSince.Format(time.RFC3339Nano))
	default:
		f.Text += " It missed no event."
	}
	if w.Counts.Pending > 0 && !w.HeldUntil.IsZero() {
		f.Text += fmt.Sprintf(" %s sent when the pause ends that the receiver asked for (Retry-After).", are(w.Counts.Pending, "held delivery", "held deliveries"))
	} else if w.Counts.Pending > 0 {
		f.Text += fmt.Sprintf(" %s sent now, one at first.", are(w.Counts.Pending, "held delivery", "held deliveries"))
	}
	if w.Counts.Retrying > 0 {
		f.Text += fmt.Sprintf(" %s for the next retry; use Send all to send at once.", waits(w.Counts.Retrying))
	}
	return f
}

// Changed is shown after settings were saved; changed: one of them differs.
func Changed(w relay.WebhookStatus, changed bool) *Flash {
	switch {
	case !changed:
		return good("Nothing changed: the settings are the same as before.")
	case w.State == relay.Disabled:
		return good("Settings saved. They are used when you resume %s.", w.Name)
	}
	return good("Settings saved. The next attempt uses them.")
}

// Redelivered is shown after a delivery was queued again.
func Redelivered(w *relay.WebhookStatus) *Flash {
	switch {
	case w == nil:
		return Bad("The delivery was queued again, but its webhook was deleted meanwhile.")
	case w.Parked:
		return good("Queued again. It is held until %s is in the Caddyfile again.", w.Name)
	case w.State == relay.Disabled:
		return good("Queued again. It is held until you %s %s.", resumeVerb(*w), w.Name)
	case !w.HeldUntil.IsZero():
		return good("Queued again. It will be sent when the pause ends that %s asked for (Retry-After).", w.Name)
	case w.State == relay.Failing || w.Probing:
		return good("Queued again. While %s does not answer, one delivery at a time is tried.", w.Name)
	}
	return good("Queued again. It will be sent to %s as soon as possible.", w.Name)
}

// Busy is shown if a delivery was not queued because it is being attempted.
func Busy() *Flash {
	return Bad("Nothing was queued: this delivery is being sent at the moment. Wait for the result.")
}

// Resent describes how far an action on many deliveries has come.
func Resent(s resend.Status) string {
	all, sent := Number(s.All), Number(s.Sent)
	rest := ""
	if s.Skipped > 0 {
		rest = fmt.Sprintf(" %s left out: being sent, queued or gone already.", were(s.Skipped))
	}
	switch s.State {
	case resend.Lost:
		return "It is not known how this action ended."
	case resend.Running:
		if s.Finding {
			return fmt.Sprintf("Looking for deliveries to send again: %s found.", all)
		}
		return fmt.Sprintf("Sending again: %s of %s sent.", sent, all)
	case resend.Stopped:
		queued := ""
		if s.Queued > 0 {
			queued = fmt.Sprintf(" %s queued already and will still be sent.", were(s.Queued))
		}
		return fmt.Sprintf("Stopped. %s of %s sent; %s stayed as they were.%s%s", sent, all, Number(s.Left()), queued, rest)
	}
	if s.All == 0 {
		return "Nothing was sent again: no delivery matched."
	}
	return fmt.Sprintf("Done: %s sent again. %s delivered, %s failed again.%s", Counted(s.Sent, "delivery was", "deliveries were"),
		Number(s.Delivered), Number(s.Sent-s.Delivered), rest)
}

// ResendWaits says why an action on many deliveries waits; empty if it does not.
func ResendWaits(all []relay.WebhookStatus) string {
	var why []string
	for _, w := range all {
		switch {
		case w.Parked:
			why = append(why, w.Name+" is not in the Caddyfile")
		case w.State == relay.Disabled && PausedByOwner(w):
			why = append(why, w.Name+" is paused")
		case w.State == relay.Disabled:
			why = append(why, w.Name+" is disabled")
		case !w.HeldUntil.IsZero():
			why = append(why, w.Name+" asked for a pause (Retry-After)")
		default:
			why = append(why, w.Name+" does not answer, so one delivery at a time is tried")
		}
	}
	if why == nil {
		return ""
	}
	return "It waits: " + strings.Join(why, "; ") + "."
}

// AfterLost explains why the end of an action is not known; shared: several relays work on
// the store.
func AfterLost(shared bool) string {
	cause := "The relay was restarted while it ran."
	if shared {
		cause = "Another relay runs it, or the relay was restarted while it ran."
	}
	return cause + " What was queued by then is sent. What was not queued stayed as it was."
}

// Deleted is shown after a webhook was deleted.
func Deleted(name string, cancelled int64) *Flash {
	if cancelled == 0 {
		return good("Webhook %s deleted. No delivery was waiting for it.", name)
	}
	return good("Webhook %s deleted. %s cancelled.", name, Counted(cancelled, "waiting delivery was", "waiting deliveries were"))
}

// WouldErase says what an erasure would remove; if whole is false, there is too much to count.
func WouldErase(e relay.Erased, whole bool) string {
	switch {
	case !whole:
		return "There is too much feedback to count. All that matches would be erased."
	case e.Feedbacks == 0:
		return "No feedback has this value."
	}
	text := fmt.Sprintf("%s would be erased, with %s and everything that was sent.", Counted(e.Feedbacks, "feedback", "feedbacks"), Counted(e.Events, "event", "events"))
	if e.Waiting > 0 {
		text += fmt.Sprintf(" %s would be cancelled.", Counted(e.Waiting, "waiting delivery", "waiting deliveries"))
	}
	return text
}

// Erased is shown after feedback was erased.
func Erased(e relay.Erased) *Flash {
	if e.Feedbacks == 0 {
		return good("Nothing was erased: no feedback matched any more.")
	}
	f := good("Erased: %s with %s.", Counted(e.Feedbacks, "feedback", "feedbacks"), Counted(e.Events, "event", "events"))
	if e.Waiting > 0 {
		f.Text += fmt.Sprintf(" %s cancelled.", Counted(e.Waiting, "waiting delivery was", "waiting deliveries were"))
	}
	return f
}

// Rotated is shown after a secret was changed; before is the webhook before that.
func Rotated(before relay.WebhookStatus, overlap time.Duration) *Flash {
	switch {
	case !before.HasSecret:
		return good("Secret set. All requests are signed from now on.")
	case overlap > 0:
		return good("Secret changed. The old secret also works for %s.", inWords(overlap))
	}
	return good("Secret changed. The old secret no longer works.")
}

// KeyRotated is shown after a signing key was changed; before is the webhook before that.
func KeyRotated(before relay.WebhookStatus, overlap time.Duration) *Flash {
	switch {
	case len(before.PublicKeys) == 0:
		return good("Key set. All requests have an asymmetric signature from now on.")
	case overlap > 0:
		return good("Key changed. The old key also signs for %s.", inWords(overlap))
	}
	return good("Key changed. The old key no longer signs.")
}

// KeyRemoved is shown after a signing key was removed.
func KeyRemoved() *Flash { return good("Key removed. Requests have no asymmetric signature any more.") }

// Tested is the result of a test send.
func Tested(a queue.Attempt, ok bool) string {
	if ok {
		return fmt.Sprintf("It works: the receiver answered %d %s in %s.", a.Status, http.StatusText(a.Status), Span(a.Duration))
	}
	return fmt.Sprintf("It does not work yet: %s (after %s).", a.Error, Span(a.Duration))
}

// Sent says what was sent in a test.
func Sent(a queue.Attempt) string {
	switch a.ErrorClass {
	case "egress", "dns", "refused", "connect", "tls", "request":
		return "Nothing was sent: there was no connection to the receiver."
	case "timeout", "reset", "protocol":
		if a.Status == 0 {
			return "There was no answer. The receiver may have got the sample event or not."
		}
	}
	return "The sample event of the documentation was sent, with X-UserHero-Test: true."
}

// resumeVerb is the word of the button that makes a webhook active again.
func resumeVerb(w relay.WebhookStatus) string {
	if PausedByOwner(w) {
		return "resume"
	}
	return "enable"
}

// are returns a number with its noun and verb: "1 delivery is", "2 deliveries are".
func are(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one + " is"
	}
	return Number(n) + " " + many + " are"
}

// were returns a number with its verb: "1 was", "2 were".
func were(n int64) string { return Counted(n, "was", "were") }

func waits(n int64) string {
	if n == 1 {
		return "1 delivery waits"
	}
	return Number(n) + " deliveries wait"
}

// inWords formats a duration for a sentence: "24 hours".
func inWords(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0 && d > 24*time.Hour:
		return Counted(int64(d/(24*time.Hour)), "day", "days")
	case d%time.Hour == 0:
		return Counted(int64(d/time.Hour), "hour", "hours")
	case d%time.Minute == 0:
		return Counted(int64(d/time.Minute), "minute", "minutes")
	}
	return api.FormatDuration(d)
}
