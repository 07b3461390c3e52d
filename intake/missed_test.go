package intake

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// TestAcceptedWithoutEventIsCountedAndLogged: each 2xx to a submission makes one
// event or one line and one count.
func TestAcceptedWithoutEventIsCountedAndLogged(t *testing.T) {
	s := newSidecar(t, Config{Project: fixed("p"), MaxBody: 1 << 10, Honeypot: "trap"})
	s.will(200, `{"id":"held"}`, jsonBody...)
	s.do(http.MethodPost, "/api/feedback", `{"message":"m","status":"new"}`, append([]string{"Idempotency-Key", "k"}, jsonBody...)...)
	s.will(200, `{"success":true}`, jsonBody...)
	for _, c := range []struct{ name, method, path, body, contentType, reason string }{
		{"xml", "POST", "/", `<message>m</message>`, "application/xml", "media_type"},
		{"another charset", "POST", "/", `{"message":"m"}`, "application/json; charset=utf-16", "media_type"},
		{"a form as a change", "PUT", "/held", `status=done`, "application/x-www-form-urlencoded", "media_type"},
		{"no JSON", "POST", "/", `{"message":`, "application/json", "malformed"},
		{"nothing", "POST", "/", ``, "application/json", "malformed"},
		{"no message", "POST", "/", `{"text":"m"}`, "application/json", "invalid"},
		{"a wrong type", "POST", "/", `{"message":"m","rating":"good"}`, "application/json", "invalid"},
		{"a number that cannot be kept", "POST", "/", `{"message":"m","metadata":{"n":9007199254740993}}`, "application/json", "invalid"},
		{"a wrong change", "PATCH", "/held", `{"rating":9}`, "application/json", "invalid"},
		{"another project", "POST", "/", `{"message":"m","projectId":"q"}`, "application/json", "invalid"},
		{"another project's change", "PATCH", "/held", `{"status":"s","projectId":"q"}`, "application/json", "invalid"},
		{"too large", "POST", "/", `{"message":"` + strings.Repeat("a", 1024) + `"}`, "application/json", "too_large"},
		{"not held", "PATCH", "/api/feedback/nobody", `{"status":"done"}`, "application/json", "unknown_feedback"},
		{"no id", "PATCH", "/", `{"status":"done"}`, "application/json", "unknown_feedback"},
		{"nothing new", "PATCH", "/held", `{"status":"new"}`, "application/json", "unchanged"},
		{"a robot", "POST", "/", `{"message":"m","trap":"x"}`, "application/json", "honeypot"},
		{"a repeat", "POST", "/", `{"message":"m","status":"new"}`, "application/json", "repeat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{"Content-Type", c.contentType}
			if c.reason == "repeat" {
				header = append(header, "Idempotency-Key", "k")
			}
			before, lines := s.missed(), missedLines(s.log())
			a := s.do(c.method, c.path, c.body, header...)
			if a.Status != 200 || a.Body != `{"success":true}` || string(s.got) != c.body {
				t.Errorf("the client got %d %s, the app %q", a.Status, a.Body, s.got)
			}
			if got := missedLines(s.log()); len(got) != len(lines)+1 || !strings.Contains(got[len(got)-1], `"reason":"`+c.reason+`"`) {
				t.Errorf("logged: %q", got[len(lines):])
			}
			if after := s.missed(); after == before || !strings.Contains(after, c.reason) {
				t.Errorf("missed: %s, before %s", after, before)
			}
		})
	}
	const want = "honeypot 1, invalid 6, malformed 2, media_type 3, repeat 1, too_large 1, unchanged 1, unknown_feedback 2"
	if m := s.missed(); m != want {
		t.Errorf("missed: %s, want %s", m, want)
	}
	if events := s.events(); len(events) != 1 {
		t.Errorf("events: %q", events)
	}
	// The application refuses: nobody has missed anything.
	for _, status := range []int{http.StatusFound, http.StatusSeeOther, http.StatusUnprocessableEntity, http.StatusInternalServerError} {
		s.will(status, "no", "Location", "/thanks")
		if a := s.do(http.MethodPost, "/", `{"message":"m"}`, jsonBody...); a.Status != status || a.Body != "no" || a.Header.Get("Location") != "/thanks" {
			t.Errorf("the client got %d %s", a.Status, a.Body)
		}
		s.do(http.MethodPost, "/", `<message>m</message>`, "Content-Type", "application/xml")
	}
	if m := s.missed(); m != want || len(s.events()) != 1 {
		t.Errorf("missed: %s, events: %q", m, s.events())
	}
}

func missedLines(log string) []string {
	return slices.DeleteFunc(strings.Split(log, "\n"), func(line string) bool { return !strings.Contains(line, "no event was made") })
}

// TestSameKeyForWhatTheAppTakesForNew: an application that does not know
// Idempotency-Key has two feedbacks, so the relay has them too.
func TestSameKeyForWhatTheAppTakesForNew(t *testing.T) {
	s := newSidecar(t, Config{})
	header := append([]string{"Idempotency-Key", "k"}, jsonBody...)
	for _, c := range []struct{ body, id string }{{`{"message":"m"}`, "a"}, {`{"message":"m"}`, "b"}, {`{"message":"other"}`, "c"}} {
		s.will(201, `{"id":"`+c.id+`"}`, jsonBody...)
		s.do(http.MethodPost, "/", c.body, header...)
		if !strings.Contains(s.last(), `"id":"`+c.id+`"`) {
			t.Errorf("%s: %s", c.id, s.last())
		}
	}
	if m := s.missed(); m != "" {
		t.Errorf("missed: %s", m)
	}
}

func TestFeedbackOfSeveralProjectsIsAmbiguous(t *testing.T) {
	s := newSidecar(t, Config{})
	for _, project := range []string{"p", "q"} {
		s.will(201, `{"id":1}`, jsonBody...)
		s.do(http.MethodPost, "/", `{"message":"m","projectId":"`+project+`"}`, jsonBody...)
	}
	s.will(204, "")
	s.do(http.MethodPatch, "/1", `{"status":"done"}`, jsonBody...)
	if m := s.missed(); m != "ambiguous 1" {
		t.Errorf("missed: %s", m)
	}
	s.do(http.MethodPatch, "/1", `{"status":"done","projectId":"q"}`, jsonBody...)
	if want := `updated {"id":"1","message":"m","projectId":"q","status":"done"}`; s.last() != want {
		t.Errorf("the event is %s, want %s", s.last(), want)
	}
	s.will(200, `{"id":1,"projectId":"p","status":"closed"}`, jsonBody...)
	s.do(http.MethodPatch, "/1", `{"status":"done"}`, jsonBody...)
	if want := `updated {"id":"1","message":"m","projectId":"p","status":"closed"}`; s.last() != want {
		t.Errorf("the event is %s, want %s", s.last(), want)
	}
}

// TestMissedReasonsAreAFixedList: whatever goes wrong, a reason is one of those
// that MissedReasons lists.
func TestMissedReasonsAreAFixedList(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.handler(Config{})
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, err := range []error{
		tooLarge(1), unsupported("x"), errNotHeld, errTooManyTries, noEvent{"repeat", ""}, queue.ErrFull, queue.ErrUnavailable, queue.ErrFailed, queue.ErrClosed,
		fmt.Errorf("the relay has stopped: %w", queue.ErrClosed), event.NewProblem(http.StatusBadRequest, ""), event.NewProblem(http.StatusUnprocessableEntity, ""),
	} {
		_ = h.missed(r, err)
	}
	for reason := range s.counts.missed {
		if !slices.Contains(MissedReasons(), reason) {
			t.Errorf("counted as %q", reason)
		}
	}
	if s.counts.missed["closed"] != 2 {
		t.Errorf("missed: %s", s.missed())
	}
}
