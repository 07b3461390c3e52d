// Package smtp tells people by e-mail what became of their webhooks.
//
// It promises that one call of Send is one connection and at most one mail,
// that it ends with its context at every stage of the conversation, that the
// mail of a notice has the same Message-ID however often it is sent, and that
// neither credentials over an unencrypted connection nor the secret parts of a
// URL ever leave the machine. What cannot be trusted to be one clean line, such
// as an answer quoted as the reason, can add no header and no markup.
//
// It does not know when a webhook fails, which notices belong into one mail, or
// when to try again: the caller decides that, and asks an [Error] whether trying
// again can help.
package smtp

import (
	"fmt"
	"time"
)

// The kinds of a [Notice].
const (
	Failing   = "failing"   // a delivery ran out of retries
	Recovered = "recovered" // the first success after that
	Disabled  = "disabled"  // the receiver answered 410 Gone, or its owner switched it off
	Warning   = "warning"   // attempts fail, retries are left
)

// Notice is one change of state of one webhook. Texts may come from anywhere:
// they are reduced to one printable line each before they enter a mail.
type Notice struct {
	Kind    string    // Failing, Recovered, Disabled or Warning
	Webhook string    // its name
	URL     string    // where it sends; query, fragment and user information are left out of the mail
	At      time.Time // when the state changed
	Since   time.Time // since when attempts have failed; zero: unknown
	Reason  string    // error class and last answer, without payload
	Waiting int64     // deliveries that wait for the receiver

	// ThreadID names the failing episode: the same for its warning, its failure
	// and its recovery, another one for the next episode. Mails that share it
	// are shown as one conversation. Empty: the time At stands in.
	ThreadID string

	// Changes counts the changes of state that no mail told of, because others
	// followed soon.
	Changes int
	// Console is the address of the console, linked in the mail; empty: none.
	Console string

	Host string // the machine or site that reports; empty: not said
}

func (n Notice) validate() error {
	switch n.Kind {
	case Failing, Recovered, Disabled, Warning:
	default:
		return fmt.Errorf("kind %q of the notice about webhook %q is unknown: it is %s, %s, %s or %s",
			n.Kind, n.Webhook, Failing, Recovered, Disabled, Warning)
	}
	if n.Webhook == "" {
		return fmt.Errorf("the %s notice names no webhook", n.Kind)
	}
	return nil
}
