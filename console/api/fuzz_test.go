package api_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
)

// FuzzAPI: whatever method, path, query, type and body come, the API answers with
// a status it documents and with JSON, never with 500 and never by panicking.
func FuzzAPI(f *testing.F) {
	for _, s := range []struct{ method, path, query, contentType, body string }{
		{"GET", "/webhooks", "limit=1", "", ""},
		{"POST", "/webhooks", "", "application/json", `{"name":"a","url":"https://r.example/","retry":["1h"],"rate":"5/s","filter":"data.rating<2","tls":{"root_ca":"x"}}`},
		{"POST", "/webhooks", "", "application/json", `{"name":"\u001b[2J","url":"http://2130706433/","headers":{"A\r\nB":"c"}}`},
		{"PATCH", "/webhooks/a", "", "application/json", `{"timeout":"-1s","concurrency":99999}`},
		{"POST", "/webhooks/a/rotate", "", "", `{"overlap":"9999999d"}`},
		{"POST", "/webhooks/a/rotate-signing-key", "", "", `{"signing_key":"whsk_","overlap":"1h"}`},
		{"POST", "/webhooks/file/redeliver", "", "", `{"state":"missed","since":"0000-01-01T00:00:00Z"}`},
		{"POST", "/webhooks/..%2f/enable", "", "", ""},
		{"DELETE", "/webhooks/%00%1b", "", "", ""},
		{"GET", "/events", "cursor=AAAA&since=x&q=%ff&limit=-1", "", ""},
		{"GET", "/events", "cursor=evt_00000000000000000000000000", "", ""},
		{"GET", "/events/evt_zzzzzzzzzzzzzzzzzzzzzzzzzz", "", "", ""},
		{"GET", "/deliveries", "webhook=a&state=failed&cursor=9223372036854775808.1", "", ""},
		{"POST", "/deliveries/dlv_00000000000000000000000000_4294967296/redeliver", "", "", ""},
		{"GET", "/activity", "cursor=x&limit=99999999999999999999", "", ""},
		{"GET", "//webhooks//", "", "", ""},
	} {
		f.Add(s.method, s.path, s.query, s.contentType, s.body)
	}
	r := relay.New(relay.Options{Queue: memqueue.New(memqueue.Options{})})
	if err := r.Start(f.Context()); err != nil {
		f.Fatal(err)
	}
	if _, err := r.Attach(relay.Config{Webhooks: []relay.WebhookConfig{{Name: "file", URL: "https://r.example/", Disabled: true}}}); err != nil {
		f.Fatal(err)
	}
	api := api.New(api.Options{Relay: r})
	documented := []int{200, 201, 204, 301, 307, 400, 403, 404, 405, 409, 413, 415, 422, 503}
	f.Fuzz(func(t *testing.T, method, path, query, contentType, body string) {
		// What sends something or never ends is not for here.
		if strings.HasSuffix(path, "/test") || strings.Contains(path, "stream") {
			t.Skip()
		}
		u, err := url.ParseRequestURI(path + "?" + query)
		if err != nil {
			t.Skip() // no server lets it through, nor such a method
		}
		q, err := http.NewRequestWithContext(t.Context(), method, "http://relay.test/", strings.NewReader(body))
		if err != nil {
			t.Skip()
		}
		q.URL.Path, q.URL.RawPath, q.URL.RawQuery = u.Path, u.RawPath, u.RawQuery
		q.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, q)
		if !slices.Contains(documented, w.Code) {
			t.Errorf("answered %d: %s", w.Code, w.Body)
		}
		if w.Code >= 400 && w.Code != 405 && method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d is no JSON: %s", w.Code, w.Body)
		}
		if bytes.ContainsAny(w.Body.Bytes(), "\x00\x1b\r") {
			t.Errorf("the answer has control characters: %q", w.Body)
		}
		for name, values := range w.Header() {
			if strings.ContainsAny(strings.Join(values, ""), "\r\n") {
				t.Errorf("header %s has a line break: %q", name, values)
			}
		}
	})
}
