package smtp

import (
	"errors"
	"net/textproto"
	"regexp"
	"strconv"
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

// Temporary reports whether the same mail may succeed later. It is true for
// everything that can be otherwise next time: no connection, no answer in time,
// a certificate that is not valid now, a connection that breaks, replies from
// 400 to 499, greylisting among them, and those that refuse the name of this
// machine, which the setting hello mends. It is false for other replies from 500
// on (RFC 5321 §4.2.1), for notices that make no mail, for a server that does not
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
	switch {
	case errors.As(err, new(*refusal)):
		e.temporary = false
	case errors.As(err, new(*helloRefusal)):
		e.temporary = true
	}
	e.text = "sending e-mail by " + server + ": " + stage + ": " + oneLine(reason, 600)
	return e
}

// refusal is a reason of ours not to go on, which stays until somebody changes
// the configuration of one side.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// helloRefusal is a reply that refuses the name in EHLO: to EHLO itself, or to a
// later command, as Postfix does.
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

// judgeReply returns err, or a helloRefusal if that is what the reply says.
func (c *conversation) judgeReply(err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code >= 500 && (reply.Code == 504 || namesHello.MatchString(reply.Msg)) {
		return &helloRefusal{c.hello, reply}
	}
	return err
}
