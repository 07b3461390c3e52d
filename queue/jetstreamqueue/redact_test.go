package jetstreamqueue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

// redactedTo is what redaction makes of documents here.
const redactedTo = `{"redacted":true}`

// redacting are limits that redact what has ended.
var redacting = queue.Limits{
	Retention: time.Hour, RedactAfter: time.Millisecond, Redact: func([]byte) []byte { return []byte(redactedTo) },
}

// TestRedactedTextIsInNoFile reads the files of a server after redaction, and what two relays
// list, find and export. What still waits is as it was.
func TestRedactedTextIsInNoFile(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	o := jetstreamqueue.Options{Servers: []string{s.url}}
	q := opened(t, o)
	w, l := webhookWithLane(t, q)
	var redacted, waiting []queue.Event
	for i := range 30 {
		if i%3 == 1 {
			waiting = append(waiting, opinion(t, q, l, fmt.Sprintf("waits%dretried", i), w.ID))
		} else {
			redacted = append(redacted, opinion(t, q, l, fmt.Sprintf("ended%d", i), w.ID))
		}
	}
	if err := l.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	texts := func(name string) []string {
		return []string{"message of " + name, "sent of " + name, "response to " + name, "header of " + name}
	}
	stays := []string{"id-of-ended", "answer to ended", "id-of-waits", "error of waits"}
	for _, text := range slices.Concat(texts("ended"), texts("waits"), stays) {
		if len(inFiles(t, text, s.Dir)) == 0 {
			t.Fatalf("%q is in no file before anything is redacted, so the test finds nothing", text)
		}
	}
	q.SetLimits(redacting)
	eventually(t, "what has ended is redacted", func() bool {
		return !slices.ContainsFunc(redacted, func(e queue.Event) bool {
			got, err := q.Event(t.Context(), e.ID)
			return err != nil || !got.Redacted
		})
	})
	for _, text := range texts("ended") {
		if found := inFiles(t, text, s.Dir); len(found) > 0 {
			t.Errorf("%q is still in %v", text, found)
		}
	}
	for _, text := range slices.Concat(texts("waits"), stays) {
		if len(inFiles(t, text, s.Dir)) == 0 {
			t.Errorf("%q is gone, which was not redacted", text)
		}
	}
	for _, q := range []*jetstreamqueue.Queue{q, opened(t, o)} {
		eventually(t, "all are counted", func() bool {
			st := q.Stats(t.Context())
			return st.Events == 30 && st.Webhooks[w.ID].Counts == queue.Counts{Delivered: 20, Retrying: 10}
		})
		listed, err := q.Events(t.Context(), queue.EventQuery{Limit: 100})
		if err != nil || len(listed.Items) != 30 {
			t.Fatalf("%d events are listed: %v", len(listed.Items), err)
		}
		for i, e := range listed.Items[1:] {
			if e.ID.Seq() >= listed.Items[i].ID.Seq() {
				t.Errorf("%s is listed after %s", e.ID, listed.Items[i].ID)
			}
		}
		found, err := q.Events(t.Context(), queue.EventQuery{Limit: 100, Match: func(b []byte) bool { return bytes.Contains(b, []byte("message")) }})
		if err != nil || len(found.Items) != len(waiting) {
			t.Errorf("a search finds %d events: %v", len(found.Items), err)
		}
		var x exportedTexts
		if err := q.Export(t.Context(), &x); err != nil {
			t.Fatal(err)
		}
		for _, text := range texts("ended") {
			if strings.Contains(x.String(), text) {
				t.Errorf("%q is exported", text)
			}
		}
		if n := strings.Count(x.String(), redactedTo); n != 20 || x.events != 30 {
			t.Errorf("%d redacted of %d events are exported", n, x.events)
		}
	}
}

// exportedTexts has all that an export passes on of events.
type exportedTexts struct {
	strings.Builder
	events int
}

func (x *exportedTexts) Webhook(queue.Webhook) error       { return nil }
func (x *exportedTexts) LastWebhook(queue.WebhookID) error { return nil }
func (x *exportedTexts) Key(queue.StoredKey) error         { return nil }
func (x *exportedTexts) Activity(queue.Activity) error     { return nil }
func (x *exportedTexts) Caught(queue.Caught) error         { return nil }
func (x *exportedTexts) Erased([32]byte) error             { return nil }
func (x *exportedTexts) Event(e queue.StoredEvent) error {
	x.events++
	fmt.Fprintf(x, "%s\n", e.Body)
	for _, d := range e.Deliveries {
		for _, a := range d.Log {
			fmt.Fprintf(x, "%s\n%s\n%v\n", a.RequestBody, a.ResponseBody, a.ResponseHeaders)
		}
	}
	return nil
}

// mortal dials for a relay that dies right before it sends its nth message after arm.
type mortal struct {
	left atomic.Int64 // messages until it dies; 0: it does not
	sent atomic.Int64 // messages since arm
	dead chan struct{}
	die  sync.Once
}

func newMortal() *mortal { return &mortal{dead: make(chan struct{})} }

func (m *mortal) arm(n int64) {
	m.sent.Store(0)
	m.left.Store(n)
}

// Dial implements nats.CustomDialer.
func (m *mortal) Dial(network, address string) (net.Conn, error) {
	select {
	case <-m.dead:
		return nil, net.ErrClosed
	default:
	}
	c, err := net.Dial(network, address)
	return &mortalConn{c, m}, err
}

type mortalConn struct {
	net.Conn
	*mortal
}

func (c *mortalConn) Write(p []byte) (int, error) {
	select {
	case <-c.dead:
		return 0, net.ErrClosed
	default:
	}
	// Reading changes nothing, and locks and the pulse come again and again.
	if bytes.Contains(p, []byte("PUB ")) && !bytes.Contains(p, []byte(".x.")) && !bytes.Contains(p, []byte("MSG.GET")) &&
		!bytes.Contains(p, []byte("DIRECT.GET")) && !bytes.Contains(p, []byte("INFO")) && !bytes.Contains(p, []byte(".peers.")) && !bytes.Contains(p, []byte("CONSUMER")) {
		c.sent.Add(1)
		if c.left.Add(-1) == 0 {
			c.die.Do(func() { close(c.dead) })
			return 0, errors.Join(net.ErrClosed, c.Close())
		}
	}
	return c.Conn.Write(p)
}

// TestRedactionOfADeadRelayIsCompleted kills a relay before each message that it sends while
// it redacts. Another relay does what is left.
func TestRedactionOfADeadRelayIsCompleted(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	steps := dieWhileRedacting(t, s, "all", 1<<40)
	if steps < 10 {
		t.Fatalf("a redaction sends %d messages", steps)
	}
	t.Logf("a redaction sends %d messages", steps)
	slots := make(chan struct{}, 8)
	var dying sync.WaitGroup
	for n := int64(1); n <= steps; n++ {
		slots <- struct{}{}
		dying.Go(func() {
			defer func() { <-slots }()
			dieWhileRedacting(t, s, fmt.Sprintf("step%02d", n), n)
		})
	}
	dying.Wait()
}

// dieWhileRedacting redacts events whose deliveries ended in every way, with a relay that
// dies, and checks what the next one makes of it. It returns how many messages the first
// relay has sent.
func dieWhileRedacting(t *testing.T, s *server, name string, after int64) int64 {
	dialer := newMortal()
	o := jetstreamqueue.Options{Servers: []string{s.url}, Prefix: name, LockTTL: 4 * time.Second, Logger: slog.New(slog.DiscardHandler)}
	mortal := o
	mortal.Connect = []nats.Option{nats.SetCustomDialer(dialer)}
	a, err := jetstreamqueue.Open(t.Context(), mortal)
	if err != nil {
		t.Error(err)
		return 0
	}
	must := func(doing string, err error) {
		if err != nil {
			t.Errorf("%s: %s: %v", name, doing, err)
		}
	}
	w, err := a.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	must("PutWebhook", err)
	parked, err := a.PutWebhook(t.Context(), queue.Webhook{Name: "parked", Expires: true})
	must("PutWebhook", err)
	l, err := a.Lane(w.ID, queue.LaneOptions{})
	must("Lane", err)
	text := func(id string) string { // that of the third stays
		if id == "fb_3" {
			return name + " keeps this text"
		}
		return name + " has a secret text"
	}
	accept := func(n int, replaces queue.Event, to ...queue.WebhookID) queue.Event {
		id := queue.FeedbackID{Project: "p", ID: fmt.Sprintf("fb_%d", n)}
		r, err := a.Enqueue(t.Context(), queue.Entry{
			Type: "feedback.created", Created: time.Now(), Feedback: id, Body: fmt.Appendf(nil, `{"message":"%s"}`, text(id.ID)),
			Webhooks: to, Replaces: replaces.ID, Origin: [32]byte{1}, Answer: []byte("answer"),
		})
		must("Enqueue", err)
		return r.Event
	}
	settle := func(how func(*queue.Lease, queue.Attempt) error) {
		leases, err := l.Next(t.Context(), 1)
		must("Next", err)
		if len(leases) == 1 {
			must("settling", how(leases[0], queue.Attempt{At: time.Now(), Status: 200, ResponseBody: []byte("response " + text(leases[0].Event.Feedback.ID))}))
		}
	}
	ack := (*queue.Lease).Ack
	retry := func(at time.Duration) func(*queue.Lease, queue.Attempt) error {
		return func(l *queue.Lease, a queue.Attempt) error { return l.Retry(time.Now().Add(at), a) }
	}
	first := accept(1, queue.Event{}, w.ID)
	settle(ack)
	update := accept(1, first, w.ID)
	settle(ack)
	second := accept(2, queue.Event{}, w.ID)
	settle(retry(0))
	settle(ack)
	untouched := accept(3, queue.Event{}, w.ID)
	settle(retry(time.Hour))
	waits := accept(4, queue.Event{}, parked.ID)
	must("Sync", l.Sync(t.Context()))
	redacted := []queue.Event{first, update, second, waits}

	dialer.arm(after)
	a.SetLimits(redacting)
	done := func(q *jetstreamqueue.Queue) bool {
		for _, e := range redacted {
			if got, err := q.Event(t.Context(), e.ID); err != nil || !got.Redacted {
				return false
			}
		}
		return !q.IsErasing()
	}
	until := time.Now().Add(time.Minute)
	dead := func() bool {
		select {
		case <-dialer.dead:
			return true
		default:
			return false
		}
	}
	for !dead() && !done(a) && time.Now().Before(until) {
		time.Sleep(5 * time.Millisecond)
	}
	sent := dialer.sent.Load()
	must("Abandon", a.Abandon())

	o.Limits = redacting
	for range 2 { // the second one reads what the first one has left
		b, err := jetstreamqueue.Open(t.Context(), o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return sent
		}
		for !done(b) && time.Now().Before(until) {
			time.Sleep(5 * time.Millisecond)
		}
		wrong := func() string {
			st := b.Stats(t.Context())
			if got := st.Webhooks[w.ID].Counts; got != (queue.Counts{Delivered: 3, Retrying: 1}) {
				return fmt.Sprintf("counted %+v", got)
			}
			if got := st.Webhooks[parked.ID].Counts; got != (queue.Counts{Failed: 1}) {
				return fmt.Sprintf("counted at the parked webhook %+v", got)
			}
			listed, err := b.Events(t.Context(), queue.EventQuery{})
			if err != nil || st.Events != 5 || len(listed.Items) != 5 {
				return fmt.Sprintf("%d events, %d listed, %v", st.Events, len(listed.Items), err)
			}
			for i, want := range []queue.Event{waits, untouched, second, update, first} {
				if got := listed.Items[i]; got.ID != want.ID || got.Redacted != (want.ID != untouched.ID) {
					return fmt.Sprintf("%s is listed for %s, redacted %v", got.ID, want.ID, got.Redacted)
				}
			}
			for e, n := range map[queue.EventID]int{first.ID: 1, update.ID: 1, second.ID: 2, untouched.ID: 1} {
				as, err := b.Attempts(t.Context(), queue.DeliveryID{Event: e, Webhook: w.ID})
				if err != nil || len(as) != n || (len(as[0].ResponseBody) > 0) != (e == untouched.ID) {
					return fmt.Sprintf("the attempts of %s are %+v, %v", e, as, err)
				}
			}
			if latest, err := b.Latest(t.Context(), first.Feedback); err != nil || latest.ID != update.ID || !latest.Redacted {
				return fmt.Sprintf("the latest is %+v, %v", latest, err)
			}
			return ""
		}
		said := wrong()
		for said != "" && time.Now().Before(until) {
			time.Sleep(5 * time.Millisecond)
			said = wrong()
		}
		if said != "" {
			t.Errorf("%s: %s", name, said)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		must("Close", b.Close(ctx))
		cancel()
	}
	if found := inFiles(t, text(""), s.Dir); len(found) > 0 {
		t.Errorf("%s: %q is in %v", name, text(""), found)
	}
	if kept := text("fb_3"); len(inFiles(t, kept, s.Dir)) == 0 || len(inFiles(t, "response "+kept, s.Dir)) == 0 {
		t.Errorf("%s: %q is in no file, and it was not redacted", name, kept)
	}
	return sent
}

// TestUpdatesMayFollowRedactedOnes: an older event of a feedback is redacted while the
// latest still waits. The latest one can be replaced.
func TestUpdatesMayFollowRedactedOnes(t *testing.T) {
	t.Parallel()
	q := opened(t, jetstreamqueue.Options{Servers: []string{oneServer(t).url}})
	w, l := webhookWithLane(t, q)
	accept := func(replaces queue.EventID) queue.Event {
		r, err := q.Enqueue(t.Context(), queue.Entry{
			Type: "feedback.created", Created: time.Now(), Feedback: queue.FeedbackID{ID: "fb"}, Body: []byte(`{}`),
			Webhooks: []queue.WebhookID{w.ID}, Replaces: replaces,
		})
		if err != nil {
			t.Fatal(err)
		}
		return r.Event
	}
	lease := func() *queue.Lease {
		leases, err := l.Next(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		return leases[0]
	}
	first := accept(queue.EventID{})
	if err := lease().Ack(queue.Attempt{Status: 200}); err != nil {
		t.Fatal(err)
	}
	second := accept(first.ID)
	out := lease()
	q.SetLimits(redacting)
	eventually(t, "the first one is redacted", func() bool { e, err := q.Event(t.Context(), first.ID); return err == nil && e.Redacted })
	if latest, err := q.Latest(t.Context(), first.Feedback); err != nil || latest.ID != second.ID || latest.Redacted {
		t.Fatalf("the latest is %+v, %v", latest, err)
	}
	third := accept(second.ID)
	if err := errors.Join(out.Ack(queue.Attempt{Status: 200}), lease().Ack(queue.Attempt{Status: 200})); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are redacted", func() bool {
		latest, err := q.Latest(t.Context(), first.Feedback)
		return err == nil && latest.ID == third.ID && latest.Redacted
	})
	_, err := q.Enqueue(t.Context(), queue.Entry{
		Type: "feedback.created", Created: time.Now(), Feedback: first.Feedback, Body: []byte(`{}`), Replaces: third.ID,
	})
	if !errors.Is(err, queue.ErrRedacted) {
		t.Errorf("an update of what was redacted: %v", err)
	}
	_, err = q.Enqueue(t.Context(), queue.Entry{Type: "feedback.created", Created: time.Now(), Feedback: first.Feedback, Body: []byte(`{}`)})
	if !errors.Is(err, queue.ErrExists) {
		t.Errorf("another submission with the id: %v", err)
	}
}
