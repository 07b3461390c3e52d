package smtp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/userhero/relay/relay/notify"
	smtpnotify "github.com/userhero/relay/relay/notify/smtp"
)

var failingCRM = notify.Notice{
	Kind: notify.Failing, Webhook: "crm", URL: "https://crm.example.com/hooks/userhero",
	At: time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC), Since: time.Date(2026, 11, 23, 10, 30, 0, 0, time.UTC),
	Reason: "http_503: Service Unavailable", Thread: "dl_1",
}

func notifier(t *testing.T, config smtpnotify.Config) *smtpnotify.Notifier {
	t.Helper()
	n, err := smtpnotify.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// failed returns the *Error that Notify returned.
func failed(t *testing.T, err error) *smtpnotify.Error {
	t.Helper()
	var e *smtpnotify.Error
	if !errors.As(err, &e) {
		t.Fatalf("Send returned %v, want an *Error", err)
	}
	return e
}

func refuse(code int, text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: text}
}

func TestMailArrivesEncryptedOverOneConnectionWithLogin(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{smtpnotify.StartTLS, smtpnotify.ImplicitTLS} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := start(t, mode == smtpnotify.ImplicitTLS)
			config := server.config()
			config.TLS, config.Username, config.Password = mode, user, password
			config.To = []string{"ops@example.com", "Dev <dev@example.com>", "ops@example.com"}
			if err := notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}); err != nil {
				t.Fatal(err)
			}
			mail, _ := server.only(t)
			if want := []string{"ops@example.com", "dev@example.com"}; mail.From != "relay@example.com" || !slices.Equal(mail.To, want) {
				t.Errorf("from %s to %q, want relay@example.com and %q", mail.From, mail.To, want)
			}
			if strings.Contains(mail.Raw, password) {
				t.Error("the password is in the mail")
			}
			server.mu.Lock()
			defer server.mu.Unlock()
			if !slices.Equal(server.logins, []string{user}) {
				t.Errorf("logins %q, want one", server.logins)
			}
			// With STARTTLS the server starts a second session after the handshake.
			if want := map[string]int{smtpnotify.StartTLS: 2, smtpnotify.ImplicitTLS: 1}[mode]; server.connections != want {
				t.Errorf("%d sessions, want %d", server.connections, want)
			}
		})
	}
}

// TestOwnerGetsAMailAlone: a notice to an owner goes to that address and shows no other.
func TestOwnerGetsAMailAlone(t *testing.T) {
	t.Parallel()
	m := serve(t)
	n := notifier(t, m.config())
	own := failingCRM
	own.To = "Ada <ada@example.com>"
	if err := n.Notify(t.Context(), []notify.Notice{own}); err != nil {
		t.Fatal(err)
	}
	got, message := m.only(t)
	if !slices.Equal(got.To, []string{"ada@example.com"}) || message.Header.Get("To") != `"Ada" <ada@example.com>` || strings.Contains(got.Raw, "ops@example.com") {
		t.Errorf("the mail went to %q:\n%s", got.To, got.Raw)
	}
	if !n.Reaches("OPS@example.com") || n.Reaches("ada@example.com") || n.Reaches("") {
		t.Error("who gets every mail is not known")
	}
}

func TestNoNoticesMakeNoConnection(t *testing.T) {
	t.Parallel()
	server := serve(t)
	if err := notifier(t, server.config()).Notify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if server.connections != 0 {
		t.Error("a connection was made")
	}
}

func TestRefusalsArePermanentAndDelaysTemporary(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare   func(*mailServer)
		code      int
		temporary bool
	}{
		"sender refused":    {func(m *mailServer) { m.onMail = func() error { return refuse(550, "not from you") } }, 550, false},
		"sender delayed":    {func(m *mailServer) { m.onMail = func() error { return refuse(452, "disk full") } }, 452, true},
		"recipient refused": {func(m *mailServer) { m.onRcpt = func(string) error { return refuse(550, "no such user") } }, 550, false},
		"recipient delayed": {func(m *mailServer) { m.onRcpt = func(string) error { return refuse(451, "greylisted") } }, 451, true},
		"mail refused":      {func(m *mailServer) { m.onData = func() error { return refuse(554, "spam") } }, 554, false},
		"mail delayed":      {func(m *mailServer) { m.onData = func() error { return refuse(451, "try later") } }, 451, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t)
			test.prepare(server)
			e := failed(t, notifier(t, server.config()).Notify(t.Context(), []notify.Notice{failingCRM}))
			if e.Code != test.code || e.Temporary() != test.temporary {
				t.Errorf("code %d, temporary %t, want %d, %t: %v", e.Code, e.Temporary(), test.code, test.temporary, e)
			}
			if mails := server.received(); len(mails) != 0 {
				t.Errorf("%d mails arrived, want none", len(mails))
			}
		})
	}
}

func TestGreylistedMailIsTakenTheSecondTimeAsTheSameMail(t *testing.T) {
	t.Parallel()
	server := serve(t)
	tries := 0
	server.onData = func() error {
		if tries++; tries == 1 {
			return refuse(451, "greylisted, come back later")
		}
		return nil
	}
	n := notifier(t, server.config())
	if e := failed(t, n.Notify(t.Context(), []notify.Notice{failingCRM})); !e.Temporary() {
		t.Fatalf("not temporary: %v", e)
	}
	if err := n.Notify(t.Context(), []notify.Notice{failingCRM}); err != nil {
		t.Fatal(err)
	}
	if err := n.Notify(t.Context(), []notify.Notice{failingCRM}); err != nil {
		t.Fatal(err)
	}
	mails := server.received()
	if len(mails) != 2 {
		t.Fatalf("%d mails arrived, want 2", len(mails))
	}
	first, again := parse(t, mails[0].Raw).Header.Get("Message-Id"), parse(t, mails[1].Raw).Header.Get("Message-Id")
	if first == "" || first != again {
		t.Errorf("Message-IDs %q and %q, want the same", first, again)
	}
}

func TestOneDeadAddressKeepsTheMailFromNobodyElse(t *testing.T) {
	t.Parallel()
	server := serve(t)
	server.onRcpt = func(to string) error {
		if to == "gone@example.com" {
			return refuse(451, "mailbox moved")
		}
		return nil
	}
	config := server.config()
	config.To = []string{"gone@example.com", "ops@example.com"}
	e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
	if !slices.Equal(e.Refused, []string{"gone@example.com"}) || e.Temporary() {
		t.Errorf("refused %q, temporary %t: a new try would reach the others twice", e.Refused, e.Temporary())
	}
	if mail, _ := server.only(t); !slices.Equal(mail.To, []string{"ops@example.com"}) {
		t.Errorf("sent to %q", mail.To)
	}
}

func TestWhenAllRecipientsAreRefusedOneDelayKeepsHope(t *testing.T) {
	t.Parallel()
	server := serve(t)
	server.onRcpt = func(to string) error {
		if to == "gone@example.com" {
			return refuse(550, "no such user")
		}
		return refuse(451, "greylisted")
	}
	config := server.config()
	config.To = []string{"gone@example.com", "ops@example.com"}
	e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
	if !e.Temporary() || e.Code != 451 || len(e.Refused) != 0 {
		t.Errorf("temporary %t, code %d, refused %q: %v", e.Temporary(), e.Code, e.Refused, e)
	}
}

func TestServerThatHangsAtAnyStageHoldsNobody(t *testing.T) {
	t.Parallel()
	hang := func(m *mailServer) error { <-m.gone; return nil }
	servers := map[string]func(*testing.T) smtpnotify.Config{
		"before the greeting": func(t *testing.T) smtpnotify.Config { return plain(script(t)) },
		"in the greeting":     func(t *testing.T) smtpnotify.Config { return plain(script(t, "220-mail.test")) },
		"at EHLO":             func(t *testing.T) smtpnotify.Config { return plain(script(t, "220 mail.test")) },
		"in the handshake of STARTTLS": func(t *testing.T) smtpnotify.Config {
			c := plain(script(t, "220 mail.test", "250-mail.test\r\n250 STARTTLS", "220 go ahead"))
			c.TLS = smtpnotify.StartTLS
			return c
		},
		"in the handshake of implicit TLS": func(t *testing.T) smtpnotify.Config {
			c := plain(script(t))
			c.TLS = smtpnotify.ImplicitTLS
			return c
		},
		"at the login": func(t *testing.T) smtpnotify.Config {
			c := plain(script(t, "220 mail.test", "250-mail.test\r\n250 AUTH PLAIN"))
			c.Username, c.Password = user, password
			return c
		},
		"at MAIL": func(t *testing.T) smtpnotify.Config {
			m := serve(t)
			m.onMail = func() error { return hang(m) }
			return m.config()
		},
		"at RCPT": func(t *testing.T) smtpnotify.Config {
			m := serve(t)
			m.onRcpt = func(string) error { return hang(m) }
			return m.config()
		},
		"after the mail": func(t *testing.T) smtpnotify.Config {
			m := serve(t)
			m.onData = func() error { return hang(m) }
			return m.config()
		},
	}
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := serve(t)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begun := time.Now()
			e := failed(t, notifier(t, config).Notify(ctx, []notify.Notice{failingCRM}))
			if !errors.Is(e, context.DeadlineExceeded) || !e.Temporary() {
				t.Errorf("temporary %t, error %v, want a temporary context.DeadlineExceeded", e.Temporary(), e)
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("Send ended %s after its deadline", took)
			}
		})
		t.Run(name+", without a deadline of the caller", func(t *testing.T) {
			t.Parallel()
			config := serve(t)
			config.Timeout, config.AcceptTimeout = 300*time.Millisecond, 300*time.Millisecond
			e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
			if !errors.Is(e, context.DeadlineExceeded) || !e.Temporary() || !strings.Contains(e.Error(), "300ms") {
				t.Errorf("temporary %t, error %v, want a temporary one that names the timeout", e.Temporary(), e)
			}
		})
	}
}

func plain(address string) smtpnotify.Config {
	return smtpnotify.Config{Host: address, From: "relay@example.com", To: []string{"ops@example.com"}, TLS: smtpnotify.NoTLS}
}

func TestMailThatWasTakenIsSentEvenIfTheServerNeverSaysGoodbye(t *testing.T) {
	t.Parallel()
	// The mail ends with a line that contains only a dot. The lines before it get no
	// reply.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- takeMailThenFallSilent(listener) }()
	if err := notifier(t, plain(listener.Addr().String())).Notify(t.Context(), []notify.Notice{failingCRM}); err != nil {
		t.Errorf("the mail was taken, yet Send says: %v", err)
	}
	_ = listener.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestCancelledSendEndsAtOnce(t *testing.T) {
	t.Parallel()
	server := serve(t)
	reached := make(chan struct{})
	server.onMail = func() error { close(reached); <-server.gone; return nil }
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	e := failed(t, notifier(t, server.config()).Notify(ctx, []notify.Notice{failingCRM}))
	if !errors.Is(e, context.Canceled) || !e.Temporary() {
		t.Errorf("temporary %t, error %v", e.Temporary(), e)
	}
}

func TestConnectionsThatBreakAreTemporary(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]string{
		"nobody listens":             "127.0.0.1:1",
		"dropped before a greeting":  scripted(t, true),
		"dropped after the greeting": scripted(t, true, "220 mail.test"),
		"dropped at MAIL":            scripted(t, true, "220 mail.test", "250 mail.test"),
		"dropped at DATA":            scripted(t, true, "220 mail.test", "250 mail.test", "250 ok", "250 ok"),
		"dropped within the mail":    scripted(t, true, "220 mail.test", "250 mail.test", "250 ok", "250 ok", "354 go ahead"),
		"going down":                 script(t, "421 mail.test shutting down"),
		"going down at RCPT":         script(t, "220 mail.test", "250 mail.test", "250 ok", "421 shutting down"),
		"speaking another protocol":  scripted(t, true, "SSH-2.0-OpenSSH_9.9"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := failed(t, notifier(t, plain(address)).Notify(t.Context(), []notify.Notice{failingCRM}))
			if !e.Temporary() {
				t.Errorf("not temporary: %v", e)
			}
			if !strings.Contains(e.Error(), address) {
				t.Errorf("the error does not name the server: %v", e)
			}
		})
	}
}

func TestWrongCertificateSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*testing.T) (*mailServer, smtpnotify.Config)
		advice  string
	}{
		"for another name": {func(t *testing.T) (*mailServer, smtpnotify.Config) {
			m := serve(t, withCertificate(certificateFor(t, time.Hour, "other.test")))
			return m, m.config()
		}, "set host to a name that the certificate is for"},
		"of an unknown authority": {func(t *testing.T) (*mailServer, smtpnotify.Config) {
			m := serve(t)
			c := m.config()
			c.RootCAs, _ = certificateFor(t, time.Hour, "127.0.0.1")
			return m, c
		}, "add the authority"},
		"expired": {func(t *testing.T) (*mailServer, smtpnotify.Config) {
			m := serve(t, withCertificate(certificateFor(t, -time.Hour, "127.0.0.1")))
			return m, m.config()
		}, "renew the certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, config := test.prepare(t)
			config.Username, config.Password = user, password
			e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
			if !strings.Contains(e.Error(), test.advice) || !e.Temporary() {
				t.Errorf("temporary %t, error %v, want advice %q", e.Temporary(), e, test.advice)
			}
			server.mu.Lock()
			defer server.mu.Unlock()
			if len(server.mails)+len(server.logins) != 0 {
				t.Error("the server got a mail or the password all the same")
			}
		})
	}
}

func TestWrongKindOfTLSSaysWhatToDo(t *testing.T) {
	t.Parallel()
	t.Run("STARTTLS is never skipped", func(t *testing.T) {
		t.Parallel()
		server := serve(t, withoutTLS)
		e := failed(t, notifier(t, server.config()).Notify(t.Context(), []notify.Notice{failingCRM}))
		if e.Temporary() || !strings.Contains(e.Error(), "set tls implicit") {
			t.Errorf("temporary %t, error %v", e.Temporary(), e)
		}
		if len(server.received()) != 0 {
			t.Error("the mail went out in the clear")
		}
	})
	t.Run("implicit TLS towards a server that greets in the clear", func(t *testing.T) {
		t.Parallel()
		config := serve(t).config()
		config.TLS = smtpnotify.ImplicitTLS
		e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
		if !strings.Contains(e.Error(), "set tls starttls") {
			t.Errorf("error %v", e)
		}
	})
	t.Run("STARTTLS towards a server that waits for a handshake", func(t *testing.T) {
		t.Parallel()
		config := start(t, true).config()
		config.Timeout = 300 * time.Millisecond
		e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
		if !strings.Contains(e.Error(), "set tls implicit") {
			t.Errorf("error %v", e)
		}
	})
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	server := start(t, true, func(_ *mailServer, s *smtp.Server) {
		s.TLSConfig.MaxVersion = tls.VersionTLS11
		s.TLSConfig.MinVersion = tls.VersionTLS10
	})
	config := server.config()
	config.TLS = smtpnotify.ImplicitTLS
	_ = failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
	if len(server.received()) != 0 {
		t.Error("the mail was sent over TLS 1.1")
	}
}

func TestRefusedLoginNeverRepeatsThePassword(t *testing.T) {
	t.Parallel()
	config := serve(t).config()
	config.Username, config.Password = user, "canary-wrong-password"
	e := failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
	if e.Code != 535 || e.Temporary() || !strings.Contains(e.Error(), "check username and password") {
		t.Errorf("code %d, temporary %t, error %v", e.Code, e.Temporary(), e)
	}
	for err := error(e); err != nil; err = errors.Unwrap(err) {
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("the server quoted the password and the error repeats it: %v", err)
		}
	}
}

func TestCredentialsCrossNoNetworkInTheClear(t *testing.T) {
	t.Parallel()
	t.Run("to this machine they may", func(t *testing.T) {
		t.Parallel()
		server := serve(t, withoutTLS)
		config := server.config()
		config.TLS, config.Username, config.Password = smtpnotify.NoTLS, user, password
		if err := notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}); err != nil {
			t.Fatal(err)
		}
		server.only(t)
	})
	for _, host := range []string{"smtp.example.com:25", "192.0.2.1:25", "[2001:db8::1]:25", "localhost.example.com:25"} {
		config := plain(host)
		config.Username, config.Password = user, password
		_, err := smtpnotify.New(config)
		if err == nil || !strings.Contains(err.Error(), "starttls or implicit") {
			t.Errorf("New with %s returned %v", host, err)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("the error has the password in it: %v", err)
		}
	}
}

// A server may take 10 minutes to accept a mail (RFC 5321 §4.5.3.2.6). A client that
// gives up earlier sends it again, and its recipients get it twice.
func TestServerThatIsSlowToAcceptGetsOneMail(t *testing.T) {
	t.Parallel()
	m := serve(t)
	config := m.config()
	config.Timeout = 2 * time.Second
	m.onData = func() error {
		<-time.After(config.Timeout + 500*time.Millisecond)
		return nil
	}
	if err := notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}); err != nil {
		t.Fatal(err)
	}
	m.only(t)
}

func TestMachineIntroducesItselfByAFullName(t *testing.T) {
	t.Parallel()
	for from, test := range map[string]struct{ hello, want string }{
		"relay@example.com":         {"", "example.com"},
		"relay@bücher.example":      {"", "xn--bcher-kva.example"},
		"Relay <relay@example.com>": {"relay-1.example.com", "relay-1.example.com"},
		"relay@example.org":         {"[127.0.0.1]", "[127.0.0.1]"},
	} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			own, _ := os.Hostname()
			want := test.want
			if test.hello == "" && strings.Contains(own, ".") {
				want = own
			}
			heard := make(chan string, 1)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "220 mail.test\r\n")
				line, _ := bufio.NewReader(conn).ReadString('\n')
				heard <- strings.TrimSpace(line)
				_, _ = io.WriteString(conn, "421 enough\r\n")
			}()
			config := plain(listener.Addr().String())
			config.From, config.Hello = from, test.hello
			_ = failed(t, notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM}))
			if got := <-heard; got != "EHLO "+want {
				t.Errorf("the server heard %q, want EHLO %s", got, want)
			}
		})
	}
}

// TestRefusedHelloIsTemporaryAndNamesTheOption: if a setting fixes the error, the mail
// is retried and the error names the setting.
func TestRefusedHelloIsTemporaryAndNamesTheOption(t *testing.T) {
	t.Parallel()
	refused := &smtp.SMTPError{Code: 504, EnhancedCode: smtp.EnhancedCode{5, 5, 2}, Message: "<relay>: Helo command rejected: need fully-qualified hostname"}
	for name, address := range map[string]func(t *testing.T) smtpnotify.Config{
		"at EHLO and HELO": func(t *testing.T) smtpnotify.Config {
			return plain(script(t, "220 mail.test", "504 need a full name", "504 need a full name"))
		},
		"at RCPT": func(t *testing.T) smtpnotify.Config {
			m := serve(t)
			m.onRcpt = func(string) error { return refused }
			return m.config()
		},
		"at MAIL": func(t *testing.T) smtpnotify.Config {
			m := serve(t)
			m.onMail = func() error { return refused }
			return m.config()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := failed(t, notifier(t, address(t)).Notify(t.Context(), []notify.Notice{failingCRM}))
			if !e.Temporary() || e.Code != 504 || !strings.Contains(e.Error(), "set hello of notify smtp") {
				t.Errorf("temporary %t, code %d: %v", e.Temporary(), e.Code, e)
			}
		})
	}
}

// TestLoginFallsBackFromSCRAM: a server may offer SCRAM for an account of which it has
// only a hash. Over TLS the next mechanism is tried, once.
func TestLoginFallsBackFromSCRAM(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		offered  []string
		password string
		want     []string // mechanisms that were tried
		ok       bool
	}{
		"to PLAIN":                {[]string{"SCRAM-SHA-256", sasl.Plain}, password, []string{"SCRAM-SHA-256", sasl.Plain}, true},
		"to LOGIN":                {[]string{"SCRAM-SHA-256", sasl.Login}, password, []string{"SCRAM-SHA-256", sasl.Login}, true},
		"LOGIN alone":             {[]string{sasl.Login}, password, []string{sasl.Login}, true},
		"a wrong password, twice": {[]string{"SCRAM-SHA-256", sasl.Plain, sasl.Login}, "canary-wrong", []string{"SCRAM-SHA-256", sasl.Plain}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := serve(t)
			m.mechanisms = test.offered
			config := m.config()
			config.Username, config.Password = user, test.password
			err := notifier(t, config).Notify(t.Context(), []notify.Notice{failingCRM})
			if got := m.triedMechanisms(); !slices.Equal(got, test.want) || (err == nil) != test.ok {
				t.Errorf("tried %q, error %v; want %q", got, err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the error repeats the password: %v", err)
			}
			if test.ok {
				m.only(t)
			}
		})
	}
}
