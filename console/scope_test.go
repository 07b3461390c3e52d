package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/console"
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay"
)

// asked is a request about what may belong to others. In path and body stand {name},
// {event}, {delivery}, {feedback}, {project} and {cursor}.
type asked struct{ path, body string }

// judged says for every route how one scope could ask there for what belongs to another.
// A new route fails TestScopesDoNotSeeEachOther until it is here. Lists are also read
// before and after the others come: TestScopeIsAsIfAlone.
var judged = map[string][]asked{
	"GET /api/status":                               {{"/api/status", ""}},
	"GET /api/healthz":                              {{"/api/healthz", ""}},
	"GET /api/openapi.json":                         {{"/api/openapi.json", ""}},
	"GET /api/webhooks":                             {{"/api/webhooks?cursor={cursor}", ""}},
	"POST /api/webhooks":                            {{"/api/webhooks", `{"name":"w","url":"http://8.8.8.8/","projects":["{project}"]}`}},
	"GET /api/webhooks/{name}":                      {{"/api/webhooks/{name}", ""}},
	"PATCH /api/webhooks/{name}":                    {{"/api/webhooks/{name}", `{"timeout":"7s"}`}, {"/api/webhooks/{name}", `{"projects":["proj_a"],"name":"mine"}`}, {"/api/webhooks/a-quick", `{"projects":["{project}"]}`}},
	"DELETE /api/webhooks/{name}":                   {{"/api/webhooks/{name}", ""}},
	"POST /api/webhooks/{name}/enable":              {{"/api/webhooks/{name}/enable", ""}},
	"POST /api/webhooks/{name}/disable":             {{"/api/webhooks/{name}/disable", ""}},
	"POST /api/webhooks/{name}/test":                {{"/api/webhooks/{name}/test", ""}},
	"POST /api/webhooks/{name}/preview":             {{"/api/webhooks/{name}/preview", `{"body":"data"}`}},
	"POST /api/webhooks/{name}/rotate":              {{"/api/webhooks/{name}/rotate", `{"overlap":"1h"}`}},
	"POST /api/webhooks/{name}/rotate-signing-key":  {{"/api/webhooks/{name}/rotate-signing-key", `{"overlap":"1h"}`}},
	"POST /api/webhooks/{name}/redeliver":           {{"/api/webhooks/{name}/redeliver", `{"state":"missed","since":"2000-01-01T00:00:00Z"}`}, {"/api/webhooks/{name}/redeliver", `{"state":"waiting","dry_run":true}`}},
	"GET /api/deliveries":                           {{"/api/deliveries?webhook={name}", ""}, {"/api/deliveries?state=retrying&webhook={name}", ""}, {"/api/deliveries?cursor={cursor}", ""}},
	"GET /api/deliveries/{id}":                      {{"/api/deliveries/{delivery}", ""}},
	"POST /api/deliveries/{id}/redeliver":           {{"/api/deliveries/{delivery}/redeliver", ""}},
	"GET /api/events":                               {{"/api/events?project={project}", ""}, {"/api/events?feedback_id={feedback}", ""}, {"/api/events?q={word}", ""}, {"/api/events?cursor={cursor}", ""}, {"/api/events?project={project}&feedback_id={feedback}&q={word}", ""}},
	"GET /api/events/{id}":                          {{"/api/events/{event}", ""}},
	"GET /api/feedback/{id}":                        {{"/api/feedback/{feedback}", ""}, {"/api/feedback/{feedback}?project={project}", ""}, {"/api/feedback/same?project={project}", ""}},
	"GET /api/feedback":                             {{"/api/feedback?project={project}", ""}, {`/api/feedback?filter=data.id=="{feedback}"`, ""}, {`/api/feedback?format=csv&filter=data.message.contains("{word}")`, ""}},
	"DELETE /api/feedback/{id}":                     {{"/api/feedback/{feedback}", ""}, {"/api/feedback/{feedback}?project={project}", ""}, {"/api/feedback/same?project={project}", ""}, {"/api/feedback/same?dry_run=true&project={project}", ""}},
	"POST /api/erase":                               {{"/api/erase", `{"filter":"data.projectId == '{project}'"}`}, {"/api/erase", `{"filter":"data.id == '{feedback}'"}`}, {"/api/erase", `{"filter":"data.message.contains('{word}')","dry_run":true}`}},
	"GET /api/activity":                             {{"/api/activity?cursor={cursor}", ""}},
	"GET /api/stream":                               nil, // TestScopedStream
	"GET /{$}":                                      {{"/", ""}},
	"GET /webhooks":                                 {{"/webhooks?q={name}", ""}, {"/webhooks?q=1.1.1.1", ""}},
	"GET /webhooks/{name}":                          {{"/webhooks/{name}", ""}},
	"GET /webhooks/{name}/charts":                   {{"/webhooks/{name}/charts?span=7d", ""}},
	"GET /webhooks/{name}/settings":                 {{"/webhooks/{name}/settings", ""}},
	"GET /resend/new":                               {{"/resend/new?delivery={delivery}", ""}, {"/resend/new?query=webhook%3D{name}", ""}, {"/resend/new?query=project%3D{project}", ""}},
	"POST /resend":                                  {{"/resend", "delivery={delivery}"}, {"/resend", "query=webhook%3D{name}"}},
	"GET /resend/{id}":                              {{"/resend/none", ""}},
	"POST /resend/{id}/stop":                        {{"/resend/none/stop", "x=y"}},
	"GET /webhooks/{name}/delete":                   {{"/webhooks/{name}/delete", ""}},
	"GET /webhooks/{name}/recover":                  {{"/webhooks/{name}/recover?span=24h", ""}},
	"POST /webhooks/{name}/delete":                  {{"/webhooks/{name}/delete", "x=y"}},
	"POST /webhooks/{name}/recover":                 {{"/webhooks/{name}/recover", "span=24h"}},
	"POST /webhooks/{name}/pause":                   {{"/webhooks/{name}/pause", "x=y"}, {"/webhooks/{name}/pause", "from=list"}},
	"POST /webhooks/{name}/enable":                  {{"/webhooks/{name}/enable", "x=y"}},
	"POST /webhooks/{name}/test":                    {{"/webhooks/{name}/test", "x=y"}},
	"POST /webhooks/{name}/rotate":                  {{"/webhooks/{name}/rotate", "overlap=1h"}},
	"POST /webhooks/{name}/rotate-signing-key":      {{"/webhooks/{name}/rotate-signing-key", "overlap=1h"}, {"/webhooks/{name}/rotate-signing-key", "go=remove"}},
	"POST /webhooks/{name}/settings":                {{"/webhooks/{name}/settings", "timeout=7s"}, {"/webhooks/a-quick/settings", "projects={project}"}},
	"GET /add":                                      {{"/add", ""}},
	"POST /add":                                     {{"/add", "url=http://8.8.8.8/&name=w&events=feedback.created&go=secret&projects={project}"}},
	"GET /feedback":                                 {{"/feedback?q={word}", ""}, {"/feedback?q={feedback}", ""}, {"/feedback?cursor={cursor}", ""}, {"/feedback?project={project}", ""}},
	"GET /feedback/{id}":                            {{"/feedback/{feedback}", ""}, {"/feedback/{feedback}?project={project}", ""}, {"/feedback/same?project={project}", ""}},
	"GET /erase":                                    {{"/erase?feedback={feedback}&project={project}", ""}, {"/erase?feedback={feedback}", ""}, {"/erase?member=userId&value={word}", ""}},
	"POST /erase":                                   {{"/erase", "feedback={feedback}&project={project}"}, {"/erase", "feedback={feedback}"}, {"/erase", "member=userId&value={word}"}},
	"GET /events":                                   {{"/events?q={word}", ""}, {"/events?q={event}", ""}, {"/events?q={delivery}", ""}, {"/events?webhook={name}", ""}, {"/events?cursor={cursor}", ""}, {"/events?state=failed&webhook={name}", ""}, {"/events?project={project}", ""}},
	"GET /events/caught":                            {{"/events/caught", ""}},
	"GET /events/{id}":                              {{"/events/{event}", ""}, {"/events/{event}?delivery={delivery}", ""}},
	"GET /events/{id}/document":                     {{"/events/{event}/document", ""}},
	"GET /deliveries/{id}/attempts/{number}/{part}": {{"/deliveries/{delivery}/attempts/1/request", ""}, {"/deliveries/{delivery}/attempts/1/answer", ""}, {"/deliveries/{delivery}/attempts/1/curl", ""}},
	"POST /events/{id}/check":                       {{"/events/{event}/check", "delivery={delivery}&attempt=1&secret=s"}},
	"POST /deliveries/{id}/redeliver":               {{"/deliveries/{delivery}/redeliver", "x=y"}, {"/deliveries/{delivery}/redeliver", "webhook=a-quick"}},
	"GET /activity":                                 {{"/activity?cursor={cursor}", ""}},
}

// routes are the patterns of everything that a console answers.
func routes(t *testing.T, site http.Handler) []string {
	t.Helper()
	all := console.PageRoutes()
	w := httptest.NewRecorder()
	site.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/openapi.json", nil))
	var document struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil { // TestDocumentHasEveryRoute compares it with the router
		t.Fatal(err)
	}
	for path, operations := range document.Paths {
		for method := range operations {
			if method == "parameters" {
				continue
			}
			all = append(all, strings.ToUpper(method)+" /api"+path)
		}
	}
	slices.Sort(all)
	return all
}

// traced is a queue that notes what is read from it and changed in it, so that two requests
// can be compared by what they did: the time that a request takes must not say either whether
// a thing exists.
type traced struct {
	*memqueue.Queue
	mu    sync.Mutex // guards calls
	calls []string
}

func (q *traced) note(call string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls = append(q.calls, call)
}

// take returns the calls since the last one.
func (q *traced) take() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer func() { q.calls = nil }()
	return strings.Join(q.calls, " ")
}

func (q *traced) Event(ctx context.Context, id queue.EventID) (queue.Event, error) {
	q.note("Event")
	return q.Queue.Event(ctx, id)
}

func (q *traced) Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error) {
	q.note("Latest")
	return q.Queue.Latest(ctx, id)
}

func (q *traced) Projects(ctx context.Context, id string, limit int) ([]string, error) {
	q.note("Projects")
	return q.Queue.Projects(ctx, id, limit)
}

func (q *traced) Events(ctx context.Context, query queue.EventQuery) (queue.Page[queue.Event], error) {
	q.note("Events")
	return q.Queue.Events(ctx, query)
}

func (q *traced) Deliveries(ctx context.Context, query queue.DeliveryQuery) (queue.Page[queue.Delivery], error) {
	q.note("Deliveries")
	return q.Queue.Deliveries(ctx, query)
}

func (q *traced) Delivery(ctx context.Context, id queue.DeliveryID) (queue.Delivery, error) {
	q.note("Delivery")
	return q.Queue.Delivery(ctx, id)
}

func (q *traced) EventDeliveries(ctx context.Context, id queue.EventID) ([]queue.Delivery, error) {
	q.note("EventDeliveries")
	return q.Queue.EventDeliveries(ctx, id)
}

func (q *traced) Attempts(ctx context.Context, id queue.DeliveryID) ([]queue.Attempt, error) {
	q.note("Attempts")
	return q.Queue.Attempts(ctx, id)
}

func (q *traced) Requeue(ctx context.Context, id queue.DeliveryID, at time.Time) error {
	q.note("Requeue")
	return q.Queue.Requeue(ctx, id, at)
}

func (q *traced) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	q.note("PutWebhook")
	return q.Queue.PutWebhook(ctx, w)
}

// shared is a relay with the consoles of two teams, on fake time. Receivers answer at
// once: those at 1.1.1.x with 500, others with 200.
type shared struct {
	t       *testing.T
	relay   *relay.Relay
	queue   *traced
	all     http.Handler // the console without a scope
	a, b    http.Handler
	bReader http.Handler // reads what b has, and changes nothing
}

func newShared(t *testing.T) *shared {
	t.Helper()
	q := &traced{Queue: memqueue.New(memqueue.Options{})}
	r := relay.New(relay.Options{Queue: q, Dial: dialReceivers})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop(context.Background()) })
	if _, err := r.Attach(relay.Config{Webhooks: []relay.WebhookConfig{
		{Name: "file-a", URL: "http://8.8.8.8/file-a", Projects: []string{"proj_a"}},
		{Name: "file-b", URL: "http://1.1.1.1/file-b", Projects: []string{"proj_b"}, Retry: []time.Duration{}},
		{Name: "everything", URL: "http://8.8.8.8/everything"},
		{Name: "both", URL: "http://8.8.8.8/both", Projects: []string{"proj_a", "proj_b"}},
	}}); err != nil {
		t.Fatal(err)
	}
	at := func(s scope.Scope) http.Handler {
		return console.New(api.Options{Relay: r, Version: "1.2.3", Started: time.Now(), Scope: s})
	}
	return &shared{
		t: t, relay: r, queue: q, all: at(scope.Scope{}),
		a: at(scope.Scope{Projects: []string{"proj_a"}}), b: at(scope.Scope{Projects: []string{"proj_b"}}),
		bReader: at(scope.Scope{Projects: []string{"proj_b"}, ReadOnly: true}),
	}
}

// dialReceivers is relay.Options.Dial: a network of receivers in memory.
func dialReceivers(_ context.Context, _, address string) (net.Conn, error) {
	near, far := net.Pipe()
	status := http.StatusOK
	if strings.HasPrefix(address, "1.1.1.") {
		status = http.StatusInternalServerError
	}
	one := &oneConnection{connection: far, closed: make(chan struct{})}
	go func() {
		_ = http.Serve(one, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { // it ends with the connection
			w.Header().Set("Connection", "close")
			w.WriteHeader(status)
		}))
	}()
	return near, nil
}

// oneConnection is a listener with one connection.
type oneConnection struct {
	once       sync.Once
	connection net.Conn
	closed     chan struct{}
}

func (l *oneConnection) Accept() (c net.Conn, err error) {
	err = net.ErrClosed
	l.once.Do(func() { c, err = l.connection, nil })
	return c, err
}
func (l *oneConnection) Close() error   { return nil }
func (l *oneConnection) Addr() net.Addr { return l.connection.LocalAddr() }

// answered is what a client gets, without what is random in every answer.
type answered struct {
	code int
	head string
	body string
}

func (a answered) String() string { return fmt.Sprintf("%d\n%s\n%s", a.code, a.head, a.body) }

// randomText matches what is random in every page.
var randomText = regexp.MustCompile(`(name="(?:once|draft)" value="|shown=|name="secret" value="(?:whsec_)?)[A-Za-z0-9+/=]*`)

// do sends a request and returns the answer, of a form that of the page it leads to.
func (s *shared) do(site http.Handler, method, path, body string) answered {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if method == http.MethodPost && !strings.HasPrefix(path, "/api/") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	site.ServeHTTP(w, api.WithUser(r, "ada"))
	if to := w.Header().Get("Location"); to != "" {
		next, err := r.URL.Parse(to)
		if err != nil {
			s.t.Fatal(err)
		}
		page := s.do(site, http.MethodGet, next.RequestURI(), "")
		page.head = fmt.Sprint(w.Code, " ", randomText.ReplaceAllString(to, "$1"), " ") + page.head
		return page
	}
	var head bytes.Buffer
	_ = w.Header().Write(&head) // to memory
	return answered{w.Code, head.String(), randomText.ReplaceAllString(w.Body.String(), "$1")}
}

// must sends a request that succeeds, and returns its JSON.
func (s *shared) must(site http.Handler, method, path, body string) map[string]any {
	s.t.Helper()
	got := s.do(site, method, path, body)
	var answer map[string]any
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.code > 299 {
		s.t.Fatalf("%s %s: %d %s (%v)", method, path, got.code, got.body, err)
	}
	return answer
}

// accept takes feedback in.
func (s *shared) accept(project, id, message string) queue.EventID {
	s.t.Helper()
	receipt, err := s.relay.Accept(s.t.Context(), queue.Entry{
		Type: string(event.Created), Feedback: queue.FeedbackID{Project: project, ID: id},
		Body: fmt.Appendf(nil, `{"event":"feedback.created","timestamp":"2000-01-01T00:00:00Z","data":{"id":%q,"projectId":%q,"message":%q,"status":"new","createdAt":"2000-01-01T00:00:00Z"}}`, id, project, message),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
	return receipt.Event.ID
}

// settle gives a team three webhooks in its console, feedback and submissions that a
// honeypot caught. The names and ids are those of the other team, and some of its own.
func (s *shared) settle(site http.Handler, team string) {
	s.t.Helper()
	project := "proj_" + team
	for _, w := range []string{
		`{"name":"crm","url":"http://8.8.8.8/crm"}`,
		fmt.Sprintf(`{"name":"%s-quick","url":"http://8.8.8.8/quick","events":["feedback.created"]}`, team),
		fmt.Sprintf(`{"name":"%s-broken","url":"http://1.1.1.1/broken","retry":[]}`, team),
	} {
		s.must(site, http.MethodPost, "/api/webhooks", w)
	}
	s.accept(project, "same", "said by "+team)
	s.accept(project, "only-"+team, "a word such as zebra-"+team)
	s.must(site, http.MethodPost, "/api/webhooks/"+team+"-quick/disable", "")
	s.accept(project, "later-"+team, "later")
	body := fmt.Appendf(nil, `{"data":{"message":"caught of %s","projectId":%q,"ProjectId":"proj_a","projectid":"proj_b"}}`, team, project)
	if err := s.queue.KeepCaught(s.t.Context(), queue.Caught{At: time.Now(), Body: body}); err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
}

// lists are what a console shows without a word about anything in particular.
var lists = []string{
	"/api/status", "/api/healthz", "/api/openapi.json", "/api/webhooks", "/api/webhooks?limit=1", "/api/deliveries", "/api/deliveries?limit=1",
	"/api/deliveries?state=failed", "/api/deliveries?state=held", "/api/deliveries?webhook=crm", "/api/events", "/api/events?limit=1", "/api/events?q=said",
	"/api/events?q=a", "/api/events?feedback_id=same", "/api/feedback/same", "/api/activity", "/api/activity?limit=1", "/api/webhooks/crm",
	"/", "/webhooks", "/webhooks?q=8.8", "/webhooks/crm", "/webhooks/crm/recover?span=24h", "/feedback", "/feedback?q=said", "/feedback/same", "/events", "/events?q=said", "/events?q=same",
	"/events?state=failed", "/events?webhook=crm", "/events/caught", "/activity", "/add",
}

func (s *shared) lists(site http.Handler) map[string]answered {
	s.t.Helper()
	all := make(map[string]answered)
	for _, path := range lists {
		all[path] = s.do(site, http.MethodGet, path, "")
	}
	return all
}

// TestScopeIsAsIfAlone: a scope's console shows the same, byte for byte, before others
// share the relay and after.
func TestScopeIsAsIfAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		s.settle(s.a, "a")
		before := s.lists(s.a)
		for path, got := range before {
			if got.code != http.StatusOK {
				t.Errorf("%s: %d %s", path, got.code, got.body)
			}
		}
		s.settle(s.b, "b")
		for i := range 30 {
			s.accept("", "nobody's-"+strconv.Itoa(i), "said by nobody")
		}
		s.must(s.all, http.MethodPost, "/api/webhooks", `{"name":"admins","url":"http://1.1.1.1/","retry":[]}`)
		s.must(s.all, http.MethodPost, "/api/webhooks/everything/disable", "")
		s.accept("proj_b", "last", "said last")
		for path, want := range before {
			if got := s.do(s.a, http.MethodGet, path, ""); got != want {
				t.Errorf("%s: after others have come\n%s\nwant as before\n%s", path, got, want)
			}
		}
		// The control: the console without a scope shows the others.
		for _, path := range []string{"/api/webhooks", "/api/deliveries", "/api/events", "/api/activity", "/webhooks", "/feedback", "/events/caught", "/activity"} {
			if got := s.do(s.all, http.MethodGet, path, ""); got == before[path] {
				t.Errorf("%s shows the same without a scope", path)
			}
		}
	})
}

// belongings are the values of each placeholder that belong to a team.
func (s *shared) belongings(site http.Handler, team string) map[string][]string {
	s.t.Helper()
	project := "proj_" + team
	all := map[string][]string{
		"{name}":     {"crm@" + project, team + "-quick", team + "-broken", team + "-quick@" + project, "file-" + team, "everything", "both", "admins"},
		"{project}":  {project},
		"{feedback}": {"only-" + team, "later-" + team},
		"{word}":     {"zebra-" + team},
	}
	for _, path := range []string{"/api/events?limit=1", "/api/deliveries?limit=1", "/api/activity?limit=1", "/api/webhooks?limit=1"} {
		for _, of := range []http.Handler{site, s.all} {
			all["{cursor}"] = append(all["{cursor}"], s.must(of, http.MethodGet, path, "")["next"].(string))
		}
	}
	all["{event}"] = s.ids(site, "/api/events")
	all["{delivery}"] = s.ids(site, "/api/deliveries")
	return all
}

// ids returns the ids of a list.
func (s *shared) ids(of http.Handler, path string) (all []string) {
	s.t.Helper()
	for _, item := range s.must(of, http.MethodGet, path, "")["items"].([]any) {
		all = append(all, item.(map[string]any)["id"].(string))
	}
	return all
}

// crossed are deliveries that nobody has made: of the asker's event to their webhook,
// and of their event to the asker's webhook. With each comes one of the same event, or
// of the same webhook, that cannot exist.
func (s *shared) crossed(asker, them http.Handler) (theirs, nothing []string) {
	s.t.Helper()
	mine, foreign := s.ids(asker, "/api/deliveries")[0], s.ids(them, "/api/deliveries")[0]
	myEvent, myWebhook := mine[:strings.LastIndexByte(mine, '_')], mine[strings.LastIndexByte(mine, '_'):]
	theirEvent, theirWebhook := foreign[:strings.LastIndexByte(foreign, '_')], foreign[strings.LastIndexByte(foreign, '_'):]
	none := absent["{delivery}"][:strings.LastIndexByte(absent["{delivery}"], '_')]
	return []string{myEvent + theirWebhook, theirEvent + myWebhook}, []string{myEvent + "_99", none + myWebhook}
}

// absent are values that nothing has.
var absent = map[string]string{
	"{name}": "nobody", "{project}": "proj_absent", "{feedback}": "only-nobody", "{word}": "unicorn", "{cursor}": "absent",
	"{event}":    queue.NewEventID(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), 7, 1<<40).String(),
	"{delivery}": queue.DeliveryID{Event: queue.NewEventID(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), 7, 1<<40), Webhook: 99}.String(),
}

// fill replaces the placeholders of a request.
func (a asked) fill(values map[string]string) asked {
	for placeholder, value := range values {
		a.path = strings.ReplaceAll(a.path, placeholder, url.QueryEscape(value))
		a.body = strings.ReplaceAll(a.body, placeholder, value)
	}
	return a
}

// echoed removes from an answer what the client itself has sent.
func (a answered) echoed(values map[string]string) answered {
	for placeholder, value := range values {
		if value == "" {
			continue
		}
		for _, text := range []string{url.QueryEscape(value), url.PathEscape(value), value} {
			whole := regexp.MustCompile(regexp.QuoteMeta(text) + `\b`) // the id of one delivery may begin another's
			a.head = whole.ReplaceAllLiteralString(a.head, placeholder)
			a.body = whole.ReplaceAllLiteralString(a.body, placeholder)
		}
	}
	return a
}

// ask asks a site for what belongs to others, and compares each answer with that about
// what does not exist. It returns how many questions it asked.
func (s *shared) ask(site http.Handler, theirs map[string][]string, absent map[string]string) (n int) {
	s.t.Helper()
	for _, route := range routes(s.t, s.all) {
		method, _, _ := strings.Cut(route, " ")
		questions, known := judged[route]
		if !known {
			s.t.Errorf("judge the route %s: how could one scope ask there for what belongs to another?", route)
		}
		for _, question := range questions {
			text := question.path + question.body
			used := slices.DeleteFunc(slices.Sorted(maps.Keys(absent)), func(p string) bool { return !strings.Contains(text, p) })
			if len(used) == 0 || len(used) != strings.Count(text, "{")-strings.Count(text, `{"`) {
				continue // a list, which TestScopeIsAsIfAlone reads, or a question about something else besides
			}
			nothing := make(map[string]string)
			for _, placeholder := range used {
				nothing[placeholder] = absent[placeholder]
			}
			filled := question.fill(nothing)
			s.queue.take()
			want := s.do(site, method, filled.path, filled.body).echoed(nothing)
			did := s.queue.take()
			for _, first := range theirs[used[0]] {
				values := map[string]string{used[0]: first}
				for _, other := range used[1:] {
					values[other] = theirs[other][n%len(theirs[other])]
				}
				filled := question.fill(values)
				got := s.do(site, method, filled.path, filled.body).echoed(values)
				if n++; got != want {
					s.t.Errorf("%s %s %s:\n%v\nwant as for what does not exist\n%v", method, filled.path, filled.body, got, want)
				}
				if calls := s.queue.take(); calls != did {
					s.t.Errorf("%s %s %s asks the store for %s; about what does not exist, for %s", method, filled.path, filled.body, calls, did)
				}
			}
		}
	}
	return n
}

// TestScopesDoNotSeeEachOther: each question of one scope about what belongs to another
// is answered, byte for byte, as one about what does not exist, asks the store for the same,
// and changes nothing.
func TestScopesDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		s.must(s.all, http.MethodPost, "/api/webhooks", `{"name":"admins","url":"http://8.8.8.8/"}`)
		s.settle(s.a, "a")
		s.settle(s.b, "b")
		s.accept("", "nobody's", "said by nobody")
		before := s.lists(s.all)
		n := s.ask(s.a, s.belongings(s.b, "b"), absent) + s.ask(s.bReader, s.belongings(s.a, "a"), absent)
		for _, teams := range [][2]http.Handler{{s.a, s.b}, {s.bReader, s.a}} {
			theirs, nothing := s.crossed(teams[0], teams[1])
			for i := range theirs {
				n += s.ask(teams[0], map[string][]string{"{delivery}": theirs[i : i+1]}, map[string]string{"{delivery}": nothing[i]})
			}
		}
		if n < 300 {
			t.Errorf("%d questions, want at least 300", n)
		}
		synctest.Wait()
		for path, want := range before {
			if got := s.do(s.all, http.MethodGet, path, ""); got != want {
				t.Errorf("%s: after all questions\n%s\nwant as before\n%s", path, got, want)
			}
		}
		t.Logf("%d questions", n)
	})
}

// TestReadOnlyConsoleChangesNothing: every route that changes anything is answered 403,
// also about what the scope has.
func TestReadOnlyConsoleChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		s.settle(s.b, "b")
		own := s.belongings(s.b, "b")
		own["{name}"] = []string{"crm", "file-b"}
		before := s.lists(s.all)
		for _, route := range routes(t, s.all) {
			method, pattern, _ := strings.Cut(route, " ")
			for _, question := range judged[route] {
				values := make(map[string]string)
				for placeholder := range absent {
					values[placeholder] = own[placeholder][0]
				}
				filled := question.fill(values)
				got := s.do(s.bReader, method, filled.path, filled.body)
				looks := method == http.MethodGet && pattern != "/add" && pattern != "/erase" && pattern != "/webhooks/{name}/delete" && pattern != "/webhooks/{name}/recover" ||
					pattern == "/events/{id}/check"
				if looks == (got.code == http.StatusForbidden) {
					t.Errorf("%s %s: %d %s", method, filled.path, got.code, got.body)
				}
				if strings.Contains(got.body, `method="post"`) && pattern != "/events/{id}" && pattern != "/events/{id}/check" && !strings.Contains(got.body, `/check"`) {
					t.Errorf("%s offers a form:\n%s", filled.path, got.body)
				}
			}
		}
		synctest.Wait()
		for path, want := range before {
			if got := s.do(s.all, http.MethodGet, path, ""); got != want {
				t.Errorf("%s: after all forms\n%s\nwant as before\n%s", path, got, want)
			}
		}
	})
}

// TestDocumentSaysWhatAScopeMay: the OpenAPI document of a scope names its projects; if
// it is read-only, the document has no requests that change anything.
func TestDocumentSaysWhatAScopeMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		for name, c := range map[string]struct {
			site    http.Handler
			project string
			changes bool
		}{"all": {s.all, "", true}, "a": {s.a, "proj_a", true}, "b, read-only": {s.bReader, "proj_b", false}} {
			document := s.must(c.site, http.MethodGet, "/api/openapi.json", "")
			description := document["info"].(map[string]any)["description"].(string)
			for _, project := range []string{"proj_a", "proj_b"} {
				if strings.Contains(description, project) != (project == c.project) {
					t.Errorf("%s: %s", name, description)
				}
			}
			if strings.Contains(description, "is read-only") == c.changes {
				t.Errorf("%s: %s", name, description)
			}
			paths := document["paths"].(map[string]any)
			webhook := paths["/webhooks/{name}"].(map[string]any)
			if (webhook["delete"] != nil) != c.changes || (paths["/webhooks/{name}/test"] != nil) != c.changes || webhook["get"] == nil {
				t.Errorf("%s: the document has %v", name, slices.Sorted(maps.Keys(paths)))
			}
		}
	})
}

// TestNamesAreUniquePerScope: two scopes have webhooks of one name, and neither learns
// of the other's, nor of those that have no projects.
func TestNamesAreUniquePerScope(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		for _, name := range []string{"crm", "everything", "both", "file-b"} {
			body := fmt.Sprintf(`{"name":%q,"url":"http://8.8.8.8/of-a"}`, name)
			w := s.must(s.a, http.MethodPost, "/api/webhooks", body)
			if w["name"] != name || fmt.Sprint(w["projects"]) != "[proj_a]" {
				t.Errorf("added as %v", w)
			}
			if got := s.do(s.a, http.MethodPost, "/api/webhooks", body); got.code != http.StatusConflict || strings.Contains(got.body, "@") {
				t.Errorf("added twice: %d %s", got.code, got.body)
			}
		}
		s.must(s.b, http.MethodPost, "/api/webhooks", `{"name":"crm","url":"http://8.8.8.8/of-b"}`)
		s.must(s.b, http.MethodPost, "/api/webhooks", `{"name":"erp","url":"http://8.8.8.8/of-b"}`)
		s.must(s.a, http.MethodPatch, "/api/webhooks/crm", `{"name":"erp"}`)
		if w := s.must(s.b, http.MethodGet, "/api/webhooks/crm", ""); w["url"] != "http://8.8.8.8/of-b" {
			t.Errorf("b's webhook is now %v", w)
		}
		if w := s.must(s.a, http.MethodGet, "/api/webhooks/erp", ""); w["url"] != "http://8.8.8.8/of-a" {
			t.Errorf("a's renamed webhook is %v", w)
		}
		if got := s.do(s.a, http.MethodPost, "/api/webhooks", `{"name":"file-a","url":"http://8.8.8.8/"}`); got.code != http.StatusConflict {
			t.Errorf("the name of a webhook of the Caddyfile that a has was given again: %d %s", got.code, got.body)
		}
		names := make(map[string]bool)
		for _, item := range s.must(s.all, http.MethodGet, "/api/webhooks", "")["items"].([]any) {
			names[item.(map[string]any)["name"].(string)] = true
		}
		for _, name := range []string{"erp@proj_a", "everything@proj_a", "everything", "crm@proj_b", "erp@proj_b"} {
			if !names[name] {
				t.Errorf("the console without a scope has no %s, but %v", name, names)
			}
		}
	})
}

// TestErasingDoesNotCountDeliveriesOfOthers: a scope that erases feedback, or would, is told
// of the deliveries that it sees, not of those to webhooks outside; all are erased.
func TestErasingDoesNotCountDeliveriesOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		s.settle(s.a, "a")
		id := s.accept("proj_a", "to-erase", "erase me").String()
		deliveries := func(site http.Handler) float64 {
			return float64(len(s.must(site, http.MethodGet, "/api/events/"+id, "")["deliveries"].([]any)))
		}
		seen, all := deliveries(s.a), deliveries(s.all)
		if seen == 0 || seen >= all {
			t.Fatalf("the scope sees %v of %v deliveries", seen, all)
		}
		const filter = `{"filter":"data.id == 'to-erase'"`
		for what, erased := range map[string]map[string]any{
			"by a filter, counted": s.must(s.a, http.MethodPost, "/api/erase", filter+`,"dry_run":true}`),
			"by its id, counted":   s.must(s.a, http.MethodDelete, "/api/feedback/to-erase?dry_run=true&project=proj_a", ""),
			"erased":               s.must(s.a, http.MethodPost, "/api/erase", filter+`}`),
		} {
			if erased["deliveries"] != seen || erased["events"] != 1.0 || erased["attempts"].(float64) > seen {
				t.Errorf("%s: %v, want %v deliveries", what, erased, seen)
			}
		}
		if got := s.do(s.all, http.MethodGet, "/api/events/"+id, ""); got.code != http.StatusNotFound {
			t.Errorf("the erased event is answered %d", got.code)
		}
		activity := s.must(s.a, http.MethodGet, "/api/activity?limit=1", "")["items"].([]any)[0].(map[string]any)
		if activity["detail"] != "feedbacks: 1, events: 1" {
			t.Errorf("the activity says %q", activity["detail"])
		}
	})
}

// TestWebhookOfAScopeReachesPublicAddressesOnly: neither a webhook that a team adds nor
// one whose URL it changes is sent to an address that only egress allows.
func TestWebhookOfAScopeReachesPublicAddressesOnly(t *testing.T) {
	t.Parallel()
	v := newVisit(t, relay.Config{}) // egress allows 127.0.0.1
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	defer hook.Close()
	view := scope.New(v.relay, scope.Scope{Projects: []string{"a"}})
	private := relay.WebhookConfig{Name: "private", URL: hook.URL}
	if err := view.Add(t.Context(), private, "ada"); err != nil {
		t.Fatal(err)
	}
	admins := relay.WebhookConfig{Name: "admins", URL: hook.URL, Projects: []string{"a"}}
	if err := v.relay.Add(t.Context(), admins, "admin"); err != nil {
		t.Fatal(err)
	}
	test := func(name string) string {
		t.Helper()
		result, err := view.Test(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return result.Attempt.ErrorClass
	}
	if class := test("private"); class != "egress" {
		t.Errorf("a team's webhook: %q", class)
	}
	if result, err := view.Try(t.Context(), private); err != nil || result.Attempt.ErrorClass != "egress" {
		t.Errorf("a team's test: %q %v", result.Attempt.ErrorClass, err)
	}
	if class := test("admins"); class != "" {
		t.Errorf("the operator's webhook: %q", class)
	}
	change := func(c *relay.WebhookConfig) error { c.URL += "/other"; return nil }
	if err := view.Change(t.Context(), "admins", change, "ada"); err != nil {
		t.Fatal(err)
	}
	if class := test("admins"); class != "egress" {
		t.Errorf("the operator's webhook with the team's URL: %q", class)
	}
	if err := scope.New(v.relay, scope.Scope{}).Change(t.Context(), "admins", change, "admin"); err != nil {
		t.Fatal(err)
	}
	if class := test("admins"); class != "" {
		t.Errorf("the operator's webhook with the operator's URL: %q", class)
	}
}

// TestScopedStream: a scope's stream has what its lists have, and numbers it as if there
// were nothing else.
func TestScopedStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(t)
		s.must(s.a, http.MethodPost, "/api/webhooks", `{"name":"crm","url":"http://8.8.8.8/crm"}`)
		ctx, end := context.WithCancel(t.Context())
		streams := make(map[string]*recorder)
		var open sync.WaitGroup
		for name, site := range map[string]http.Handler{"a": s.a, "all": s.all} {
			w := &recorder{header: make(http.Header)}
			streams[name] = w
			open.Go(func() {
				site.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/stream", nil))
			})
		}
		synctest.Wait()
		s.settle(s.b, "b")
		for i := range 600 { // more than a subscription keeps
			s.accept("", "nobody's-"+strconv.Itoa(i), "said by nobody")
		}
		time.Sleep(time.Second) // what happens within a moment is sent together
		synctest.Wait()
		if got := streams["a"].String(); strings.Contains(got, "event:") {
			t.Errorf("the stream of a has\n%s", got)
		}
		if got := streams["all"].String(); !strings.Contains(got, "event: lost") {
			t.Errorf("the stream of everything has lost nothing:\n%.2000s", got)
		}
		s.accept("proj_a", "fb_new", "hello")
		time.Sleep(time.Second)
		end()
		open.Wait()
		got := streams["a"].String()
		for _, want := range []string{"-1\nevent: accepted", `"deliveries":2`, `"webhook":"crm"`, `"webhook":"file-a"`} {
			if !strings.Contains(got, want) {
				t.Errorf("the stream of a lacks %q:\n%s", want, got)
			}
		}
		for _, others := range []string{"everything", "both", "@", "lost"} {
			if strings.Contains(got, others) {
				t.Errorf("the stream of a has %q:\n%s", others, got)
			}
		}
	})
}

// recorder is a response that is read while it is written.
type recorder struct {
	header http.Header
	mu     sync.Mutex // guards text
	text   bytes.Buffer
}

func (r *recorder) Header() http.Header              { return r.header }
func (r *recorder) WriteHeader(int)                  {}
func (r *recorder) Flush()                           {}
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}
