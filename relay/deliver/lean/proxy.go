package lean

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
)

// ErrProxy reports that the proxy refused a tunnel.
var ErrProxy = errors.New("the proxy makes no connection")

// tunnel requests a tunnel to the receiver's address from the proxy (RFC 9110, §9.3.6).
func (t *Transport) tunnel(ctx context.Context, raw net.Conn, address string) error {
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(past) })
	defer stop()
	request := fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", address, address)
	request = append(appendProxyAuthorization(request, t.o.Proxy), "\r\n"...)
	if _, err := raw.Write(request); err != nil {
		return fmt.Errorf("asking the proxy: %w", err)
	}
	r := bufio.NewReader(raw)
	a, err := readAnswer(r, t.o.MaxHeader)
	if err != nil {
		return fmt.Errorf("asking the proxy: %w", err)
	}
	if a.code/100 != 2 {
		return fmt.Errorf("%w to %s: it answered %s", ErrProxy, address, a.status)
	}
	if r.Buffered() > 0 {
		return fmt.Errorf("asking the proxy: %w", badAnswer("it says something before the receiver does"))
	}
	return nil
}

// appendProxyAuthorization appends the user and password of a proxy's URL if there are
// any (RFC 7617).
func appendProxyAuthorization(b []byte, proxy *url.URL) []byte {
	if proxy.User == nil {
		return b
	}
	password, _ := proxy.User.Password()
	b = append(b, "Proxy-Authorization: Basic "...)
	b = base64.StdEncoding.AppendEncode(b, []byte(proxy.User.Username()+":"+password))
	return append(b, "\r\n"...)
}
