package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
)

const (
	// maxAdminAnswer bounds what is read of one answer, in bytes: a full page of
	// deliveries with all their attempts fits in.
	maxAdminAnswer = 64 << 20
	// answerTime is how long an answer may take. A test send waits for its
	// webhook's timeout.
	answerTime = 5 * time.Minute
)

// adminClient asks the relay's API on the admin endpoint of a running Caddy.
type adminClient struct {
	address string // as it was given
	base    string // the URL below which the admin endpoint's paths are, without a slash at its end
	origin  string // http://host:port, which Caddy compares with its own; empty for a Unix socket, which has none
	http    *http.Client
}

// newAdminClient takes an address as Caddy's configuration has it, for example
// localhost:2019 or unix//run/caddy.sock, or a URL of the admin endpoint. It does
// not connect.
func newAdminClient(address string) (*adminClient, error) {
	if scheme, _, ok := strings.Cut(address, "://"); ok && scheme != "unix" {
		return adminClientOf(address)
	}
	parsed, err := caddy.ParseNetworkAddress(strings.Replace(address, "unix://", "unix/", 1))
	if err != nil || parsed.PortRangeSize() > 1 || parsed.IsFdNetwork() {
		return nil, fmt.Errorf("%q is no address to connect to; write for example localhost:2019, http://localhost:2019 or unix//run/caddy/admin.sock", address)
	}
	c := &adminClient{address: address, base: "http://" + parsed.JoinHostPort(0)}
	c.origin = c.base
	if parsed.IsUnixNetwork() {
		parsed.Host, _, _ = strings.Cut(parsed.Host, "|") // permissions may follow
		c.base, c.origin = "http://127.0.0.1", ""         // the host that Caddy takes over sockets
	}
	c.http = httpClient(&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, parsed.Network, parsed.JoinHostPort(0))
		},
	})
	return c, nil
}

// adminClientOf takes the URL of an admin endpoint. A path is that below which a
// proxy has it.
func adminClientOf(address string) (*adminClient, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no URL of an admin endpoint; write for example http://localhost:2019", address)
	}
	return &adminClient{
		address: u.Redacted(), base: strings.TrimSuffix(u.String(), "/"), origin: u.Scheme + "://" + u.Host,
		http: httpClient(new(http.Transport)),
	}, nil
}

func httpClient(t *http.Transport) *http.Client {
	return &http.Client{
		Timeout: answerTime, Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get reads from the API.
func (c *adminClient) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.ask(ctx, http.MethodGet, path, nil)
}

// post has the API do something; in is sent as JSON unless it is nil.
func (c *adminClient) post(ctx context.Context, path string, in any) ([]byte, error) {
	if in == nil {
		return c.ask(ctx, http.MethodPost, path, nil)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, http.MethodPost, path, body)
}

func (c *adminClient) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	response, err := c.send(ctx, c.http, method, path, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAdminAnswer+1))
	switch {
	case err != nil:
		return nil, c.unreached(err)
	case len(answer) > maxAdminAnswer:
		return nil, fmt.Errorf("the answer is longer than %d MiB; ask for fewer rows with --limit", maxAdminAnswer>>20)
	case response.StatusCode/100 != 2:
		return nil, c.refused(response, answer)
	}
	return answer, nil
}

// stream reads from the API what may take as long as it takes. The answer must be
// closed.
func (c *adminClient) stream(ctx context.Context, path string) (io.ReadCloser, error) {
	patient := *c.http
	patient.Timeout = 0
	response, err := c.send(ctx, &patient, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer func() { _ = response.Body.Close() }()
		answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAdminAnswer)) // the status says enough
		return nil, c.refused(response, answer)
	}
	return response.Body, nil
}

func (c *adminClient) send(ctx context.Context, client *http.Client, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+api.AdminPath+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the admin address %s: %w", c.address, err)
	}
	if c.origin != "" {
		request.Header.Set("Origin", c.origin) // Caddy's admin endpoint may insist on it
	}
	if len(body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, c.unreached(err)
	}
	return response, nil
}

// unreached says what to do where there is no answer.
func (c *adminClient) unreached(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err // its URL says less than the address
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("nothing listens at Caddy's admin address %s: start Caddy with `caddy run`, or say with --address where its admin endpoint is (%w)", c.address, err)
	}
	return fmt.Errorf("asking Caddy at its admin address %s: %w; --address names another", c.address, err)
}

// refused makes an error of an answer that is none of success.
func (c *adminClient) refused(response *http.Response, answer []byte) error {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind == "application/problem+json" {
		problem := new(event.Problem)
		if err := json.Unmarshal(answer, problem); err == nil && problem.Detail != "" {
			return problem
		}
	}
	if response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("what answers at %s is not a Caddy with UserHero Relay: check --address, and that the running Caddy is this build", c.address)
	}
	var caddys struct { // what the admin endpoint itself says
		Error string `json:"error"`
	}
	if err := json.Unmarshal(answer, &caddys); err == nil && caddys.Error != "" {
		return fmt.Errorf("the admin endpoint at %s refused with %s: %s", c.address, response.Status, cell(caddys.Error))
	}
	return fmt.Errorf("the admin endpoint at %s answered %s: Caddy's log may say why", c.address, response.Status)
}

// readAnswer decodes an answer.
func readAnswer[T any](answer []byte) (v T, err error) {
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("the answer is not what this version of the command expects (%w); use the command of the build that runs, or --json", err)
	}
	return v, nil
}

// listAnswer is one page of a list.
type listAnswer[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}
