package api_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
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
	receipt, err := f.relay.Accept(t.Context(), queue.Entry{
		Type: string(kind), Feedback: id, Replaces: replaces, Body: fmt.Appendf(nil, `{"event":%q,"data":%s}`, kind, data),
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

// TestListsShowWhatPeopleSaid: the beginning of each message on one line, and the rating.
func TestListsShowWhatPeopleSaid(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, data := range []string{
		`{"message":"The export\n does  nothing.","rating":2}`,
		`{"message":"` + strings.Repeat("ü", 161) + `"}`,
		`{"metadata":{"message":"not this","rating":1}}`, // as after redact_after
	} {
		f.say(t, queue.FeedbackID{ID: fmt.Sprint("fb_", i)}, data, queue.EventID{})
	}
	_, page := f.get(t, "/events")
	var got []string
	for _, e := range page["items"].([]any) {
		e := e.(map[string]any)
		got = append(got, fmt.Sprint(e["message"], " ", e["rating"]))
	}
	want := []string{"<nil> <nil>", strings.Repeat("ü", 159) + "… <nil>", "The export does nothing. 2"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// request sends a request to an API.
func request(t *testing.T, h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, api.WithUser(httptest.NewRequest(method, path, strings.NewReader(body)), "ada"))
	return w
}

func TestErasedFeedbackIsGoneAndSaidByHowMany(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	x, y := queue.FeedbackID{Project: "p", ID: "fb_x"}, queue.FeedbackID{Project: "q", ID: "fb_y"}
	first := f.say(t, x, `{"id":"fb_x","message":"canary","metadata":{"userId":"u1"}}`, queue.EventID{})
	f.say(t, x, `{"id":"fb_x","message":"moved","metadata":{"userId":"u2"}}`, first) // u1 is in the older event alone
	f.say(t, y, `{"id":"fb_y","message":"m","metadata":{"userId":"u1"}}`, queue.EventID{})
	f.accept(t, "fb_other")
	const filter = `{"filter":"data.metadata.userId == \"u1\""`
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/erase", filter + `,"dry_run":true}`, 200, `{"feedback":2,"events":3,"deliveries":3,"cancelled":3,`},
		{"DELETE", "/feedback/fb_x?dry_run=true", ``, 200, `{"feedback":1,"events":2,"deliveries":2,"cancelled":2,`},
		{"POST", "/erase", `{"filter":"data.message.size() > 100","dry_run":true}`, 200, `"feedback":0`},
		{"POST", "/erase", `{"filter":"data.message > 3","dry_run":true}`, 200, `"not_judged":3`}, // fb_other has none
		{"POST", "/erase", `{}`, 422, "/filter"},
		{"POST", "/erase", `{"filter":"data.x =="}`, 422, "1:10"},
		{"DELETE", "/feedback/fb_x?project=q", ``, 404, ""},
		{"DELETE", "/feedback/fb_x", ``, 200, `{"feedback":1,"events":2,"deliveries":2,"cancelled":2,`},
		{"DELETE", "/feedback/fb_x?project=p", ``, 410, "erased"},
		{"GET", "/feedback/fb_x?project=p", ``, 410, "erased"},
		{"GET", "/events/" + first.String(), ``, 404, ""},
		{"POST", "/erase", filter + `,"compact":true}`, 200, `{"feedback":1,"events":1,"deliveries":1,"cancelled":1,`},
		{"POST", "/erase", filter + `}`, 200, `"feedback":0`},
		{"GET", "/feedback/fb_other", ``, 200, "fb_other"},
	} {
		if w := request(t, f.api, c.method, c.path, c.body); w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s %s: %d %s, want %d %s", c.method, c.path, c.body, w.Code, w.Body, c.status, c.says)
		}
	}
	log := request(t, f.api, "GET", "/activity", "").Body.String()
	if strings.Count(log, "feedback erased") != 2 || !strings.Contains(log, `"who":"ada"`) || !strings.Contains(log, "events: 2") ||
		strings.Contains(log, "fb_x") || strings.Contains(log, "u1") {
		t.Errorf("the activity log: %s", log)
	}
	_, page := f.get(t, "/events")
	if n := len(page["items"].([]any)); n != 1 {
		t.Errorf("%d events are left", n)
	}
}

// TestScopesEraseAndExportTheirsAlone: for a console of one project there is nothing
// else, and a read-only one changes nothing.
func TestScopesEraseAndExportTheirsAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, project := range []string{"p", "q"} {
		f.say(t, queue.FeedbackID{Project: project, ID: "fb_" + project}, `{"id":"fb_`+project+`","message":"m","metadata":{"userId":"u1"}}`, queue.EventID{})
	}
	scoped := api.New(api.Options{Relay: f.relay, Scope: scope.Scope{Projects: []string{"p"}}})
	reading := api.New(api.Options{Relay: f.relay, Scope: scope.Scope{ReadOnly: true}})
	for _, c := range []struct {
		api                http.Handler
		method, path, body string
		status             int
		says               string
	}{
		{reading, "DELETE", "/feedback/fb_p", ``, 403, "read-only"},
		{reading, "POST", "/erase", `{"filter":"true"}`, 403, "read-only"},
		{reading, "GET", "/feedback", ``, 200, "fb_q"},
		{scoped, "GET", "/feedback", ``, 200, `{"id":"fb_p","message":"m","metadata":{"userId":"u1"}}` + "\n"},
		{scoped, "GET", "/feedback?project=q", ``, 200, ``},
		{scoped, "DELETE", "/feedback/fb_q", ``, 404, ""},
		{scoped, "DELETE", "/feedback/fb_q?project=q", ``, 404, ""},
		{scoped, "POST", "/erase", `{"filter":"true","compact":true}`, 422, "compact"},
		{scoped, "POST", "/erase", `{"filter":"true","dry_run":true}`, 200, `"feedback":1`},
		{scoped, "POST", "/erase", `{"filter":"data.metadata.userId == \"u1\""}`, 200, `"feedback":1`},
		{scoped, "DELETE", "/feedback/fb_p?project=p", ``, 410, ""},
		{scoped, "GET", "/activity", ``, 200, `"feedback erased"`},
		{reading, "GET", "/feedback/fb_q", ``, 200, "fb_q"},
	} {
		w := request(t, c.api, c.method, c.path, c.body)
		if body := w.Body.String(); w.Code != c.status || !strings.Contains(body, c.says) || c.api == nil && strings.Contains(body, "fb_q") {
			t.Errorf("%s %s %s: %d %s, want %d %s", c.method, c.path, c.body, w.Code, w.Body, c.status, c.says)
		}
	}
	if w := request(t, scoped, "GET", "/feedback", ""); strings.Contains(w.Body.String(), "fb_q") {
		t.Errorf("the export of a scope: %s", w.Body)
	}
}

func TestExportHasEachFeedbackOnceAsItIsNow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	x := queue.FeedbackID{Project: "p", ID: "fb_x"}
	first := f.say(t, x, `{"id":"fb_x","message":"m","status":"new"}`, queue.EventID{})
	between := time.Now()
	time.Sleep(2 * time.Millisecond) // events have times to the millisecond
	f.say(t, x, `{"id":"fb_x","message":"m","status":"done"}`, first)
	f.say(t, queue.FeedbackID{Project: "q", ID: "fb_y"}, `{"id":"fb_y","message":"ü\n\"","rating":2,"context":{"browser":"x","screen":1},"metadata":{"a":[1]},"extra":true}`, queue.EventID{})
	at := url.QueryEscape(between.Add(time.Millisecond).Format(time.RFC3339Nano))
	const isX, isY = `{"id":"fb_x","message":"m","status":"done"}` + "\n",
		`{"id":"fb_y","message":"ü\n\"","rating":2,"context":{"browser":"x","screen":1},"metadata":{"a":[1]},"extra":true}` + "\n"
	for query, want := range map[string]string{
		"":                      isY + isX,
		"format=json&project=p": isX,
		"until=" + at:           isX, // given before, changed since
		"since=" + at:           isY,
		"filter=" + url.QueryEscape(`data.rating<3`):  isY,
		"filter=" + url.QueryEscape(`data.status>5`):  "",
		"filter=" + url.QueryEscape(`data.status!=1`): isY + isX,
	} {
		w := request(t, f.api, "GET", "/feedback?"+query, "")
		if w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s: %d %q, want %q", query, w.Code, w.Body, want)
		}
	}
	rows, err := csv.NewReader(request(t, f.api, "GET", "/feedback?format=csv", "").Body).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("%v: %q", err, rows)
	}
	cell := func(row int, column string) string { return rows[row][slices.Index(rows[0], column)] }
	for column, want := range map[string]string{
		"id": "fb_y", "message": "ü\n\"", "rating": "2", "context.browser": "x", "metadata": `{"a":[1]}`, "other": `{"context.screen":1,"extra":true}`, "status": "", "context.viewport.width": "",
	} {
		if got := cell(1, column); got != want {
			t.Errorf("%s: %q, want %q", column, got, want)
		}
	}
	if cell(2, "status") != "done" {
		t.Errorf("%q", rows[2])
	}
	for query, says := range map[string]string{"format=xml": "format", "filter=x": "filter", "since=x": "since"} {
		if w := request(t, f.api, "GET", "/feedback?"+query, ""); w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// TestExportHoldsNoFormula: spreadsheets run cells that begin like formulas.
func TestExportHoldsNoFormula(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	nasty := []string{`=1+1`, `+1`, `-1`, `@SUM(A1)`, "\t=1", "\r=1", "\n=1", `＝1`, `=cmd|' /C calc'!A0`, `"=1`, ` =1`, `plain`}
	for i, text := range nasty {
		data, err := json.Marshal(map[string]string{"id": fmt.Sprint("fb_", i), "message": text, "category": text})
		if err != nil {
			t.Fatal(err)
		}
		f.say(t, queue.FeedbackID{ID: fmt.Sprint("fb_", i)}, string(data), queue.EventID{})
	}
	rows, err := csv.NewReader(request(t, f.api, "GET", "/feedback?format=csv", "").Body).ReadAll()
	if err != nil || len(rows) != 1+len(nasty) {
		t.Fatalf("%v: %d rows", err, len(rows))
	}
	for i, row := range slices.Backward(rows[1:]) {
		text := strings.ReplaceAll(nasty[len(nasty)-1-i], "\r", "\r")
		for _, cell := range []string{row[slices.Index(rows[0], "message")], row[slices.Index(rows[0], "category")]} {
			if cell != text && cell != "'"+text || cell != "" && strings.ContainsRune("=+-@\t\r\n＝", []rune(cell)[0]) {
				t.Errorf("%q became %q", text, cell)
			}
		}
	}
}

// endless is a store with many feedbacks, made as they are read.
type endless struct {
	queue.Queue
	many int
	body []byte
}

func (q endless) event(n int) queue.Event {
	return queue.Event{ID: queue.NewEventID(time.Unix(0, 0), 1, uint64(n)), Feedback: queue.FeedbackID{ID: fmt.Sprint("fb_", n)}, Type: "feedback.created", Body: q.body}
}

func (q endless) Latest(_ context.Context, id queue.FeedbackID) (queue.Event, error) {
	var n int
	_, err := fmt.Sscanf(id.ID, "fb_%d", &n)
	return q.event(n), err
}

func (q endless) Events(_ context.Context, want queue.EventQuery) (page queue.Page[queue.Event], err error) {
	from := q.many
	if want.Cursor != "" {
		if _, err := fmt.Sscan(want.Cursor, &from); err != nil {
			return page, err
		}
	}
	for n := from; n > max(from-want.Limit, 0); n-- {
		page.Items = append(page.Items, q.event(n))
	}
	if from > want.Limit {
		page.Next = fmt.Sprint(from - want.Limit)
	}
	return page, nil
}

// TestExportIsBounded: memory does not grow with the number of feedbacks, and the first
// comes before the last is read.
func TestExportIsBounded(t *testing.T) {
	// 32 MiB, of which some 5 are in use: a larger export costs processor time, under -race
	// half a minute, and shows the same.
	const many, size = 8_000, 4 << 10
	q := endless{Queue: memqueue.New(memqueue.Options{}), many: many, body: []byte(`{"event":"feedback.created","data":{"id":"x","message":"` + strings.Repeat("m", size) + `"}}`)}
	r := relay.New(relay.Options{Queue: q})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api.New(api.Options{Relay: r}))
	defer server.Close()
	for _, format := range []string{"json", "csv"} {
		response, err := http.Get(server.URL + "/feedback?format=" + format)
		if err != nil {
			t.Fatal(err)
		}
		var most uint64
		lines, lastLook := 0, 0
		scanner := bufio.NewScanner(response.Body)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			if lines++; lines-lastLook >= many/20 {
				lastLook = lines
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
		if err := errors.Join(scanner.Err(), response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if want := many + map[string]int{"csv": 1}[format]; lines != want {
			t.Errorf("%s: %d lines, want %d", format, lines, want)
		}
		if most > 16<<20 { // all of it is 32 MiB
			t.Errorf("%s: %d MiB are in use while %d MiB are exported", format, most>>20, many*size>>20)
		}
	}
}

// breaks is a store that fails after its first page.
type breaks struct{ endless }

func (q breaks) Events(ctx context.Context, want queue.EventQuery) (queue.Page[queue.Event], error) {
	if want.Cursor != "" {
		return queue.Page[queue.Event]{}, errors.New("the disk is gone")
	}
	return q.endless.Events(ctx, want)
}

// TestExportThatBreaksOffIsNoWholeExport: a client sees that something is missing.
func TestExportThatBreaksOffIsNoWholeExport(t *testing.T) {
	t.Parallel()
	q := breaks{endless{Queue: memqueue.New(memqueue.Options{}), many: 5000, body: []byte(`{"data":{"id":"x"}}`)}}
	r := relay.New(relay.Options{Queue: q})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(api.New(api.Options{Relay: r}))
	server.Start()
	defer server.Close()
	response, err := http.Get(server.URL + "/feedback")
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
	if err == nil {
		t.Error("an export that broke off looks whole")
	}
}
