package smtp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/userhero/relay/relay/notify"
)

// Values of [Config.TLS].
const (
	StartTLS    = "starttls" // starts in plain text, then requires TLS before any mail data (RFC 3207)
	ImplicitTLS = "implicit" // TLS from the first byte (RFC 8314), usually port 465
	NoTLS       = "none"     // never encrypted
)

// Bounds of one Send, used if the configuration sets none.
const (
	// DefaultTimeout bounds the time from name resolution to the end of the mail.
	DefaultTimeout = time.Minute
	// DefaultAcceptTimeout bounds the time from the end of the mail to the server's
	// reply. A client that gives up earlier may send the same mail several times (RFC
	// 5321 §4.5.3.2.6).
	DefaultAcceptTimeout = 10 * time.Minute
)

// Config sets the mail server, the sender and the recipients.
type Config struct {
	Host string   // host:port of the server, such as smtp.example.com:587
	From string   // sender, "relay@example.com" or "Relay <relay@example.com>"
	To   []string // recipients, written like From; at least one

	// Username and Password log in at the server. Set both or none. They are sent only
	// over encrypted connections, or to this machine.
	Username, Password string

	TLS     string         // StartTLS (default), ImplicitTLS or NoTLS
	RootCAs *x509.CertPool // authorities for the server's certificate; nil means the system's
	// Timeout bounds one Send, besides its context, until the whole mail is sent.
	// AcceptTimeout bounds how long the server then takes to accept it. 0 means
	// DefaultTimeout and DefaultAcceptTimeout.
	Timeout, AcceptTimeout time.Duration

	// Hello is the name this machine gives in EHLO. If it is empty, the machine's own
	// name is used if it is fully qualified, else the domain of From.
	Hello string

	Logger *slog.Logger     // nil means no log
	Now    func() time.Time // the clock of the Date header; nil means time.Now
}

// Notifier sends notices by mail. It is safe for concurrent use. It keeps no connection
// between calls, so it need not be closed.
type Notifier struct {
	server   string // host:port
	host     string // the name in the server's certificate
	from     *mail.Address
	to       []*mail.Address
	domain   string // of our Message-IDs
	hello    string // our name in EHLO
	username string
	password string
	mode     string
	tls      *tls.Config
	timeout  time.Duration
	accept   time.Duration
	log      *slog.Logger
	now      func() time.Time
}

// New makes a Notifier. Its error lists everything that is wrong with the
// configuration. It does not use the network.
func New(c Config) (*Notifier, error) {
	n := &Notifier{
		server:   c.Host,
		username: c.Username,
		password: c.Password,
		mode:     cmp.Or(c.TLS, StartTLS),
		timeout:  cmp.Or(c.Timeout, DefaultTimeout),
		log:      c.Logger,
		now:      c.Now,
		accept:   cmp.Or(c.AcceptTimeout, DefaultAcceptTimeout),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.now == nil {
		n.now = time.Now
	}

	var wrong []error
	var err error
	if n.host, err = hostOf(c.Host); err != nil {
		wrong = append(wrong, err)
	}
	var domain string // domain of the sender
	if n.from, err = address("from", c.From); err != nil {
		wrong = append(wrong, err)
	} else if domain = n.from.Address[strings.LastIndexByte(n.from.Address, '@')+1:]; ascii(n.from) {
		n.domain = domain
	} else {
		n.domain = "userhero.invalid" // Message-IDs are ASCII (RFC 5322 §3.6.4)
	}
	if len(c.To) == 0 {
		wrong = append(wrong, errors.New("to: nobody would get the mails; name at least one address"))
	}
	for _, raw := range c.To {
		to, err := address("to", raw)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if !slices.ContainsFunc(n.to, func(a *mail.Address) bool { return a.Address == to.Address }) {
			n.to = append(n.to, to)
		}
	}
	if (c.Username == "") != (c.Password == "") {
		wrong = append(wrong, errors.New("username and password: give both, or neither for a server that asks for none"))
	}
	switch n.mode {
	case StartTLS, ImplicitTLS:
	case NoTLS:
		if c.Username != "" && n.host != "" && !mayBeThisMachine(n.host) {
			wrong = append(wrong, fmt.Errorf("tls none: the password for %s would cross the network in the clear; use starttls or implicit", n.host))
		}
	default:
		wrong = append(wrong, fmt.Errorf("tls %q: it is %s, %s or %s", c.TLS, StartTLS, ImplicitTLS, NoTLS))
	}
	if n.hello, err = helloName(c.Hello, domain); err != nil {
		wrong = append(wrong, err)
	}
	if c.Timeout < 0 || c.AcceptTimeout < 0 {
		wrong = append(wrong, errors.New("timeout: it cannot be negative"))
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("e-mail notices: %w", errors.Join(wrong...))
	}
	n.tls = &tls.Config{ServerName: n.host, RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12}
	return n, nil
}

// Reaches implements notify.Mailer.
func (n *Notifier) Reaches(address string) bool {
	parsed, err := mail.ParseAddress(address)
	return err == nil && slices.ContainsFunc(n.to, func(a *mail.Address) bool { return strings.EqualFold(a.Address, parsed.Address) })
}

func hostOf(hostport string) (string, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", fmt.Errorf("host %q: write it with its port, such as smtp.example.com:587", hostport)
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return "", fmt.Errorf("host %q: the port is a number from 1 to 65535", hostport)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	if host == "" || strings.ContainsFunc(host, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`/\@:<>"`, r)
	}) {
		return "", fmt.Errorf("host %q: before the port stands the name or address of a server", hostport)
	}
	return host, nil
}

// address parses an address and makes its display name one line.
func address(option, raw string) (*mail.Address, error) {
	parsed, err := notify.ParseAddress(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	parsed.Name = oneLine(parsed.Name, maxName)
	return parsed, nil
}

// mayBeThisMachine reports whether a host's name may mean this machine. The address
// that is dialled is checked again.
func mayBeThisMachine(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost") // RFC 6761 §6.3
}

// helloName returns the name for EHLO (RFC 5321 §4.1.1.1): the configured name, else
// this machine's if it is fully qualified, else the sender's domain. Mail servers
// reject clients without a full name, and a container's name is not one.
func helloName(configured, domain string) (string, error) {
	if configured != "" {
		if !hostName(configured) && !addressLiteral(configured) {
			return "", fmt.Errorf("hello %q: write a name such as relay.example.com", configured)
		}
		return configured, nil
	}
	if name, err := os.Hostname(); err == nil && strings.Contains(name, ".") && hostName(name) {
		return name, nil
	}
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil && hostName(ascii) {
		return ascii, nil
	}
	return "localhost", nil
}

// hostName reports whether a name consists of letters, digits and hyphens.
func hostName(name string) bool {
	return name != "" && len(name) <= 255 && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	})
}

// addressLiteral reports whether a name is an address in brackets (RFC 5321 §4.1.3).
func addressLiteral(name string) bool {
	inner, ok := strings.CutPrefix(name, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	_, err := netip.ParseAddr(strings.TrimPrefix(inner, "IPv6:"))
	return ok && closed && err == nil
}
