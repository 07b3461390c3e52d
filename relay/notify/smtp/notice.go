// Package smtp sends notices about webhooks by e-mail.
//
// It promises that one call of Notify makes one connection and sends at most one mail;
// that the call ends with its context at every stage; that the mail of a notice has the
// same Message-ID however often it is sent; and that credentials never go over an
// unencrypted connection, and secret parts of URLs are never sent. Text from elsewhere,
// such as a quoted response, cannot add a header or markup.
//
// The package does not know when a webhook fails, which notices belong in one mail, or
// when to retry. The caller decides that and calls [Error.Temporary] to find out
// whether a retry can help. Its tests talk to a real mail server in the process.
package smtp

import (
	"fmt"

	"github.com/userhero/relay/relay/notify"
)

// validate checks a notice. The notice's texts may come from anywhere: they are reduced
// to one printable line each before they enter a mail.
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
