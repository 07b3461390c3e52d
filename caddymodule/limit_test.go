package caddymodule

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestLimiterLetsABurstAndThenTheRateThrough(t *testing.T) {
	t.Parallel()
	l, err := newLimiter(&Limit{Rate: "10/s", Burst: 50})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	for i := range 50 {
		if wait := l.take("a", now); wait != 0 {
			t.Fatalf("number %d of the burst waits %v", i+1, wait)
		}
	}
	if wait := l.take("a", now); wait != 100*time.Millisecond {
		t.Errorf("the 51st waits %v, want 100ms", wait)
	}
	if wait := l.take("b", now); wait != 0 {
		t.Errorf("another key waits %v", wait)
	}
	taken := 0
	for range 1000 { // ten seconds of asking
		if now = now.Add(10 * time.Millisecond); l.take("a", now) == 0 {
			taken++
		}
	}
	if taken != 100 {
		t.Errorf("%d in ten seconds, want 100", taken)
	}
	if l.take("a", now.Add(time.Hour)) != 0 {
		t.Error("an hour later the bucket is not full")
	}
}

func TestLimiterRemembersABoundedNumberOfKeys(t *testing.T) {
	t.Parallel()
	l, err := newLimiter(&Limit{Rate: "1/h"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 5 * maxLimited {
		l.take(strconv.Itoa(i), now)
	}
	if n := len(l.now) + len(l.before); n > 2*maxLimited {
		t.Errorf("%d keys are remembered, want at most %d", n, 2*maxLimited)
	}
	if l.take(strconv.Itoa(5*maxLimited-1), now) == 0 {
		t.Error("the newest key was forgotten")
	}
}

func TestTooMuchIsRefusedWithATimeToComeBack(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), "userhero /feedback* {\nrate_limit 2/m burst 2\n}\n")
	for i := range 3 {
		a := s.post(fmt.Sprintf(`{"message":"%d"}`, i))
		if want := map[bool]int{true: 202, false: 429}[i < 2]; a.Status != want {
			t.Fatalf("submission %d: %d %s", i+1, a.Status, a.Body)
		}
		if i == 2 {
			if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 1 || after > 30 {
				t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
			}
		}
	}
	h.await(t, 2)
}

func TestProjectsAreLimitedEach(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), "userhero /feedback* {\nrate_limit project 1/h\n}\n")
	for i, c := range []struct {
		body   string
		status int
	}{
		{`{"message":"a","projectId":"p"}`, 202}, {`{"message":"b","projectId":"p"}`, 429}, {`{"message":"c","projectId":"q"}`, 202}, {`{"message":"d"}`, 202},
	} {
		if a := s.post(c.body); a.Status != c.status {
			t.Errorf("submission %d: %d, want %d: %s", i+1, a.Status, c.status, a.Body)
		}
	}
	h.await(t, 3)
}

// TestHoneypotCatchesRobotsUnnoticed, and what it caught can be found: a browser
// may have filled the field in for a person.
func TestHoneypotCatchesRobotsUnnoticed(t *testing.T) {
	s, h := newSite(t), newHook(t)
	block := "userhero /feedback* {\nproject p\nhoneypot hp_topic\n}\nhandle_path /relay* {\nuserhero_console {\nno_auth\n}\n}\n"
	s.load(webhookTo(h), block)
	robot := s.post(`{"message":"buy <b>now</b>","hp_topic":"https://spam.example"}`)
	person := s.post(`{"message":"hello","hp_topic":""}`)
	if robot.Status != http.StatusAccepted || person.Status != http.StatusAccepted || len(robot.json(t)) != len(person.json(t)) {
		t.Errorf("the robot sees %d %s, the person %d %s", robot.Status, robot.Body, person.Status, person.Body)
	}
	form := s.do(http.MethodPost, "/feedback", "message=a+form&hp_topic=x", "Content-Type", "application/x-www-form-urlencoded")
	if form.Status != http.StatusAccepted {
		t.Errorf("a form: %d %s", form.Status, form.Body)
	}
	arrived := h.await(t, 1)
	if doc := arrived[0].document(t); doc.Data["message"] != "hello" || doc.Data["hp_topic"] != nil {
		t.Errorf("what arrived is %s", arrived[0].Body)
	}
	if n := len(s.api("/events").json(t)["items"].([]any)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if err := caddy.Stop(); err != nil { // what is kept is on disk
		t.Fatal(err)
	}
	s.load(webhookTo(h), block)
	page := s.do(http.MethodGet, "/relay/events/caught", "")
	for _, want := range []string{"buy &lt;b&gt;now", "a form", robot.json(t)["id"].(string), "&#34;projectId&#34;:&#34;p&#34;"} {
		if page.Status != http.StatusOK || !strings.Contains(page.Body, want) {
			t.Errorf("the page of what was caught has no %q: %d %s", want, page.Status, page.Body)
		}
	}
	if strings.Contains(page.Body, "hello") {
		t.Error("the page of what was caught shows what was delivered")
	}
	if list := s.do(http.MethodGet, "/relay/events", ""); !strings.Contains(list.Body, `href="./events/caught"`) {
		t.Error("the list of events does not lead to what was caught")
	}
}

func TestCountryComesFromTheDatabase(t *testing.T) {
	s, h := newSite(t), newHook(t)
	path := filepath.Join(s.dir, "country.mmdb")
	writeOver(t, path, countryDatabase(t, "CH"))
	s.load(webhookTo(h), "userhero /feedback* {\ncountry_header X-Country\ngeoip "+path+"\n}\n")
	s.post(`{"message":"1"}`)
	s.post(`{"message":"2"}`, "X-Country", "US")
	s.post(`{"message":"3","context":{"country":"FR"}}`, "X-Country", "US")
	want := map[string]string{"1": "CH", "2": "US", "3": "FR"}
	for _, a := range h.await(t, 3) {
		doc := a.document(t)
		country := doc.Data["context"].(map[string]any)["country"]
		if m := doc.Data["message"].(string); country != want[m] {
			t.Errorf("submission %s: country %v, want %s", m, country, want[m])
		}
	}
}
