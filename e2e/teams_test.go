package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// team is one of two that share a relay. Its name is in everything that belongs to it: its
// project, its webhooks, what its visitors write. So what has the other's name is the other's.
type team struct {
	name   string
	hooks  *receiver
	stream *followed
}

func (o *team) project() string { return "proj_" + o.name }

// at is the address of a receiver of the team.
func (o *team) at(path string) string { return o.hooks.url + "/" + o.name + "/" + path }

// teamSite is a relay with two teams, each with a console of its own.
type teamSite struct {
	*relayServer
	t    *testing.T
	mail *mailServer
	up   atomic.Bool // receivers answer 200, but for those of the failing webhooks
}

const feedbacksOfATeam = 30

// TestTeamsGetNothingOfEachOther: two projects with three webhooks each, and a console for
// each, one of them read-only. Every request that the OpenAPI document has is made by one
// team for what belongs to the other, and is answered as for what does not exist, in the same
// time. Neither what a webhook that was renamed or redirected was waiting for, nor an
// operational event, a mail or a stream brings anything across. Each team gets its own.
func TestTeamsGetNothingOfEachOther(t *testing.T) {
	t.Parallel()
	anemone, begonia := &team{name: "anemone"}, &team{name: "begonia"}
	s := startTeams(t, anemone, begonia)
	for _, o := range []*team{anemone, begonia} {
		for i := range feedbacksOfATeam {
			s.submitTo(o, i)
		}
		eventually(t, 60*time.Second, o.name+" has everything", func() bool {
			return len(s.listOf("/"+o.name, "/deliveries?limit=1000", "id")) >= 3*feedbacksOfATeam
		})
	}
	s.redirect(anemone, begonia)
	before := s.shown(begonia, "/events?limit=1000", "/feedback")
	for asker, owner := range map[*team]*team{anemone: begonia, begonia: anemone} {
		s.askFor(asker, owner)
	}
	if after := s.shown(begonia, "/events?limit=1000", "/feedback"); !maps.Equal(before, after) {
		t.Errorf("after all requests %v\nis not as before\n%v", after, before)
	}
	for o, other := range map[*team]*team{anemone: begonia, begonia: anemone} {
		s.gotOnlyTheirs(o, other)
	}
	s.ownerChanges(anemone) // last: it deletes and erases
}

// startTeams starts the relay, with the teams' webhooks and signing keys.
func startTeams(t *testing.T, anemone, begonia *team) *teamSite {
	t.Helper()
	s := &teamSite{t: t, mail: startMailServer(t, "mail-password")}
	var site strings.Builder
	for _, o := range []*team{anemone, begonia} {
		o.hooks = startReceiver(t, func(a arrival) int {
			if strings.HasSuffix(a.path, "/crm") || !s.up.Load() && !strings.HasSuffix(a.path, "/quick") {
				return http.StatusInternalServerError
			}
			return http.StatusOK
		})
		fmt.Fprintf(&site, `
	@%[1]s path /in/%[1]s
	userhero @%[1]s {
		project proj_%[1]s
	}
	handle_path /%[1]s/* {
		userhero_console {
			no_auth
			project proj_%[1]s
			%[2]s
		}
	}`, o.name, map[bool]string{true: "read_only"}[o == begonia])
	}
	s.relayServer = startRelay(t, relayOptions{
		env: []string{"SSL_CERT_FILE=" + s.mail.roots},
		app: fmt.Sprintf(`group_notices 1s
			console_url https://feedback.example.com/relay
			%s`, s.mail.notifier()),
		site: site.String(),
	})
	ladder, err := json.Marshal(slices.Repeat([]string{"2s"}, 90))
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, hook, more string) {
		t.Helper()
		s.ask("POST", "/webhooks", fmt.Sprintf(`{"name":%q,"url":%q,%s}`, name, hook, more), 201)
	}
	const operational = `"webhook.failing","webhook.recovered","webhook.disabled"`
	for _, o := range []*team{anemone, begonia} {
		own := fmt.Sprintf(`"projects":[%q],"notify":["owner@%s.example.com"]`, o.project(), o.name)
		add(o.name+"-alarms", o.at("alarms"), own+`,"events":["feedback.created",`+operational+`],"retry":`+string(ladder))
		add(o.name+"-quick", o.at("quick"), own)
		s.ask("POST", "/webhooks/"+o.name+"-quick/rotate-signing-key", `{"overlap":"1h"}`, 200)
		o.stream = s.follow(o)
	}
	both := fmt.Sprintf(`"projects":[%q,%q],"retry":%s`, anemone.project(), begonia.project(), ladder)
	add("both-alarms", begonia.at("both"), both+`,"events":[`+operational+`]`)
	add("both-feed", begonia.at("both"), both)
	add("anemone-crm", anemone.at("crm"), fmt.Sprintf(`"projects":[%q],"notify":["owner@anemone.example.com"],"retry":[]`, anemone.project()))
	add("crm", begonia.at("crm"), fmt.Sprintf(`"projects":[%q],"notify":["owner@begonia.example.com"],"retry":[]`, begonia.project()))
	return s
}

// submitTo submits feedback to a team's project.
func (s *teamSite) submitTo(o *team, i int) {
	s.t.Helper()
	body := fmt.Sprintf(`{"id":"fb_%s_%d","message":"said of %[1]s"}`, o.name, i)
	response, err := s.client.Post("http://"+s.site+"/in/"+o.name, "application/json", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if answer, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusAccepted {
		s.t.Fatalf("submitting: %s: %s", response.Status, answer)
	}
}

// redirect waits until both teams have a failing webhook, and events about it wait for a
// webhook of both. Then that webhook, and one with feedback of both, belong to anemone alone,
// with other URLs; begonia's failing webhook is renamed, and anemone has one of its name.
func (s *teamSite) redirect(anemone, begonia *team) {
	s.t.Helper()
	for _, name := range []string{"anemone-crm", "crm"} {
		eventually(s.t, 60*time.Second, name+" is failing", func() bool { return s.webhook(name).State == "failing" })
	}
	eventually(s.t, 60*time.Second, "events about both wait", func() bool { return len(s.deliveries("both-alarms")) >= 2 })
	s.ask("PATCH", "/webhooks/crm", `{"name":"begonia-crm"}`, 200)
	s.ask("POST", "/webhooks", fmt.Sprintf(`{"name":"crm","url":%q,"projects":[%q]}`, anemone.at("quick"), anemone.project()), 201)
	for _, name := range []string{"both-alarms", "both-feed"} {
		s.ask("PATCH", "/webhooks/"+name, fmt.Sprintf(`{"url":%q,"projects":[%q]}`, anemone.at("alarms"), anemone.project()), 200)
	}
	s.up.Store(true)
	for _, name := range []string{"both-alarms", "both-feed", "anemone-alarms", "begonia-alarms"} {
		for _, state := range []string{"waiting", "failed", "missed"} {
			body := fmt.Sprintf(`{"state":%q,"since":%q}`, state, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
			s.ask("POST", "/webhooks/"+name+"/redeliver", body, 200)
		}
		eventually(s.t, 60*time.Second, "nothing waits for "+name, func() bool {
			c := s.webhook(name).Counts
			return c.Pending+c.Retrying == 0
		})
	}
	for _, name := range []string{"both-alarms", "both-feed"} {
		if got := s.ask("POST", "/webhooks/"+name+"/redeliver", `{"state":"failed"}`, 200); got["count"] != 0.0 {
			s.t.Errorf("%v failed deliveries of %s were queued again, want none: they are begonia's", got["count"], name)
		}
	}
	for _, d := range s.deliveries("both-feed") {
		if want := map[bool]string{true: "failed", false: "delivered"}[strings.Contains(d.FeedbackID, begonia.name)]; d.State != want {
			s.t.Errorf("the delivery of %s to what is anemone's now is %s, want %s", d.FeedbackID, d.State, want)
		}
	}
	heard := func(o *team, name string) bool {
		return slices.ContainsFunc(o.hooks.arrivals(), func(a arrival) bool {
			return strings.HasSuffix(a.path, "/alarms") && strings.Contains(a.body, "webhook.failing") && strings.Contains(a.body, `"webhook":"`+name+`"`)
		})
	}
	if !heard(anemone, "anemone-crm") || !heard(begonia, "crm") {
		s.t.Error("a team has not heard that its own webhook is failing")
	}
	eventually(s.t, 60*time.Second, "the owners have mail", func() bool {
		to := s.mailsTo()
		return to["owner@anemone.example.com"] != "" && to["owner@begonia.example.com"] != "" &&
			strings.Contains(to["ops@example.com"], "anemone-crm") && strings.Contains(to["ops@example.com"], begonia.hooks.url)
	})
}

// mailsTo are all mails so far, by recipient.
func (s *teamSite) mailsTo() map[string]string {
	s.t.Helper()
	to := make(map[string]string)
	for _, raw := range s.mail.received() {
		message, err := mail.ReadMessage(strings.NewReader(raw))
		if err != nil {
			s.t.Fatal(err)
		}
		addresses, err := message.Header.AddressList("To")
		if err != nil {
			s.t.Fatal(err)
		}
		for _, a := range addresses {
			to[a.Address] += raw
		}
	}
	return to
}

// followed is a stream that is read until the test ends.
type followed struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (f *followed) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

// follow reads the stream of a team's console.
func (s *teamSite) follow(o *team) *followed {
	s.t.Helper()
	ctx, end := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.site+"/"+o.name+"/api/stream", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	client := s.newClient()
	client.Timeout = 0
	response, err := client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	f, ended := new(followed), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			f.mu.Lock()
			f.text.WriteString(lines.Text() + "\n")
			f.mu.Unlock()
		}
	}()
	s.t.Cleanup(func() {
		end()
		<-ended
		_ = response.Body.Close()
		client.CloseIdleConnections()
	})
	return f
}

// told is an answer without what the client itself has sent.
type told struct {
	code int
	kind string // of its body
	body string
}

// tell sends a request below a console and returns the answer and the time that it took.
// Values that the request has are replaced by their placeholders in the answer.
func (s *teamSite) tell(console, method, path, body string, values map[string]string) (told, time.Duration) {
	s.t.Helper()
	request, err := http.NewRequest(method, "http://"+s.site+console+"/api"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	began := time.Now()
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	took := time.Since(began)
	if err != nil {
		s.t.Fatal(err)
	}
	answer := string(text)
	for placeholder, value := range values {
		answer = strings.ReplaceAll(answer, value, placeholder)
	}
	return told{response.StatusCode, response.Header.Get("Content-Type"), answer}, took
}

// page reads a page of a list, or of anything else, from a console.
func (s *teamSite) page(console, path string, into any) {
	s.t.Helper()
	got, _ := s.tell(console, http.MethodGet, path, "", nil)
	if err := json.Unmarshal([]byte(got.body), into); err != nil || got.code != http.StatusOK {
		s.t.Fatalf("GET %s%s: %d %s (%v)", console, path, got.code, got.body, err)
	}
}

// listOf returns a member of each item of a list.
func (s *teamSite) listOf(console, path, member string) (all []string) {
	s.t.Helper()
	var list struct{ Items []map[string]any }
	s.page(console, path, &list)
	for _, item := range list.Items {
		all = append(all, fmt.Sprint(item[member]))
	}
	return all
}

// question is a request of the OpenAPI document about things, for which it has placeholders.
type question struct{ method, path, body string }

func (q question) uses(placeholder string) bool { return strings.Contains(q.path+q.body, placeholder) }

// fill returns the request about particular things.
func (q question) fill(values map[string]string) question {
	for placeholder, value := range values {
		q.path = strings.ReplaceAll(q.path, placeholder, url.QueryEscape(value))
		q.body = strings.ReplaceAll(q.body, placeholder, value)
	}
	return q
}

// nobodys are the placeholders of questions, each with a value that no team has.
var nobodys = map[string]string{
	"{webhook}": "nobody", "{event}": "evt_01jwxyz0000000000000000000", "{delivery}": "evt_01jwxyz0000000000000000000_7",
	"{feedback}": "fb_nobody_0", "{project}": "proj_nobody", "{word}": "said of nobody", "{cursor}": "nobody",
}

// areas are the placeholders of the things below the first segments of paths.
var areas = map[string]string{"webhooks": "{webhook}", "events": "{event}", "deliveries": "{delivery}", "feedback": "{feedback}"}

// named are the parameters in queries that name something; unnamed are the others.
var (
	named = map[string]string{
		"webhook": "{webhook}", "feedback_id": "{feedback}", "project": "{project}", "q": "{word}", "cursor": "{cursor}",
		"filter": `data.message == "{word}"`,
	}
	unnamed = []string{"limit", "since", "until", "state", "type", "category", "rating", "status", "format", "compact", "dry_run", "Last-Event-ID"}
)

// bodies are requests by their schema.
var bodies = map[string]string{
	"NewWebhook": `{"name":"fresh","url":"http://8.8.8.8/","projects":["{project}"]}`, "WebhookChange": `{"timeout":"7s"}`,
	"PreviewRequest": `{"body":"data"}`, "Rotation": `{"overlap":"1h"}`, "KeyRotation": `{"overlap":"1h"}`,
	"Recovery": `{"state":"failed"}`, "Erasure": `{"filter":"data.message == '{word}'"}`,
}

// questions makes them of everything that the OpenAPI document has. A parameter or a body
// that is new there fails the test, until it is known whether it names anything.
func (s *teamSite) questions() (all []question) {
	s.t.Helper()
	type parameter struct{ Name, In string }
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	s.get("/openapi.json", &document)
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		operations := document.Paths[path]
		var shared []parameter
		_ = json.Unmarshal(operations["parameters"], &shared) // absent: none
		delete(operations, "parameters")
		for _, method := range slices.Sorted(maps.Keys(operations)) {
			var operation struct {
				Parameters  []parameter
				RequestBody struct {
					Content map[string]struct {
						Schema struct {
							Ref string `json:"$ref"`
						}
					}
				}
			}
			if err := json.Unmarshal(operations[method], &operation); err != nil {
				s.t.Fatal(err)
			}
			q := question{method: strings.ToUpper(method), path: path}
			if schema := operation.RequestBody.Content["application/json"].Schema.Ref; schema != "" {
				body, known := bodies[schema[strings.LastIndexByte(schema, '/')+1:]]
				if !known {
					s.t.Errorf("%s %s: write a request with the schema %s", method, path, schema)
				}
				q.body = body
			}
			var queries []string
			for _, p := range append(shared, operation.Parameters...) {
				switch {
				case p.In == "path":
					of, known := areas[strings.Split(path, "/")[1]]
					if !known {
						s.t.Errorf("%s: what does {%s} name?", path, p.Name)
					}
					q.path = strings.ReplaceAll(q.path, "{"+p.Name+"}", of)
				case named[p.Name] != "":
					queries = append(queries, p.Name+"="+strings.ReplaceAll(url.QueryEscape(named[p.Name]), "%7B", "{")) // the braces of placeholders stay
				case !slices.Contains(unnamed, p.Name):
					s.t.Errorf("%s %s: does the parameter %s name anything?", method, path, p.Name)
				}
			}
			if strings.Contains(q.path+q.body, "{") {
				all = append(all, q)
			}
			for _, query := range queries {
				more := q
				more.path += "?" + strings.ReplaceAll(query, "%7D", "}")
				all = append(all, more)
			}
		}
	}
	return slices.DeleteFunc(all, func(q question) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Keys(nobodys)), q.uses)
	})
}

// theirs are the values of each placeholder that belong to a team. Cursors are those of a list.
func (s *teamSite) theirs(o *team, list string) map[string][]string {
	s.t.Helper()
	console := "/" + o.name
	all := map[string][]string{
		"{webhook}": {o.name + "-alarms", o.name + "-quick", o.name + "-crm"}, "{project}": {o.project()}, "{word}": {"said of " + o.name},
		"{event}": s.listOf(console, "/events?limit=1000", "id"), "{delivery}": s.listOf(console, "/deliveries?limit=1000", "id"),
		"{feedback}": s.listOf(console, "/events?limit=1000", "feedback_id"),
	}
	if list != "" {
		var page struct{ Next string }
		s.page(console, list+"?limit=1", &page)
		all["{cursor}"] = []string{page.Next}
	}
	return all
}

// askFor asks every question in one team's console about everything of another team.
func (s *teamSite) askFor(asker, owner *team) {
	s.t.Helper()
	const leastTimes = 15 // of each kind of question, so that a median means something
	theirs, asked := s.theirs(owner, ""), 0
	for _, q := range s.questions() {
		of := theirs
		if q.uses("{cursor}") {
			list, _, _ := strings.Cut(q.path, "?")
			of = s.theirs(owner, list)
		}
		used := slices.DeleteFunc(slices.Sorted(maps.Keys(nobodys)), func(p string) bool { return !q.uses(p) })
		nothing := make(map[string]string)
		most := 0
		for _, p := range used {
			nothing[p] = nobodys[p]
			most = max(most, len(of[p]))
		}
		about := func(console string, values map[string]string) (told, time.Duration) {
			filled := q.fill(values)
			return s.tell(console, filled.method, filled.path, filled.body, values)
		}
		var took, tookNothing []time.Duration
		for i := range max(most, leastTimes) {
			values := make(map[string]string)
			for _, p := range used {
				values[p] = of[p][i%len(of[p])]
			}
			want, without := about("/"+asker.name, nothing)
			got, with := about("/"+asker.name, values)
			took, tookNothing = append(took, with), append(tookNothing, without)
			if asked++; got != want {
				s.t.Errorf("%s asks %s %s %s about %v:\n%+v\nwant as for what does not exist\n%+v", asker.name, q.method, q.path, q.body, values, got, want)
				break
			}
			if i > 0 || q.method != http.MethodGet {
				continue
			}
			mine, _ := about("/"+owner.name, values) // the control
			if absent, _ := about("/"+owner.name, nothing); mine == absent || mine.code != http.StatusOK {
				s.t.Errorf("%s asks %s about %v of its own, and is answered as for what does not exist: %+v", owner.name, q.path, values, mine)
			}
		}
		slices.Sort(took)
		slices.Sort(tookNothing)
		// On a busy machine the medians of 15 differ by some milliseconds.
		if with, without := took[len(took)/2], tookNothing[len(tookNothing)/2]; max(with, without) > 3*min(with, without)+10*time.Millisecond {
			s.t.Errorf("%s %s takes %s for what is another team's, and %s for what does not exist", q.method, q.path, with, without)
		}
	}
	s.t.Logf("%s has asked %d times about what is %s's", asker.name, asked, owner.name)
	if asked < 300 {
		s.t.Errorf("%d requests, want at least 300", asked)
	}
}

// shown is what the API of a team's console answers, by path.
func (s *teamSite) shown(o *team, paths ...string) map[string]string {
	s.t.Helper()
	all := make(map[string]string)
	for _, path := range paths {
		got, _ := s.tell("/"+o.name, http.MethodGet, path, "", nil)
		all[path] = got.body
	}
	return all
}

// gotOnlyTheirs checks that everything that a team sees and gets is its own.
func (s *teamSite) gotOnlyTheirs(o, other *team) {
	s.t.Helper()
	got := s.shown(o, "/events?limit=1000", "/deliveries?limit=1000", "/activity?limit=1000", "/webhooks?limit=1000", "/feedback")
	ids := s.listOf("/"+other.name, "/events?limit=1000", "id")
	for _, path := range []string{
		"/", "/webhooks", "/feedback", "/events", "/activity", "/webhooks/" + o.name + "-quick", "/webhooks/" + o.name + "-crm/charts?span=7d",
		"/webhooks/" + o.name + "-alarms/settings", "/.well-known/webhook-keys.json", "/api/status", "/api/openapi.json", "/api/feedback?format=csv",
	} {
		response, err := s.client.Get("http://" + s.site + "/" + o.name + path)
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			s.t.Errorf("%s of %s: %s %v", path, o.name, response.Status, err)
		}
		got[o.name+path] = string(text)
	}
	got["mail"] = s.mailsTo()["owner@"+o.name+".example.com"]
	got["stream"] = o.stream.String()
	for _, a := range o.hooks.arrivals() {
		if !strings.HasSuffix(a.path, "/both") { // was of both
			got["requests"] += a.body + "\n"
		}
	}
	keys := "/.well-known/webhook-keys.json"
	for what, text := range got {
		for _, id := range append(ids, other.name) {
			if i := strings.Index(text, id); i >= 0 {
				s.t.Errorf("%s of %s has something of %s: …%s…", what, o.name, other.name, text[max(0, i-500):min(len(text), i+200)])
				break
			}
		}
		if !strings.Contains(text, o.name) && what != o.name+keys && what != o.name+"/activity" && what != "/activity?limit=1000" && what != o.name+"/api/status" {
			s.t.Errorf("%s of %s has nothing of its own:\n%s", what, o.name, text)
		}
	}
	var own, its struct{ Keys []struct{ Kid, X string } }
	for of, into := range map[string]any{o.name: &own, other.name: &its} {
		response, err := s.client.Get("http://" + s.site + "/" + of + keys)
		if err != nil {
			s.t.Fatal(err)
		}
		err = json.NewDecoder(response.Body).Decode(into)
		_ = response.Body.Close()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if len(own.Keys) != 1 || len(its.Keys) != 1 || own.Keys[0] == its.Keys[0] {
		s.t.Errorf("the public keys are %v for %s, %v for %s", own, o.name, its, other.name)
	}
}

// ownerChanges is the control of the requests that change something: for what is its own, a
// team is answered otherwise than for what does not exist.
func (s *teamSite) ownerChanges(o *team) {
	s.t.Helper()
	all := s.questions()
	last := func(q question) int {
		switch {
		case q.method == http.MethodDelete:
			return 1
		case strings.HasPrefix(q.path, "/erase"): // erases all
			return 2
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b question) int { return last(a) - last(b) })
	mine := s.theirs(o, "")
	for i, q := range all {
		if q.method == http.MethodGet {
			continue
		}
		values, nothing := make(map[string]string), make(map[string]string)
		for p, none := range nobodys {
			if q.uses(p) {
				values[p], nothing[p] = mine[p][i%len(mine[p])], none
			}
		}
		filled, empty := q.fill(values), q.fill(nothing)
		want, _ := s.tell("/"+o.name, empty.method, empty.path, empty.body, nothing)
		got, _ := s.tell("/"+o.name, filled.method, filled.path, filled.body, values)
		if got == want {
			s.t.Errorf("%s %s %s of its own is answered as of what does not exist: %+v", filled.method, filled.path, filled.body, got)
		}
	}
}
