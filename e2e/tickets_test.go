package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tracker stands in for the issues of one project in GitHub or GitLab. It
// answers 400 to what their documentation does not describe.
type tracker struct {
	gitlab bool
	server *httptest.Server

	mu sync.Mutex
	// mu guards everything declared below.
	issues  []issue
	answers []func(http.ResponseWriter) // of the next requests that create; nil drops the answer
	refused []string                    // what was wrong with requests
}

type issue struct {
	title, text string
	labels      []string
	created     time.Time
}

func startTracker(t *testing.T, gitlab bool) *tracker {
	t.Helper()
	tr := &tracker{gitlab: gitlab}
	tr.server = httptest.NewServer(tr)
	t.Cleanup(tr.server.Close)
	return tr
}

func (tr *tracker) url() string {
	if tr.gitlab {
		return tr.server.URL + "/api/v4/projects/acme%2Fshop/issues"
	}
	return tr.server.URL + "/repos/acme/shop/issues"
}

func (tr *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var err error
	switch {
	case "http://"+r.Host+r.URL.EscapedPath() != tr.url():
		err = fmt.Errorf("path %s", r.URL.EscapedPath())
	case tr.badHeader(r.Header) != "":
		err = fmt.Errorf("header %s", tr.badHeader(r.Header))
	case r.Method == http.MethodGet:
		err = tr.list(w, r.URL.Query())
	case r.Method == http.MethodPost:
		err = tr.create(w, r)
	default:
		err = fmt.Errorf("method %s", r.Method)
	}
	if err != nil {
		tr.refused = append(tr.refused, err.Error())
		http.Error(w, `{"message":"`+err.Error()+`"}`, http.StatusBadRequest)
	}
}

// badHeader names a header that is not as documented, or is empty.
func (tr *tracker) badHeader(h http.Header) string {
	want := map[string]string{"Authorization": "Bearer token", "Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
	if tr.gitlab {
		want = map[string]string{"PRIVATE-TOKEN": "token"}
	}
	for name, value := range want {
		if h.Get(name) != value {
			return name
		}
	}
	if h.Get("User-Agent") == "" {
		return "User-Agent" // GitHub answers 403 without one
	}
	return ""
}

// list answers "List repository issues" and "List project issues", one issue a page.
func (tr *tracker) list(w http.ResponseWriter, q url.Values) error {
	parameters := []string{"state", "labels", "per_page", "page", "since"}
	if tr.gitlab {
		parameters[4] = "created_after"
	}
	for name := range q {
		if !slices.Contains(parameters, name) {
			return fmt.Errorf("parameter %s", name)
		}
	}
	since, err := time.Parse(time.RFC3339, q.Get(parameters[4]))
	if err != nil || q.Get("state") != "all" || q.Get("per_page") != "100" {
		return fmt.Errorf("query %s", q.Encode())
	}
	var found []issue
	for _, i := range tr.issues {
		if slices.Contains(i.labels, q.Get("labels")) && !i.created.Before(since) {
			found = append(found, i)
		}
	}
	page := 1
	if q.Get("page") != "" {
		if page, err = strconv.Atoi(q.Get("page")); err != nil {
			return err
		}
	}
	if page < len(found) {
		q.Set("page", strconv.Itoa(page+1))
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next", <%s?page=%d>; rel="last"`, tr.url(), q.Encode(), tr.url(), len(found)))
	}
	answers := []map[string]any{}
	if page <= len(found) {
		answers = append(answers, tr.represent(found[page-1]))
	}
	return json.NewEncoder(w).Encode(answers)
}

func (tr *tracker) represent(i issue) map[string]any {
	if tr.gitlab {
		return map[string]any{"iid": 1, "title": i.title, "description": i.text, "labels": i.labels, "web_url": tr.url() + "/1"}
	}
	return map[string]any{"number": 1, "title": i.title, "body": i.text, "html_url": tr.url() + "/1"}
}

// create answers "Create an issue".
func (tr *tracker) create(w http.ResponseWriter, r *http.Request) error {
	var sent map[string]any
	if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || r.Header.Get("Content-Type") != "application/json" {
		return fmt.Errorf("body that is no JSON: %w", err)
	}
	made, text := issue{created: time.Now()}, "body"
	if tr.gitlab {
		text = "description"
	}
	if names := slices.Sorted(maps.Keys(sent)); !slices.Equal(names, []string{text, "labels", "title"}) {
		return fmt.Errorf("members %v", names)
	}
	made.title, _ = sent["title"].(string)
	made.text, _ = sent[text].(string)
	switch labels := sent["labels"].(type) {
	case string: // GitLab's are one text
		if tr.gitlab {
			made.labels = strings.Split(labels, ",")
		}
	case []any:
		for _, label := range labels {
			if name, ok := label.(string); ok && !tr.gitlab {
				made.labels = append(made.labels, name)
			}
		}
	}
	if made.title == "" || len([]rune(made.title)) > 255 || len(made.text) > 65_536*4 || len(made.labels) == 0 {
		return fmt.Errorf("title, text or labels: %v", sent)
	}
	if len(tr.answers) > 0 {
		answer := tr.answers[0]
		tr.answers = tr.answers[1:]
		if answer != nil {
			answer(w)
			return nil
		}
		tr.issues = append(tr.issues, made)
		panic(http.ErrAbortHandler) // the issue is there, the answer is lost
	}
	tr.issues = append(tr.issues, made)
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(tr.represent(made))
}

// next sets the answer to the next request that creates; nil makes the issue and
// loses the answer.
func (tr *tracker) next(answer func(http.ResponseWriter)) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.answers = append(tr.answers, answer)
}

// made returns the issues that hold a text, and fails the test if a request was
// not as documented.
func (tr *tracker) made(t *testing.T, text string) (found []issue) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.refused) > 0 {
		t.Fatalf("requests that the documentation does not describe: %q", tr.refused)
	}
	for _, i := range tr.issues {
		if strings.Contains(i.text, text) {
			found = append(found, i)
		}
	}
	return found
}

// TestTicketsExample: examples/tickets opens one issue for each bug, whatever gets
// lost, and never another.
func TestTicketsExample(t *testing.T) {
	t.Parallel()
	for _, gitlab := range []bool{false, true} {
		t.Run(map[bool]string{false: "GitHub", true: "GitLab"}[gitlab], func(t *testing.T) {
			t.Parallel()
			tr := startTracker(t, gitlab)
			e := startExample(t, "../examples/tickets", []string{"ISSUES=" + tr.url(), "TOKEN=token"}, "node", "server.js")
			event := func(kind, id, data string) string {
				return fmt.Sprintf(`{"event":%q,"timestamp":%q,"data":{"id":%q,"projectId":"proj_xyz",%s}}`, kind, time.Now().UTC().Format(time.RFC3339), id, data)
			}
			deliver := func(id, body string, want int) *http.Response {
				t.Helper()
				response := e.deliver(t, "delivery-"+id, 1, body)
				if response.StatusCode != want {
					t.Fatalf("%s: status %d, want %d", id, response.StatusCode, want)
				}
				return response
			}
			bug := func(id string) string {
				return event("feedback.created", id, `"category":"bug","rating":2,"message":"m"`)
			}

			// Bugs only, each once, priority by rating.
			deliver("fb_idea", event("feedback.created", "fb_idea", `"category":"feature","rating":2,"message":"m"`), http.StatusNoContent)
			deliver("fb_update", event("feedback.updated", "fb_update", `"category":"bug","rating":2,"message":"m"`), http.StatusNoContent)
			for rating, label := range map[string]string{
				`"rating":1,`: "priority::high", `"rating":2,`: "priority::high", `"rating":3,`: "priority::medium",
				"": "priority::medium", `"rating":4,`: "priority::low", `"rating":5,`: "priority::low",
			} {
				id := "fb_" + strings.Trim(rating, `",`)
				for range 2 {
					deliver(id, event("feedback.created", id, rating+`"category":"bug","message":"m"`), http.StatusNoContent)
				}
				if found := tr.made(t, "feedback: "+id+"\n"); len(found) != 1 || !slices.Equal(found[0].labels, []string{"userhero", "bug", label}) {
					t.Fatalf("%s: issues %+v", id, found)
				}
			}
			if found := append(tr.made(t, "fb_idea"), tr.made(t, "fb_update")...); len(found) > 0 {
				t.Fatalf("issues that are no new bugs: %+v", found)
			}

			// The answer is lost after the issue was made.
			tr.next(nil)
			deliver("fb_lost", bug("fb_lost"), http.StatusBadGateway)
			deliver("fb_lost", bug("fb_lost"), http.StatusNoContent)
			if n := len(tr.made(t, "fb_lost")); n != 1 {
				t.Fatalf("%d issues after a lost answer", n)
			}

			// Attempts at the same time.
			var together sync.WaitGroup
			for range 4 {
				together.Go(func() { deliver("fb_together", bug("fb_together"), http.StatusNoContent) })
			}
			together.Wait()
			if n := len(tr.made(t, "fb_together")); n != 1 {
				t.Fatalf("%d issues of four attempts at the same time", n)
			}

			// What the tracker answers is never passed on as it is.
			for _, status := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusGone, http.StatusUnprocessableEntity} {
				tr.next(func(w http.ResponseWriter) { w.WriteHeader(status) })
				deliver("fb_refused", bug("fb_refused"), http.StatusBadGateway)
			}
			limits := []func(http.ResponseWriter){func(w http.ResponseWriter) {
				w.Header().Set("Retry-After", "90")
				w.WriteHeader(http.StatusTooManyRequests)
			}}
			if !gitlab {
				limits = append(limits, func(w http.ResponseWriter) {
					w.Header().Set("Retry-After", "90")
					w.WriteHeader(http.StatusForbidden)
				}, func(w http.ResponseWriter) {
					w.Header().Set("X-RateLimit-Remaining", "0")
					w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Unix()+90, 10))
					w.WriteHeader(http.StatusForbidden)
				})
			}
			for _, limit := range limits {
				tr.next(limit)
				after, _ := strconv.Atoi(deliver("fb_refused", bug("fb_refused"), http.StatusServiceUnavailable).Header.Get("Retry-After"))
				if after < 85 || after > 91 {
					t.Errorf("Retry-After %d, want 90", after)
				}
			}
			deliver("fb_refused", bug("fb_refused"), http.StatusNoContent)

			// What visitors write is shown as it is, and nothing of it acts.
			nasty := "@everyone /close ````\n/assign @root\n#1 ![](https://tracker.example/) <!-- userhero --> " + strings.Repeat("長", 300)
			deliver("fb_nasty", event("feedback.created", "fb_nasty", `"category":"bug","message":`+quote(t, nasty)), http.StatusNoContent)
			found := tr.made(t, "fb_nasty")
			if len(found) != 1 || found[0].title != "@everyone /close ````" {
				t.Fatalf("issues %+v", found)
			}
			mark, block, _ := strings.Cut(found[0].text, "\n")
			if !strings.HasPrefix(mark, "<!-- userhero ") || !strings.HasPrefix(block, "`````text\n"+nasty+"\n") || !strings.HasSuffix(block, "\n`````\n") {
				t.Errorf("the text is no block of code: %s", found[0].text)
			}

			// A real relay, from submission to issue.
			s := startRelay(t, relayOptions{app: fmt.Sprintf("webhook tickets {\n url %s\n secret %s\n filter `data.category == \"bug\"`\n}", e.url, secret)})
			if _, _, err := s.submit([]byte(`{"message":"from the relay","category":"bug","rating":1}`)); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, "the issue is there", func() bool { return len(tr.made(t, "from the relay")) == 1 })
		})
	}
}

func quote(t *testing.T, text string) string {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(quoted)
}
