package relay

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/body"
)

// dearBody costs too much with every event that has a message: each attempt takes what an
// evaluation may take at most, and fails.
var dearBody = func() string {
	many := "[" + strings.TrimSuffix(strings.Repeat("1,", 50), ",") + "]"
	return fmt.Sprintf(`{"t": data.message != null && %[1]s.all(a, %[1]s.all(b, %[1]s.all(c, a + b + c > 0)))}`, many)
}()

// acceptsBeside accepts events for a time while the deliveries of many others go to some
// webhooks with a body, one each 2 ms. It returns how long after its time each is accepted.
func acceptsBeside(t *testing.T, source string, turns *body.Turns, during time.Duration) (took []time.Duration) {
	t.Helper()
	c := Config{Retry: slices.Repeat([]time.Duration{time.Second}, maxRungs)}
	for i := range 2 {
		c.Webhooks = append(c.Webhooks, WebhookConfig{
			Name: fmt.Sprintf("w%d", i), URL: "https://r.example/", Body: source, Concurrency: 32, Events: []event.Type{event.Created},
		})
	}
	rs := &receivers{answer: func(request) (int, http.Header) { return http.StatusServiceUnavailable, nil }}
	r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, c)
	defer stop()
	for _, w := range r.all() {
		w.currentTarget().turns = turns
	}
	accept := func(kind event.Type, id string) {
		if _, err := r.Accept(t.Context(), queue.Entry{Type: string(kind), Feedback: queue.FeedbackID{ID: id}, Body: []byte(Sample)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		accept(event.Created, fmt.Sprintf("fb_%d", i))
	}
	for end := time.Now().Add(30 * time.Second); status(t, r, "w0").Counts.Retrying == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no attempt has ended within 30 s")
		}
	}
	const pace = 2 * time.Millisecond
	began := time.Now()
	for due := began; due.Before(began.Add(during)); due = due.Add(pace) {
		time.Sleep(time.Until(due))
		accept(event.Updated, fmt.Sprintf("fb_u%d", len(took))) // no webhook wants it
		took = append(took, time.Since(due))                    // with the time that it had to wait for the processor
	}
	return took
}

// TestDearBodyDelaysNoIntake: beside webhooks whose bodies cost as much as they may, the
// p99 of accepting an event is what it is beside webhooks with cheap bodies. The control
// makes the dear bodies without turns: then nine of ten would not pass.
func TestDearBodyDelaysNoIntake(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2)) // so that deliveries and intake share processors on any machine
	var cheap, dear, control []time.Duration
	for range 2 { // alternately, so that the machine is as busy for each
		cheap = append(cheap, acceptsBeside(t, `{"t": data.message}`, body.NewTurns(), time.Second)...)
		dear = append(dear, acceptsBeside(t, dearBody, body.NewTurns(), time.Second)...)
		control = append(control, acceptsBeside(t, dearBody, nil, 300*time.Millisecond)...)
	}
	at := func(took []time.Duration, share int) time.Duration {
		slices.Sort(took)
		return took[len(took)*share/100]
	}
	// Measured under loads of 45 to 56 on two processors: p99 18 to 67 ms beside dear bodies,
	// 41 to 250 ms beside cheap ones; the control's p90 is 1.3 to 2.4 s, 21 s under -race.
	most := 3*at(cheap, 99) + 20*time.Millisecond
	if p99 := at(dear, 99); p99 > most {
		t.Errorf("beside dear bodies, the p99 of accepting is %s; beside cheap ones %s", p99, at(cheap, 99))
	}
	if p90 := at(control, 90); p90 <= most {
		t.Errorf("beside dear bodies without turns, the p90 is %s, so the test shows nothing; the limit is %s", p90, most)
	}
}

// acceptsBesideFilters accepts events of one project for a time, while others submit events
// of another project, whose webhooks have a filter. It returns how long after its time each
// is accepted.
func acceptsBesideFilters(t *testing.T, filter string, inTurn bool, during time.Duration) (took []time.Duration) {
	t.Helper()
	const submitters = 16
	rs := &receivers{answer: always(http.StatusOK)}
	r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{
		{Name: "filtered", URL: "https://r.example/", Filter: filter, Projects: []string{"a"}},
		{Name: "plain", URL: "https://r.example/", Projects: []string{"b"}, Events: []event.Type{event.Updated}},
	}})
	defer stop()
	if !inTurn {
		for _, w := range r.all() {
			w.currentTarget().filters = nil
		}
	}
	accept := func(project, id string) {
		if _, err := r.Accept(t.Context(), queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{Project: project, ID: id}, Body: []byte(Sample)}); err != nil {
			t.Error(err)
		}
	}
	ended := make(chan struct{})
	var others sync.WaitGroup
	for i := range submitters {
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				default:
					accept("a", fmt.Sprintf("fb_%d_%d", i, n))
				}
			}
		})
	}
	const pace = 2 * time.Millisecond
	began := time.Now()
	for due := began; due.Before(began.Add(during)); due = due.Add(pace) {
		time.Sleep(time.Until(due))
		accept("b", fmt.Sprintf("fb_%d", len(took)))
		took = append(took, time.Since(due))
	}
	close(ended)
	others.Wait()
	return took
}

// TestDearFilterDelaysNoOtherSubmission: while many submissions wait for a filter that costs as
// much as it may, others are accepted in half of the time that they take if the filters
// judge all at once.
func TestDearFilterDelaysNoOtherSubmission(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	dearFilter := dearBody[len(`{"t": `) : len(dearBody)-1]
	var dear, control []time.Duration
	for range 2 {
		dear = append(dear, acceptsBesideFilters(t, dearFilter, true, time.Second)...)
		control = append(control, acceptsBesideFilters(t, dearFilter, false, time.Second)...)
	}
	slices.Sort(dear)
	slices.Sort(control)
	with, without := dear[len(dear)/2], control[len(control)/2]
	t.Logf("medians: %s in turn, %s all at once", with, without)
	// Measured under loads of 45 to 59: 11 and 412 ms, and 228 and 980 ms under -race.
	if with*2 > without {
		t.Errorf("while dear filters judge in turn, accepting takes %s; while they judge all at once, %s", with, without)
	}
}
