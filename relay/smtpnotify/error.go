package smtpnotify

import (
	"errors"
	"net/textproto"
)

// Error says why a mail was not sent, or not to everybody. Its text names the
// server, the stage, and what to do, and never holds credentials.
type Error struct {
	// Code is the server's reply (RFC 5321 §4.2), or 0 when it gave none.
	Code int
	// Refused lists the addresses that the server turned away while it took the
	// mail for the others. It is empty when nobody got the mail.
	Refused []string

	temporary bool
	text      string
	err       error
}

func (e *Error) Error() string { return e.text }

// Unwrap returns the cause, so that errors.Is finds a context's error.
func (e *Error) Unwrap() error { return e.err }

// Temporary tells whether the same mail may succeed later. It is true for
// everything that can be otherwise next time: no connection, no answer in time,
// a certificate that is not valid now, a connection that breaks, and replies
// from 400 to 499, greylisting among them. It is false for replies from 500 on
// (RFC 5321 §4.2.1), for notices that make no mail, for a server that does not
// offer what the configuration asks for, and where others got the mail already
// and would get it twice.
func (e *Error) Temporary() bool { return e.temporary }

// failure is the [Error] for err, met at a stage of the conversation with a
// server.
func failure(server, stage string, err error) *Error {
	e := &Error{temporary: true, err: err}
	reason := err.Error()
	var reply *textproto.Error
	if errors.As(err, &reply) {
		e.Code = reply.Code
		e.temporary = reply.Code < 500
	}
	if errors.As(err, new(*refusal)) {
		e.temporary = false
	}
	e.text = "sending e-mail by " + server + ": " + stage + ": " + oneLine(reason, 600)
	return e
}

// refusal is a reason of ours not to go on, which stays until somebody changes
// the configuration of one side.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }
