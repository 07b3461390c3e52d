package smtp_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	smtpnotify "github.com/userhero/relay/relay/notify/smtp"
)

const (
	user     = "relay"
	password = "canary-password-7f3a"
)

// mailServer is an SMTP server. Its hooks decide what it accepts.
type mailServer struct {
	address string
	roots   *x509.CertPool
	gone    chan struct{} // closed when the test ends; hooks that hang wait for it

	onMail, onData func() error
	onRcpt         func(to string) error
	onLogout       func()

	mechanisms []string // login mechanisms; empty means PLAIN

	mu          sync.Mutex // guards everything below
	tried       []string   // mechanisms
	mails       []received
	connections int
	logins      []string
}

type received struct {
	From string
	To   []string
	Raw  string
}

// serverOption changes a server before it starts.
type serverOption func(*mailServer, *smtp.Server)

func withCertificate(pool *x509.CertPool, certificate tls.Certificate) serverOption {
	return func(m *mailServer, s *smtp.Server) {
		m.roots = pool
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	}
}

func withoutTLS(_ *mailServer, s *smtp.Server) { s.TLSConfig = nil; s.AllowInsecureAuth = true }

func serve(t *testing.T, options ...serverOption) *mailServer {
	t.Helper()
	return start(t, false, options...)
}

func start(t *testing.T, implicit bool, options ...serverOption) *mailServer {
	t.Helper()
	m := &mailServer{gone: make(chan struct{})}
	server := smtp.NewServer(m)
	server.Domain = "mail.test"
	server.ErrorLog = log.New(io.Discard, "", 0)
	pool, certificate := certificateFor(t, time.Hour, "127.0.0.1", "localhost")
	withCertificate(pool, certificate)(m, server)
	for _, option := range options {
		option(m, server)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = listener.Addr().String()
	if implicit {
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		close(m.gone)
		_ = listener.Close() // Close forgets a listener that Serve has not seen yet
		_ = server.Close()
		if err := <-served; err != nil && !errors.Is(err, smtp.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("the mail server: %v", err)
		}
	})
	return m
}

func (m *mailServer) config() smtpnotify.Config {
	return smtpnotify.Config{
		Host: m.address, RootCAs: m.roots,
		From: "UserHero Relay <relay@example.com>", To: []string{"ops@example.com"},
		Now: func() time.Time { return time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC) },
	}
}

func (m *mailServer) received() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]received(nil), m.mails...)
}

// only returns the only mail that arrived, parsed.
func (m *mailServer) only(t *testing.T) (received, *mail.Message) {
	t.Helper()
	mails := m.received()
	if len(mails) != 1 {
		t.Fatalf("%d mails arrived, want 1", len(mails))
	}
	return mails[0], parse(t, mails[0].Raw)
}

func parse(t *testing.T, raw string) *mail.Message {
	t.Helper()
	message, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatalf("the mail does not parse: %v\n%s", err, raw)
	}
	return message
}

func (m *mailServer) NewSession(*smtp.Conn) (smtp.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.connections++
	return &session{server: m}, nil
}

type session struct {
	server *mailServer
	mail   received
}

func (s *session) Reset() { s.mail = received{} }

func (s *session) Logout() error {
	if s.server.onLogout != nil {
		s.server.onLogout()
	}
	return nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail.From = from
	if s.server.onMail != nil {
		return s.server.onMail()
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.server.onRcpt != nil {
		if err := s.server.onRcpt(to); err != nil {
			return err
		}
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.server.onData != nil {
		if err := s.server.onData(); err != nil {
			return err
		}
	}
	s.mail.Raw = string(raw)
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

func (m *mailServer) triedMechanisms() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.tried)
}

func (s *session) AuthMechanisms() []string {
	if len(s.server.mechanisms) > 0 {
		return s.server.mechanisms
	}
	return []string{sasl.Plain}
}

// loginServer is the server side of LOGIN.
type loginServer struct {
	session *session
	said    []string
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	if response != nil {
		l.said = append(l.said, string(response))
	}
	switch len(l.said) {
	case 0:
		return []byte("Username:"), false, nil
	case 1:
		return []byte("Password:"), false, nil
	}
	return nil, true, l.session.check(l.said[0], l.said[1])
}

// refusingServer sends one challenge and then rejects the login, like a server that has
// no SCRAM password for an account.
type refusingServer struct{}

func (refusingServer) Next([]byte) ([]byte, bool, error) {
	return nil, false, &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no SCRAM for this account"}
}

func (s *session) Auth(mechanism string) (sasl.Server, error) {
	s.server.mu.Lock()
	s.server.tried = append(s.server.tried, mechanism)
	s.server.mu.Unlock()
	switch mechanism {
	case sasl.Login:
		return &loginServer{session: s}, nil
	case "SCRAM-SHA-256":
		return refusingServer{}, nil
	}
	return sasl.NewPlainServer(func(_, username, given string) error { return s.check(username, given) }), nil
}

func (s *session) check(username, given string) error {
	if username != user || given != password {
		// Some servers quote the input they reject.
		return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no such login: " + username + " " + given}
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.logins = append(s.server.logins, username)
	return nil
}

// script is a server that sends its first line at once and each further line after it
// reads a line. Then it sends nothing more.
func script(t *testing.T, lines ...string) string {
	t.Helper()
	return scripted(t, false, lines...)
}

// scripted does the same as script. If hangUp is set, it closes the connection after
// the last line.
func scripted(t *testing.T, hangUp bool, lines ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer func() { _ = conn.Close() }()
				reader := bufio.NewReader(conn)
				for i, line := range lines {
					if i > 0 {
						if _, err := reader.ReadString('\n'); err != nil {
							return
						}
					}
					if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
						return
					}
				}
				if !hangUp {
					_, _ = io.Copy(io.Discard, reader) // until the client gives up
				}
			})
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		connections.Wait() // hangs if the client left a connection open
	})
	return listener.Addr().String()
}

// certificateFor makes a self-signed certificate for names and addresses.
func certificateFor(t *testing.T, valid time.Duration, names ...string) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail.test"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(valid),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return pool, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// takeMailThenFallSilent reads one mail from one connection and answers nothing after
// that.
func takeMailThenFallSilent(listener net.Listener) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	lines := bufio.NewScanner(conn)
	say := func(line string) { _, _ = io.WriteString(conn, line+"\r\n") }
	say("220 mail.test")
	for inMail := false; lines.Scan(); {
		switch line := lines.Text(); {
		case inMail && line == ".":
			say("250 taken")
			_, _ = io.Copy(io.Discard, conn)
			return nil
		case inMail:
		case line == "DATA":
			inMail = true
			say("354 go ahead")
		default:
			say("250 ok")
		}
	}
	return errors.New("the mail never ended")
}
