package console_test

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/relay"
)

// TestNoFormIsSentAgainByAReload: every form is answered with the way to another
// page, and looking at that page again changes nothing.
func TestNoFormIsSentAgainByAReload(t *testing.T) {
	t.Parallel()
	var status, tests atomic.Int64
	status.Store(500)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-UserHero-Test") == "true" {
			tests.Add(1)
		}
		w.WriteHeader(int(status.Load()))
	}))
	defer hook.Close()
	v := newVisit(t, relay.Config{})
	if err := v.relay.Add(t.Context(), relay.WebhookConfig{Name: "crm", URL: hook.URL, Secret: "first"}, "ada"); err != nil {
		t.Fatal(err)
	}
	id := v.accept("fb_1", `"hello"`)
	v.until("/webhooks/crm", "1 of 6 attempts failed")
	delivery := regexp.MustCompile(`dlv_\w+`).FindString(v.page)
	posts := []struct {
		path string
		form url.Values
	}{
		{"/webhooks/crm/test", nil},
		{"/webhooks/crm/rotate", url.Values{"overlap": {"24h"}}},
		{"/webhooks/crm/rotate", url.Values{"overlap": {"soon"}}},
		{"/webhooks/crm/settings", url.Values{"timeout": {"7s"}}},
		{"/webhooks/crm/settings", url.Values{"timeout": {"soon"}}},
		{"/webhooks/crm/pause", nil},
		{"/webhooks/crm/enable", nil},
		{"/webhooks/crm/recover", url.Values{"span": {"failed"}}},
		{"/webhooks/crm/recover", url.Values{"span": {"soon"}}},
		{"/deliveries/" + delivery + "/redeliver", nil},
		{"/deliveries/dlv_none/redeliver", nil},
		{"/events/" + id.String() + "/check", url.Values{"delivery": {delivery}, "attempt": {"1"}, "secret": {"first"}}},
		{"/events/" + id.String() + "/check", url.Values{"delivery": {delivery}, "attempt": {"99"}}},
		{"/add", url.Values{"url": {hook.URL}, "name": {"other"}, "events": {"feedback.created"}, "go": {"secret"}}},
		{"/add", url.Values{"url": {hook.URL}, "name": {"other"}, "events": {"feedback.created"}, "go": {"test"}}},
		{"/add", url.Values{"url": {"nowhere"}, "go": {"secret"}}},
		{"/add", url.Values{"url": {hook.URL}, "name": {"other"}, "events": {"feedback.created"}, "go": {"save"}}},
		{"/webhooks/other/delete", nil},
		{"/webhooks/none/delete", nil},
	}
	for _, c := range posts {
		r := httptest.NewRequest(http.MethodPost, mount+c.path, strings.NewReader(c.form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		v.site.ServeHTTP(w, api.WithUser(r, "ada"))
		location := w.Header().Get("Location")
		if w.Code != http.StatusSeeOther || location == "" {
			t.Errorf("POST %s %v is answered %d", c.path, c.form, w.Code)
			continue
		}
		to, err := (&url.URL{Path: mount + c.path}).Parse(location)
		if err != nil {
			t.Fatal(err)
		}
		before, sent := v.relay.Webhooks(), tests.Load()
		for range 2 {
			g := httptest.NewRecorder()
			v.site.ServeHTTP(g, api.WithUser(httptest.NewRequest(http.MethodGet, to.RequestURI(), nil), "ada"))
			if g.Code == http.StatusSeeOther || !strings.Contains(g.Body.String(), "</main>") {
				t.Errorf("POST %s %v leads to %s, which answers %d", c.path, c.form, to, g.Code)
			}
		}
		after := v.relay.Webhooks()
		if len(after) != len(before) || tests.Load() != sent || after[0].PreviousUntil != before[0].PreviousUntil {
			t.Errorf("looking at what POST %s did changed something", c.path)
		}
	}
	if n := tests.Load(); n != 2 {
		t.Errorf("%d test sends, want those of the page and the wizard", n)
	}
}

// TestSecretIsShownOnce, to whoever made it.
func TestSecretIsShownOnce(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{})
	if err := v.relay.Add(t.Context(), relay.WebhookConfig{Name: "crm", URL: "https://crm.example.com/"}, "ada"); err != nil {
		t.Fatal(err)
	}
	look := func(user string) string {
		w := httptest.NewRecorder()
		v.site.ServeHTTP(w, api.WithUser(httptest.NewRequest(http.MethodGet, v.at.RequestURI(), nil), user))
		return w.Body.String()
	}
	v.open("/webhooks/crm/settings")
	v.submit("/rotate", nil)
	secret := regexp.MustCompile(`whsec_[^<"]+`).FindString(v.page)
	if secret == "" {
		t.Fatalf("no secret is shown: %s", v.text())
	}
	if strings.Contains(v.at.String(), "whsec_") {
		t.Errorf("the secret is in the address %s", v.at)
	}
	if again := look("ada"); strings.Contains(again, secret) || !strings.Contains(again, "was shown here once") {
		t.Error("a reload shows the secret again, or does not say why not")
	}

	v.open("/webhooks/crm/settings")
	form := regexp.MustCompile(`(?s)action="([^"]*/rotate)">.*?name="once" value="([^"]+)"`).FindStringSubmatch(v.page)
	to, err := v.at.Parse(html.UnescapeString(form[1]))
	if err != nil {
		t.Fatal(err)
	}
	locations := make([]string, 8)
	var clicks sync.WaitGroup
	for i := range locations {
		clicks.Go(func() {
			r := httptest.NewRequest(http.MethodPost, to.RequestURI(), strings.NewReader(url.Values{"once": {form[2]}, "overlap": {"1h"}}.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			v.site.ServeHTTP(w, api.WithUser(r, "ada"))
			locations[i] = w.Header().Get("Location")
		})
	}
	clicks.Wait()
	for _, l := range locations {
		if l == "" || l != locations[0] {
			t.Fatalf("a form that was sent 8 times leads to %q", locations)
		}
	}
	if v.at, err = to.Parse(locations[0]); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(look("eve"), "whsec_") {
		t.Error("somebody else is shown the secret")
	}
	if page := look("ada"); !strings.Contains(page, "whsec_") {
		t.Error("whoever rotated is not shown the secret")
	}
	found, err := v.relay.Activities(t.Context(), 10, "")
	if err != nil {
		t.Fatal(err)
	}
	rotated := 0
	for _, a := range found.Items {
		if a.What == "secret rotated" {
			rotated++
		}
	}
	if rotated != 2 {
		t.Errorf("%d rotations, want the two that were asked for", rotated)
	}
}

// TestStepsOfAddingCanBeWalkedBack, until the webhook is saved: its steps hold the
// secret.
func TestStepsOfAddingCanBeWalkedBack(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{})
	v.open("/add")
	v.submit("add", url.Values{"url": {"http://127.0.0.1:1/"}, "name": {"crm"}, "go": {"secret"}})
	secret, step := regexp.MustCompile(`whsec_[^"]+`).FindString(v.page), *v.at
	v.submit("add", url.Values{"go": {"test"}})
	v.says("It does not work yet", "Nothing was sent")
	v.send(http.MethodGet, &step, nil, http.StatusOK)
	if !strings.Contains(v.page, secret) {
		t.Errorf("the way back shows another secret: %s", v.text())
	}
	v.submit("add", url.Values{"go": {"save"}})
	v.says("Webhook crm added.")
	v.send(http.MethodGet, &step, nil, http.StatusOK)
	v.says("This step has expired. Start again.")
	if strings.Contains(v.page, secret) {
		t.Error("a step shows the secret of a webhook that is in use")
	}
}

// TestErrorsStandAtTheirFields, where the browser goes by itself.
func TestErrorsStandAtTheirFields(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{})
	if err := v.relay.Add(t.Context(), relay.WebhookConfig{Name: "crm", URL: "https://crm.example.com/?token=canary"}, "ada"); err != nil {
		t.Fatal(err)
	}
	for field, value := range map[string]string{
		"url": "nowhere", "filter": "data.rating <", "retry": "soon", "timeout": "1y", "concurrency": "many", "rate": "fast", "headers": "no colon",
	} {
		v.open("/webhooks/crm/settings")
		v.post("/settings", url.Values{field: {value}}, http.StatusUnprocessableEntity)
		v.says("Nothing was saved. 1 field is wrong; see the messages there.")
		at := regexp.MustCompile(`name="` + field + `"[^>]* aria-invalid="true" aria-describedby="wrong-` + field + `" autofocus>`)
		if !at.MatchString(v.page) || strings.Count(v.page, "autofocus") != 1 || !strings.Contains(v.page, `id="wrong-`+field+`"`) {
			t.Errorf("%s: nothing is said at the field: %s", field, v.text())
		}
		if !strings.Contains(v.page, html.EscapeString(value)) {
			t.Errorf("%s: what was written is gone", field)
		}
	}
	v.open("/webhooks/crm/settings")
	v.post("/settings", url.Values{"url": {"nowhere"}, "filter": {"1"}, "events": {}}, http.StatusUnprocessableEntity)
	v.says("fields are wrong")
	if w, _ := v.relay.Webhook("crm"); !strings.HasSuffix(w.URL, "token=canary") {
		t.Errorf("a form that was refused changed the URL to %s", w.URL)
	}
}

// TestRowsDoNotGrowWithTheWebhooks: with 200 webhooks an event's row names what is
// in trouble and counts the rest.
func TestRowsDoNotGrowWithTheWebhooks(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(200)
	hook := receiver(t, &status)
	c := relay.Config{}
	for i := range 200 {
		w := relay.WebhookConfig{Name: fmt.Sprint("w", i), URL: hook.URL, Disabled: i > 150}
		if i == 0 {
			w.Name, w.URL, w.Retry = "broken", "http://127.0.0.1:1/", nil
		}
		c.Webhooks = append(c.Webhooks, w)
	}
	v := newVisit(t, c)
	id := v.accept("fb_1", `"hello"`)
	v.until("/events", "150 webhooks Delivered")
	v.until("/events", "broken Sending in")
	for _, path := range []string{"/events", "/"} {
		v.open(path)
		row := regexp.MustCompile(`(?s)<li class="event".*?</ul>\s*</li>`).FindString(v.page)
		if n := strings.Count(row, "<li>"); n != 2 || len(row) > 2000 {
			t.Errorf("%s: the event's row has %d lines and %d bytes", path, n, len(row))
		}
	}
	v.open("/events/" + id.String())
	if tabs := regexp.MustCompile(`(?s)<ul class="tabs">.*?</ul>`).FindString(v.page); strings.Count(tabs, "<li>") != 12 || !strings.Contains(tabs, ">broken<") {
		t.Errorf("the event's page opens with %d deliveries", strings.Count(tabs, "<li>"))
	}
	v.says("139 more deliveries")
}

// TestListsStandStillAndCountWhatIsNew: the address at which a page is fetched
// again shows the rows that are read, and says how many there are above them.
func TestListsStandStillAndCountWhatIsNew(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{Webhooks: []relay.WebhookConfig{{Name: "crm", URL: "http://127.0.0.1:1/"}}})
	v.accept("fb_old", `"old"`)
	n := 0
	for _, path := range []string{"/", "/events", "/events?q=o", "/events?webhook=crm", "/webhooks/crm"} {
		v.open(path)
		if strings.Contains(v.text(), " new ") {
			t.Errorf("%s announces something at once", path)
		}
		again := regexp.MustCompile(`data-again="([^"]*)"`).FindStringSubmatch(v.page)
		to, err := v.at.Parse(html.UnescapeString(again[1]))
		if err != nil {
			t.Fatal(err)
		}
		rows := regexp.MustCompile(`<li class="event[^"]*" id="([^"]*)"`)
		before := rows.FindAllString(v.page, -1)
		for range 3 {
			n++
			v.accept(fmt.Sprint("fb_", n), `"one more"`)
		}
		v.send(http.MethodGet, to, nil, http.StatusOK)
		if after := rows.FindAllString(v.page, -1); len(after) != len(before) || after[0] != before[0] {
			t.Errorf("%s: the rows %v became %v", path, before, after)
		}
		v.says("3 new")
	}
}
