package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
)

// feedbackRow is a row of the table of examples/database.
type feedbackRow struct {
	Project, ID, Status, Category, Message string
	Rating                                 int
	Plan                                   string // metadata.plan, out of the JSON
}

// TestDatabaseExample: examples/database holds one row for each feedback, as its
// newest update made it, whatever comes twice or in another order.
func TestDatabaseExample(t *testing.T) {
	t.Parallel()
	env := databaseOf(t)
	e := startDatabaseExample(t, env)
	event := func(kind, second, project, id, data string) string {
		return fmt.Sprintf(`{"event":%q,"timestamp":"2026-01-07T15:30:%sZ","data":{"id":%q,"projectId":%q,%s,"createdAt":"2026-01-07T15:30:00Z"}}`, kind, second, id, project, data)
	}
	const created, updated = "feedback.created", "feedback.updated"
	for i, body := range []string{
		event(created, "00", "p", "fb_1", `"message":"first","status":"new","rating":2,"category":"bug","metadata":{"plan":"pro"}`),
		event(created, "00", "q", "fb_1", `"message":"of another project","status":"new"`),
		event(updated, "02", "p", "fb_1", `"message":"first","status":"done","rating":2,"category":"bug","metadata":{"plan":"free"}`),
		event(updated, "01", "p", "fb_1", `"message":"first","status":"seen","rating":2,"category":"bug"`), // late
		event(updated, "03", "p", "fb_2", `"message":"second","status":"done"`),                            // before its creation
		event(created, "00", "p", "fb_2", `"message":"second","status":"new"`),
	} {
		for attempt := range 2 {
			if status := e.deliver(t, fmt.Sprint("delivery-", i), attempt+1, body).StatusCode; status != http.StatusNoContent {
				t.Fatalf("status %d to %s", status, body)
			}
		}
	}
	want := []feedbackRow{
		{Project: "p", ID: "fb_1", Status: "done", Category: "bug", Message: "first", Rating: 2, Plan: "free"},
		{Project: "p", ID: "fb_2", Status: "done", Message: "second"},
		{Project: "q", ID: "fb_1", Status: "new", Message: "of another project"},
	}
	if got := feedbackRows(t, env); !reflect.DeepEqual(got, want) {
		t.Fatalf("rows %+v\nwant %+v", got, want)
	}

	// A real relay: a submission and its update.
	s := startRelay(t, relayOptions{
		app:    fmt.Sprintf("webhook database {\n url %s\n secret %s\n ordered\n}", e.url, secret),
		intake: "update_auth token-of-e2e\n",
	})
	id := s.mustSubmit("from the relay")
	request, err := http.NewRequest(http.MethodPatch, "http://"+s.site+"/feedback/"+id, strings.NewReader(`{"status":"done"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer token-of-e2e")
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("the update: %s", response.Status)
	}
	eventually(t, 10*time.Second, "both are delivered", func() bool { return s.webhook("database").Counts.Delivered == 2 })
	got := feedbackRows(t, env)
	if len(got) != 4 || got[2] != (feedbackRow{Project: "proj_e2e", ID: id, Status: "done", Message: "from the relay"}) {
		t.Fatalf("rows %+v", got)
	}
}

// feedbackRows reads the table with the example's own SQLite.
func feedbackRows(t *testing.T, env string) (rows []feedbackRow) {
	t.Helper()
	cmd := exec.Command("node", "-e", `
		const db = new (require("better-sqlite3"))(process.argv[1]);
		console.log(JSON.stringify(db.prepare("SELECT *, data->>'$.metadata.plan' AS plan FROM feedback ORDER BY project, id").all()));
	`, strings.TrimPrefix(env, "DATABASE="))
	cmd.Dir = "../examples/database"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &rows)
	}
	if err != nil {
		t.Fatalf("reading the table: %v: %s%s", err, out, stderr.String())
	}
	return rows
}
