package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/signature"
)

// givesUp is a queue on a disk that can stand still: the caller of the next write to a
// webhook's record times out, but the store still makes the write. If fails is set, it
// does not.
type givesUp struct {
	queue.Queue
	next, fails atomic.Bool
	then        atomic.Bool  // fails is set after the next write
	takes       atomic.Int64 // nanoseconds
}

var errFailed = errors.New("the disk stands still")

func (q *givesUp) gives() (up bool, err error) {
	up = q.next.Swap(false)
	if up && q.then.Swap(false) {
		defer q.fails.Store(true)
	}
	time.Sleep(time.Duration(q.takes.Load()))
	if q.fails.Load() {
		return up, errFailed
	}
	return up, nil
}

func (q *givesUp) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	up, err := q.gives()
	if err != nil {
		return queue.Webhook{}, err
	}
	stored, err := q.Queue.PutWebhook(ctx, w)
	if up {
		return queue.Webhook{}, context.DeadlineExceeded
	}
	return stored, err
}

func (q *givesUp) DeleteWebhook(ctx context.Context, id queue.WebhookID, revision uint64) (int64, error) {
	up, err := q.gives()
	if err != nil {
		return 0, err
	}
	ended, err := q.Queue.DeleteWebhook(ctx, id, revision)
	if up {
		return 0, context.DeadlineExceeded
	}
	return ended, err
}

// TestOldSigningKeySignsDuringOverlap, and not longer; its public key goes with it.
func TestOldSigningKeySignsDuringOverlap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{})
		defer stop()
		old := signature.NewKey()
		if err := r.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://w.example/", SigningKey: old.String()}, "ada"); err != nil {
			t.Fatal(err)
		}
		if err := r.RotateSigningKey(t.Context(), "w", "", time.Hour, "ada"); err != nil {
			t.Fatal(err)
		}
		signs := func(id string) (w WebhookStatus, present, before bool) {
			accept(t, r, id)
			synctest.Wait()
			seen := rs.all()[len(rs.all())-1]
			w, _ = r.Webhook("w")
			verified := func(key string) bool {
				return signature.VerifyPublic(key, canonicalHeader(seen.header), []byte(seen.body)) == nil
			}
			return w, verified(w.PublicKeys[0].X), verified(old.Public())
		}
		if w, present, before := signs("fb_1"); len(w.PublicKeys) != 2 || w.PublicKeys[1] != old.JWK() || !present || !before {
			t.Errorf("in the overlap: %d public keys, the new one signs: %t, the old one: %t", len(w.PublicKeys), present, before)
		}
		time.Sleep(time.Hour)
		if w, present, before := signs("fb_2"); len(w.PublicKeys) != 1 || !present || before || !w.PreviousSigningUntil.IsZero() {
			t.Errorf("after it: %d public keys, the new one signs: %t, the old one: %t", len(w.PublicKeys), present, before)
		}
	})
}

// TestWriteThatWasGivenUpStandsInNobodysWay: the store makes a write that timed out,
// and the next write does not conflict with it.
func TestWriteThatWasGivenUpStandsInNobodysWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(200)}
		q := &givesUp{Queue: memqueue.New(memqueue.Options{})}
		r, stop := startOn(t, q, rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/"}}})
		defer stop()
		givenUp := func(doing string, do func() error) {
			t.Helper()
			q.next.Store(true)
			if err := do(); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%s, given up, returns %v", doing, err)
			}
			if err := do(); err != nil {
				t.Fatalf("%s, once more: %v", doing, err)
			}
		}
		givenUp("disabling", func() error { return r.Disable(t.Context(), "w", "test") })
		givenUp("enabling", func() error { return r.Enable(t.Context(), "w", "test") })
		givenUp("adding", func() error {
			return r.Add(t.Context(), WebhookConfig{Name: "added", URL: "https://added.example/", Secret: "s"}, "test")
		})
		givenUp("rotating", func() error {
			_, err := r.Rotate(t.Context(), "added", "", time.Hour, "test")
			return err
		})
		givenUp("loading settings with a new webhook", func() error {
			_, err := r.Attach(Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/"}, {Name: "new", URL: "https://new.example/"}}})
			return err
		})
		givenUp("renaming", func() error {
			name := "added"
			if _, ok := r.Webhook(name); !ok {
				name = "renamed"
			}
			return r.Change(t.Context(), name, func(c *WebhookConfig) error { c.Name = "renamed"; return nil }, "test")
		})
		givenUp("renaming back", func() error {
			return r.Change(t.Context(), "renamed", func(c *WebhookConfig) error { c.Name = "added"; return nil }, "test")
		})
		accept(t, r, "fb_1")
		synctest.Wait()
		if n := len(rs.all()); n != 3 {
			t.Errorf("an event for three webhooks made %d requests", n)
		}
		givenUp("deleting", func() error {
			_, err := r.Delete(t.Context(), "added", "test")
			if errors.Is(err, queue.ErrNotFound) {
				return nil // the relay noticed that the store no longer has it
			}
			return err
		})
		time.Sleep(time.Minute)
		if err := r.Health(); err != nil {
			t.Errorf("afterwards the relay is not well: %v", err)
		}
		if _, ok := r.Webhook("added"); ok {
			t.Error("a webhook that was deleted is there")
		}
	})
}

// TestRotationThatFailedStaysUndone: the store makes a rotation that timed out, and the
// write that undoes it fails. The next change of the webhook undoes it: no caller received
// the secret.
func TestRotationThatFailedStaysUndone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &givesUp{Queue: memqueue.New(memqueue.Options{})}
		r, stop := startOn(t, q, &receivers{answer: always(200)}, Config{})
		defer stop()
		if err := r.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://w.example/", Secret: "first"}, "ada"); err != nil {
			t.Fatal(err)
		}
		q.then.Store(true)
		q.next.Store(true)
		if _, err := r.Rotate(t.Context(), "w", "", time.Hour, "ada"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a rotation that times out returns %v", err)
		}
		q.fails.Store(false)
		if err := r.Disable(t.Context(), "w", "ada"); err != nil {
			t.Fatal(err)
		}
		stored, err := r.storedWebhook(t.Context(), withName("w"))
		if err != nil {
			t.Fatal(err)
		}
		rec, err := decodeRecord(stored)
		if err != nil || rec.Config.Secret != "first" || rec.State != Disabled {
			t.Errorf("the store holds the secret %q, state %v (%v)", rec.Config.Secret, rec.State, err)
		}
	})
}

// TestSecretOfARotationThatFailedIsNotFoundAfterACrash: a secret that no caller
// received must not be in force after a crash.
func TestSecretOfARotationThatFailedIsNotFoundAfterACrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memqueue.New(memqueue.Options{})
		q := &givesUp{Queue: m}
		r, stop := startOn(t, q, &receivers{answer: always(200)}, Config{})
		defer stop()
		if err := r.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://w.example/", Secret: "known to all"}, "test"); err != nil {
			t.Fatal(err)
		}
		q.next.Store(true)
		if _, err := r.Rotate(t.Context(), "w", "", time.Hour, "test"); err == nil {
			t.Fatal("the rotation has not failed")
		}
		left, err := m.Crash().Webhooks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range left {
			if s.Name == "w" && !strings.Contains(string(s.Data), `"secret":"known to all"`) {
				t.Errorf("after a crash the webhook has a secret that nobody knows: %s", s.Data)
			}
		}
	})
}

// TestDeletingWaitsForNoReceiver: attempts in flight are cancelled.
func TestDeletingWaitsForNoReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(0)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{})
		defer stop()
		if err := r.Add(t.Context(), WebhookConfig{Name: "hangs", URL: "https://hangs.example/", Timeout: 10 * time.Minute}, "test"); err != nil {
			t.Fatal(err)
		}
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		synctest.Wait()
		start := time.Now()
		ended, err := r.Delete(t.Context(), "hangs", "test")
		if err != nil || ended != 2 {
			t.Errorf("deleting ended %d deliveries, %v; two were under way", ended, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("deleting a webhook whose receiver hangs took %v", took)
		}
		if n := len(rs.all()); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestWebhookThatCouldNotBeDeletedGoesOn: it gets the events that come afterwards.
func TestWebhookThatCouldNotBeDeletedGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(0)}
		q := &givesUp{Queue: memqueue.New(memqueue.Options{})}
		r, stop := startOn(t, q, rs, Config{})
		defer stop()
		if err := r.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://w.example/"}, "test"); err != nil {
			t.Fatal(err)
		}
		accept(t, r, "fb_1")
		synctest.Wait()
		rs.answer = always(200) // the attempt that hangs has already been answered by the old function
		q.fails.Store(true)
		if _, err := r.Delete(t.Context(), "w", "test"); !errors.Is(err, errFailed) {
			t.Fatalf("the store refuses, and deleting returns %v", err)
		}
		q.fails.Store(false)
		accept(t, r, "fb_2")
		synctest.Wait()
		if w, _ := r.Webhook("w"); w.Counts.Delivered != 2 {
			t.Errorf("after it could not be deleted the webhook is %+v", w)
		}
	})
}

// TestEnablingWaitsForNoReceiver: a webhook was disabled for a moment while an attempt
// hangs. After it is enabled, its remaining deliveries go out at once.
func TestEnablingWaitsForNoReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: func(r request) (int, http.Header) {
			if strings.Contains(r.body, "fb_0") {
				return 0, nil
			}
			return 200, nil
		}}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/", Timeout: 10 * time.Minute}},
		})
		defer stop()
		accept(t, r, "fb_0")
		synctest.Wait()
		for _, do := range []func(context.Context, string, string) error{r.Disable, r.Enable} {
			if err := do(t.Context(), "w", "test"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for i := range 5 {
			accept(t, r, fmt.Sprintf("fb_%d", i+1))
		}
		synctest.Wait()
		if w, _ := r.Webhook("w"); w.Counts.Delivered != 5 {
			t.Errorf("enabled again, while one attempt hangs, the webhook is %+v", w)
		}
	})
}

// TestOrderIsKeptAcrossEventsForOthers: the filter rejects the second event of a
// feedback. The third still waits for the first.
func TestOrderIsKeptAcrossEventsForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failures := 2
		rs := &receivers{}
		rs.answer = func(request) (int, http.Header) {
			if failures--; failures >= 0 {
				return 500, nil
			}
			return 200, nil
		}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{Webhooks: []WebhookConfig{{
			Name: "w", URL: "https://w.example/", Ordered: true, Filter: `data.status != "working"`, Retry: []time.Duration{time.Second, time.Minute},
		}}})
		defer stop()
		var last queue.EventID
		for _, status := range []string{"new", "working", "working", "done"} {
			a := queue.Entry{Type: string(event.Updated), Feedback: queue.FeedbackID{ID: "fb_1"}, Replaces: last, Body: fmt.Appendf(nil, `{"data":{"status":%q}}`, status)}
			receipt, err := r.Accept(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			last = receipt.Event.ID
		}
		time.Sleep(time.Hour)
		var got []string
		for _, s := range rs.all() {
			got = append(got, s.body)
		}
		if want := `{"data":{"status":"new"}} {"data":{"status":"new"}} {"data":{"status":"new"}} {"data":{"status":"done"}}`; strings.Join(got, " ") != want {
			t.Errorf("the receiver saw %s", got)
		}
	})
}

// TestDeletionThatIsMadeLateIsNoticed: a deletion timed out and the webhook continued.
// Then the store removed it.
func TestDeletionThatIsMadeLateIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		r, stop := startOn(t, q, &receivers{answer: always(200)}, Config{})
		defer stop()
		if err := r.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://w.example/"}, "test"); err != nil {
			t.Fatal(err)
		}
		accept(t, r, "fb_1")
		synctest.Wait()
		s, err := r.storedWebhook(t.Context(), withName("w"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.DeleteWebhook(t.Context(), s.ID, s.Revision); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, ok := r.Webhook("w"); ok {
			t.Error("a webhook that the store does not have is there")
		}
		if err := r.Health(); err != nil {
			t.Errorf("the relay is not well: %v", err)
		}
	})
}

// TestDisablingThatFailedHoldsNothing: deliveries that became due while the store hung
// go out afterwards.
func TestDisablingThatFailedHoldsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(500)}
		q := &givesUp{Queue: memqueue.New(memqueue.Options{})}
		r, stop := startOn(t, q, rs, Config{
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/", Retry: []time.Duration{time.Second, time.Hour}}},
		})
		defer stop()
		accept(t, r, "fb_1")
		synctest.Wait()
		rs.answer = always(200)
		q.takes.Store(int64(2 * time.Second))
		q.fails.Store(true)
		if err := r.Disable(t.Context(), "w", "test"); !errors.Is(err, errFailed) {
			t.Fatalf("the store refuses, and disabling returns %v", err)
		}
		q.takes.Store(0)
		q.fails.Store(false)
		time.Sleep(time.Second)
		if w, _ := r.Webhook("w"); w.Counts.Delivered != 1 {
			t.Errorf("after it could not be disabled the webhook is %+v", w)
		}
	})
}

// TestReloadThatWasGivenUpParksNothing: if the store kept the webhook as parked, its
// waiting deliveries would expire.
func TestReloadThatWasGivenUpParksNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &givesUp{Queue: memqueue.New(memqueue.Options{})}
		r, stop := startOn(t, q, &receivers{answer: always(200)}, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/"}}})
		defer stop()
		q.next.Store(true)
		if _, err := r.Attach(Config{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the store is given up, and attaching returns %v", err)
		}
		if s, err := r.storedWebhook(t.Context(), withName("w")); err != nil || s.Expires {
			t.Errorf("after a reload that failed the store has the webhook as parked: %v, %v", s.Expires, err)
		}
	})
}

// TestEnablingThatFailedLeavesTheBreakerOpen: a webhook that is still failing is still
// probed, one attempt at a time.
func TestEnablingThatFailedLeavesTheBreakerOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(500)}
		q := &givesUp{Queue: memqueue.New(memqueue.Options{})}
		r, stop := startOn(t, q, rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://w.example/", Retry: []time.Duration{}}}})
		defer stop()
		accept(t, r, "fb_1")
		synctest.Wait()
		q.fails.Store(true)
		if err := r.Enable(t.Context(), "w", "test"); !errors.Is(err, errFailed) {
			t.Fatalf("the store refuses, and enabling returns %v", err)
		}
		for i := range 5 {
			accept(t, r, fmt.Sprintf("fb_%d", i+2))
		}
		synctest.Wait()
		if n := len(rs.all()); n > 2 {
			t.Errorf("%d requests went at once to a webhook that is failing", n)
		}
	})
}

// TestRenamedWebhookKeepsEverything: an attempt in flight ends and is settled, what
// waits goes out under the new name, and a restart finds the new name alone.
func TestRenamedWebhookKeepsEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		rs := &receivers{answer: func(request) (int, http.Header) {
			<-answer
			return 200, nil
		}}
		m := memqueue.New(memqueue.Options{})
		r, stop := startOn(t, m, rs, Config{Webhooks: []WebhookConfig{{Name: "file", URL: "https://file.example/", Disabled: true}}})
		if err := r.Add(t.Context(), WebhookConfig{Name: "old", URL: "https://w.example/", Concurrency: 1}, "test"); err != nil {
			t.Fatal(err)
		}
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		synctest.Wait()
		rename := func(from, to string) error {
			return r.Change(t.Context(), from, func(c *WebhookConfig) error { c.Name = to; return nil }, "ada")
		}
		for to, want := range map[string]error{"file": ErrExists, "no name": ErrInvalid, "": ErrInvalid} {
			if err := rename("old", to); !errors.Is(err, want) {
				t.Errorf("renaming to %q: %v, want %v", to, err, want)
			}
		}
		if err := rename("file", "other"); !errors.Is(err, ErrReadOnly) {
			t.Errorf("renaming a webhook of the configuration file: %v", err)
		}
		if err := rename("old", "new"); err != nil {
			t.Fatal(err)
		}
		close(answer)
		synctest.Wait()
		if n := len(rs.all()); n != 2 {
			t.Errorf("two events made %d requests", n)
		}
		if _, ok := r.Webhook("old"); ok {
			t.Error("the old name is found")
		}
		if s, ok := r.Webhook("new"); !ok || s.Counts.Delivered != 2 {
			t.Errorf("under the new name: %+v", s.Counts)
		}
		log, err := r.Activities(t.Context(), 1, "")
		if err != nil || len(log.Items) != 1 || log.Items[0].What != "webhook renamed" || log.Items[0].Webhook != "new" || log.Items[0].Detail != "was old" || log.Items[0].Who != "ada" {
			t.Errorf("the activity log: %+v, %v", log.Items, err)
		}
		stop()
		left := m.Crash()
		r, stop = startOn(t, left, rs, Config{})
		defer stop()
		if _, ok := r.Webhook("new"); !ok {
			t.Error("after a restart the new name is not found")
		}
	})
}
