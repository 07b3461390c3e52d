package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/notify"
)

// letters is a notifier that records the notices it is given.
type letters struct {
	mu   sync.Mutex
	sent [][]notify.Notice
	err  func(n int) error // returned by call n, from 0
}

func (l *letters) Notify(_ context.Context, notices []notify.Notice) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.sent)
	l.sent = append(l.sent, notices)
	if l.err != nil {
		return l.err(n)
	}
	return nil
}

func (l *letters) all() [][]notify.Notice {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([][]notify.Notice(nil), l.sent...)
}

// later is a temporary error.
type later struct{ error }

func (later) Temporary() bool { return true }

func TestOneLetterPerChangeOfStateAlsoOverARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusInternalServerError
		rs := &receivers{answer: func(request) (int, http.Header) { return status, nil }}
		l := &letters{}
		q := memqueue.New(memqueue.Options{})
		c := Config{Notifiers: []notify.Notifier{l}, Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/x?token=canary", Retry: []time.Duration{time.Second}}}}
		r, stop := startOn(t, q, rs, c)
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		time.Sleep(10 * time.Second)
		if n := len(l.all()); n != 0 {
			t.Fatalf("%d letters before the group was complete", n)
		}
		stop() // between the change of state and the notice
		r, stop = startOn(t, q, rs, c)
		time.Sleep(10 * time.Minute)
		sent := l.all()
		if len(sent) != 1 || len(sent[0]) != 1 || sent[0][0].Kind != notify.Failing || sent[0][0].URL != "https://r.example/x" {
			t.Fatalf("letters %+v, want one about the failing webhook, without its query", sent)
		}
		status = http.StatusOK
		accept(t, r, "fb_3")
		time.Sleep(10 * time.Minute)
		stop()
		_, stop = startOn(t, q, rs, c)
		defer stop()
		time.Sleep(time.Hour)
		sent = l.all()
		if len(sent) != 2 || sent[1][0].Kind != notify.Recovered || sent[1][0].Thread != sent[0][0].Thread {
			t.Errorf("letters %+v, want one more, in the same thread", sent)
		}
	})
}

func TestLettersAreGroupedAndTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(500)}
		l := &letters{err: func(n int) error {
			switch n {
			case 0:
				return later{errors.New("greylisted")}
			case 1:
				return nil
			}
			return errors.New("no such mailbox")
		}}
		c := Config{Notifiers: []notify.Notifier{l}, Retry: []time.Duration{}}
		for i := range 3 {
			c.Webhooks = append(c.Webhooks, WebhookConfig{Name: fmt.Sprint("w", i), URL: "https://r.example/"})
		}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, c)
		defer stop()
		start := time.Now()
		accept(t, r, "fb_1")
		time.Sleep(time.Hour)
		sent := l.all()
		if len(sent) != 2 || len(sent[0]) != 3 || len(sent[1]) != 3 {
			t.Fatalf("%d letters %+v, want one about all three, tried twice", len(sent), sent)
		}
		if since := time.Since(start); since < time.Minute {
			t.Errorf("sent after %v", since)
		}
		if err := r.Disable(t.Context(), "w0", "ada"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := len(l.all()); n != 2 {
			t.Errorf("%d letters; nobody needs to be told of what they did themselves", n)
		}
		if page, err := r.Activities(t.Context(), 100, ""); err != nil || len(page.Items) < 7 {
			t.Errorf("the activity log has %+v, %v", page.Items, err)
		}
	})
}

// forgetful is a queue that refuses notices, as if the process were killed before each.
type forgetful struct{ queue.Queue }

func (q forgetful) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if e.Type == notify.NoticeType {
		return queue.Receipt{}, queue.ErrClosed
	}
	return q.Queue.Enqueue(ctx, e)
}

func TestNoticeThatACrashKeptBackIsPostedAtTheNextStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := http.StatusInternalServerError
		rs := &receivers{answer: func(request) (int, http.Header) { return answer, nil }}
		l := &letters{}
		q := memqueue.New(memqueue.Options{})
		c := Config{Notifiers: []notify.Notifier{l}, Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{}}}}
		for _, want := range []string{notify.Failing, notify.Recovered} {
			before := len(l.all())
			r, stop := startOn(t, forgetful{q}, rs, c)
			accept(t, r, "fb_"+want)
			time.Sleep(time.Hour)
			stop()
			if n := len(l.all()); n != before {
				t.Fatalf("%d letters though no notice could be posted", n-before)
			}
			_, stop = startOn(t, q, rs, c)
			time.Sleep(10 * time.Minute)
			stop()
			sent := l.all()
			if len(sent) != before+1 || sent[before][0].Kind != want {
				t.Fatalf("letters %+v, want one more that says %s", sent, want)
			}
			answer = http.StatusOK
		}
	})
}

// TestNotifiersDoNotEndEachOthersNotices: if one notifier rejects a notice for good, it
// is still sent through the second, exactly once.
func TestNotifiersDoNotEndEachOthersNotices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refuses := &letters{err: func(int) error { return errors.New("no such mailbox") }}
		delays := &letters{err: func(n int) error {
			if n < 2 {
				return later{errors.New("greylisted")}
			}
			return nil
		}}
		takes := &letters{}
		c := Config{
			Notifiers: []notify.Notifier{refuses, delays, takes}, Retry: []time.Duration{},
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}},
		}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), &receivers{answer: always(500)}, c)
		defer stop()
		accept(t, r, "fb_1")
		time.Sleep(time.Hour)
		if a, b, c := len(refuses.all()), len(delays.all()), len(takes.all()); a != 1 || b != 3 || c != 1 {
			t.Errorf("asked %d, %d and %d times; want 1, 3 and 1", a, b, c)
		}
	})
}

// TestFlappingWebhookIsToldOfOnceAnHour: a webhook fails and recovers every minute. A
// notice goes out for the first failure and the first recovery, then once an hour with
// the state at that time.
func TestFlappingWebhookIsToldOfOnceAnHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var works atomic.Bool
		rs := &receivers{answer: func(request) (int, http.Header) {
			if works.Load() {
				return http.StatusOK, nil
			}
			return http.StatusInternalServerError, nil
		}}
		l := &letters{}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{
			Notifiers: []notify.Notifier{l}, Retry: []time.Duration{}, GroupNotices: time.Second, ConsoleURL: "https://relay.example/console",
			Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}},
		})
		defer stop()
		for i := range 181 { // 181 minutes; it ends failing
			works.Store(i%2 == 1)
			accept(t, r, fmt.Sprint("fb_", i))
			r.webhooks["w"].probeNow()
			time.Sleep(time.Minute)
		}
		time.Sleep(3 * time.Hour)
		sent := l.all()
		if len(sent) < 5 || len(sent) > 6 {
			t.Fatalf("%d messages in three hours, want two at first and then one an hour", len(sent))
		}
		changes := 0
		for i, notices := range sent {
			if len(notices) != 1 {
				t.Errorf("message %d has %d notices of one webhook", i, len(notices))
			}
			if notices[0].Console != "https://relay.example/console" {
				t.Errorf("message %d links to %q", i, notices[0].Console)
			}
			changes += notices[0].Changes
		}
		if sent[0][0].Kind != notify.Failing || sent[1][0].Kind != notify.Recovered || sent[1][0].Changes != 0 {
			t.Errorf("it begins with %+v and %+v", sent[0], sent[1])
		}
		if last := sent[len(sent)-1][0]; last.Kind != notify.Failing {
			t.Errorf("the last message says %+v; the webhook is failing", last)
		}
		if total := 181; changes+len(sent) != total {
			t.Errorf("%d changes are told of, want %d", changes+len(sent), total)
		}
	})
}

// TestOldNoticesAreGivenUpWithoutANotifier: a notice that could not be sent for days is
// dropped.
func TestOldNoticesAreGivenUpWithoutANotifier(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &letters{}
		q := memqueue.New(memqueue.Options{})
		c := Config{Notifiers: []notify.Notifier{l}, Retry: []time.Duration{}, Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}}
		r, stop := startOn(t, q, &receivers{answer: always(500)}, c)
		accept(t, r, "fb_1")
		time.Sleep(time.Second)
		stop()
		without := c
		without.Notifiers = nil
		r, stop = startOn(t, q, &receivers{answer: always(500)}, without)
		time.Sleep(time.Hour)
		if _, err := r.Attach(c); err != nil { // opens the mailbox
			t.Fatal(err)
		}
		g, err := r.Attach(without)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * 24 * time.Hour)
		if err := g.Detach(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		stop()
		if sent := l.all(); len(sent) != 0 {
			t.Errorf("%d messages about what was three days ago: %+v", len(sent), sent)
		}
	})
}

// TestMailboxesAreNoWebhooksAfterARestart: after a restart the relay does not list them
// as webhooks.
func TestMailboxesAreNoWebhooksAfterARestart(t *testing.T) {
	t.Parallel()
	q := memqueue.New(memqueue.Options{})
	for start := range 2 {
		r := New(Options{Queue: q})
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := r.Webhooks(); len(all) != 0 {
			t.Errorf("start %d: there is a webhook %q", start+1, all[0].Name)
		}
		if err := r.notices.Open(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
