package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/lean"
)

// The classes of what an attempt can come to, in logs, metrics and the API.
// Besides these there is "http_" and the status.
const (
	classTimeout  = "timeout"
	classCanceled = "canceled"
	classDNS      = "dns"
	classRefused  = "refused"
	classReset    = "reset"
	classTLS      = "tls"
	classEgress   = "egress"
	classProtocol = "protocol" // what came back is no HTTP, or too much of it
	classConnect  = "connect"  // unreachable, and other ways not to connect
	classRequest  = "request"  // the request could not be made
)

// classOfStore names why an event was not stored.
func classOfStore(err error) string {
	switch {
	case errors.Is(err, queue.ErrFull):
		return "full"
	case errors.Is(err, queue.ErrFailed):
		return "failed"
	case errors.Is(err, queue.ErrClosed):
		return "closed"
	case errors.Is(err, queue.ErrConflict):
		return "conflict"
	case errors.Is(err, queue.ErrMismatch):
		return "key_reused"
	}
	return "error"
}

func classOfStatus(status int) string { return "http_" + strconv.Itoa(status) }

// classify names what went wrong on the wire; connection tells that no
// connection was made.
func classify(err error) (class string, connection bool) {
	var (
		dns      *net.DNSError
		op       *net.OpError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		verify   *tls.CertificateVerificationError
		hostname x509.HostnameError
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
	)
	switch {
	case errors.Is(err, errEgress):
		return classEgress, false
	case errors.Is(err, lean.ErrRequest):
		return classRequest, false
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return classTimeout, errors.As(err, &op) && op.Op == "dial"
	case errors.Is(err, context.Canceled):
		return classCanceled, false
	case errors.As(err, &dns):
		return classDNS, true
	case errors.As(err, &record), errors.As(err, &alert), errors.As(err, &verify), errors.As(err, &hostname),
		errors.As(err, &unknown), errors.As(err, &invalid), errors.Is(err, http.ErrSchemeMismatch), strings.Contains(err.Error(), "tls: "),
		strings.Contains(err.Error(), "TLS handshake"):
		return classTLS, true
	case errors.Is(err, syscall.ECONNREFUSED):
		return classRefused, true
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return classReset, false
	case errors.As(err, &op) && op.Op == "dial":
		if op.Timeout() {
			return classTimeout, true
		}
		return classConnect, true
	case errors.As(err, &op):
		return classReset, false
	}
	return classProtocol, false
}

// temporary tells whether a failed look-up of a name may work the next time.
func temporary(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && (dns.IsTemporary || dns.IsTimeout)
}
