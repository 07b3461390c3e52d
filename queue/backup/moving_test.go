package backup_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/e2e/natsproc"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/backup"
	"github.com/userhero/relay/queue/badgerqueue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

var key = []byte("0123456789abcdef0123456789abcdef")

// content is everything that an engine exports.
type content struct {
	Webhooks   []queue.Webhook
	Last       queue.WebhookID
	Events     []queue.StoredEvent
	Keys       []queue.StoredKey
	Activities []queue.Activity
	CaughtAll  []queue.Caught
	Hashes     [][32]byte
}

func (c *content) Webhook(w queue.Webhook) error {
	w.Data = bytes.Clone(w.Data)
	c.Webhooks = append(c.Webhooks, w)
	return nil
}
func (c *content) LastWebhook(id queue.WebhookID) error { c.Last = id; return nil }
func (c *content) Event(e queue.StoredEvent) error {
	e.Body, e.Answer = bytes.Clone(e.Body), bytes.Clone(e.Answer)
	if e.Origin == [32]byte{} {
		e.Answer = nil // it is never used
	}
	c.Events = append(c.Events, e)
	return nil
}
func (c *content) Key(k queue.StoredKey) error {
	k.Answer = bytes.Clone(k.Answer)
	k.About = queue.NewEventID(time.UnixMilli(0), k.About.Tag(), k.About.Seq()) // the time of a removed event is not known
	c.Keys = append(c.Keys, k)
	return nil
}
func (c *content) Activity(a queue.Activity) error {
	c.Activities = append(c.Activities, queue.Activity{At: a.At, Data: bytes.Clone(a.Data)})
	return nil
}
func (c *content) Caught(k queue.Caught) error {
	c.CaughtAll = append(c.CaughtAll, queue.Caught{At: k.At, Body: bytes.Clone(k.Body)})
	return nil
}
func (c *content) Erased(hash [32]byte) error { c.Hashes = append(c.Hashes, hash); return nil }

func exported(t *testing.T, q queue.Queue) *content {
	t.Helper()
	var c content
	if err := q.(queue.Exported).Export(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(c.Keys, func(a, b queue.StoredKey) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Hashes, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	return &c
}

// sameTime makes b equal to a if they differ by little: engines keep due times by
// different clocks.
func sameTime(a time.Time, b *time.Time, within time.Duration) {
	if a.IsZero() == b.IsZero() && a.Sub(*b).Abs() < within {
		*b = a
	}
}

func same(t *testing.T, when string, want, have *content) {
	t.Helper()
	for i := range min(len(want.Events), len(have.Events)) {
		for j := range min(len(want.Events[i].Deliveries), len(have.Events[i].Deliveries)) {
			a, b := &want.Events[i].Deliveries[j], &have.Events[i].Deliveries[j]
			sameTime(a.Due, &b.Due, 200*time.Millisecond)
			sameTime(a.Ended, &b.Ended, 200*time.Millisecond)
			for k := range min(len(a.Log), len(b.Log)) {
				if len(a.Log[k].RequestBody)+len(b.Log[k].RequestBody) == 0 {
					b.Log[k].RequestBody = a.Log[k].RequestBody
				}
				if len(a.Log[k].ResponseBody)+len(b.Log[k].ResponseBody) == 0 {
					b.Log[k].ResponseBody = a.Log[k].ResponseBody
				}
				if len(a.Log[k].RequestHeaders)+len(b.Log[k].RequestHeaders)+len(a.Log[k].ResponseHeaders)+len(b.Log[k].ResponseHeaders) == 0 {
					b.Log[k].RequestHeaders, b.Log[k].ResponseHeaders = a.Log[k].RequestHeaders, a.Log[k].ResponseHeaders
				}
			}
		}
	}
	for i := range min(len(want.Keys), len(have.Keys)) {
		sameTime(want.Keys[i].Expires, &have.Keys[i].Expires, 2*time.Second)
		if len(want.Keys[i].Answer)+len(have.Keys[i].Answer) == 0 {
			have.Keys[i].Answer = want.Keys[i].Answer
		}
	}
	if reflect.DeepEqual(want, have) {
		return
	}
	a, b := reflect.ValueOf(*want), reflect.ValueOf(*have)
	for i := range a.NumField() {
		x, y := a.Field(i), b.Field(i)
		if reflect.DeepEqual(x.Interface(), y.Interface()) {
			continue
		}
		name := a.Type().Field(i).Name
		if x.Kind() != reflect.Slice || x.Len() != y.Len() {
			t.Errorf("%s: %s: want %+v\nhave %+v", when, name, x.Interface(), y.Interface())
			continue
		}
		for j := range x.Len() {
			if !reflect.DeepEqual(x.Index(j).Interface(), y.Index(j).Interface()) {
				t.Errorf("%s: %s %d: want\n%+v\nhave\n%+v", when, name, j, x.Index(j).Interface(), y.Index(j).Interface())
			}
		}
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// furnish fills a queue with deliveries in every state.
func furnish(t *testing.T, q queue.Queue) {
	t.Helper()
	ctx := t.Context()
	var hooks []queue.Webhook
	for _, name := range []string{"kept", "waiting", "parked", "deleted", "last"} {
		hooks = append(hooks, must[queue.Webhook](t)(q.PutWebhook(ctx, queue.Webhook{Name: name, Data: []byte(`{"secret":"whsec_` + name + `"}`), Expires: name == "parked"})))
	}
	ids := make([]queue.WebhookID, len(hooks))
	for i, h := range hooks {
		ids[i] = h.ID
	}
	n := 0
	accept := func(e queue.Entry) queue.Event {
		t.Helper()
		n++
		e.Type, e.Created = "feedback.created", time.Now()
		e.Body = fmt.Appendf(nil, `{"event":"feedback.created","n":%d,"text":%q}`, n, strings.Repeat("x", n*7%300))
		e.Trace = queue.TraceContext{TraceID: [16]byte{byte(n)}, SpanID: [8]byte{1}, Flags: 1, State: "a=b"}
		if e.Feedback.IsZero() {
			e.Feedback = queue.FeedbackID{Project: "proj.ä", ID: fmt.Sprintf("fb_%d", n)}
		}
		if !e.Replaces.IsZero() {
			e.Type = "feedback.updated"
		}
		return must[queue.Receipt](t)(q.Enqueue(ctx, e)).Event
	}
	attempt := func(status int) queue.Attempt {
		a := queue.Attempt{
			At: time.Now().Round(0).UTC(), Duration: 12 * time.Millisecond, Status: status, TraceID: [16]byte{9}, SpanID: [8]byte{8}, TraceFlags: 1,
			RequestHeaders: []queue.Header{{Name: "X-A", Value: "b"}}, ResponseHeaders: []queue.Header{{Name: "C", Value: "d"}},
			RequestBody: []byte("sent"), ResponseBody: bytes.Repeat([]byte("r"), n*100%2000),
		}
		if status != 200 {
			a.Error, a.ErrorClass, a.Next = "status 500", "status", time.Now().Add(time.Hour).Round(0).UTC()
		}
		return a
	}
	lane := must[queue.Lane](t)(q.Lane(ids[0], queue.LaneOptions{MaxInFlight: 1}))
	next := func() *queue.Lease {
		t.Helper()
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		return must[[]*queue.Lease](t)(lane.Next(wait, 1))[0]
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(time.Hour)
	var erased []queue.FeedbackID
	for i := range 40 {
		e := queue.Entry{Webhooks: ids[:1]}
		switch i % 10 {
		case 0:
			e.Key, e.Answer, e.Origin = queue.Key{Name: fmt.Sprintf("key %d", i), Hash: [32]byte{1}}, []byte("answer"), [32]byte{2}
		case 1:
			e.Webhooks = ids
		case 2:
			e.Feedback = queue.FeedbackID{ID: fmt.Sprintf("without.%d", i)}
		}
		created := accept(e)
		switch i % 10 {
		case 3: // two attempts, waits on a rung
			ok(next().Retry(time.Now(), attempt(500)))
			ok(next().Retry(later, attempt(500)))
		case 4:
			ok(next().Defer(later))
		case 5:
			ok(next().Dead(attempt(410)))
		case 6: // succeeds at the second attempt
			ok(next().Retry(time.Now(), attempt(500)))
			ok(next().Ack(attempt(200)))
		case 7: // delivered and sent again
			ok(next().Ack(attempt(200)))
			ok(lane.Sync(ctx))
			ok(q.Requeue(ctx, queue.DeliveryID{Event: created.ID, Webhook: ids[0]}, later))
		case 8: // updated, and updated by nothing
			ok(next().Ack(attempt(200)))
			updated := accept(queue.Entry{Feedback: created.Feedback, Replaces: created.ID, Webhooks: ids[1:2], Key: queue.Key{Name: fmt.Sprintf("update %d", i)}})
			_, err := q.Enqueue(ctx, queue.Entry{Feedback: created.Feedback, Replaces: updated.ID, Key: queue.Key{Name: fmt.Sprintf("nothing %d", i)}, Answer: []byte("as it was")})
			ok(err)
		case 9:
			ok(next().Ack(attempt(200)))
			e := accept(queue.Entry{Webhooks: ids[1:2], Key: queue.Key{Name: fmt.Sprintf("erased %d", i)}})
			erased = append(erased, e.Feedback)
		default:
			ok(next().Ack(attempt(200)))
		}
	}
	for i := range 260 { // more than one cursor lists
		e := accept(queue.Entry{Webhooks: ids[2:3]})
		if i%50 == 49 {
			ok(q.Requeue(ctx, queue.DeliveryID{Event: e.ID, Webhook: ids[2]}, later))
		}
	}
	for range 3 { // fresh
		accept(queue.Entry{Webhooks: ids})
	}
	must[queue.Receipt](t)(q.Enqueue(ctx, queue.Entry{Type: ".notice", Created: time.Now(), Body: []byte("a mail"), Webhooks: ids[1:2]}))
	ok(lane.Sync(ctx))
	ok(lane.Close())
	_, err := q.DeleteWebhook(ctx, ids[3], hooks[3].Revision)
	ok(err)
	_, err = q.DeleteWebhook(ctx, ids[4], hooks[4].Revision)
	ok(err)
	for i := range 5 {
		ok(q.AppendActivity(ctx, queue.Activity{At: time.Now().Round(0).UTC(), Data: fmt.Appendf(nil, "activity %d", i)}))
		ok(q.KeepCaught(ctx, queue.Caught{At: time.Now().Truncate(time.Millisecond).Add(time.Duration(i-5) * time.Second).UTC(), Body: fmt.Appendf(nil, "robot %d", i)}))
	}
	if eraser, can := q.(queue.Eraser); can {
		_, err := eraser.Erase(ctx, erased)
		ok(err)
	}
}

// natsServer starts a NATS server that ends with the test.
func natsServer(t *testing.T) string {
	t.Helper()
	if _, err := natsproc.Binary(); err != nil {
		t.Skip(err)
	}
	s, err := natsproc.Start(t.Context(), natsproc.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { natsproc.End([]*natsproc.Server{s}) })
	return s.URL()
}

func openBadger(t *testing.T, path string) *badgerqueue.Store {
	t.Helper()
	s := must[*badgerqueue.Store](t)(badgerqueue.Open(t.Context(), badgerqueue.Options{Path: path, EncryptionKey: key}))
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func openJetStream(t *testing.T, o jetstreamqueue.Options) *jetstreamqueue.Queue {
	t.Helper()
	q := must[*jetstreamqueue.Queue](t)(jetstreamqueue.Open(t.Context(), o))
	t.Cleanup(func() { _ = q.Close(context.Background()) })
	return q
}

// intoJetStream restores a backup into new streams.
func intoJetStream(t *testing.T, file []byte, o jetstreamqueue.Options) {
	t.Helper()
	n := must[*jetstreamqueue.NewStore](t)(jetstreamqueue.Create(t.Context(), o))
	if _, err := jetstreamqueue.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "not restored completely") {
		t.Fatalf("Open during a restore: %v", err)
	}
	must[backup.Info](t)(backup.Restore(t.Context(), bytes.NewReader(file), n, backup.Options{Dir: t.TempDir(), Key: key}))
	if err := n.Finish(); err != nil {
		t.Fatal(err)
	}
}

// TestStoreMovesFromBadgerToJetStreamAndBack compares everything that the engines export
// and list, and what their lanes hand out.
func TestStoreMovesFromBadgerToJetStreamAndBack(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{natsServer(t)}, EncryptionKey: key}
	first := openBadger(t, t.TempDir())
	furnish(t, first)
	was := exported(t, first)
	if len(was.Events) < 40 || len(was.Hashes) != 4 || was.Last != 5 || len(was.Webhooks) != 3 || len(was.Keys) != 4*4 || len(was.CaughtAll) != 5 {
		t.Fatalf("the store holds %d events, %d erased, %d webhooks up to %d, %d keys and %d caught",
			len(was.Events), len(was.Hashes), len(was.Webhooks), was.Last, len(was.Keys), len(was.CaughtAll))
	}
	var file bytes.Buffer
	must[badgerqueue.BackupInfo](t)(first.Backup(t.Context(), &file))

	intoJetStream(t, file.Bytes(), o)
	second := openJetStream(t, o)
	same(t, "on JetStream", was, exported(t, second))
	lists(t, "on JetStream", first, second)
	if _, err := jetstreamqueue.Create(t.Context(), o); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("restoring over a store: %v", err)
	}

	file.Reset()
	must[backup.Info](t)(backup.Write(t.Context(), second, &file, backup.Options{Dir: t.TempDir(), Key: key}))
	if bytes.Contains(file.Bytes(), []byte("whsec_")) || bytes.Contains(file.Bytes(), []byte("feedback.created")) {
		t.Error("the backup of an encrypted store is not encrypted")
	}
	path := t.TempDir()
	_, _, err := badgerqueue.Restore(t.Context(), bytes.NewReader(file.Bytes()), badgerqueue.RestoreOptions{Path: path, EncryptionKey: key})
	if err != nil {
		t.Fatal(err)
	}
	third := openBadger(t, path)
	same(t, "back on Badger", was, exported(t, third))
	lists(t, "back on Badger", first, third)
	report, err := third.Check(t.Context())
	if err != nil || report.Found > 0 {
		t.Errorf("the store has findings: %v, %+v", err, report)
	}
	goesOn(t, first, second, third)
}

// lists compares what two queues list and count.
func lists(t *testing.T, when string, a, b queue.Queue) {
	t.Helper()
	all := func(q queue.Queue) (list []queue.Delivery) {
		for query := (queue.DeliveryQuery{Limit: 1000}); ; {
			page := must[queue.Page[queue.Delivery]](t)(q.Deliveries(t.Context(), query))
			list = append(list, page.Items...)
			if query.Cursor = page.Next; query.Cursor == "" {
				return list
			}
		}
	}
	want, have := all(a), all(b)
	for i := range min(len(want), len(have)) {
		sameTime(want[i].Due, &have[i].Due, 200*time.Millisecond)
		sameTime(want[i].Ended, &have[i].Ended, 200*time.Millisecond)
	}
	if !reflect.DeepEqual(want, have) {
		t.Errorf("%s: the lists of deliveries differ:\n%v\n%v", when, want, have)
	}
	x, y := a.Stats(t.Context()), b.Stats(t.Context())
	for id, w := range x.Webhooks {
		if w.Counts != y.Webhooks[id].Counts {
			t.Errorf("%s: webhook %d has %+v, want %+v", when, id, y.Webhooks[id].Counts, w.Counts)
		}
	}
	if x.Events != y.Events {
		t.Errorf("%s: %d events, want %d", when, y.Events, x.Events)
	}
}

// goesOn checks that queues hand out the same, in the same order, and know what came before.
func goesOn(t *testing.T, all ...queue.Queue) {
	t.Helper()
	var want []queue.DeliveryID
	for _, q := range all {
		var have []queue.DeliveryID
		for _, id := range []queue.WebhookID{2, 3} {
			l := must[queue.Lane](t)(q.Lane(id, queue.LaneOptions{}))
			due := int64(0)
			for _, d := range must[queue.Page[queue.Delivery]](t)(q.Deliveries(t.Context(), queue.DeliveryQuery{Webhook: id, States: []queue.State{queue.Pending}, Limit: 1000})).Items {
				if d.Due.IsZero() {
					due++
				}
			}
			for ; due > 0; due-- {
				wait, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				lease := must[[]*queue.Lease](t)(l.Next(wait, 1))[0]
				cancel()
				have = append(have, lease.Delivery.ID)
				if err := lease.Ack(queue.Attempt{At: time.Now(), Status: 200}); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if want == nil {
			want = have
		}
		if len(have) == 0 || !slices.Equal(want, have) {
			t.Errorf("%T hands out %v, want %v", q, have, want)
		}
		r, err := q.Repeat(t.Context(), queue.Key{Name: "key 0", Hash: [32]byte{1}})
		if err != nil || string(r.Answer) != "answer" || r.Event.ID.Seq() == 0 {
			t.Errorf("%T: Repeat: %+v, %v", q, r, err)
		}
		if _, err := q.Repeat(t.Context(), queue.Key{Name: "erased 9"}); err == nil || !strings.Contains(err.Error(), queue.ErrErased.Error()) {
			t.Errorf("%T: Repeat of what was erased: %v", q, err)
		}
		e := must[queue.Event](t)(q.Latest(t.Context(), queue.FeedbackID{Project: "proj.ä", ID: "fb_1"}))
		replaced := must[queue.Receipt](t)(q.Enqueue(t.Context(), queue.Entry{Type: "feedback.updated", Feedback: e.Feedback, Replaces: e.ID, Created: time.Now(), Body: []byte("{}")}))
		if replaced.Event.ID.Seq() <= e.ID.Seq() || (q != all[0]) != (replaced.Event.ID.Tag() != e.ID.Tag()) {
			t.Errorf("%T: the new event is %v after %v", q, replaced.Event.ID, e.ID)
		}
		w := must[queue.Webhook](t)(q.PutWebhook(t.Context(), queue.Webhook{Name: "new"}))
		if w.ID != 6 {
			t.Errorf("%T: a new webhook has the id %d", q, w.ID)
		}
	}
}
