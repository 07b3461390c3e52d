package intake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// askNode runs a program in node that reads JSON from standard input and writes
// JSON: what browsers make of something.
func askNode(t *testing.T, program string, question, answer any) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("node is needed to compare with browsers")
		}
		t.Skip("node is not installed; it is needed to compare with browsers")
	}
	in, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "-e",
		`const input = JSON.parse(require("fs").readFileSync(0, "utf8")); const answer = (`+program+`)(input); process.stdout.write(JSON.stringify(answer));`)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, answer); err != nil {
		t.Fatal(err)
	}
}

func TestMediaTypesAreReadAsBrowsersDo(t *testing.T) {
	t.Parallel()
	fields := []string{
		"application/json; utf-8", "application/json;charset=utf8", "application/json; charset=utf-8; charset=latin1",
		"application/json;", "application/json;;charset=utf-8", "application/json; charset", "application/json; charset=",
		`application/json; charset=""`, `application/json; charset="utf-8"`, `application/json; charset="ut\f-8"; x=y`, `application/json; charset="utf-8`,
		`application/json; charset="utf-8"garbage; x=1`, "APPLICATION/JSON; CHARSET=UTF-8", "application/json ; charset=utf-8 ", " application/json\t",
		"application/json; charset = utf-8", "application/json; char set=x; a=b", "application/json; =x; a=b", "application/json; a=b;utf-8;c=d", "text/plain;charset=UTF-8",
		"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", `multipart/form-data; boundary="a b"; charset=utf-8`,
		"", "/", "a/", "/b", "json", "application", "application/json, text/plain", "app lication/json", "application/js on", "application//json", "*/*", "ä/b", ";charset=utf-8",
	}
	pieces := []string{"a", "/", ";", "=", `"`, "\\", " ", "charset", "utf-8", "json", "\t", ",", "B"}
	quoted := regexp.MustCompile(`(="(?:[^"\\]|\\.)*")[^;]*`)
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range 3000 {
		field := []string{"", "a/b;", "text/plain"}[rnd.IntN(3)]
		for range rnd.IntN(12) {
			field += pieces[rnd.IntN(len(pieces))]
		}
		// Node reads a parameter behind a quoted string. WHATWG has none before the next
		// semicolon.
		field = quoted.ReplaceAllString(field, `$1`)
		fields = append(fields, strings.Trim(field, httpSpace)) // node keeps white space behind an open quote
	}
	var want []*struct {
		Essence    string
		Parameters [][2]string
	}
	askNode(t, `(fields) => fields.map((field) => {
		try {
			const type = new (require("util").MIMEType)(field);
			return { Essence: type.essence, Parameters: [...type.params] };
		} catch { return null; }
	})`, fields, &want)
	for i, field := range fields {
		got, ok := parseMediaType(field)
		if ok != (want[i] != nil) {
			t.Errorf("%q: read %v, a browser reads %v", field, got, want[i])
		}
		if !ok || want[i] == nil {
			continue
		}
		parameters := make(map[string]string)
		for _, p := range want[i].Parameters {
			parameters[p[0]] = p[1]
		}
		if got.essence != want[i].Essence || fmt.Sprint(got.parameters) != fmt.Sprint(parameters) {
			t.Errorf("%q: read %q, a browser reads %q", field, got, *want[i])
		}
	}
}

func TestFormsAreReadAsBrowsersDo(t *testing.T) {
	t.Parallel()
	bodies := []string{
		"", "&", "=", "&&a=1&", "a", "a=", "=a", "a=b=c", "message=a;b&x=1;y=2", "message=100% sure%", "message=%zz%4%41%", "a+b=c+d%2B", "a=%00",
		"a=%E2%82&b=%E2%82%AC&c=%FF%FF&d=%F0%9F%98&e=%C3%28&f=%ED%A0%80&g=%EF%BB%BFx", "a=1&a=2&b=3&a=", "a=%E2%82%E2%82%AC", "a=%2", "a=%", "%=%&%=1", "a=%+1&b=%1+",
	}
	pieces := []string{"&", "=", "%", "%4", "%41", "%e2", "%82", "%ac", "%F0%9F", "+", ";", "a", "message", "2", "%c3", "%a9"}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range 3000 {
		body := "a="
		for range rnd.IntN(14) {
			body += pieces[rnd.IntN(len(pieces))]
		}
		bodies = append(bodies, body)
	}
	var want []map[string][]string
	askNode(t, `(bodies) => bodies.map((body) => {
		const all = {};
		for (const [name, value] of new URLSearchParams("?" + body)) (all[name] ??= []).push(value);
		return all;
	})`, bodies, &want)
	for i, body := range bodies {
		got, err := urlencoded(body)
		if err != nil || fmt.Sprintf("%q", map[string][]string(got)) != fmt.Sprintf("%q", want[i]) {
			t.Errorf("%q: read %q, %v; a browser reads %q", body, got, err, want[i])
		}
	}
}

func TestOriginsAreThoseThatBrowsersSend(t *testing.T) {
	t.Parallel()
	written := []string{
		"https://app.example.com", "https://app.example.com:443", "http://app.example.com:80", "http://app.example.com:443", "https://App.Example.COM:8443",
		"https://bücher.example", "https://BÜCHER.example:443", "https://xn--bcher-kva.example", "https://faß.de", "https://日本語.jp",
		"http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]", "http://0x7f.1", "https://a_b.example", "https://example.com.",
	}
	var want []string
	askNode(t, `(urls) => urls.map((url) => new URL(url).origin)`, written, &want)
	for i, origin := range written {
		if got, err := originOf(origin); err != nil || got != want[i] {
			t.Errorf("%s is kept as %q, %v; browsers send %q", origin, got, err, want[i])
		}
	}
	for origin, want := range map[string]string{ // schemes that browsers and shells give their pages
		"chrome-extension://abcdefghijklmnop": "chrome-extension://abcdefghijklmnop",
		"moz-extension://0b7d-4a":             "moz-extension://0b7d-4a",
		"capacitor://localhost":               "capacitor://localhost",
		"tauri://localhost":                   "tauri://localhost",
	} {
		if got, err := originOf(origin); err != nil || got != want {
			t.Errorf("%s is kept as %q, %v", origin, got, err)
		}
	}
	for _, origin := range []string{
		"", "example.com", "//example.com", "https://", "https:example.com", "https://example.com/", "https://example.com/feedback", "https://example.com?x", "https://example.com#x",
		"https://ann@example.com", "https://*.example.com/x", "https://exa mple.com", "https://example.com:port", "https://[::1", "null", "https:\\\\example.com",
	} {
		if got, err := originOf(origin); err == nil {
			t.Errorf("%q is taken as %q", origin, got)
		}
	}
}

// TestClientsAreUnderstood has requests as clients of other languages send them,
// and what must arrive.
func TestClientsAreUnderstood(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{})
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		client, contentType, body string
		data                      string // part of what is delivered
	}{
		{"Java HttpURLConnection", "application/json; utf-8", `{"message":"java"}`, `"message":"java"`},
		{"Java HttpClient", "application/json;charset=utf8", `{"message":"jdk","metadata":{"d":1.0E10}}`, `"metadata":{"d":10000000000}`},
		{".NET StringContent", "application/json; charset=utf-8", `{"message":"net","metadata":{"lat":0.10000000000000001}}`, `"metadata":{"lat":0.1}`},
		{"C printf %.17g", "application/json", `{"message":"c","metadata":{"lat":52.520006600000002,"lon":13.404999999999999}}`, `"metadata":{"lat":52.5200066,"lon":13.405}`},
		{"PHP json_encode", "application/json", `{"message":"php","metadata":{"n":1.0e+25,"five":5.0}}`, `"metadata":{"n":1e+25,"five":5}`},
		{"Python", "application/json", `{"message": "py", "metadata": {"n": 1e+16, "m": 100000000000000000000}}`, `"metadata":{"n":10000000000000000,"m":100000000000000000000}`},
		{"Axios", "application/json;charset=utf-8;", `{"message":"axios"}`, `"message":"axios"`},
		{"Ruby Net::HTTP", form, `message=semicolons;+a;b&rating=4`, `"message":"semicolons; a;b","rating":4`},
		{"PHP http_build_query", form, `message=php+form&metadata%5Bplan%5D=pro`, `"metadata[plan]":"pro"`},
		{"curl --data", form, `message=100% sure`, `"message":"100% sure"`},
		{"latin-1 page", form, `message=sch%F6n`, `"message":"sch` + "\uFFFD" + `n"`},
		{"checkboxes", form, `message=boxes&topics=&topics=ui&topics=speed&rating=&rating=3`, `"topics":["ui","speed"]`},
		{"sendBeacon", "text/plain;charset=UTF-8", `{"message":"beacon"}`, `"message":"beacon"`},
		{"sendBeacon of a form", form + ";charset=UTF-8", `message=params&metadata.a=1`, `"metadata":{"a":"1"}`},
		{"Go", "application/json", `{"message":"go","createdAt":"2026-01-07T15:30:00.123456789+01:00"}`, `"createdAt":"2026-01-07T14:30:00Z"`},
		{
			"Firefox multipart", "multipart/form-data; boundary=----geckoformboundary1",
			"------geckoformboundary1\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nTom\xff\r\n" +
				"------geckoformboundary1\r\nContent-Disposition: form-data; name=\"a%22b\"\r\n\r\nquote\r\n" +
				"------geckoformboundary1\r\nContent-Disposition: form-data; name=\"tags\"\r\n\r\n1\r\n" +
				"------geckoformboundary1\r\nContent-Disposition: form-data; name=\"tags\"\r\n\r\n2\r\n" +
				"------geckoformboundary1\r\nContent-Disposition: form-data; name=\"shot\"; filename=\"\"\r\nContent-Type: application/octet-stream\r\n\r\n\r\n" +
				"------geckoformboundary1--\r\n",
			`"a\"b":"quote","tags":["1","2"]`,
		},
	} {
		before := s.events()
		a := s.do(http.MethodPost, "/feedback", c.body, "Content-Type", c.contentType)
		if a.Status != http.StatusAccepted {
			t.Errorf("%s: %d %s", c.client, a.Status, a.Body)
			continue
		}
		if body := string(s.await(before + 1)[before].Body); !strings.Contains(body, c.data) {
			t.Errorf("%s: delivered %s, want %s in it", c.client, body, c.data)
		}
	}
	for client, c := range map[string]struct {
		contentType, body string
		status            int
		detail            string
	}{
		"curl -d without a type":      {form, `{"message":"hi; it is 100% sure & fine"}`, 415, "send Content-Type: application/json"},
		"PowerShell without a type":   {form, "{\r\n  \"message\": \"hi\"\r\n}", 415, "send Content-Type: application/json"},
		"a socket without a type":     {"", `{"message":"hi"}`, 415, "send Content-Type: application/json"},
		"Apache HttpClient's default": {"application/json; charset=ISO-8859-1", "{\"message\":\"sch\xf6n\"}", 415, "Send UTF-8"},
		"a form without a message":    {form, "rating=3", 422, "/message"},
		"an id as a number":           {"application/json", `{"message":"m","metadata":{"tweet":1234567890123456789}}`, 422, "send it as a string"},
		"a number beyond all doubles": {"application/json", `{"message":"m","metadata":{"n":1e400}}`, 422, "/metadata/n"},
		"Oracle's time":               {"application/json", `{"message":"m","createdAt":"2026-01-07 15:30:00"}`, 422, "/createdAt"},
		"a list of 64 levels":         {"application/json", `{"message":"m","deep":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, 422, "/deep/0"},
		"spaces":                      {"application/json", `{"message":"   "}`, 422, "/message"},
		"spaces of a form":            {form, "message=+%20%0D%0A", 422, "/message"},
	} {
		a := s.do(http.MethodPost, "/feedback", c.body, "Content-Type", c.contentType)
		if a.Status != c.status || !strings.Contains(a.Body, c.detail) {
			t.Errorf("%s: %d %s, want %d with %q", client, a.Status, a.Body, c.status, c.detail)
		}
	}
}

// TestInstrumentedPagesMaySubmit: tracing adds headers to every request of a
// page, and its browser asks for each of them.
func TestInstrumentedPagesMaySubmit(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{AllowOrigins: []string{"https://App.example.com:443", "https://bücher.example"}})
	s.handle("/open", Config{AllowOrigins: []string{"*"}})
	const asked = "authorization,baggage,content-type,idempotency-key,newrelic,sentry-trace,traceparent,tracestate,x-datadog-trace-id,x-requested-with"
	for _, path := range []string{"/feedback", "/feedback/fb_1", "/open"} {
		for origin, allowed := range map[string]bool{
			"https://app.example.com": true, "https://xn--bcher-kva.example": true,
			"https://evil.example": false, "http://app.example.com": false, "https://app.example.com:8443": false, "null": false,
		} {
			allowed = allowed || path == "/open"
			for _, method := range []string{"POST", "PATCH", "PUT"} {
				a := s.do(http.MethodOptions, path, "", "Origin", origin, "Access-Control-Request-Method", method, "Access-Control-Request-Headers", asked)
				granted := strings.Split(strings.ReplaceAll(a.Header.Get("Access-Control-Allow-Headers"), " ", ""), ",")
				if all := slices.Equal(granted, strings.Split(asked, ",")); all != allowed || a.Status != http.StatusNoContent {
					t.Errorf("%s by %s from %s: %d, headers %q", path, method, origin, a.Status, granted)
				}
			}
		}
	}
	a := s.do(http.MethodOptions, "/open", "", "Origin", "https://a.example", "Access-Control-Request-Method", "POST")
	if a.Header.Get("Access-Control-Allow-Methods") == "" || a.Header.Get("Access-Control-Allow-Headers") != "" {
		t.Errorf("a question without headers: %v", a.Header)
	}
}
