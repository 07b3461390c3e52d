package command

import (
	"bytes"
	"cmp"
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
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
)

const (
	// maxAnswer bounds one answer of the API, in bytes. A full page of deliveries
	// with all their attempts fits in.
	maxAnswer = 64 << 20
	// answerTime is how long an answer may take. A test send waits for the timeout
	// of its webhook.
	answerTime = 5 * time.Minute
)

// client uses the relay's API on the admin endpoint of a running Caddy.
type client struct {
	address string // as the user wrote it
	base    string // URL of the admin endpoint, without a slash at the end
	origin  string // http://host:port, which Caddy compares with its own; empty for a Unix socket
	http    *http.Client
}

// dial returns a client for the admin endpoint that the flags name. It does not
// connect yet.
func dial(cmd *cobra.Command) (*client, error) {
	address, err := adminAddress(cmd)
	if err != nil {
		return nil, err
	}
	return newClient(address)
}

// get reads from the API that the flags name.
func get(cmd *cobra.Command, path string, query url.Values) ([]byte, error) {
	return send(cmd, http.MethodGet, withQuery(path, query), nil)
}

// send sends a request to the API that the flags name; in is sent as JSON unless it is
// nil.
func send(cmd *cobra.Command, method, path string, in any) ([]byte, error) {
	c, err := dial(cmd)
	if err != nil {
		return nil, err
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	answer, err := c.ask(cmd.Context(), method, path, body)
	if name, about := strings.CutPrefix(path, webhookPath("", "")); about && isNotFound(err) {
		name, _, _ = strings.Cut(name, "/")
		name, _ = url.PathUnescape(name)
		return nil, fmt.Errorf("webhook %q: %w List them with `caddy userhero webhooks`", name, err)
	}
	return answer, err
}

func webhookPath(name, action string) string { return "/webhooks/" + url.PathEscape(name) + action }

func withQuery(path string, query url.Values) string {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

// adminSettings are the settings of Caddy's admin endpoint in a configuration.
type adminSettings struct {
	Disabled bool   `json:"disabled"`
	Listen   string `json:"listen"`
}

// adminAddress returns the admin address that the flags name. It differs from
// Caddy's own search: if the configuration turns its admin endpoint off, whatever
// listens at the default address is another Caddy.
func adminAddress(cmd *cobra.Command) (string, error) {
	address, file := flagText(cmd, "address"), flagText(cmd, "config")
	if address != "" {
		return address, nil
	}
	if file == "" {
		return caddy.DefaultAdminListen, nil
	}
	text, _, _, err := caddycmd.LoadConfig(file, flagText(cmd, "adapter"))
	if err != nil {
		return "", fmt.Errorf("finding Caddy's admin address: %w", err)
	}
	var config struct {
		Admin adminSettings `json:"admin"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("finding Caddy's admin address in %s: %w", file, err)
	}
	if config.Admin.Disabled {
		return "", fmt.Errorf("%s turns the admin endpoint off, but this command needs it: "+
			"let it listen on a socket, such as `admin unix//run/caddy/admin.sock`, and reload; or name another Caddy with --address", file)
	}
	if address, err = caddy.NewReplacer().ReplaceOrErr(config.Admin.Listen, true, true); err != nil {
		return "", fmt.Errorf("finding Caddy's admin address in %s: %w", file, err)
	}
	return cmp.Or(address, caddy.DefaultAdminListen), nil
}

// newClient takes an address as Caddy's configuration has it, for example
// localhost:2019 or unix//run/caddy.sock, or a URL of the admin endpoint. It does
// not connect.
func newClient(address string) (*client, error) {
	if scheme, _, ok := strings.Cut(address, "://"); ok && scheme != "unix" {
		return newClientOfURL(address)
	}
	parsed, err := caddy.ParseNetworkAddress(strings.Replace(address, "unix://", "unix/", 1))
	if err != nil || parsed.PortRangeSize() > 1 || parsed.IsFdNetwork() {
		return nil, fmt.Errorf("%q is not an admin address; write for example localhost:2019, http://localhost:2019 or unix//run/caddy/admin.sock", address)
	}
	c := &client{address: address, base: "http://" + parsed.JoinHostPort(0)}
	c.origin = c.base
	if parsed.IsUnixNetwork() {
		parsed.Host, _, _ = strings.Cut(parsed.Host, "|") // permissions may follow
		c.base, c.origin = "http://127.0.0.1", ""         // the host that Caddy accepts over sockets
	}
	c.http = httpClient(&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, parsed.Network, parsed.JoinHostPort(0))
		},
	})
	return c, nil
}

// newClientOfURL takes the URL of an admin endpoint. It may have a path, if a proxy
// serves the endpoint below one.
func newClientOfURL(address string) (*client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the URL of an admin endpoint; write for example http://localhost:2019", address)
	}
	return &client{
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
func (c *client) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return c.ask(ctx, http.MethodGet, withQuery(path, query), nil)
}

// ask sends a request and returns the answer; an answer that is not 2xx is an error.
func (c *client) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	response, err := c.send(ctx, c.http, method, path, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	return c.read(response.Body)
}

// stream reads an answer that may take any time. The caller closes it.
func (c *client) stream(ctx context.Context, path string) (io.ReadCloser, error) {
	patient := *c.http
	patient.Timeout = 0
	response, err := c.send(ctx, &patient, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// send sends a request; an answer that is not 2xx is an error. The caller closes the
// answer's body.
func (c *client) send(ctx context.Context, client *http.Client, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+api.AdminPath+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the admin address %s: %w", c.address, err)
	}
	if c.origin != "" {
		request.Header.Set("Origin", c.origin) // Caddy's admin endpoint may require it
	}
	if len(body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, c.connectError(err)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := c.read(response.Body)
	if err != nil {
		return nil, err
	}
	return nil, c.statusError(response, answer)
}

// read reads an answer to its end.
func (c *client) read(body io.Reader) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.connectError(err)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("the answer is longer than %d MiB; use a smaller --limit", maxAnswer>>20)
	}
	return answer, nil
}

// connectError says what to do if there is no answer.
func (c *client) connectError(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err // c.address says more than its URL
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("nothing listens at Caddy's admin address %s: start Caddy with `caddy run`, or set --address to its admin endpoint (%w)", c.address, err)
	}
	return fmt.Errorf("connecting to Caddy's admin address %s: %w; use --address for another one", c.address, err)
}

// statusError makes an error of an answer that is not 2xx.
func (c *client) statusError(response *http.Response, answer []byte) error {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind == "application/problem+json" {
		problem := new(event.Problem)
		if err := json.Unmarshal(answer, problem); err == nil && problem.Detail != "" {
			return problem
		}
	}
	if response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("the server at %s is not a Caddy with UserHero Relay: check --address, and that the running Caddy is this build", c.address)
	}
	var caddyError struct { // of the admin endpoint itself
		Error string `json:"error"`
	}
	if err := json.Unmarshal(answer, &caddyError); err == nil && caddyError.Error != "" {
		return fmt.Errorf("the admin endpoint at %s answered %s: %s", c.address, response.Status, cell(caddyError.Error))
	}
	return fmt.Errorf("the admin endpoint at %s answered %s: look into Caddy's log", c.address, response.Status)
}

// isNotFound reports whether the API answered 404.
func isNotFound(err error) bool {
	problem := (*event.Problem)(nil)
	return errors.As(err, &problem) && problem.Status == http.StatusNotFound
}

// decode reads an answer of the API, unless asking for it failed with err.
func decode[T any](answer []byte, err error) (v T, _ error) {
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("the answer is not in the format of this version (%w); use the caddy binary that is running, or --json", err)
	}
	return v, nil
}
