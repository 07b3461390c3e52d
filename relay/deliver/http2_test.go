package deliver

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestReceiversAreSpokenToInHTTP1: HTTP/2 is neither offered nor accepted, because
// net/http's client does not bound the cost of control frames. Within half a second of
// one attempt, endless settings, pings, empty continuations or empty data allocated 7
// to 80 MB, and repeated GOAWAY frames opened 122 connections.
func TestReceiversAreSpokenToInHTTP1(t *testing.T) {
	t.Parallel()
	config, trust := receiverTLS(t)
	const frames = "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04\x03\x00\x00\x00\x01\x00\x00\x00\x0b" // SETTINGS, and a reset of the first stream
	for _, c := range []struct {
		name     string
		protocol []string
		answer   string
		class    string
	}{
		{"who prefers HTTP/2", []string{"h2", "http/1.1"}, "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"who knows of no choice", nil, "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"who speaks HTTP/2 alone", []string{"h2"}, frames, classProtocol},
		{"who speaks HTTP/2 unasked", []string{"http/1.1"}, frames, classProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := config.Clone()
			config.NextProtos = c.protocol
			agreed := make(chan string, 1)
			r := newRawReceiver(t, func(raw net.Conn) {
				conn := tls.Server(raw, config)
				if conn.Handshake() != nil {
					return
				}
				agreed <- conn.ConnectionState().NegotiatedProtocol
				if readRequest(conn) {
					_, _ = io.WriteString(conn, c.answer)
				}
			})
			client, err := NewClient(Egress{Allow: []string{"127.0.0.1"}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			to := tlsTarget(t, client, strings.Replace(r.url, "http:", "https:", 1), trust)
			a, o := to.Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()})
			if a.ErrorClass != c.class || o.OK != (c.class == "") {
				t.Errorf("class %q, want %q: %s", a.ErrorClass, c.class, a.Error)
			}
			select {
			case protocol := <-agreed:
				if protocol == "h2" {
					t.Error("HTTP/2 was agreed on")
				}
			default:
				t.Errorf("no handshake: %s", a.Error)
			}
		})
	}
}
