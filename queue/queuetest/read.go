package queuetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

func unknownIsNotFound(t *trial) {
	w := t.webhook("w")
	e := t.enqueue() // without webhooks
	none := t.foreign()
	_, err := t.q.Event(t.ctx, none)
	t.is("Event", err, queue.ErrNotFound)
	_, err = t.q.Event(t.ctx, queue.EventID{})
	t.is("Event of the zero id", err, queue.ErrNotFound)
	_, err = t.q.EventDeliveries(t.ctx, none)
	t.is("EventDeliveries", err, queue.ErrNotFound)
	_, err = t.q.Latest(t.ctx, queue.FeedbackID{Project: "proj", ID: "fb_none"})
	t.is("Latest", err, queue.ErrNotFound)
	_, err = t.q.Latest(t.ctx, queue.FeedbackID{})
	t.is("Latest of no feedback", err, queue.ErrNotFound)
	_, err = t.q.Delivery(t.ctx, queue.DeliveryID{Event: e.ID, Webhook: w})
	t.is("Delivery to a webhook the event is not for", err, queue.ErrNotFound)
	_, err = t.q.Delivery(t.ctx, queue.DeliveryID{Event: none, Webhook: w})
	t.is("Delivery of no event", err, queue.ErrNotFound)
	_, err = t.q.Attempts(t.ctx, queue.DeliveryID{Event: none, Webhook: w})
	t.is("Attempts of no event", err, queue.ErrNotFound)
	_, err = t.q.DeleteWebhook(t.ctx, w+1, 1)
	t.is("DeleteWebhook", err, queue.ErrNotFound)
	_, err = t.q.PutWebhook(t.ctx, queue.Webhook{ID: w + 1, Name: "other", Revision: 1})
	t.is("PutWebhook of a revision of no webhook", err, queue.ErrNotFound)
	ds, err := t.q.EventDeliveries(t.ctx, e.ID)
	t.ok("EventDeliveries of an event for nobody", err)
	equal(t, "how many deliveries it has", len(ds), 0)
}

func latestIsTheNewestOfItsFeedback(t *trial) {
	var last [3]queue.Event
	for i := range 9 {
		e := t.entry()
		if i >= len(last) {
			e = t.update(last[i%3])
		}
		last[i%3] = t.accept(e)
	}
	t.accept(t.own())
	check := func() {
		t.Helper()
		for _, want := range last {
			got := t.latest(want.Feedback)
			equal(t, "the latest event of "+want.Feedback.String(), got.ID, want.ID)
			if string(got.Body) != string(want.Body) {
				t.Errorf("its body is %q, want %q", got.Body, want.Body)
			}
		}
	}
	check()
	t.reopen()
	check()
}

func eventDeliveriesComeByWebhook(t *trial) {
	a, b, c := t.webhook("a"), t.webhook("b"), t.webhook("c")
	e := t.enqueue(b, c)
	t.requeue(queue.DeliveryID{Event: e.ID, Webhook: a}, time.Now())
	t.ok("Ack", t.one(t.lane(c, 1)).Ack(made(200)))
	t.becomes(queue.DeliveryID{Event: e.ID, Webhook: c}, queue.Delivered)
	ds, err := t.q.EventDeliveries(t.ctx, e.ID)
	t.ok("EventDeliveries", err)
	sameIDs(t, "the event's deliveries", idsOf(ds, deliveryID), []queue.DeliveryID{
		{Event: e.ID, Webhook: a}, {Event: e.ID, Webhook: b}, {Event: e.ID, Webhook: c},
	})
	for _, d := range ds {
		equal(t, "the same, read alone", t.delivery(d.ID), d)
	}
}

func eventsAreSelected(t *trial) {
	start := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Hour)
	var all []queue.Event
	for i := range 24 {
		e := t.entry()
		e.Created = start.Add(time.Duration(i) * time.Minute)
		e.Feedback = queue.FeedbackID{Project: fmt.Sprintf("proj_%d", i/4), ID: fmt.Sprintf("fb_%d", i%4)}
		if i%3 == 0 {
			e.Type = "feedback.updated"
		}
		e.Body = fmt.Appendf(nil, `{"message":"Grüße Number %d!"}`, i)
		all = append(all, t.accept(e))
	}
	holds := func(text string) func([]byte) bool {
		return func(body []byte) bool { return bytes.Contains(body, []byte(text)) }
	}
	for _, c := range []struct {
		name string
		q    queue.EventQuery
		want func(i int) bool
	}{
		{"all", queue.EventQuery{}, func(int) bool { return true }},
		{"by type", queue.EventQuery{Type: "feedback.updated"}, func(i int) bool { return i%3 == 0 }},
		{"by no type there is", queue.EventQuery{Type: "feedback"}, func(int) bool { return false }},
		{"by feedback", queue.EventQuery{FeedbackID: "fb_3"}, func(i int) bool { return i%4 == 3 }},
		{"by project", queue.EventQuery{ProjectID: "proj_2"}, func(i int) bool { return i/4 == 2 }},
		{"by several projects", queue.EventQuery{Projects: []string{"proj_2", "proj_0"}}, func(i int) bool { return i/4 == 2 || i/4 == 0 }},
		{"by project, which is not among several", queue.EventQuery{ProjectID: "proj_2", Projects: []string{"proj_1"}}, func(int) bool { return false }},
		{"by feedback and project", queue.EventQuery{FeedbackID: "fb_3", ProjectID: "proj_2"}, func(i int) bool { return i == 11 }},
		{"since, which is included", queue.EventQuery{Since: all[5].Created}, func(i int) bool { return i >= 5 }},
		{"until, which is not", queue.EventQuery{Until: all[5].Created}, func(i int) bool { return i < 5 }},
		{"since and until", queue.EventQuery{Since: all[5].Created, Until: all[9].Created}, func(i int) bool { return i >= 5 && i < 9 }},
		{"until before since", queue.EventQuery{Since: all[9].Created, Until: all[5].Created}, func(int) bool { return false }},
		{"by what the body holds", queue.EventQuery{Match: holds("Number 17!")}, func(i int) bool { return i == 17 }},
		{"by what no body holds", queue.EventQuery{Match: holds("NUMBER")}, func(int) bool { return false }},
		{"by everything", queue.EventQuery{
			Type: "feedback.updated", FeedbackID: "fb_1", Since: all[2].Created, Until: all[20].Created, Match: holds("Number"),
		}, func(i int) bool { return i%3 == 0 && i%4 == 1 && i >= 2 && i < 20 }},
	} {
		var want []queue.EventID
		for i, e := range all {
			if c.want(i) {
				want = append([]queue.EventID{e.ID}, want...)
			}
		}
		for _, limit := range []int{0, 1, 3} {
			c.q.Limit = limit
			sameIDs(t, fmt.Sprintf("events %s, %d a page", c.name, limit), idsOf(t.allEvents(c.q), eventID), want)
		}
	}
}

func deliveriesAreSelected(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	l := t.lane(a, 24)
	start := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Hour)
	var all []queue.Event
	for i := range 24 {
		e := t.entry(a, b)
		e.Created = start.Add(time.Duration(i) * time.Minute)
		e.Feedback.Project = fmt.Sprintf("proj_%d", i%3)
		all = append(all, t.accept(e))
	}
	states := make([]queue.State, len(all))
	for i, lease := range t.leases(l, len(all)) {
		s := settlements[i%len(settlements)]
		states[i] = s.state
		t.ok(s.name, s.do(lease))
	}
	t.counts(a, queue.Counts{Pending: 6, Retrying: 6, Delivered: 6, Failed: 6})
	for _, c := range []struct {
		name string
		q    queue.DeliveryQuery
		want func(i int, w queue.WebhookID) bool
	}{
		{"all", queue.DeliveryQuery{}, func(int, queue.WebhookID) bool { return true }},
		{"of one webhook", queue.DeliveryQuery{Webhook: b}, func(_ int, w queue.WebhookID) bool { return w == b }},
		{"of no webhook there is", queue.DeliveryQuery{Webhook: b + 1}, func(int, queue.WebhookID) bool { return false }},
		{"that failed", queue.DeliveryQuery{States: []queue.State{queue.Failed}}, func(i int, w queue.WebhookID) bool { return w == a && states[i] == queue.Failed }},
		{"that wait", queue.DeliveryQuery{States: []queue.State{queue.Retrying, queue.Pending}}, func(i int, w queue.WebhookID) bool { return w == b || states[i].Waiting() }},
		{"since and until", queue.DeliveryQuery{Since: all[5].Created, Until: all[9].Created}, func(i int, _ queue.WebhookID) bool { return i >= 5 && i < 9 }},
		{"by project", queue.DeliveryQuery{Projects: []string{"proj_1"}}, func(i int, _ queue.WebhookID) bool { return i%3 == 1 }},
		{"by several projects", queue.DeliveryQuery{Projects: []string{"proj_2", "proj_0", "unknown"}}, func(i int, _ queue.WebhookID) bool { return i%3 != 1 }},
		{"of no project", queue.DeliveryQuery{Projects: []string{}}, func(int, queue.WebhookID) bool { return false }},
		{"that failed, by project", queue.DeliveryQuery{Projects: []string{"proj_1"}, States: []queue.State{queue.Failed}}, func(i int, w queue.WebhookID) bool {
			return w == a && states[i] == queue.Failed && i%3 == 1
		}},
		{"that wait, by project", queue.DeliveryQuery{Webhook: a, Projects: []string{"proj_2"}, States: []queue.State{queue.Retrying, queue.Pending}}, func(i int, w queue.WebhookID) bool {
			return w == a && states[i].Waiting() && i%3 == 2
		}},
		{"by everything", queue.DeliveryQuery{
			Webhook: a, States: []queue.State{queue.Delivered, queue.Pending}, Since: all[3].Created, Until: all[20].Created, Projects: []string{"proj_0", "proj_1"},
		}, func(i int, w queue.WebhookID) bool {
			return w == a && i%3 != 2 && (states[i] == queue.Delivered || states[i] == queue.Pending) && i >= 3 && i < 20
		}},
	} {
		var want []queue.DeliveryID
		for i, e := range slices.Backward(all) {
			for _, w := range []queue.WebhookID{a, b} {
				if c.want(i, w) {
					want = append(want, queue.DeliveryID{Event: e.ID, Webhook: w})
				}
			}
		}
		for _, limit := range []int{0, 1, 3} {
			c.q.Limit = limit
			got := t.allDeliveries(c.q)
			byWebhook(got)
			sameIDs(t, fmt.Sprintf("deliveries %s, %d a page", c.name, limit), idsOf(got, deliveryID), want)
		}
	}
	for _, d := range t.allDeliveries(queue.DeliveryQuery{}) {
		equal(t, "a delivery read alone, against the list", t.delivery(d.ID), d)
	}
}

func limitsBoundPages(t *trial) {
	w := t.webhook("w")
	const n = 60
	t.several(n, w)
	for i := range n {
		t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: time.Now(), Data: fmt.Append(nil, i)}))
	}
	for _, limit := range []int{0, 1, 7, 59, 60, 61, 1000} {
		bound := limit
		if limit == 0 {
			bound = 50 // the default
		}
		es, err := t.q.Events(t.ctx, queue.EventQuery{Limit: limit})
		t.ok("Events", err)
		ds, err := t.q.Deliveries(t.ctx, queue.DeliveryQuery{Limit: limit})
		t.ok("Deliveries", err)
		as, err := t.q.Activities(t.ctx, limit, "")
		t.ok("Activities", err)
		for list, got := range map[string]int{"events": len(es.Items), "deliveries": len(ds.Items), "activities": len(as.Items)} {
			if got > bound {
				t.Errorf("with limit %d a page has %d %s", limit, got, list)
			}
		}
		equal(t, "how many events there are on all pages", len(t.allEvents(queue.EventQuery{Limit: limit})), n)
		equal(t, "how many deliveries", len(t.allDeliveries(queue.DeliveryQuery{Limit: limit})), n)
		equal(t, "how many activities", len(t.allActivities(limit)), n)
	}
}

// byWebhook sorts the deliveries within each event, whose order a list may choose.
func byWebhook(list []queue.Delivery) {
	slices.SortStableFunc(list, func(x, y queue.Delivery) int {
		if x.ID.Event == y.ID.Event {
			return int(x.ID.Webhook) - int(y.ID.Webhook)
		}
		return 0
	})
}

// cursorsStayRightWhileRowsCome: a walk through a list returns every row that existed
// at its start, once and in order, although rows are added and changed meanwhile.
func cursorsStayRightWhileRowsCome(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	l := t.lane(a, 100)
	const n = 30
	events := t.several(n, a, b)
	at := time.Now()
	note := func() {
		t.Helper()
		at = at.Add(time.Millisecond)
		t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: at, Data: []byte("x")}))
	}
	for range n {
		note()
	}
	var wantEvents []queue.EventID
	var wantDeliveries []queue.DeliveryID
	for _, e := range slices.Backward(events) {
		wantEvents = append(wantEvents, e.ID)
		wantDeliveries = append(wantDeliveries, queue.DeliveryID{Event: e.ID, Webhook: a}, queue.DeliveryID{Event: e.ID, Webhook: b})
	}
	wantActivities := idsOf(t.allActivities(0), func(a queue.Activity) string { return a.ID })
	meanwhile := func() {
		t.several(2, a, b)
		note()
		t.ok("Ack", t.one(l).Ack(made(200)))
	}
	gotEvents := pages(t, func(cursor string) (queue.Page[queue.Event], error) {
		return t.q.Events(t.ctx, queue.EventQuery{Limit: 7, Cursor: cursor})
	}, meanwhile)
	sameIDs(t, "the events", idsOf(gotEvents, eventID), wantEvents)

	from := wantDeliveries[0].Event
	gotDeliveries := pages(t, func(cursor string) (queue.Page[queue.Delivery], error) {
		return t.q.Deliveries(t.ctx, queue.DeliveryQuery{Limit: 7, Cursor: cursor})
	}, meanwhile)
	ids := idsOf(gotDeliveries, deliveryID)
	first := slices.IndexFunc(ids, func(id queue.DeliveryID) bool { return id.Event == from })
	sameIDs(t, "the deliveries", ids[max(first, 0):], wantDeliveries)

	gotActivities := pages(t, func(cursor string) (queue.Page[queue.Activity], error) {
		return t.q.Activities(t.ctx, 7, cursor)
	}, meanwhile)
	noted := idsOf(gotActivities, func(a queue.Activity) string { return a.ID })
	oldest := slices.Index(noted, wantActivities[0])
	sameIDs(t, "the activities", noted[max(oldest, 0):], wantActivities)

	// A cursor that a client kept works after a restart.
	page, err := t.q.Events(t.ctx, queue.EventQuery{Limit: 1})
	t.ok("Events", err)
	before := idsOf(t.allEvents(queue.EventQuery{}), eventID)
	t.reopen()
	t.enqueue()
	rest := pages(t, func(cursor string) (queue.Page[queue.Event], error) {
		if cursor == "" {
			cursor = page.Next
		}
		return t.q.Events(t.ctx, queue.EventQuery{Limit: 7, Cursor: cursor})
	}, func() {})
	sameIDs(t, "the events after a cursor from before the restart", idsOf(rest, eventID), before[1:])
}

func badCursorIsAnError(t *trial) {
	t.enqueue(t.webhook("w"))
	for _, cursor := range []string{"!", "no cursor", "ü"} {
		if _, err := t.q.Events(t.ctx, queue.EventQuery{Cursor: cursor}); err == nil {
			t.Errorf("Events takes %q for a cursor", cursor)
		}
		if _, err := t.q.Deliveries(t.ctx, queue.DeliveryQuery{Cursor: cursor}); err == nil {
			t.Errorf("Deliveries takes %q for a cursor", cursor)
		}
		if _, err := t.q.Activities(t.ctx, 0, cursor); err == nil {
			t.Errorf("Activities takes %q for a cursor", cursor)
		}
	}
}

func relayOwnEventsAreInNoList(t *trial) {
	w := t.webhook("w")
	own := t.own(w)
	mail := t.accept(own)
	shown := t.enqueue(w)
	l := t.lane(w, 8)
	leases := t.leases(l, 2)
	sameIDs(t, "what is handed out", idsOf(leases, leasedEvent), []queue.EventID{mail.ID, shown.ID})
	equal(t, "the type of the relay's own", leases[0].Event.Type, ".mail")
	check := func() {
		t.Helper()
		sameIDs(t, "the events", idsOf(t.allEvents(queue.EventQuery{}), eventID), []queue.EventID{shown.ID})
		equal(t, "how many events are listed by that type", len(t.allEvents(queue.EventQuery{Type: ".mail"})), 0)
		sameIDs(t, "the deliveries", idsOf(t.allDeliveries(queue.DeliveryQuery{}), deliveryID), []queue.DeliveryID{{Event: shown.ID, Webhook: w}})
		e, err := t.q.Event(t.ctx, mail.ID)
		t.ok("Event", err)
		equal(t, "the event by its id", e.Type, ".mail")
	}
	check()
	t.ok("Retry", leases[0].Retry(time.Now().Add(time.Hour), made(500)))
	equal(t, "the state of its delivery", t.becomes(leases[0].Delivery.ID, queue.Retrying).Type, ".mail")
	check()
	t.reopen()
	check()
}

func activitiesAreNewestFirst(t *trial) {
	at := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	note := func(data string) {
		t.Helper()
		t.ok("AppendActivity", t.q.AppendActivity(t.ctx, queue.Activity{At: at, Data: []byte(data)}))
	}
	// Two at the same moment, before and after a restart.
	note("1")
	note("2")
	t.reopen()
	note("3")
	note("4")
	at = at.Add(time.Second)
	note("5")
	all := t.allActivities(2)
	var got []string
	ids := make(map[string]bool)
	for i, a := range all {
		got = append(got, string(a.Data))
		ids[a.ID] = true
		if i > 0 && a.ID >= all[i-1].ID {
			t.Errorf("the id %q of an older activity does not sort before %q", a.ID, all[i-1].ID)
		}
	}
	equal(t, "how many ids there are", len(ids), 5)
	if len(got) != 5 || got[0] != "5" {
		t.Fatalf("the activities are %q, want the five that were recorded, 5 first", got)
	}
	if !all[0].At.Equal(at) {
		t.Errorf("the last activity was at %v, want %v", all[0].At, at)
	}
	slices.Sort(got)
	sameIDs(t, "the activities", got, []string{"1", "2", "3", "4", "5"})
}

func statsCountStates(t *trial) {
	a, b := t.webhook("a"), t.webhook("b")
	l := t.lane(a, 8)
	ids := t.inEveryState(l, a)
	t.several(3, a, b)
	t.enqueue()
	own := t.own(b)
	t.accept(own)
	check := func(when string, wantA, wantB queue.Counts) {
		t.Helper()
		t.counts(a, wantA)
		t.counts(b, wantB)
		st := t.q.Stats(t.ctx)
		equal(t, when+": how many webhooks are counted", len(st.Webhooks), 2)
		equal(t, when+": the number of events", st.Events, 9)
	}
	check("at first", queue.Counts{Pending: 4, Retrying: 1, Delivered: 1, Failed: 1}, queue.Counts{Pending: 4})
	leases := t.leases(l, 2)
	check("what is leased is counted as stored", queue.Counts{Pending: 4, Retrying: 1, Delivered: 1, Failed: 1}, queue.Counts{Pending: 4})
	t.ok("Ack", leases[0].Ack(made(200)))
	t.ok("Dead", leases[1].Dead(made(500)))
	t.requeue(ids[queue.Delivered], time.Now().Add(time.Hour))
	t.requeue(queue.DeliveryID{Event: ids[queue.Failed].Event, Webhook: b}, time.Now())
	check("later", queue.Counts{Pending: 3, Retrying: 1, Delivered: 1, Failed: 2}, queue.Counts{Pending: 5})
	t.reopen()
	check("after reopening", queue.Counts{Pending: 3, Retrying: 1, Delivered: 1, Failed: 2}, queue.Counts{Pending: 5})
	t.ok("Health", t.q.Health())
}

func oldestDueTellsSinceWhen(t *trial) {
	w := t.webhook("w")
	l := t.lane(w, 1)
	since := func(what string, want time.Time) {
		t.Helper()
		// A call waits in Next, as it always does while a relay runs.
		ctx, cancel := context.WithCancel(t.ctx)
		answers := t.waiting(ctx, l)
		defer func() {
			cancel()
			t.is("Next", t.answered(answers, "its context was cancelled").err, context.Canceled)
		}()
		t.eventually("OldestDue, "+what, func() string {
			got := t.q.Stats(t.ctx).Webhooks[w].OldestDue
			if got.IsZero() != want.IsZero() || got.Sub(want).Abs() > 5*time.Millisecond {
				return fmt.Sprintf("it is %v, want %v", got, want)
			}
			return ""
		})
	}
	since("with nothing stored", time.Time{})
	old := t.entry(w)
	old.Created = time.Now().Add(-time.Minute)
	t.accept(old)
	lease := t.one(l)
	since("with all that is due out", time.Time{})
	second := t.enqueue(w)
	since("with one that has no place", second.Created)
	due := time.Now().Add(50 * time.Millisecond)
	t.ok("Retry", lease.Retry(due, made(500)))
	lease = t.one(l)
	equal(t, "what is out", lease.Event.ID, second.ID)
	t.until(due)
	since("with a retry that is due and has no place", due)
	t.ok("Ack", lease.Ack(made(200)))
	t.ok("Retry", t.one(l).Retry(time.Now().Add(time.Hour), made(500)))
	t.nothing(l, "the retry comes in an hour")
	since("with nothing due for an hour", time.Time{})
}
