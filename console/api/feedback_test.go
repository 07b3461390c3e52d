package api_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// say stores an event of a feedback with a document; replaces is the event before, or
// zero.
func (f *fixture) say(t *testing.T, id queue.FeedbackID, data string, replaces queue.EventID) queue.EventID {
	t.Helper()
	kind := event.Created
	if !replaces.IsZero() {
		kind = event.Updated
	}
	receipt, err := f.relay.Accept(t.Context(), relay.Acceptance{
		Type: kind, Feedback: id, Replaces: replaces, Body: fmt.Appendf(nil, `{"event":%q,"data":%s}`, kind, data),
	})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.Event.ID
}

func TestFeedbackIsShownAsItIsNowWithItsEventsInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := queue.FeedbackID{Project: "p", ID: "fb_1"}
	first := f.say(t, id, `{"id":"fb_1","message":"m","status":"new"}`, queue.EventID{})
	f.accept(t, "fb_other")
	second := f.say(t, id, `{"id":"fb_1","message":"m","status":"seen"}`, first)
	third := f.say(t, id, `{"id":"fb_1","message":"m","status":"done"}`, second)

	status, got := f.get(t, "/feedback/fb_1")
	var order []string
	for _, e := range got["events"].([]any) {
		order = append(order, e.(map[string]any)["id"].(string))
	}
	if want := fmt.Sprint([]queue.EventID{first, second, third}); status != 200 || fmt.Sprint(order) != want {
		t.Errorf("%d, events %v, want %v", status, order, want)
	}
	if got["project_id"] != "p" || got["data"].(map[string]any)["status"] != "done" {
		t.Errorf("%v", got)
	}
	for path, want := range map[string]int{
		"/feedback/fb_1?project=p": 200, "/feedback/fb_1?project=q": 404, "/feedback/fb_1?project=": 404,
		"/feedback/none": 404, "/feedback/fb_other?project=": 200, "/feedback/fb_other": 200,
	} {
		if status, body := f.get(t, path); status != want {
			t.Errorf("%s: %d, want %d: %v", path, status, want, body)
		}
	}

	f.say(t, queue.FeedbackID{ID: "fb_1"}, `{"id":"fb_1","message":"another"}`, queue.EventID{})
	if status, body := f.get(t, "/feedback/fb_1"); status != 409 || !strings.Contains(body["detail"].(string), "?project=") {
		t.Errorf("of two projects: %d %v", status, body)
	}
	if _, body := f.get(t, "/feedback/fb_1?project="); body["data"].(map[string]any)["message"] != "another" {
		t.Errorf("without a project: %v", body)
	}
}

func TestEventsAreFoundByWhatPeopleSortThemBy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, data := range []string{
		`{"message":"a","category":"bug","rating":1,"status":"new"}`,
		`{"message":"b","category":"bug","rating":5,"status":"done"}`,
		`{"message":"bug","category":"idea","rating":1,"status":"new"}`,
		`{"message":"no facts","metadata":{"category":"bug","rating":1}}`,
	} {
		f.say(t, queue.FeedbackID{Project: []string{"p", "q"}[i%2], ID: fmt.Sprint("fb_", i)}, data, queue.EventID{})
	}
	for query, want := range map[string]string{
		"category=bug":                  "fb_1 fb_0",
		"rating=1":                      "fb_2 fb_0",
		"status=new&category=bug":       "fb_0",
		"q=bug&rating=1":                "fb_2 fb_0", // the rating of fb_3 is in its metadata
		"category=bug&project=q":        "fb_1",
		"category=BUG":                  "",
		"rating=2":                      "",
		"category=bug&rating=5&q=\"b\"": "fb_1",
	} {
		_, page := f.get(t, "/events?"+strings.ReplaceAll(query, `"`, "%22"))
		var found []string
		for _, e := range page["items"].([]any) {
			found = append(found, e.(map[string]any)["feedback_id"].(string))
		}
		if got := strings.Join(found, " "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, httptest.NewRequest("GET", "/events?rating=6", nil))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "rating") {
		t.Errorf("rating=6: %d %s", w.Code, w.Body)
	}
}
