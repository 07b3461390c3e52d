package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/userhero/relay/relay/deliver/lean"
)

// Classes of an attempt's result, in logs, metrics and the API. There are also classes
// of the form "http_" and the status.
const (
	classTimeout  = "timeout"
	classCanceled = "canceled"
	classDNS      = "dns"
	classRefused  = "refused"
	classReset    = "reset"
	classTLS      = "tls"
	classEgress   = "egress"
	classProtocol = "protocol" // the response is not HTTP, or is too large
	classConnect  = "connect"  // unreachable, or another failure to connect
	classRequest  = "request"  // the request could not be made
)

func classOfStatus(status int) string { return "http_" + strconv.Itoa(status) }

// classify returns the class of a network error.
func classify(err error) (class string) {
	var (
		dns       *net.DNSError
		op        *net.OpError
		handshake *lean.HandshakeError
	)
	switch {
	case errors.Is(err, errEgress):
		return classEgress
	case errors.Is(err, lean.ErrRequest):
		return classRequest
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return classTimeout
	case errors.Is(err, context.Canceled):
		return classCanceled
	case errors.Is(err, lean.ErrProxy):
		return classConnect
	case errors.As(err, &dns):
		return classDNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return classRefused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return classReset
	case errors.As(err, &handshake), strings.Contains(err.Error(), "tls: "): // also after the handshake: an alert, or a second handshake
		return classTLS
	case errors.As(err, &op) && op.Op == "dial":
		return classConnect
	case errors.As(err, &op):
		return classReset
	}
	return classProtocol
}

// helloAdvice is the remedy if the start of TLS fails. Go's first message offers a
// post-quantum key (ML-KEM) and does not fit into one packet.
const helloAdvice = "some middleboxes cannot read a first TLS message of two packets; " +
	"start Caddy with the environment variable GODEBUG=tlsmlkem=0,tlssecpmlkem=0 to make it one"

// explanations adds the remedy to TLS errors that do not give one. The texts are those
// of crypto/tls, whose alerts have no exported type.
var explanations = []struct{ text, means string }{
	{"tls: no renegotiation", "the receiver wants to negotiate TLS again after it has seen the request, as IIS and Azure do to ask for a client certificate, " +
		"and the relay does not; have it ask for the certificate at the start (IIS: clientcertnegotiation=enable; Azure: no excluded paths)"},
	{"tls: protocol version not supported", needsTLS12},
	{"tls: server selected unsupported protocol version", needsTLS12},
	{"tls: server chose an unconfigured cipher suite", needsCiphers},
	{"remote error: tls: handshake failure", needsCiphers},
	{"remote error: tls: insufficient security level", needsCiphers},
	{"tls: first record does not look like a TLS handshake", "what answers there does not speak TLS; is it http?"},
	{"remote error: tls: certificate required", needsCertificate},
	{"remote error: tls: bad certificate", "the receiver does not take the webhook's client certificate"},
	{"remote error: tls: unknown certificate authority", "the receiver does not know the authority of the webhook's client certificate"},
}

const (
	needsTLS12       = "the receiver speaks only TLS 1.1 or older; the relay needs TLS 1.2 or newer"
	needsCiphers     = "receiver and relay have no cipher in common: the receiver has only old ones, such as RSA key exchange or 3DES; let it offer ECDHE with AES-GCM or ChaCha20"
	needsCertificate = "the receiver wants a client certificate; give the webhook one (tls_client_auth)"
)

// explained adds the meaning and the remedy to a TLS error.
func explained(err error) error {
	text := err.Error()
	for _, e := range explanations {
		if strings.Contains(text, e.text) {
			return fmt.Errorf("%w: %s", err, e.means)
		}
	}
	var handshake *lean.HandshakeError
	if errors.As(err, &handshake) && slices.Contains([]string{classReset, classTimeout}, classify(err)) {
		return fmt.Errorf("%w: the receiver hangs up or is silent when TLS begins; it may speak only TLS 1.1 or older; %s", err, helloAdvice)
	}
	return err
}

// temporary reports whether a failed name lookup may work next time.
func temporary(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && (dns.IsTemporary || dns.IsTimeout)
}

// errTimeout is the cancellation cause of an attempt that reached its time limit.
var errTimeout = errors.New("no answer within the time limit")

// errEgress marks an address that the guard refuses.
var errEgress = errors.New("not allowed by egress")
