// Package smtp tells people by e-mail what became of their webhooks.
//
// It promises that one call of Notify is one connection and at most one mail,
// that it ends with its context at every stage of the conversation, that the
// mail of a notice has the same Message-ID however often it is sent, and that
// neither credentials over an unencrypted connection nor the secret parts of a
// URL ever leave the machine. What cannot be trusted to be one clean line, such
// as an answer quoted as the reason, can add no header and no markup.
//
// It does not know when a webhook fails, which notices belong into one mail, or
// when to try again: the caller decides that, and asks an [Error] whether trying
// again can help. Its tests talk to a real mail server in the process.
package smtp

import (
	"fmt"

	"github.com/userhero/relay/relay/notify"
)

// validate reports what is wrong with a notice. Its texts may come from anywhere:
// they are reduced to one printable line each before they enter a mail.
func validate(n notify.Notice) error {
	switch n.Kind {
	case notify.Failing, notify.Recovered, notify.Disabled, notify.Warning:
	default:
		return fmt.Errorf("kind %q of the notice about webhook %q is unknown: it is %s, %s, %s or %s",
			n.Kind, n.Webhook, notify.Failing, notify.Recovered, notify.Disabled, notify.Warning)
	}
	if n.Webhook == "" {
		return fmt.Errorf("the %s notice names no webhook", n.Kind)
	}
	return nil
}
