package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDearBodyDelaysNoSubmission: while webhooks have bodies that take as long to make as a
// body may, with each of hundreds of waiting deliveries, the p99 of a submission is what it is
// while those webhooks are paused. The control has as dear an expression in filters, for which
// submissions do wait: then the same limit is exceeded.
func TestDearBodyDelaysNoSubmission(t *testing.T) {
	const (
		bodies, filters, waiting = 2, 8, 300
		pace                     = 5 * time.Millisecond
	)
	many := "[" + strings.TrimSuffix(strings.Repeat("1,", 50), ",") + "]"
	dear := fmt.Sprintf(`data.message != null && %[1]s.all(a, %[1]s.all(b, %[1]s.all(c, a + b + c > 0)))`, many)
	r := startReceiver(t, nil)
	var app strings.Builder
	var withBody, withFilter []string
	for i := range bodies {
		withBody = append(withBody, fmt.Sprintf("body%d", i))
		fmt.Fprintf(&app, "webhook body%d {\n url %s\n concurrency 32\n retry%s\n body `{\"t\": %s}`\n}\n", i, r.url, strings.Repeat(" 1s", 100), dear)
	}
	for i := range filters {
		withFilter = append(withFilter, fmt.Sprintf("filter%d", i))
		fmt.Fprintf(&app, "webhook filter%d {\n url %s\n filter `%s`\n}\n", i, r.url, dear)
	}
	s := startRelay(t, relayOptions{app: app.String(), env: []string{"GOMAXPROCS=2"}}) // deliveries and submissions share processors on any machine
	set := func(names []string, what string) {
		t.Helper()
		for _, name := range names {
			s.ask("POST", "/webhooks/"+name+"/"+what, "", 200)
		}
	}
	attempts := func() (n int) {
		for _, d := range s.deliveries(withBody[0]) {
			n += d.AttemptsMade
		}
		return n
	}
	// submissions is how long after its time each of one submission every 5 ms was answered.
	submissions := func(during time.Duration) (took []time.Duration) {
		t.Helper()
		began := time.Now()
		for due := began; due.Before(began.Add(during)) && time.Since(began) < 10*during; due = due.Add(pace) {
			time.Sleep(time.Until(due))
			s.mustSubmit("beside dear expressions")
			took = append(took, time.Since(due))
		}
		return took
	}
	set(withFilter, "disable")
	for range waiting {
		s.mustSubmit("waits for a dear body")
	}
	eventually(t, 60*time.Second, "bodies are made", func() bool { return attempts() > 0 })
	var paused, beside, made = []time.Duration(nil), []time.Duration(nil), 0
	for range 2 { // alternately, so that the machine is as busy for each
		set(withBody, "disable")
		paused = append(paused, submissions(2*time.Second)...)
		set(withBody, "enable")
		before := attempts()
		beside = append(beside, submissions(2*time.Second)...)
		made += attempts() - before
	}
	set(withBody, "disable")
	set(withFilter, "enable")
	control := submissions(time.Second)
	p99 := func(took []time.Duration) time.Duration {
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	limit := 3*p99(paused) + 20*time.Millisecond
	t.Logf("p99 of submissions: %s while the webhooks are paused, %s while they make %d bodies, %s beside filters", p99(paused), p99(beside), made, p99(control))
	if made < 10 {
		t.Errorf("%d bodies were made, so the test shows nothing", made)
	}
	if p99(beside) > limit {
		t.Errorf("beside dear bodies the p99 is %s; while they are paused %s", p99(beside), p99(paused))
	}
	if p99(control) <= limit {
		t.Errorf("beside dear filters the p99 is %s, so the test shows nothing; the limit is %s", p99(control), limit)
	}
	var one deliveryView
	for _, d := range s.deliveries(withBody[0]) {
		if d.AttemptsMade > 0 {
			s.get("/deliveries/"+d.ID, &one)
			break
		}
	}
	if len(one.Attempts) == 0 || one.Attempts[0].ErrorClass != "body" {
		t.Errorf("an attempt is %+v, want one that ended with the class body", one.Attempts)
	}
}
