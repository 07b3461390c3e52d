package caddymodule

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestSubmissionArrivesSigned(t *testing.T) {
	s, h := newSite(t), newHook(t)
	s.load(webhookTo(h), "userhero /feedback* {\nproject proj_xyz\nwidget w_default\n}")
	a := s.post(`{"message":"Sch\u00f6n & <gut>","rating":5,"metadata":{"b":1,"a":2}}`)
	if a.Status != http.StatusAccepted {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if got := a.Header.Get("Location"); got != "" {
		t.Errorf("Location: %s", got)
	}
	accepted := a.json(t)
	arrived := h.await(t, 1)[0]
	mac := hmac.New(sha256.New, []byte("s3cret"))
	mac.Write(arrived.Body)
	if got, want := arrived.Header.Get("X-UserHero-Signature"), "sha256="+hex.EncodeToString(mac.Sum(nil)); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
	doc := arrived.document(t)
	if doc.Event != "feedback.created" {
		t.Errorf("event %s", doc.Event)
	}
	for name, want := range map[string]any{
		"id": accepted["id"], "status": "new", "createdAt": accepted["createdAt"],
		"projectId": "proj_xyz", "widgetId": "w_default", "message": "Schön & <gut>", "rating": 5.0,
	} {
		if doc.Data[name] != want {
			t.Errorf("%s is %v, want %v", name, doc.Data[name], want)
		}
	}
	if len(accepted) != 3 || !strings.HasPrefix(accepted["id"].(string), "fb_") {
		t.Errorf("answer %s", a.Body)
	}
}

func TestSecretsStayInside(t *testing.T) {
	const canary = "canary-7f3a"
	t.Setenv("RELAY_TEST_SECRET", canary)
	s, h := newSite(t), newHook(t)
	s.load(fmt.Sprintf("webhook crm {\nurl %s/?token={env.RELAY_TEST_SECRET}\nsecret {env.RELAY_TEST_SECRET}\nheader Authorization \"Bearer {env.RELAY_TEST_SECRET}\"\n}", h.URL), directive)
	s.post(`{"message":"hi"}`)
	arrived := h.await(t, 1)[0]
	if arrived.Header.Get("Authorization") != "Bearer "+canary {
		t.Errorf("the header was sent as %q", arrived.Header.Get("Authorization"))
	}
	texts := map[string]string{"log": s.log()}
	for _, path := range []string{"/status", "/webhooks", "/webhooks/crm", "/deliveries", "/events"} {
		texts[path] = s.api(path).Body
	}
	config, err := request(http.MethodGet, "http://"+s.admin+"/config/", "")
	if err != nil {
		t.Fatal(err)
	}
	texts["/config/"] = config.Body
	for where, text := range texts {
		if strings.Contains(text, canary) {
			t.Errorf("%s holds the secret:\n%s", where, grep(text, canary))
		}
	}
}

func TestReceiverShowsWhatArrived(t *testing.T) {
	s := newSite(t)
	s.load(fmt.Sprintf("webhook demo {\nurl http://%s/hook\nsecret s3cret\n}", s.address),
		directive+"\nuserhero_receiver /hook {\nsecret s3cret\n}\nuserhero_receiver /other {\nsecret wrong\n}")
	s.post(`{"message":"<script>alert(1)</script>"}`)
	var shown answer
	eventually(t, func() bool {
		shown = s.do(http.MethodGet, "/hook", "", "Accept", "application/json")
		return strings.Contains(shown.Body, "feedback.created")
	})
	if !strings.Contains(shown.Body, `"verified":true`) {
		t.Errorf("not verified: %s", shown.Body)
	}
	page := s.do(http.MethodGet, "/hook", "", "Accept", "text/html")
	if !strings.Contains(page.Body, ">verified<") || strings.Contains(page.Body, "<script>alert") {
		t.Errorf("page: %s", page.Body)
	}
	if a := s.do(http.MethodPost, "/other", "{}", "X-UserHero-Signature", "sha256="+strings.Repeat("00", 32)); a.Status != http.StatusUnauthorized {
		t.Errorf("a wrong signature is answered %d", a.Status)
	}
	if a := s.do(http.MethodGet, "/other", "", "Accept", "application/json"); !strings.Contains(a.Body, `"verified":false`) {
		t.Errorf("shown as %s", a.Body)
	}
}

// TestClientBehindProxiesIsOne: a proxy may write the client's address with or
// without a port. Limits and the country depend only on the address.
func TestClientBehindProxiesIsOne(t *testing.T) {
	s := newSite(t)
	config := s.serverConfig("trusted_proxies static 127.0.0.1", "", "userhero /feedback* {\nrate_limit 1/h burst 4\n}\n")
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	for i, forwarded := range []string{"203.0.113.9", "203.0.113.9:1234", "203.0.113.9:4321", " 203.0.113.9 "} {
		if a := s.post(fmt.Sprintf(`{"message":"%d"}`, i), "X-Forwarded-For", forwarded); a.Status != http.StatusAccepted {
			t.Errorf("%q: %d %s", forwarded, a.Status, a.Body)
		}
	}
	if a := s.post(`{"message":"5"}`, "X-Forwarded-For", "203.0.113.9:9999"); a.Status != http.StatusTooManyRequests {
		t.Errorf("the fifth from one address: %d", a.Status)
	}
	for i, forwarded := range []string{"2001:db8::1", "[2001:db8::2]:1234", "2001:db8::3", "2001:db8:0:0:ffff::4"} {
		if a := s.post(fmt.Sprintf(`{"message":"v6 %d"}`, i), "X-Forwarded-For", forwarded); a.Status != http.StatusAccepted {
			t.Errorf("%q: %d %s", forwarded, a.Status, a.Body)
		}
	}
	if a := s.post(`{"message":"v6"}`, "X-Forwarded-For", "[2001:db8::5]:9"); a.Status != http.StatusTooManyRequests {
		t.Errorf("the fifth from one network: %d", a.Status)
	}
}

// TestHoneypotCatchesRobotsUnnoticed: a robot gets the usual answer. The submission is
// shown in the console, because a browser may have filled in the field for a person.
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
	if err := caddy.Stop(); err != nil { // the submissions must survive a restart
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
