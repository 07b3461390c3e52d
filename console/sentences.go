package console

import (
	"fmt"
	"net/http"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// What the console says after an action: what happened, then what to do. Each
// sentence is made of the state that the action left, so that none is said of a
// state that is not there. TestSentencesAreTrue has a row for each.

// saidAdded is said of a webhook that was added.
func saidAdded(w relay.WebhookStatus) *flash {
	return good("Webhook %s added. New events that match its settings are sent to it.", w.Name)
}

// saidPaused is said when somebody paused a webhook.
func saidPaused(w relay.WebhookStatus) *flash {
	if w.State != relay.Disabled {
		return bad("%s is not paused: somebody resumed it at the same time.", w.Name)
	}
	f := good("Paused. New events are not queued for %s; use Recover to send them after you resume.", w.Name)
	if w.Counts.Held > 0 {
		f.Text += fmt.Sprintf(" %s held until then.", are(w.Counts.Held, "waiting delivery", "waiting deliveries"))
	}
	return f
}

// saidResumed is said when somebody resumed or enabled a webhook; before is as it
// was.
func saidResumed(before, w relay.WebhookStatus) *flash {
	switch {
	case before.State != relay.Disabled:
		return good("%s was not paused. Nothing changed.", w.Name)
	case w.State == relay.Disabled:
		return bad("%s is still paused: somebody paused it at the same time.", w.Name)
	}
	word := "Resumed"
	if !pausedByOwner(before) {
		word = "Enabled"
	}
	verb := "sent to"
	if !w.HeldUntil.IsZero() {
		verb = "queued for"
	}
	f := good("%s. New events are %s %s again. Use Recover to send what came meanwhile.", word, verb, w.Name)
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

// saidChanged is said when settings were saved; changed says whether one differs.
func saidChanged(w relay.WebhookStatus, changed bool) *flash {
	switch {
	case !changed:
		return good("Nothing changed: the settings are the same as before.")
	case w.State == relay.Disabled:
		return good("Settings saved. They are used when you resume %s.", w.Name)
	}
	return good("Settings saved. The next attempt uses them.")
}

// saidRedelivered is said when a delivery was queued again.
func saidRedelivered(w *relay.WebhookStatus) *flash {
	switch {
	case w == nil:
		return bad("The delivery was queued again, but its webhook has been deleted since.")
	case w.Parked:
		return good("Queued again. It is held until %s is in the Caddyfile again.", w.Name)
	case w.State == relay.Disabled:
		return good("Queued again. It is held until you %s %s.", resumeVerb(*w), w.Name)
	case !w.HeldUntil.IsZero():
		return good("Queued again. It goes out when the pause ends that %s asked for (Retry-After).", w.Name)
	case w.State == relay.Failing || w.Probing:
		return good("Queued again. It goes out as soon as %s lets a delivery through.", w.Name)
	}
	return good("Queued again. It goes out as soon as %s has room for it.", w.Name)
}

// saidBusy is said when a delivery is being attempted and was left alone.
func saidBusy() *flash {
	return bad("Nothing was queued: an attempt of this delivery is under way. Wait for its result.")
}

// saidRecovered is said when many deliveries were queued again.
func saidRecovered(w relay.WebhookStatus, n int64, what relay.Recovery) *flash {
	switch {
	case n == 0 && what.Waiting:
		return good("Nothing was queued: no delivery waits for a retry.")
	case n == 0 && what.Missed:
		return good("Nothing was queued: nothing failed or was missed in that time.")
	case n == 0:
		return good("Nothing was queued: nothing has failed.")
	}
	queued := counted(n, "delivery", "deliveries")
	switch {
	case w.Parked:
		return good("%s queued again. They are held until %s is in the Caddyfile again.", queued, w.Name)
	case w.State == relay.Disabled:
		return good("%s queued again. They are held until you %s %s.", queued, resumeVerb(w), w.Name)
	case !w.HeldUntil.IsZero():
		return good("%s queued again. They go out when the pause ends that %s asked for (Retry-After).", queued, w.Name)
	case w.State == relay.Failing || w.Probing:
		return good("%s queued again. While %s does not answer, one at a time tries whether it does.", queued, w.Name)
	}
	return good("%s queued again. They go out now: one at first, more as the receiver answers.", queued)
}

// saidDeleted is said when a webhook was deleted, with what waited for it.
func saidDeleted(name string, cancelled int64) *flash {
	if cancelled == 0 {
		return good("Webhook %s deleted. No delivery was waiting for it.", name)
	}
	return good("Webhook %s deleted. %s cancelled.", name, counted(cancelled, "waiting delivery was", "waiting deliveries were"))
}

// saidRotated is said when a secret was changed; before is the webhook as it was.
func saidRotated(before relay.WebhookStatus, overlap time.Duration) *flash {
	switch {
	case !before.HasSecret:
		return good("Secret set. From now on every request is signed.")
	case overlap > 0:
		return good("Secret changed. The old secret also works for %s.", inWords(overlap))
	}
	return good("Secret changed. The old secret no longer works.")
}

// saidTested is the verdict of a test send.
func saidTested(a queue.Attempt, ok bool) string {
	if ok {
		return fmt.Sprintf("It works: the receiver answered %d %s in %s.", a.Status, http.StatusText(a.Status), span(a.Duration))
	}
	return fmt.Sprintf("It does not work yet: %s (after %s).", a.Error, span(a.Duration))
}

// saidSent says what left this machine in a test send.
func saidSent(a queue.Attempt) string {
	switch a.ErrorClass {
	case "egress", "dns", "refused", "connect", "tls", "request":
		return "Nothing was sent: no connection to the receiver was made."
	case "timeout", "reset", "protocol":
		if a.Status == 0 {
			return "No answer came, so whether the receiver got the sample event is not known."
		}
	}
	return "The sample event of the documentation was sent, marked X-UserHero-Test: true."
}

// resumeVerb is what the button says that lets a webhook have events again.
func resumeVerb(w relay.WebhookStatus) string {
	if pausedByOwner(w) {
		return "resume"
	}
	return "enable"
}

// are is a number with its noun and verb: "1 delivery is", "2 deliveries are".
func are(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one + " is"
	}
	return number(n) + " " + many + " are"
}

func waits(n int64) string {
	if n == 1 {
		return "1 delivery waits"
	}
	return number(n) + " deliveries wait"
}

// inWords is a duration as a sentence has it.
func inWords(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0 && d > 24*time.Hour:
		return counted(int64(d/(24*time.Hour)), "day", "days")
	case d%time.Hour == 0:
		return counted(int64(d/time.Hour), "hour", "hours")
	case d%time.Minute == 0:
		return counted(int64(d/time.Minute), "minute", "minutes")
	}
	return api.FormatDuration(d)
}
