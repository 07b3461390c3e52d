package console_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/console"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/signature"
)

// visit is a console over a relay in memory, used as a browser without script
// does: by its links and forms.
type visit struct {
	t     *testing.T
	relay *relay.Relay
	site  http.Handler
	at    *url.URL
	page  string
	code  int
	head  http.Header
}

const mount = "/some/where"

func newVisit(t *testing.T, c relay.Config) *visit {
	t.Helper()
	return newVisitOf(t, memqueue.New(memqueue.Options{}), c)
}

func newVisitOf(t *testing.T, q queue.Queue, c relay.Config) *visit {
	t.Helper()
	r := relay.New(relay.Options{Queue: q})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Egress = deliver.Egress{Allow: []string{"127.0.0.1"}}
	if _, err := r.Attach(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	site := http.StripPrefix(mount, console.New(api.Options{Relay: r, Version: "1.2.3"}))
	return &visit{t: t, relay: r, site: site, at: &url.URL{Path: mount + "/"}}
}

// send makes a request, follows redirects as a browser does, and checks every
// link of the page it ends on.
func (v *visit) send(method string, to *url.URL, form url.Values, want int) {
	v.t.Helper()
	for range 5 {
		r := httptest.NewRequest(method, to.RequestURI(), strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		v.site.ServeHTTP(w, api.WithUser(r, "ada"))
		v.at, v.page, v.code, v.head = to, w.Body.String(), w.Code, w.Header()
		if w.Code != http.StatusSeeOther {
			break
		}
		next, err := to.Parse(w.Header().Get("Location"))
		if err != nil {
			v.t.Fatal(err)
		}
		method, form, to = http.MethodGet, nil, next
	}
	if v.code != want {
		v.t.Fatalf("%s %s: %d, want %d: %s", method, to, v.code, want, v.page)
	}
	for _, link := range regexp.MustCompile(`(?:href|action|src|data-again|data-stream|data-worker)="([^"#][^"]*)"`).FindAllStringSubmatch(v.page, -1) {
		target, err := v.at.Parse(html.UnescapeString(link[1]))
		if err != nil || target.Host == "" && !strings.HasPrefix(target.Path, mount+"/") {
			v.t.Errorf("%s: the link %q leads to %v, out of the console (%v)", v.at, link[1], target, err)
		}
	}
}

// open follows an address relative to the console.
func (v *visit) open(path string) {
	v.t.Helper()
	to, err := url.Parse(mount + path)
	if err != nil {
		v.t.Fatal(err)
	}
	v.send(http.MethodGet, to, nil, http.StatusOK)
}

// submit posts the form of the present page whose action ends so, with its
// fields as they are and these besides.
func (v *visit) submit(action string, fields url.Values) {
	v.t.Helper()
	v.post(action, fields, http.StatusOK)
}

func (v *visit) post(action string, fields url.Values, want int) {
	v.t.Helper()
	for _, f := range regexp.MustCompile(`(?s)<form[^>]* method="post" action="([^"]*)">(.*?)</form>`).FindAllStringSubmatch(v.page, -1) {
		if !strings.HasSuffix(f[1], action) {
			continue
		}
		form := url.Values{}
		for _, input := range regexp.MustCompile(`<input([^>]*)>`).FindAllStringSubmatch(f[2], -1) {
			attr := func(name string) string {
				m := regexp.MustCompile(` ` + name + `="([^"]*)"`).FindStringSubmatch(input[1])
				if m == nil {
					return ""
				}
				return html.UnescapeString(m[1])
			}
			if attr("type") == "checkbox" && !strings.Contains(input[1], " checked") {
				continue
			}
			form.Add(attr("name"), attr("value"))
		}
		for _, text := range regexp.MustCompile(`(?s)<textarea name="([^"]*)"[^>]*>(.*?)</textarea>`).FindAllStringSubmatch(f[2], -1) {
			form.Add(text[1], html.UnescapeString(text[2]))
		}
		for _, list := range regexp.MustCompile(`(?s)<select name="([^"]*)">(.*?)</select>`).FindAllStringSubmatch(f[2], -1) {
			if chosen := regexp.MustCompile(`<option value="([^"]*)" selected`).FindStringSubmatch(list[2]); chosen != nil {
				form.Add(list[1], html.UnescapeString(chosen[1]))
			}
		}
		for name, values := range fields {
			form[name] = values
		}
		to, err := v.at.Parse(html.UnescapeString(f[1]))
		if err != nil {
			v.t.Fatal(err)
		}
		v.send(http.MethodPost, to, form, want)
		return
	}
	v.t.Fatalf("%s has no form %s: %s", v.at, action, v.page)
}

// text is what the page says, without markup.
func (v *visit) text() string {
	bare := regexp.MustCompile(`(?s)<(script|svg).*?</(script|svg)>|<[^>]*>`).ReplaceAllString(v.page, " ")
	return html.UnescapeString(strings.Join(strings.Fields(bare), " "))
}

func (v *visit) says(want ...string) {
	v.t.Helper()
	text := v.text()
	for _, w := range want {
		if !strings.Contains(text, w) {
			v.t.Errorf("%s does not say %q: %s", v.at, w, text)
		}
	}
}

func (v *visit) accept(id, message string) queue.EventID {
	v.t.Helper()
	body := fmt.Sprintf(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"id":%q,"message":%s,"category":"bug","rating":2,"metadata":{"plan":"pro"}}}`, id, message)
	receipt, err := v.relay.Accept(v.t.Context(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{ID: id}, Body: []byte(body)})
	if err != nil {
		v.t.Fatal(err)
	}
	return receipt.Event.ID
}

// until opens a page until it says something, which another goroutine brings
// about.
func (v *visit) until(path, want string) {
	v.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if v.open(path); strings.Contains(v.text(), want) {
			return
		}
		if time.Now().After(end) {
			v.t.Fatalf("%s does not come to say %q: %s", path, want, v.text())
		}
	}
}

// receiver answers with a status that may change.
func receiver(t *testing.T, status *atomic.Int64) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, "I am here")
	}))
	t.Cleanup(s.Close)
	return s
}

// TestWholePathWithoutScript: everything the UserHero documentation asks for,
// with links and forms alone.
func TestWholePathWithoutScript(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(500)
	hook := receiver(t, &status)
	v := newVisit(t, relay.Config{})

	v.open("/")
	v.says("Where should feedback go?")
	v.submit("add", url.Values{"url": {hook.URL + "/hook?token=canary"}, "name": {"crm"}, "go": {"secret"}})
	secret := regexp.MustCompile(`value="(whsec_[^"]+)"`).FindStringSubmatch(v.page)
	if secret == nil {
		t.Fatalf("no secret is shown: %s", v.text())
	}
	plain := html.UnescapeString(secret[1])
	v.says("timingSafeEqual", "compare_digest", "hmac.Equal", "hash_equals")
	v.submit("add", url.Values{"go": {"test"}})
	v.says("It does not work yet: answered 500", "I am here", "X-UserHero-Test", "Save anyway")
	status.Store(204)
	v.submit("add", url.Values{"go": {"test"}})
	v.says("It works: the receiver answered 204")
	v.submit("add", url.Values{"go": {"save"}})
	v.says("Webhook crm added.", "Active, nothing sent yet")
	if v.at.Path != mount+"/webhooks/crm" {
		t.Errorf("saving leads to %s", v.at)
	}

	v.open("/events")
	v.says("No event yet", "curl http://example.com/feedback")
	id := v.accept("fb_1", `"The export button"`)
	v.until("/events/"+id.String(), "Delivered")
	v.says("204 No Content", "X-UserHero-Signature", "?...")
	v.submit("/check", url.Values{"secret": {plain}})
	v.says("The signature is right")
	v.submit("/check", url.Values{"secret": {plain + "\n"}})
	v.says("The signature does not match", "white space around it")

	status.Store(503)
	v.accept("fb_2", `"another"`)
	v.until("/webhooks/crm", "answered 503")
	v.until("/webhooks/crm", "1 of 6 attempts failed")
	v.says("Sending in", "The receiver is not available")
	status.Store(200)
	v.submit("/redeliver", nil)
	v.says("Queued again. It will be sent to crm as soon as possible.")
	v.until("/webhooks/crm", "Last answer: 200 OK")

	v.submit("/pause", nil)
	v.says("Paused. New events are not queued for crm; use Recover to send them after you resume.", "Paused by you")
	v.open("/webhooks")
	v.says("Paused by you")
	missed := v.accept("fb_3", `"missed"`)
	v.submit("/enable", nil)
	v.says("Resumed. New events are sent to crm again.")
	v.open("/webhooks/crm/recover?span=1h")
	v.says("1 delivery would be sent again.")
	v.submit("/recover", nil)
	v.until(strings.TrimPrefix(v.at.Path, mount), "Done: 1 delivery was sent again. 1 delivered, 0 failed again.")
	v.until("/events/"+missed.String(), "Delivered")

	v.open("/webhooks/crm/settings")
	v.submit("/settings", url.Values{"retry": {"1m 5m"}, "timeout": {"5s"}, "events": {"feedback.created"}})
	v.says("Settings saved. The next attempt uses them.")
	if w, _ := v.relay.Webhook("crm"); len(w.Retry) != 2 || w.Timeout != 5*time.Second || len(w.Events) != 1 || !strings.HasSuffix(w.URL, "token=canary") {
		t.Errorf("changed to %+v", w)
	}
	v.post("/settings", url.Values{"retry": {"soon"}}, http.StatusUnprocessableEntity)
	v.says("soon")
	v.submit("/rotate", url.Values{"overlap": {"24h"}})
	v.says("The new secret, shown only once", "Secret changed. The old secret also works for 24 hours.")
	v.submit("/test", nil)
	v.says("It works")

	v.open("/webhooks/crm/settings")
	v.submit("/rotate-signing-key", nil)
	v.says("Key set. All requests have an asymmetric signature from now on.", "Public key", "whpk_")
	w, _ := v.relay.Webhook("crm")
	public := w.PublicKeys[0].Public()
	keyed := v.accept("fb_4", `"keyed"`)
	v.until("/events/"+keyed.String(), "Delivered")
	v.submit("/check", url.Values{"public_key": {public}})
	v.says("The signature is right: this attempt was signed with the private key of this public key.")
	v.submit("/check", url.Values{"public_key": {signature.NewKey().Public()}})
	v.says("The signature does not match this public key.", "the public key is likely another one")
	v.submit("/check", url.Values{"secret": {plain}})
	v.says("The signature is right: this attempt was signed with this secret.")
	for span, back := range map[string]string{"": "24 hours", "?span=7d": "7 days", "?span=30d": "30 days"} {
		v.open("/webhooks/crm/charts" + span)
		v.says(back, "503 Service Unavailable", "worked", "Data begin", "at most")
	}

	v.open("/webhooks/crm/delete")
	v.says("Delete the webhook crm?", "No delivery is waiting for it.")
	v.submit("/delete", nil)
	v.says("Webhook crm deleted.", "There is no webhook yet")
	v.open("/activity")
	v.says("Webhook added", "by you", "Secret changed", "Signing key changed", "Webhook deleted", "Deliveries queued again")

	for _, path := range []string{"/", "/webhooks", "/events", "/activity", "/events/" + id.String()} {
		v.open(path)
		if strings.Contains(v.page, plain) || strings.Contains(v.page, "canary") {
			t.Errorf("%s shows a secret", path)
		}
	}
}

// polyglot closes whatever it may stand in.
const polyglot = `jaVasCript:/*-/*` + "`" + `/*\\` + "`" + `/*'/*\"/**/(/* */oNcliCk=alert() )//%0D%0A//</stYle/</titLe/</teXtarEa/</scRipt/--!>\u003csVg/<sVg/oNloAd=alert()//>\u003e"><img src=x onerror=alert(1) hx-get="/x" hx-trigger=load>{{.}}`

func TestFeedbackIsTextWhateverItHolds(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(200)
	hook := receiver(t, &status)
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: hook.URL}}})
	quoted := `"` + strings.NewReplacer(`"`, `\"`).Replace(strings.ReplaceAll(polyglot, `\"`, `"`)) + `"`
	id := v.accept(`fb_"><script>alert(1)</script>`, quoted)
	for _, path := range []string{
		"/", "/events", "/events/" + id.String(), "/webhooks/crm",
		"/events?q=" + url.QueryEscape(`"><script>alert(1)</script>`), "/webhooks?q=" + url.QueryEscape(`"><script>alert(1)</script>`),
	} {
		v.open(path)
		low := strings.ToLower(v.page)
		if n := strings.Count(low, "<script"); n != 3 {
			t.Errorf("%s has %d scripts, its own are 3", path, n)
		}
		for _, markup := range []string{"<img", "<svg/", "onload=alert()//>", "hx-trigger=load>", "\x00"} {
			if strings.Contains(low, markup) {
				t.Errorf("%s has the markup %q", path, markup)
			}
		}
		if strings.Contains(low, "style=") || regexp.MustCompile(`<[a-z][^>]* on[a-z]+=`).MatchString(low) || strings.Contains(low, "<style") {
			t.Errorf("%s has code or style of its own, which the policy forbids", path)
		}
	}
}

func TestAddressesPutNoWordsIntoTheConsolesMouth(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: "https://crm.example.com/"}}})
	for _, query := range []string{"shown=hello", "shown=", "shown=%3Cb%3E", "upto=hello", "upto=<b>"} {
		if v.open("/webhooks/crm?" + query); strings.Contains(v.page, `class="flash good`) || strings.Contains(v.page, "<b>&lt;") || strings.Contains(v.page, "hello") {
			t.Errorf("%s is believed: %s", query, v.text())
		}
	}
}

func TestWrongFormsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "file", URL: "https://crm.example.com/"}}})
	for want, fields := range map[string]url.Values{
		"give an absolute http or https URL":                       {"url": {"nowhere"}},
		"there is a webhook of this name":                          {"url": {"https://a.example.com/"}, "name": {"file"}},
		"must have 1 to 63 letters":                                {"url": {"https://a.example.com/"}, "name": {"a b"}},
		"choose at least one":                                      {"url": {"https://a.example.com/"}, "events": {}},
		"At character 14: mismatched input the end of the filter.": {"url": {"https://a.example.com/"}, "filter": {"data.rating <"}},
		"At character 1: undeclared reference to 'dat'.":           {"url": {"https://a.example.com/"}, "filter": {"dat.rating < 2"}},
	} {
		v.open("/add")
		fields.Set("go", "secret")
		v.post("add", fields, http.StatusUnprocessableEntity)
		v.says(want)
	}
	v.open("/add")
	v.submit("add", url.Values{"url": {"https://a.example.com:8443/x"}, "go": {"secret"}})
	v.says("a-example-com-8443")
	for path, want := range map[string]int{"/webhooks/none": 404, "/events/evt_x": 404, "/nothing": 404, "/webhooks/file/delete": 200} {
		v.send(http.MethodGet, &url.URL{Path: mount + path}, nil, want)
	}
	v.send(http.MethodPost, &url.URL{Path: mount + "/webhooks/file/delete"}, nil, http.StatusForbidden)
	v.says("configuration file")
	v.open("/webhooks/file/settings")
	v.says("These settings are in the relay’s configuration file, the Caddyfile")
	if strings.Contains(v.page, `/settings">`) && strings.Contains(v.page, "Save") || strings.Contains(v.page, "/rotate") {
		t.Error("a webhook of the Caddyfile can be changed")
	}
	v.submit("/pause", nil)
	v.says("Paused by you")
}

// TestHeadersAreChangedByName: headers can be added, replaced and removed without the
// values of the others.
func TestHeadersAreChangedByName(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{})
	var got atomic.Pointer[http.Header]
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Store(&r.Header) }))
	defer hook.Close()
	if err := v.relay.Add(t.Context(), relay.WebhookConfig{Name: "crm", URL: hook.URL, Header: http.Header{"Authorization": {"Bearer a"}, "X-Team": {"red"}}}, "ada"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fields url.Values
		want   [3]string // Authorization, X-Team, X-New
	}{
		{url.Values{"headers": {"X-New: 1"}}, [3]string{"Bearer a", "red", "1"}},
		{url.Values{"headers": {"authorization: Bearer b"}}, [3]string{"Bearer b", "red", "1"}},
		{url.Values{"remove": {"X-Team", "X-New"}}, [3]string{"Bearer b", "", ""}},
		{url.Values{"remove": {"authorization"}, "headers": {"X-Team: blue"}}, [3]string{"", "blue", ""}},
	} {
		v.open("/webhooks/crm/settings")
		v.submit("/settings", c.fields)
		v.says("Settings saved.")
		if strings.Contains(v.page, "Bearer a") || strings.Contains(v.page, "Bearer b") {
			t.Error("the page shows the value of a header")
		}
		v.submit("/test", nil)
		if h := *got.Load(); [3]string{h.Get("Authorization"), h.Get("X-Team"), h.Get("X-New")} != c.want {
			t.Errorf("after %v the receiver gets %v", c.fields, h)
		}
	}
}

func TestOtherOriginsMayNotUseForms(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: "https://crm.example.com/"}}})
	r := httptest.NewRequest(http.MethodPost, mount+"/webhooks/crm/pause", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	v.site.ServeHTTP(w, r)
	if s, _ := v.relay.Webhook("crm"); w.Code != http.StatusForbidden || s.State != relay.Active {
		t.Errorf("%d, and the webhook is %s", w.Code, s.State)
	}
}

func TestEventsAreFound(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{
		{Name: "on", URL: "http://127.0.0.1:1/", Retry: []time.Duration{time.Hour}}, {Name: "off", URL: "https://b.example.com/", Disabled: true},
	}})
	quoted := v.accept("fb_1", `"He said \"Grüße\" to me"`)
	other := v.accept("fb_2", `"nothing\nof note"`)
	v.until("/events?state=retrying", "fb_1")
	v.until("/events?state=retrying", "nothing of note")
	for query, want := range map[string][2]bool{
		"":                          {true, true},
		`q=said+"grüße"`:            {true, false},
		"q=fb_2":                    {false, true},
		"q=Nothing+of":              {false, true},
		"q=GRÜSSE":                  {true, false},
		"webhook=on&q=GRÜSSE":       {true, false},
		`q="plan":"pro"`:            {true, true},
		"q=nowhere":                 {false, false},
		"type=feedback.updated":     {false, false},
		"webhook=on":                {true, true},
		"webhook=on&state=retrying": {true, true},
		"webhook=on&q=of+note":      {false, true},
		"webhook=off":               {false, false},
		"state=delivered":           {false, false},
	} {
		v.open("/events?" + strings.ReplaceAll(query, `"`, "%22"))
		if got := [2]bool{strings.Contains(v.page, quoted.String()), strings.Contains(v.page, other.String())}; got != want {
			t.Errorf("%s finds %v, want %v: %s", query, got, want, v.text())
		}
	}
	v.open("/events?q=" + other.String())
	v.says("nothing of note", "Sending in")
	if !strings.HasSuffix(v.at.Path, other.String()) {
		t.Errorf("an id leads to %s", v.at)
	}
	for i := range 120 {
		v.accept(fmt.Sprintf("fb_many%d", i), `"many"`)
	}
	seen := make(map[string]bool)
	v.open("/events")
	for range 4 {
		for _, m := range regexp.MustCompile(`id="(evt_\w+)"`).FindAllStringSubmatch(v.page, -1) {
			seen[m[1]] = true
		}
		older := regexp.MustCompile(`id="older" href="([^"]*)"`).FindStringSubmatch(v.page)
		if older == nil {
			break
		}
		to, err := v.at.Parse(html.UnescapeString(older[1]))
		if err != nil {
			t.Fatal(err)
		}
		v.send(http.MethodGet, to, nil, http.StatusOK)
	}
	if len(seen) != 122 {
		t.Errorf("turning pages shows %d events, there are 122", len(seen))
	}
}

// TestFirstViewIsSmall: the page, its style and its scripts, as a browser that
// comes for the first time loads them.
func TestFirstViewIsSmall(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(200)
	hook := receiver(t, &status)
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: hook.URL}, {Name: "chat", URL: hook.URL}}})
	for i := range 20 {
		v.accept(fmt.Sprintf("fb_%d", i), fmt.Sprintf(`"Feedback number %d, with some more words"`, i))
	}
	v.open("/")
	total := compressed(t, v.page)
	for _, link := range regexp.MustCompile(`(?:href|src)="([^"]*assets/[^"]*)"`).FindAllStringSubmatch(v.page, -1) {
		to, err := v.at.Parse(link[1])
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, to.RequestURI(), nil)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		v.site.ServeHTTP(w, r)
		if w.Code != http.StatusOK || w.Header().Get("Content-Encoding") != "gzip" || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", to, w.Code, w.Header())
		}
		total += w.Body.Len()
	}
	const most = 30_000
	if total >= most {
		t.Errorf("the first view has %d bytes, at most %d are promised", total, most)
	}
	t.Logf("the first view has %d bytes", total)
}

func compressed(t *testing.T, page string) int {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, page); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Len()
}

// TestVendoredScripts: what was taken from elsewhere is as it was there.
func TestVendoredScripts(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile(filepath.Join("assets", "VENDORED"))
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for line := range strings.Lines(string(list)) {
		columns := strings.Fields(line)
		if len(columns) == 0 || columns[0] == "#" {
			continue
		}
		if len(columns) != 5 {
			t.Fatalf("%q has not five columns", line)
		}
		content, err := os.ReadFile(filepath.Join("assets", columns[0]))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if got := hex.EncodeToString(sum[:]); got != columns[4] {
			t.Errorf("%s has the sum %s, noted is %s", columns[0], got, columns[4])
		}
		named[columns[0]] = true
	}
	scripts, err := filepath.Glob("assets/*.min.js")
	if err != nil || len(scripts) != len(named) {
		t.Errorf("%d scripts are noted, there are %v (%v)", len(named), scripts, err)
	}
}

// TestSnippetsVerify runs the snippets as they are shown, on a request that the
// relay has made.
func TestSnippetsVerify(t *testing.T) {
	t.Parallel()
	type signed struct{ body, signature string }
	arrived := make(chan signed, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a short one is not verified
		arrived <- signed{string(body), r.Header.Get("X-UserHero-Signature")}
	}))
	defer hook.Close()
	secret := signature.NewSecret()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: hook.URL, Secret: secret}}})
	v.accept("fb_1", `"Grüße, 日本 </script> 👋"`)
	got := <-arrived

	v.open("/add")
	v.submit("add", url.Values{"url": {hook.URL}, "go": {"secret"}})
	for name, run := range map[string]struct {
		file, driver string
		command      []string
	}{
		"Node": {"verify.mjs", `
import { readFileSync } from "node:fs";
const [secret, signature] = process.argv.slice(2);
console.log(verify(readFileSync(0), signature, secret));`, []string{"node", "verify.mjs"}},
		"Python": {"verify.py", `
import sys
print("true" if verify(sys.stdin.buffer.read(), sys.argv[2], sys.argv[1]) else "false")`, []string{"python3", "verify.py"}},
		"PHP": {"verify.php", `
echo verify(file_get_contents('php://stdin'), $argv[2], $argv[1]) ? 'true' : 'false';`, []string{"php", "verify.php"}},
		"Go": {"main.go", "", []string{"./verify"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shown := regexp.MustCompile(`(?s)<summary>` + name + `</summary><pre[^>]*><code>(.*?)</code>`).FindStringSubmatch(v.page)
			if shown == nil {
				t.Fatalf("no snippet for %s", name)
			}
			code := html.UnescapeString(shown[1])
			dir := t.TempDir()
			if name == "Go" {
				code = strings.Replace(code, "package receiver", "package main", 1)
				code = strings.Replace(code, "import (", "import (\n\"fmt\"\n\"io\"\n\"os\"", 1)
				run.driver = "\nfunc main() {\n\tbody, _ := io.ReadAll(os.Stdin)\n\tfmt.Println(Verify(body, os.Args[2], os.Args[1]))\n}\n"
			}
			if err := os.WriteFile(filepath.Join(dir, run.file), []byte(code+"\n"+run.driver+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "Go" {
				build := exec.Command("go", "build", "-o", "verify", "main.go")
				build.Dir = dir
				if out, err := build.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			} else if _, err := exec.LookPath(run.command[0]); err != nil {
				t.Fatalf("%v; as root, `make test` installs it", err)
			}
			verify := func(body, signature, secret string) string {
				cmd := exec.Command(run.command[0], append(run.command[1:], secret, signature)...)
				cmd.Dir, cmd.Stdin = dir, strings.NewReader(body)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return strings.TrimSpace(string(out))
			}
			for _, c := range []struct{ body, signature, secret, want string }{
				{got.body, got.signature, secret, "true"},
				{got.body + " ", got.signature, secret, "false"},
				{got.body, got.signature, secret + "x", "false"},
				{got.body, "", secret, "false"},
				{got.body, "sha256=" + strings.Repeat("0", 64), secret, "false"},
			} {
				if said := verify(c.body, c.signature, c.secret); said != c.want {
					t.Errorf("signature %.20q, secret %.12q: %s, want %s", c.signature, c.secret, said, c.want)
				}
			}
		})
	}
}

// TestManyWebhooksMakeNoLargePage: 200 webhooks that were busy all day.
func TestManyWebhooksMakeNoLargePage(t *testing.T) {
	t.Parallel()
	q := memqueue.New(memqueue.Options{})
	var c relay.Config
	for i := range 200 {
		c.Webhooks = append(c.Webhooks, relay.WebhookConfig{
			Name: fmt.Sprintf("webhook-with-a-name-%03d", i), URL: fmt.Sprintf("https://receiver-%d.example.com/hooks/userhero", i),
		})
		hours, from := strings.Builder{}, time.Now().Unix()/3600
		for h := range int64(24) {
			fmt.Fprintf(&hours, `,{"hour":%d,"delivered":%d,"failed":%d}`, from-h, 100+h*7%60, 3+h)
		}
		if _, err := q.PutWebhook(t.Context(), queue.Webhook{Name: c.Webhooks[i].Name, Data: []byte(`{"source":"caddyfile","state":"failing",` +
			`"reason":"answered 503 Service Unavailable","failing_since":"2026-01-07T15:30:00Z","hours":[` + hours.String()[1:] + `]}`)}); err != nil {
			t.Fatal(err)
		}
	}
	v := newVisitOf(t, q, c)
	for path, rows := range map[string]int{"/webhooks": webhooksPerPage, "/webhooks?page=4": webhooksPerPage, "/": 8} {
		began := time.Now()
		v.open(path)
		t.Logf("%s has %d bytes and took %s", path, len(v.page), time.Since(began))
		if len(v.page) > 100<<10 || strings.Count(v.page, `class="hook"`) != rows || strings.Count(v.page, "M184 36v-") != rows {
			t.Errorf("%s has %d bytes and %d rows, want %d", path, len(v.page), strings.Count(v.page, `class="hook"`), rows)
		}
	}
}

const webhooksPerPage = 25
