package smtp

import (
	"errors"
	"net/textproto"
	"regexp"
	"strconv"
)

// Error is why a mail was not sent, or not to all recipients. Its text names the
// server, the stage and the remedy. It never contains credentials.
type Error struct {
	// Code is the server's reply (RFC 5321 §4.2), or 0 if there was none.
	Code int
	// Refused lists the addresses that the server rejected when it took the mail for
	// others. It is empty if nobody got the mail.
	Refused []string

	temporary bool
	text      string
	err       error
}

func (e *Error) Error() string { return e.text }

// Unwrap returns the cause, so that errors.Is finds a context's error.
func (e *Error) Unwrap() error { return e.err }

// Temporary reports whether the same mail may succeed later. It is true if the cause
// can change: no connection, no answer in time, a certificate that is not valid now, a
// broken connection, replies from 400 to 499 (also greylisting), and replies that
// reject this machine's name, which the setting hello fixes. It is false for other
// replies from 500 on (RFC 5321 §4.2.1), for notices that make no mail, and for a
// server that does not offer what the configuration requires. It is also false if some
// recipients already got the mail, because they would get it twice.
func (e *Error) Temporary() bool { return e.temporary }

// failure returns an [Error] for err at a stage of the conversation with a server.
func failure(server, stage string, err error) *Error {
	e := &Error{temporary: true, err: err}
	reason := err.Error()
	var reply *textproto.Error
	if errors.As(err, &reply) {
		e.Code = reply.Code
		e.temporary = reply.Code < 500
	}
	switch {
	case errors.As(err, new(*refusal)):
		e.temporary = false
	case errors.As(err, new(*helloRefusal)):
		e.temporary = true
	}
	e.text = "sending e-mail by " + server + ": " + stage + ": " + oneLine(reason, 600)
	return e
}

// refusal is our reason to stop. It stays until somebody changes the configuration of
// the client or the server.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// helloRefusal is a reply that rejects the name in EHLO. It may answer EHLO or, with
// Postfix, a later command.
type helloRefusal struct {
	name  string
	reply *textproto.Error
}

func (h *helloRefusal) Error() string {
	return h.reply.Error() + "; the server refuses the name " + strconv.Quote(h.name) +
		" of this machine: set hello of notify smtp to a name that the DNS knows"
}

func (h *helloRefusal) Unwrap() error { return h.reply }

var namesHello = regexp.MustCompile(`(?i)\b(helo|ehlo|hostname)\b`)

// judgeReply returns err, or a helloRefusal if the reply rejects our name.
func (c *conversation) judgeReply(err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code >= 500 && (reply.Code == 504 || namesHello.MatchString(reply.Msg)) {
		return &helloRefusal{c.hello, reply}
	}
	return err
}
