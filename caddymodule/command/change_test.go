package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	cannedOne = `{"name":"crm","url":"https://crm.example.com/hook?…","projects":["proj_xyz"],"events":["feedback.created"],"filter":"data.rating <= 2","body":"slack","retry":["1m","5m"],"timeout":"30s","concurrency":8,"rate":"50/s","ordered":true,` +
		`"header_names":["X-Mine"],"has_secret":true,"tls":{"client_certificate":{"subject":"CN=relay","not_after":"2027-01-07T15:30:00Z"}},"source":"api","state":"failing","failing_since":"2026-01-07T10:00:00Z","reason":"answered 500",` +
		`"last_attempt":"2026-01-07T15:30:00.5Z","counts":{"pending":1,"retrying":2,"held":0,"failed":3,"delivered":40},"filter_errors":{"count":2,"last":"no such overload","at":"2026-01-07T15:30:00Z"}}`
	cannedFeedback = `{"id":"fb_1","project_id":"proj_xyz","data":{"id":"fb_1","message":"hi\u0007","rating":2,"status":"done"},"events":[` + cannedEvent + `}]}`
	cannedErased   = `{"feedback":2,"events":5,"deliveries":7,"cancelled":1,"attempts":9,"not_judged":1,"last_error":"no such overload"}`
	cannedActivity = `{"items":[{"id":"act_1","at":"2026-01-07T15:30:00Z","what":"feedback erased","who":"ada","detail":"feedbacks: 1"}]}`
)

func cannedChanges() map[string]string {
	return map[string]string{
		"GET /webhooks":                                cannedWebhooks,
		"GET /webhooks/crm":                            cannedOne,
		"GET /webhooks/stopped":                        `{"name":"stopped","state":"disabled","reason":"disabled by ada"}`,
		"GET /webhooks/gone":                           `{"name":"gone","state":"disabled","reason":"answered 410 Gone"}`,
		"POST /webhooks":                               `{"name":"crm","secret":"whsec_new"}`,
		"PATCH /webhooks/crm":                          cannedOne,
		"POST /webhooks/crm/rotate":                    `{"name":"crm","secret":"whsec_new"}`,
		"POST /webhooks/crm/rotate-signing-key":        `{"name":"crm","public_keys":[{"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"DELETE /webhooks/crm":                         `{"deleted":"crm","deliveries_ended":3}`,
		"GET /feedback/fb_1":                           cannedFeedback,
		"DELETE /feedback/fb_1?dry_run=true":           cannedErased,
		"DELETE /feedback/fb_1":                        cannedErased,
		"DELETE /feedback/fb_1?compact=true&project=p": cannedErased,
		"DELETE /feedback/fb_1?dry_run=true&project=p": cannedErased,
		"POST /erase":                                  cannedErased,
		"GET /activity?limit=50":                       cannedActivity,
		"GET /feedback?filter=data.rating+%3C%3D+2&format=csv&project=p&since=2026-01-07T00%3A00%3A00Z": "id,message",
	}
}

// TestCommandsAskBeforeTheyChange: without a yes nothing is changed; with one, what was
// done is printed.
func TestCommandsAskBeforeTheyChange(t *testing.T) {
	t.Parallel()
	pem := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(pem, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	const dry = `POST /erase {"filter":"true","dry_run":true}`
	for _, c := range []struct {
		args     []string
		question string
		looks    []string // asked before the question
		changes  string
		says     string
	}{
		{
			[]string{"webhooks", "add", "crm", "https://crm.example.com"}, "Add the webhook crm, which sends to https://crm.example.com?", nil,
			`POST /webhooks {"generate_secret":true,"name":"crm","url":"https://crm.example.com"}`, "whsec_new",
		},
		{
			[]string{"webhooks", "add", "crm", "https://crm.example.com", "--unsigned", "--projects", "a,b", "--events", "feedback.created", "--body", "slack", "--retry", "1m,5m"}, "Add", nil,
			`POST /webhooks {"body":"slack","events":["feedback.created"],"name":"crm","projects":["a","b"],"retry":["1m","5m"],"url":"https://crm.example.com"}`, "crm is added",
		},
		{
			[]string{"webhooks", "set", "crm", "--url", "https://other.example.com", "--rate", "", "--concurrency", "2", "--ordered=false", "--header", "X-A: 1", "--header", "X-B:2", "--root-ca", pem, "--projects", ""}, "Change crm?", nil,
			`PATCH /webhooks/crm {"concurrency":2,"headers":{"X-A":"1","X-B":"2"},"ordered":false,"projects":[],"rate":"","tls":{"client_certificate":"","client_certificate_key":"","root_ca":"PEM"},"url":"https://other.example.com"}`, "crm is changed",
		},
		{[]string{"webhooks", "rename", "crm", "erp"}, "Rename crm to erp?", nil, `PATCH /webhooks/crm {"name":"erp"}`, "is the new name of crm"},
		{[]string{"webhooks", "rotate", "crm", "--overlap", "1h"}, "Give crm a new secret? The old secret also works for 1h.", []string{"GET /webhooks/crm"}, `POST /webhooks/crm/rotate {"secret":"","overlap":"1h"}`, "whsec_new"},
		{
			[]string{"webhooks", "set", "crm", "--signing-key", pem}, "Change crm?", nil,
			`PATCH /webhooks/crm {"signing_key":"PEM"}`, "crm is changed",
		},
		{
			[]string{"webhooks", "rotate-signing-key", "crm", "--signing-key", pem, "--overlap", "1h"}, "Give crm a new signing key? If it has one, the old key also signs for 1h.", nil,
			`POST /webhooks/crm/rotate-signing-key {"signing_key":"PEM","overlap":"1h"}`, "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
		},
		{[]string{"webhooks", "delete", "crm"}, "Delete crm? 3 waiting deliveries will be cancelled.", []string{"GET /webhooks/crm"}, `DELETE /webhooks/crm`, "crm is deleted. 3 waiting deliveries were cancelled."},
		{[]string{"feedback", "erase", "fb_1"}, "Erase 2 feedbacks with 5 events and 1 waiting delivery for good?", []string{"DELETE /feedback/fb_1?dry_run=true"}, `DELETE /feedback/fb_1`, "2 feedbacks with 5 events and 1 waiting delivery erased."},
		{[]string{"feedback", "erase", "fb_1", "--project", "p", "--compact"}, "Erase", []string{"DELETE /feedback/fb_1?dry_run=true&project=p"}, `DELETE /feedback/fb_1?compact=true&project=p`, "erased."},
		{[]string{"feedback", "erase", "--filter", "true", "--compact"}, "Erase", []string{dry}, `POST /erase {"filter":"true","compact":true}`, "could not judge 1 event. The last error: no such overload"},
	} {
		for stdin, flags := range map[string][]string{"": nil, "n\n": nil, "y\n": nil, "ja\n": nil, "x": {"--yes"}} {
			a := newCannedAdmin(t, cannedChanges())
			r := command(t.Context(), stdin, append(append([]string{"userhero", "--address", a.address()}, c.args...), flags...)...)
			want := slices.Clone(c.looks)
			asked := flags == nil
			if yes := stdin == "y\n" || !asked; yes {
				want = append(want, c.changes)
				if r.failed != nil || !strings.Contains(r.out, c.says) {
					t.Errorf("%v %q: %v, %q, want it to say %q", c.args, stdin, r.failed, r.out, c.says)
				}
			} else if !errors.Is(r.failed, errUnchanged) {
				t.Errorf("%v %q: %v", c.args, stdin, r.failed)
			}
			if strings.Contains(r.err, c.question) != asked {
				t.Errorf("%v %q asks %q, want %q", c.args, stdin, r.err, c.question)
			}
			if !slices.Equal(a.asked, want) {
				t.Errorf("%v %q: asked for\n%q\nwant\n%q", c.args, stdin, a.asked, want)
			}
		}
	}
	for args, want := range map[string]string{
		"webhooks set crm":                      "--rate",
		"webhooks add crm":                      "a URL",
		"webhooks add crm x --header y --yes":   "Name: value",
		"webhooks rename crm":                   "new name",
		"webhooks delete none --yes":            "userhero webhooks",
		"webhooks rotate crm --overlap soon":    "24h",
		"feedback":                              "fb_",
		"feedback erase":                        "--filter",
		"feedback erase fb_1 --filter true":     "--filter",
		"webhooks set crm --root-ca /none.pem":  "--root-ca",
		"webhooks set crm --signing-key /none":  "--signing-key",
		"feedback export --output /nowhere/x.y": "/nowhere",
	} {
		a := newCannedAdmin(t, map[string]string{"GET /feedback?format=json": "x", "GET /webhooks/none": cannedNone, "GET /webhooks/crm": cannedOne})
		if r := a.run(t, strings.Fields(args)...); r.failed == nil || !strings.Contains(r.err, want) {
			t.Errorf("%s: %v %q, want %q", args, r.failed, r.err, want)
		}
	}
}

// TestWhatCanBeReadIsPrinted: one webhook, one feedback, the activity log, an export.
func TestWhatCanBeReadIsPrinted(t *testing.T) {
	t.Parallel()
	a := newCannedAdmin(t, cannedChanges())
	out := filepath.Join(t.TempDir(), "out.csv")
	export := []string{"feedback", "export", "--project", "p", "--since", "2026-01-07T00:00:00Z", "--filter", "data.rating <= 2", "--format", "csv"}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"webhooks", "crm"}, []string{"https://crm.example.com/hook?…", "proj_xyz", "data.rating <= 2", "1m 5m", "50/s", "slack", "X-Mine", "CN=relay, until 2027-01-07", "answered 500", "no such overload", "failing"}},
		{[]string{"feedback", "fb_1"}, []string{"fb_1", "proj_xyz", "hi�", "done", "evt_1"}},
		{[]string{"webhooks", "stopped"}, []string{" paused\n", "paused by ada"}},
		{[]string{"webhooks", "gone"}, []string{" disabled\n", "answered 410 Gone"}},
		{[]string{"activity"}, []string{"feedback erased", "ada", "feedbacks: 1"}},
		{export, []string{"id,message\n"}},
		{append(slices.Clone(export), "--output", out), nil},
	} {
		r := a.run(t, c.args...)
		if r.failed != nil {
			t.Errorf("%v: %v", c.args, r.failed)
		}
		for _, want := range c.want {
			if !strings.Contains(r.out, want) {
				t.Errorf("%v does not show %q:\n%s", c.args, want, r.out)
			}
		}
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "id,message\n" {
		t.Errorf("%q, %v", text, err)
	}
	if r := a.run(t, append(export, "--output", out)...); r.failed == nil {
		t.Error("a file that exists is overwritten")
	}
}

// TestWatchShowsItAgain: also if it fails in between.
func TestWatchShowsItAgain(t *testing.T) {
	t.Parallel()
	answers := canned()
	delete(answers, "GET /status")
	a := newCannedAdmin(t, answers)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan ran, 1)
	go func() { ended <- command(ctx, "", "userhero", "--address", a.address(), "status", "--watch=10ms") }()
	asked := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.asked)
	}
	for deadline := time.Now().Add(10 * time.Second); asked() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not asked for again")
		}
	}
	stop()
	if r := <-ended; strings.Count(r.err, "Error:") < 2 {
		t.Errorf("%v %q", r.failed, r.err)
	}
}
