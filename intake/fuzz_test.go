package intake

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// documentedStatuses are those the README gives to submissions; none is 5xx while
// the store takes events.
var documentedStatuses = []int{202, 204, 303, 400, 403, 404, 405, 413, 415, 422}

// FuzzIntake feeds the handler any method, header and body: it always answers,
// and has stored exactly one event where the answer says so, else none.
func FuzzIntake(f *testing.F) {
	for _, seed := range []struct{ method, path, contentType, key, body string }{
		{"POST", "/feedback", "application/json", "", `{"message":"hi"}`},
		{"POST", "/feedback", "text/plain", "k", `{"message":"hi","id":"fb_1","rating":3}`},
		{"POST", "/feedback", "application/x-www-form-urlencoded", "", "message=hi&metadata.a.b=1&rating=2"},
		{"POST", "/feedback", "multipart/form-data; boundary=x", "", "--x\r\nContent-Disposition: form-data; name=message\r\n\r\nhi\r\n--x--\r\n"},
		{"PATCH", "/feedback/fb_1", "application/json", "", `{"status":"done","metadata":{"a":null}}`},
		{"PUT", "/feedback/", "application/json", "", `{"status":"done"}`},
		{"OPTIONS", "/feedback", "", "", ""},
		{"GET", "/", "", "", ""},
		{"POST", "/feedback", "multipart/form-data; boundary=\"\"", "", "--\r\n\r\n--"},
		{"POST", "/feedback", "multipart/form-data; boundary=x", "", "--x\r\n" + strings.Repeat("X: y\r\n", 5000) + "\r\n--x--"},
		{"POST", "/feedback", "multipart/form-data; boundary=x", "", strings.Repeat("--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n", 1200)},
		{"POST", "/feedback", "application/x-www-form-urlencoded", "", strings.Repeat("metadata.a.", 3000) + "b=1&message=m"},
		{"POST", "/feedback", "application/json", "", `{"message":"m","metadata":` + strings.Repeat("[", 30000)},
		{"POST", "/feedback", "application/json", "a\r\nSet-Cookie: x", `{"message":"\u001b[2J\r\nX: y"}`},
		{"POST", "/feedback", "text/html; charset=utf-7", strings.Repeat("k", 300), "+ADw-script+AD4-"},
	} {
		f.Add(seed.method, seed.path, seed.contentType, seed.key, seed.body)
	}
	store := newStore()
	handler, err := New(Config{Relay: store, Observer: newCounts(), Log: NewLog(slog.New(slog.DiscardHandler)), Token: fixed("t")})
	if err != nil {
		f.Fatal(err)
	}
	stored := func() int64 { return store.Stats(context.Background()).Events }
	f.Fuzz(func(t *testing.T, method, path, contentType, key, body string) {
		r, err := http.NewRequest(method, "http://site.test/", strings.NewReader(body))
		if err != nil {
			t.Skip() // no server lets such a method through
		}
		r.URL.Path = path
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Authorization", "Bearer t")
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		w := httptest.NewRecorder()
		before := stored()
		handler.ServeHTTP(w, r)
		added := stored() - before
		switch {
		case added < 0 || added > 1:
			t.Errorf("%d events were stored", added)
		case added == 1 && w.Code != http.StatusAccepted && w.Code != http.StatusSeeOther:
			t.Errorf("an event was stored, but the answer is %d", w.Code)
		case w.Code == http.StatusAccepted && added == 0 && w.Header().Get("Idempotency-Replayed") == "" && method == http.MethodPost:
			t.Error("accepted, but nothing was stored")
		case !slices.Contains(documentedStatuses, w.Code):
			t.Errorf("answered %d: %s", w.Code, w.Body)
		}
		for name, values := range w.Header() {
			if strings.ContainsAny(strings.Join(values, ""), "\r\n\x00") {
				t.Errorf("the answer's %s was forged: %q", name, values)
			}
		}
	})
}
