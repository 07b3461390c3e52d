package smtp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/userhero/relay/relay/notify"
)

// goodbye is how long to wait for the reply to QUIT. The mail has been accepted by
// then, so nothing depends on the reply.
const goodbye = 2 * time.Second

// hangingUp is the reply of a server that closes the connection (RFC 5321 §3.8).
const hangingUp = 421

// Notify sends all notices in one mail, over its own connection: to the address in their
// To, or to all configured recipients if that is empty. Without notices it sends no mail.
// It returns nil if the server took the mail for all
// recipients, else an *[Error]. It ends when ctx ends, or after [Config.Timeout] and
// [Config.AcceptTimeout].
//
// If the connection breaks after the mail was sent and before the server confirmed it,
// the mail may have arrived. The error is then temporary, and the mail of the next try
// has the same Message-ID.
func (n *Notifier) Notify(ctx context.Context, notices []notify.Notice) error {
	if len(notices) == 0 {
		return nil
	}
	to, err := n.recipients(notices[0].To)
	var message *mail.Msg
	if err == nil {
		message, err = n.compose(notices, to)
	}
	if err != nil {
		err = &refusal{err.Error()}
		return failure(n.server, "composing", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := conversation{Notifier: n, to: to, end: cancel}
	c.allow(n.timeout)
	defer func() { c.limit.Stop() }()
	err = c.hold(ctx, message)
	if c.mechanism == scram && c.loginRefused(err) {
		// Some servers offer SCRAM for accounts that have no SCRAM password.
		c.withoutSCRAM = true
		err = c.hold(ctx, message)
	}
	var sent *Error
	switch {
	case err == nil:
		n.log.DebugContext(ctx, "e-mail sent", "message_id", message.GetMessageID(), "notices", len(notices))
		return nil
	case errors.As(err, &sent):
		return sent
	case ctx.Err() != nil:
		// The context closed the connection. An error of the stage itself then means
		// nothing.
		return failure(n.server, c.stage+c.silence(), context.Cause(ctx))
	}
	return failure(n.server, c.stage, err)
}

// recipients returns the owner with this address, or the configured recipients if it is
// empty.
func (n *Notifier) recipients(owner string) ([]*netmail.Address, error) {
	if owner == "" {
		return n.to, nil
	}
	parsed, err := address("notify", owner)
	return []*netmail.Address{parsed}, err
}

// conversation is one SMTP connection (RFC 5321).
type conversation struct {
	*Notifier

	to        []*netmail.Address // of this mail
	stage     string             // current stage, for errors
	encrypted bool
	loopback  bool   // the peer is this machine
	mechanism string // login mechanism; empty before the login

	withoutSCRAM bool // SCRAM was tried and rejected

	end   context.CancelCauseFunc // ends the conversation
	limit *time.Timer             // calls end when time is up
}

// allow sets how much time the conversation has from now on.
func (c *conversation) allow(d time.Duration) {
	if c.limit != nil {
		c.limit.Stop()
	}
	c.limit = time.AfterFunc(d, func() {
		c.end(fmt.Errorf("not done after %s: %w", d, context.DeadlineExceeded))
	})
}

// silence explains timeouts that have a common cause.
func (c *conversation) silence() string {
	if c.stage == stageGreeting && c.mode != ImplicitTLS {
		return " (a server that expects TLS from the first byte, usually on port 465, stays silent: then set tls implicit)"
	}
	return ""
}

const (
	stageConnect  = "connecting"
	stageGreeting = "waiting for the greeting"
	stageTLS      = "starting TLS"
	stageLogin    = "logging in"
)

func (c *conversation) hold(ctx context.Context, message *mail.Msg) error {
	c.stage = stageConnect
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", c.server)
	if err != nil {
		return err
	}
	// Closing the connection ends every read and write, at any stage. It is closed here
	// because the client does not close connections that fail early.
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()

	client, err := c.greet(ctx, conn)
	if err != nil {
		return err
	}
	if c.username != "" {
		c.stage = stageLogin
		if err := c.login(client); err != nil {
			return err
		}
	}
	err = c.hand(client, message)
	// Do not continue after a broken conversation: a QUIT in the middle of a mail would
	// end the mail, and the server could take half a mail as complete.
	var reply *textproto.Error
	if err == nil || errors.As(err, &reply) && reply.Code != hangingUp {
		c.leave(conn, client)
	}
	return err
}

// leave sends QUIT and waits a little for the reply, as RFC 5321 §4.1.1.10 requires.
func (c *conversation) leave(conn net.Conn, client *smtp.Client) {
	_ = conn.SetDeadline(time.Now().Add(goodbye))
	_ = client.Quit()
}

// greet prepares the connection for mails: it says EHLO and starts TLS unless the
// configuration forbids it.
func (c *conversation) greet(ctx context.Context, conn net.Conn) (*smtp.Client, error) {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.loopback = tcp.IP.IsLoopback()
	}
	if c.mode == ImplicitTLS {
		c.stage = stageTLS
		secured := tls.Client(conn, c.tls.Clone())
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, c.explain(err)
		}
		conn, c.encrypted = secured, true
	}
	c.stage = stageGreeting
	client, err := smtp.NewClient(conn, c.host)
	if err != nil {
		return nil, err
	}
	client.SkipSMTPUTF8(ascii(c.from) && !slices.ContainsFunc(c.to, func(a *netmail.Address) bool { return !ascii(a) }))
	c.stage = "introducing this machine"
	if err := client.Hello(c.hello); err != nil {
		return nil, c.judgeReply(err)
	}
	if c.mode != StartTLS {
		return client, nil
	}
	c.stage = stageTLS
	if offered, _ := client.Extension("STARTTLS"); !offered {
		return nil, &refusal{"the server does not offer STARTTLS, and without it nothing is sent; " +
			"for a server that expects TLS from the first byte, usually on port 465, set tls implicit; for one without TLS, tls none"}
	}
	if err := client.StartTLS(c.tls.Clone()); err != nil {
		return nil, c.explain(err)
	}
	c.encrypted = true
	return client, nil
}

// explain adds advice to a failed TLS handshake.
func (c *conversation) explain(err error) error {
	var (
		name    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("%w; set host to a name that the certificate is for, or give the server a certificate for %s", err, c.host)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; add the authority that signed the certificate of %s to the certificates this system trusts "+
			"(SSL_CERT_FILE names a file of them)", err, c.host)
	case errors.As(err, &invalid):
		return fmt.Errorf("%w; renew the certificate of %s, and check the clock of this machine", err, c.host)
	case errors.As(err, &record) && c.mode == ImplicitTLS:
		return fmt.Errorf("%w; this port does not speak TLS from the first byte: set tls starttls, or use port 465", err)
	}
	return err
}

// login authenticates (RFC 4954). Its errors contain the code of the server's reply but
// not its text, because a server that did not understand may quote the password.
func (c *conversation) login(client *smtp.Client) error {
	if !c.encrypted && !c.loopback {
		return &refusal{c.host + " is not this machine, and the password would cross the network in the clear; set tls starttls or implicit"}
	}
	offered, mechanisms := client.Extension("AUTH")
	if !offered {
		return &refusal{"the server asks for no login here; leave out username and password, or use the port for submission, usually 587"}
	}
	auth := c.chooseMechanism(strings.Fields(strings.ToUpper(mechanisms)))
	if auth == nil {
		return &refusal{"none of the server's ways to log in (" + mechanisms + ") is known here; known are SCRAM-SHA-256, PLAIN and LOGIN"}
	}
	err := client.Auth(auth)
	var reply *textproto.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &reply) && reply.Code >= 500:
		return &textproto.Error{Code: reply.Code, Msg: "the server refused; check username and password, and whether the account may send by SMTP"}
	case errors.As(err, &reply):
		return &textproto.Error{Code: reply.Code, Msg: "the server could not check username and password now"}
	}
	return errLoginBroke
}

// errLoginBroke contains no text from the server.
var errLoginBroke = errors.New("the connection broke, or the server did not follow the protocol")

// loginRefused reports whether the login failed in a way that another mechanism may
// avoid.
func (c *conversation) loginRefused(err error) bool {
	var reply *textproto.Error
	return c.stage == stageLogin && (errors.Is(err, errLoginBroke) || errors.As(err, &reply) && reply.Code >= 500)
}

const scram = "SCRAM-SHA-256"

// chooseMechanism picks the mechanism that reveals least of the password.
func (c *conversation) chooseMechanism(offered []string) smtp.Auth {
	for _, known := range []struct {
		name string
		auth smtp.Auth
	}{
		{scram, smtp.ScramSHA256Auth(c.username, c.password)},
		// The checks above allow these over this connection even without encryption.
		{"PLAIN", smtp.PlainAuth("", c.username, c.password, c.host, true)},
		{"LOGIN", smtp.LoginAuth(c.username, c.password, c.host, true)},
	} {
		if slices.Contains(offered, known.name) && !(known.name == scram && c.withoutSCRAM) {
			c.mechanism = known.name
			return known.auth
		}
	}
	return nil
}

// hand gives the mail to the server. One bad address among many must not keep an alarm
// from the rest: accepted recipients get the mail, and the error names the rejected
// ones. If no recipient is accepted, the mail is not sent.
func (c *conversation) hand(client *smtp.Client, message *mail.Msg) error {
	c.stage = "naming the sender " + c.from.Address
	if err := client.Mail(path(c.from)); err != nil {
		return c.judgeReply(err)
	}
	var refused []string
	var refusals []error
	for _, recipient := range c.to {
		to := recipient.Address
		c.stage = "naming the recipient " + to
		err := c.judgeReply(client.Rcpt(path(recipient)))
		var reply *textproto.Error
		if errors.As(err, &reply) && reply.Code != hangingUp {
			refused = append(refused, to)
			refusals = append(refusals, fmt.Errorf("%s: %w", to, err))
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(refused) == len(c.to) {
		c.stage = "naming the recipients"
		return mostHopeful(refusals)
	}

	c.stage = "sending the mail"
	writer, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := message.WriteTo(writer); err != nil {
		return err
	}
	c.stage = "waiting for the mail to be accepted"
	c.allow(c.accept)
	if err := writer.Close(); err != nil {
		return err
	}
	if len(refused) == 0 {
		return nil
	}
	e := failure(c.server, "the mail was taken, but not for", errors.Join(refusals...))
	e.Refused, e.temporary = refused, false
	return e
}

// mostHopeful joins the rejections of all recipients. It puts a temporary one first if
// there is one: the first decides whether a retry can help.
func mostHopeful(refusals []error) error {
	var later, never []error
	for _, err := range refusals {
		var reply *textproto.Error
		if errors.As(err, &reply) && reply.Code < 500 || errors.As(err, new(*helloRefusal)) {
			later = append(later, err)
		} else {
			never = append(never, err)
		}
	}
	return errors.Join(append(later, never...)...)
}

// path returns an address for SMTP commands (RFC 5321 §4.1.2): without the display
// name, and with quotes if the local part needs them.
func path(a *netmail.Address) string {
	return (&netmail.Address{Address: a.Address}).String()
}

// ascii reports whether an address needs no SMTPUTF8 (RFC 6531).
func ascii(a *netmail.Address) bool {
	return !strings.ContainsFunc(a.Address, func(r rune) bool { return r > '~' })
}
