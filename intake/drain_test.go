package intake

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/event"
)

// largeBody is what a page with a screenshot in it sends.
var largeBody = append(append([]byte(`{"message":"`), bytes.Repeat([]byte("a"), 8<<20)...), `"}`...)

// TestRefusalOfALargeBodyIsRead: clients that write all of 8 MB before they
// read, and those that do both at once, get the answer and no reset.
func TestRefusalOfALargeBodyIsRead(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{})
	s.handle("/limited", Config{ClientLimit: &Limit{Events: 1, Per: time.Hour}})
	s.do(http.MethodPost, "/limited", `{"message":"the one that is allowed"}`, jsonBody...)
	file := filepath.Join(t.TempDir(), "large.json")
	if err := os.WriteFile(file, largeBody, 0o600); err != nil {
		t.Fatal(err)
	}
	refusals := []struct {
		path, contentType string
		status            string
	}{
		{"/feedback", "application/json", "413"},
		{"/feedback", "application/xml", "415"},
		{"/limited", "application/json", "429"},
	}
	base := "http://" + s.address
	overGo := func(c *http.Client, chunked bool) func(path, contentType string) (string, error) {
		return func(path, contentType string) (string, error) {
			var body io.Reader = bytes.NewReader(largeBody)
			if chunked {
				body = struct{ io.Reader }{body}
			}
			res, err := c.Post(base+path, contentType, body)
			if err != nil {
				return "", err
			}
			defer func() { _ = res.Body.Close() }()
			if _, err := io.ReadAll(res.Body); err != nil {
				return "", err
			}
			return fmt.Sprint(res.StatusCode), nil
		}
	}
	overProgram := func(name string, args ...string) func(path, contentType string) (string, error) {
		return func(path, contentType string) (string, error) {
			var full []string
			for _, a := range args {
				full = append(full, strings.NewReplacer("{URL}", base+path, "{TYPE}", contentType, "{FILE}", file).Replace(a))
			}
			out, err := exec.CommandContext(t.Context(), program(t, name), full...).CombinedOutput()
			return strings.TrimSpace(string(out)), err
		}
	}
	curl := []string{"-sS", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@{FILE}", "-H", "Content-Type: {TYPE}", "{URL}"}
	for name, send := range map[string]func(path, contentType string) (string, error){
		"a socket that writes before it reads": func(path, contentType string) (string, error) {
			return writeThenRead(s.address, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", path, contentType, len(largeBody)))
		},
		"Go":                  overGo(client, false),
		"Go, chunked":         overGo(client, true),
		"Go, HTTP/2":          overGo(client2, false),
		"Go, HTTP/2, chunked": overGo(client2, true),
		"curl":                overProgram("curl", append([]string{"--http1.1"}, curl...)...),
		"curl without Expect": overProgram("curl", append([]string{"--http1.1", "-H", "Expect:"}, curl...)...),
		"curl, chunked":       overProgram("curl", append([]string{"--http1.1", "-H", "Expect:", "-H", "Transfer-Encoding: chunked"}, curl...)...),
		"curl, HTTP/2":        overProgram("curl", append([]string{"--http2-prior-knowledge"}, curl...)...),
		"node fetch":          overProgram("node", "-e", nodeFetch, "{URL}", "{TYPE}", "{FILE}"),
		"node http":           overProgram("node", "-e", nodeHTTP, "{URL}", "{TYPE}", "{FILE}"),
		"node http2":          overProgram("node", "-e", nodeHTTP2, "{URL}", "{TYPE}", "{FILE}"),
	} {
		t.Run(name, func(t *testing.T) {
			some := refusals
			if strings.HasPrefix(name, "node") { // takes a second to start
				some = refusals[:1]
			}
			for _, r := range some {
				if got, err := send(r.path, r.contentType); err != nil || got != r.status {
					t.Errorf("%s of %s: %s, %v, want %s", r.contentType, r.path, got, err, r.status)
				}
			}
		})
	}
}

// program finds a program that the test needs.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

const (
	nodeFetch = `
const [url, type, file] = process.argv.slice(1);
fetch(url, { method: "POST", headers: { "Content-Type": type }, body: require("fs").readFileSync(file) })
  .then(async (response) => console.log((await response.json()).status));`
	nodeHTTP = `
const [url, type, file] = process.argv.slice(1);
const body = require("fs").readFileSync(file);
const request = require("http").request(url, { method: "POST", headers: { "Content-Type": type, "Content-Length": body.length } }, (response) => {
  response.resume().on("end", () => { console.log(response.statusCode); process.exit(); });
});
request.end(body);`
	nodeHTTP2 = `
const [url, type, file] = process.argv.slice(1);
const { origin, pathname } = new URL(url);
const session = require("http2").connect(origin);
const stream = session.request({ ":method": "POST", ":path": pathname, "content-type": type });
stream.on("response", (h) => { stream.resume().on("end", () => { console.log(h[":status"]); session.destroy(); }); });
stream.end(require("fs").readFileSync(file));`
)

// writeThenRead sends a request with the large body, and reads when all of it is
// written.
func writeThenRead(address, head string) (status string, err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, head); err != nil {
		return "", err
	}
	if _, err := conn.Write(largeBody); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	_, err = io.ReadAll(res.Body)
	_ = res.Body.Close()
	return fmt.Sprint(res.StatusCode), err
}

// TestWhatIsDrainedIsBounded: neither a body without end nor one that trickles
// keeps a connection, and the answer comes at once.
func TestWhatIsDrainedIsBounded(t *testing.T) {
	t.Parallel()
	left := make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuseUnread(w, r, event.NewProblem(http.StatusRequestEntityTooLarge, "too large"), drain{bytes: 1 << 20, time: 300 * time.Millisecond})
		left <- struct{}{}
	}))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, send := range map[string]func(conn net.Conn){
		"without end": func(conn net.Conn) {
			for chunk := []byte("ffff\r\n" + strings.Repeat("a", 0xffff) + "\r\n"); ; {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		},
		"that stops": func(net.Conn) {},
	} {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge || !res.Close {
			t.Fatalf("a body %s: %v, %v", name, res, err)
		}
		if _, err := io.ReadAll(res.Body); err != nil {
			t.Errorf("a body %s: reading the answer: %v", name, err)
		}
		_ = res.Body.Close()
		go send(conn)
		select {
		case <-left:
		case <-ctx.Done():
			t.Errorf("a body %s is drained for ever", name)
		}
		_ = conn.Close()
	}
}
