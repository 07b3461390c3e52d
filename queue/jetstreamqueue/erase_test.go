package jetstreamqueue_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/jetstreamqueue"
)

// inFiles returns the files below the folders that contain a text, also as JSON stores bytes.
func inFiles(t *testing.T, text string, dirs ...string) (found []string) {
	t.Helper()
	encoded := strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(text)), "=")
	encoded = encoded[:len(encoded)-len(encoded)%4]
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				if errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
				return err
			}
			b, err := os.ReadFile(path)
			if err == nil && (bytes.Contains(b, []byte(text)) || bytes.Contains(b, []byte(encoded))) {
				found = append(found, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// webhookWithLane makes a webhook, and its lane on this relay.
func webhookWithLane(t *testing.T, q queue.Queue) (queue.Webhook, queue.Lane) {
	t.Helper()
	w, err := q.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := q.Lane(w.ID, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w, l
}

// opinion is a feedback with a text in everything that is stored of it.
func opinion(t *testing.T, q queue.Queue, l queue.Lane, name string, w ...queue.WebhookID) queue.Event {
	t.Helper()
	e := queue.Entry{
		Type: "feedback.created", Created: time.Now(), Feedback: queue.FeedbackID{Project: "p", ID: "id-of-" + name},
		Body: fmt.Appendf(nil, `{"message":"message of %s"}`, name), Webhooks: w,
		Key: queue.Key{Name: "key of " + name}, Origin: [32]byte{1}, Answer: []byte("answer to " + name),
	}
	r, err := q.Enqueue(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	attempt := queue.Attempt{
		At: time.Now(), Status: 200, RequestBody: []byte("sent of " + name), ResponseBody: []byte("response to " + name),
		ResponseHeaders: []queue.Header{{Name: "X-Echo", Value: "header of " + name}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	leases, err := l.Next(ctx, 1)
	if err == nil && strings.Contains(name, "retried") {
		attempt.Status, attempt.Error = 500, "error of "+name
		err = leases[0].Retry(time.Now().Add(time.Hour), attempt)
	} else if err == nil {
		err = leases[0].Ack(attempt)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.Event
}

// TestErasedFeedbackIsInNoFile reads the files of a server after an erasure. What was not
// erased is in them.
func TestErasedFeedbackIsInNoFile(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	q := opened(t, jetstreamqueue.Options{Servers: []string{s.url}})
	w, l := webhookWithLane(t, q)
	var ids []queue.FeedbackID
	var kept []queue.Event
	for i := range 30 {
		name := fmt.Sprintf("kept%d", i)
		if i%3 == 1 {
			name = fmt.Sprintf("erased%d", i)
		}
		if i%2 == 1 {
			name += "retried"
		}
		e := opinion(t, q, l, name, w.ID)
		if strings.HasPrefix(name, "erased") {
			ids = append(ids, e.Feedback)
		} else {
			kept = append(kept, e)
		}
	}
	if err := l.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	texts := func(name string) []string {
		return []string{"message of " + name, "id-of-" + name, "answer to " + name, "sent of " + name, "response to " + name, "header of " + name, "error of " + name}
	}
	for _, name := range []string{"erased", "kept"} {
		for _, text := range texts(name) {
			if len(inFiles(t, text, s.Dir)) == 0 {
				t.Fatalf("%q is in no file before anything is erased, so the test finds nothing", text)
			}
		}
	}
	sum, err := q.Erase(t.Context(), ids)
	if err != nil || sum.Feedbacks != 10 || sum.Attempts != 10 || sum.Keys != 10 || sum.Waiting != 5 {
		t.Fatalf("Erase: %+v, %v", sum, err)
	}
	for _, text := range texts("erased") {
		if found := inFiles(t, text, s.Dir); len(found) > 0 {
			t.Errorf("%q is still in %v", text, found)
		}
	}
	for _, text := range texts("kept") {
		if len(inFiles(t, text, s.Dir)) == 0 {
			t.Errorf("%q is gone, which was not erased", text)
		}
	}
	other := opened(t, jetstreamqueue.Options{Servers: []string{s.url}}) // knows no log by heart
	for _, q := range []*jetstreamqueue.Queue{q, other} {
		for _, e := range kept {
			attempts, err := q.Attempts(t.Context(), queue.DeliveryID{Event: e.ID, Webhook: w.ID})
			if err != nil || len(attempts) != 1 || !strings.HasPrefix(string(attempts[0].ResponseBody), "response to kept") {
				t.Errorf("the attempts of %s: %v, %v", e.Feedback, attempts, err)
			}
		}
		if c := q.Stats(t.Context()).Webhooks[w.ID].Counts; c != (queue.Counts{Delivered: 10, Retrying: 10}) {
			t.Errorf("counted: %+v", c)
		}
	}
}

// TestErasingHoldsOnEveryRelay: one relay erases what another one is attempting. It waits
// for that attempt, and from then on both know nothing of the feedback.
func TestErasingHoldsOnEveryRelay(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}}
	a, b := opened(t, o), opened(t, o)
	w, err := a.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other relay knows the webhook", func() bool { all, err := b.Webhooks(t.Context()); return err == nil && len(all) == 1 })
	l, err := b.Lane(w.ID, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entry := queue.Entry{
		Type: "feedback.created", Created: time.Now(), Feedback: queue.FeedbackID{Project: "p", ID: "fb"}, Body: []byte("{}"),
		Webhooks: []queue.WebhookID{w.ID}, Key: queue.Key{Name: "key"},
	}
	var events []queue.Event
	for range 3 {
		r, err := a.Enqueue(t.Context(), entry)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, r.Event)
		entry.Type, entry.Replaces, entry.Key = "feedback.updated", r.Event.ID, queue.Key{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	leases, err := l.Next(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	erased := make(chan error, 1)
	var sum queue.Erased
	go func() {
		var err error
		sum, err = a.Erase(t.Context(), []queue.FeedbackID{entry.Feedback})
		erased <- err
	}()
	eventually(t, "the other relay knows what is erased", func() bool {
		_, err := b.Latest(t.Context(), entry.Feedback)
		return errors.Is(err, queue.ErrErased)
	})
	select {
	case err := <-erased:
		t.Fatalf("Erase returned %v while a delivery was leased", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := leases[0].Retry(time.Now(), queue.Attempt{At: time.Now(), Status: 500}); err != nil {
		t.Error(err)
	}
	if err := <-erased; err != nil {
		t.Fatal(err)
	}
	if sum != (queue.Erased{Feedbacks: 1, Events: 3, Deliveries: 3, Waiting: 3, Attempts: 1, Keys: 1}) {
		t.Errorf("erased %+v", sum)
	}
	r, err := b.Enqueue(t.Context(), queue.Entry{
		Type: "feedback.created", Created: time.Now(), Feedback: queue.FeedbackID{Project: "p", ID: "next"}, Body: []byte("{}"), Webhooks: []queue.WebhookID{w.ID},
	})
	if err != nil {
		t.Fatal(err)
	}
	if leases, err = l.Next(ctx, 1); err != nil || leases[0].Event.ID != r.Event.ID {
		t.Fatalf("after the erasure %v comes: %v", leases, err)
	}
	if err := errors.Join(leases[0].Ack(queue.Attempt{At: time.Now(), Status: 200}), l.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, q := range []*jetstreamqueue.Queue{a, b, opened(t, o)} {
		for _, e := range events {
			if _, err := q.Event(t.Context(), e.ID); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("Event: %v", err)
			}
		}
		if _, err := q.Enqueue(t.Context(), entry); !errors.Is(err, queue.ErrErased) {
			t.Errorf("an update of what was erased: %v", err)
		}
		if _, err := q.Repeat(t.Context(), queue.Key{Name: "key"}); !errors.Is(err, queue.ErrErased) {
			t.Errorf("a repeat of what was erased: %v", err)
		}
		eventually(t, "the counts lack what was erased", func() bool {
			return q.Stats(t.Context()).Webhooks[w.ID].Counts == queue.Counts{Delivered: 1}
		})
	}
}

// TestErasureOfADeadRelayIsCompleted: a relay dies between the steps of an erasure. Another
// one completes it by itself.
func TestErasureOfADeadRelayIsCompleted(t *testing.T) {
	t.Parallel()
	o := jetstreamqueue.Options{Servers: []string{oneServer(t).url}, LockTTL: time.Second}
	a, b := opened(t, o), opened(t, o)
	w, err := a.PutWebhook(t.Context(), queue.Webhook{Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.Lane(w.ID, queue.LaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := opinion(t, a, l, "waits-retried", w.ID)
	late := opinion(t, a, l, "late", w.ID)
	if _, err := a.Enqueue(t.Context(), queue.Entry{
		Type: "feedback.updated", Created: time.Now(), Feedback: e.Feedback, Replaces: e.ID, Body: []byte("{}"), Webhooks: []queue.WebhookID{w.ID},
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := l.Next(ctx, 1); err != nil { // it stays leased, so the erasure waits
		t.Fatal(err)
	}
	go func() { _, _ = a.Erase(context.Background(), []queue.FeedbackID{e.Feedback}) }()
	eventually(t, "the erasure has begun", b.IsErasing)
	a.Kill()
	eventually(t, "another relay completes it", func() bool {
		s := b.Stats(t.Context())
		return !b.IsErasing() && s.Events == 1 && s.Webhooks[w.ID].Counts == queue.Counts{Delivered: 1}
	})
	if _, err := b.Event(t.Context(), late.ID); err != nil {
		t.Error(err)
	}

	// A relay that has not read the mark accepts another update: it is erased too.
	if err := b.AcceptAsIfNotErased(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was accepted late is erased", func() bool { return b.Stats(t.Context()).Events == 1 })
}
