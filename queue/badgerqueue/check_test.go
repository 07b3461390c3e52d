package badgerqueue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// TestCheckFindsWhatDoesNotAgree breaks one record at a time, each with a right
// checksum, and has the check name it; on what nobody broke it finds nothing.
func TestCheckFindsWhatDoesNotAgree(t *testing.T) {
	t.Parallel()
	const seq = 2
	feedbackOf := func(n int) queue.FeedbackID { return queue.FeedbackID{Project: "proj", ID: fmt.Sprint("fb_", n)} }
	first := feedbackOf(1)
	for name, c := range map[string]struct {
		do   func(b *batch, w queue.WebhookID) error
		want string
	}{
		"an event is gone": {func(b *batch, _ queue.WebhookID) error { return b.delete(layout.EventKey(seq)) },
			"event number 2: is missing, and its deliveries are there"},
		"a body is damaged": {func(b *batch, _ queue.WebhookID) error {
			return b.set(layout.EventKey(seq), []byte("\x01not a record"))
		},
			"event number 2: damaged record"},
		"deliveries are damaged": {func(b *batch, _ queue.WebhookID) error { return b.set(layout.DeliveriesKey(seq), []byte("\x01no")) },
			"event number 2: deliveries: damaged record"},
		"a waiting delivery has no key": {func(b *batch, w queue.WebhookID) error {
			return b.set(layout.DeliveriesKey(seq), deliveries{{webhook: w, state: queue.Retrying, rung: 1, at: 1}}.encode(layout.DeliveriesKey(seq), layout.Record(0)))
		}, "nothing will wake it"},
		"a log is damaged": {func(b *batch, w queue.WebhookID) error {
			return b.set(layout.DeliveriesKey(seq), deliveries{{webhook: w, state: queue.Delivered, attempts: 1, at: 1, log: []byte{attemptFormat}}}.encode(layout.DeliveriesKey(seq), layout.Record(0)))
		}, "event number 2: attempt: damaged record"},
		"a key wakes nothing": {func(b *batch, w queue.WebhookID) error {
			return b.set(layout.WaitingKey(w, 3, layout.Waiting{Due: 5, Seq: seq}), nil)
		},
			"its record does not"},
		"a feedback points nowhere": {func(b *batch, _ queue.WebhookID) error {
			return b.set(layout.FeedbackKey(first), layout.Feedback{Seq: 77}.Encode(layout.FeedbackKey(first)))
		},
			`feedback "fb_1" of project "proj": its latest event, number 77, is missing`},
		"a feedback points to another": {func(b *batch, _ queue.WebhookID) error {
			return b.set(layout.FeedbackKey(first), layout.Feedback{Seq: 3}.Encode(layout.FeedbackKey(first)))
		},
			`is of feedback "fb_3" of project "proj"`},
		"a feedback of the older format points to another": {func(b *batch, _ queue.WebhookID) error {
			return b.set(layout.FormerKey("fb_1"), encodeSeq(layout.FormerKey("fb_1"), 3))
		},
			`feedback "fb_1": its latest event, number 3, is of feedback "fb_3"`},
		"a webhook is damaged":   {func(b *batch, w queue.WebhookID) error { return b.set(layout.WebhookKey(w), []byte("\x01no")) }, "webhook 1: damaged record"},
		"the counters are wrong": {func(b *batch, _ queue.WebhookID) error { b.stateOf.Events++; return nil }, "they count 5 events, and 4 are there"},
		"a lane's counters are wrong": {func(b *batch, w queue.WebhookID) error {
			b.stateOf.Changes = 0
			return b.set(layout.LaneKey(w), layout.EncodeLane(layout.LaneKey(w), queue.Counts{Pending: 9}, layout.Marks{}))
		}, "webhook 1: it counts {Pending:9"},
		"a lane has passed what waits": {func(b *batch, w queue.WebhookID) error {
			return b.set(layout.LaneKey(w), layout.EncodeLane(layout.LaneKey(w), queue.Counts{Pending: 4}, layout.Marks{Fresh: 4}))
		}, "event number 3: the lane of webhook 1 has passed its delivery"},
		"a key is none of ours": {func(b *batch, _ queue.WebhookID) error { return b.set([]byte("Zzz"), nil) }, "is none of ours"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openAt(t, Options{Path: fastDir(t)})
			w := newWebhook(t, s, "w")
			for i := range 4 {
				e := entry(i+1, w)
				e.Feedback = feedbackOf(i + 1)
				enqueue(t, s, e)
			}
			if err := s.AppendActivity(t.Context(), queue.Activity{At: time.Now(), Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			wantNoFindings(t, s)
			if err := s.commit(t.Context(), 2, 1024, func(b *batch) error { return c.do(b, w) }); err != nil {
				t.Fatal(err)
			}
			r, err := s.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, f := range r.Findings {
				all = append(all, f.String())
			}
			if !strings.Contains(strings.Join(all, "\n"), c.want) {
				t.Errorf("the check finds %q, want %q", all, c.want)
			}
		})
	}
}

// TestCheckReadsEachDeliveryOnce: what a check costs grows with what is stored, not
// with that times the webhooks.
func TestCheckReadsEachDeliveryOnce(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts everybody's
	const events, webhooks = 500, 50
	s := openAt(t, Options{Path: fastDir(t)})
	w := newWebhook(t, s, "w")
	acceptOld(t, s, events, 0, w)
	before := checkAllocs(t, s)
	for i := range webhooks {
		newWebhook(t, s, fmt.Sprintf("webhook %d", i))
	}
	if more := checkAllocs(t, s) - before; more > webhooks*events/5 {
		t.Errorf("with %d webhooks more, a check of %d events allocates %.0f times more", webhooks, events, more)
	}
}

func checkAllocs(t *testing.T, s *Store) float64 {
	t.Helper()
	return testing.AllocsPerRun(1, func() {
		if r, err := s.Check(t.Context()); err != nil || r.Found > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}
