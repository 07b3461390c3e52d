package relay

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/feed"
	"github.com/userhero/relay/relay/notify"
)

// twoRelays starts two relays on one store. Call it in a synctest bubble, and call stop
// before the bubble ends.
func twoRelays(t *testing.T, rs *receivers, c Config) (a, b *Relay, stop func()) {
	t.Helper()
	q := memqueue.New(memqueue.Options{Shared: true})
	a, stopA := startOn(t, q, rs, c)
	b, stopB := startOn(t, q.Join(), rs, c)
	return a, b, func() {
		stopA()
		stopB()
	}
}

// moveLane moves a webhook's lane from the relay that owns it to the other one.
func moveLane(a, b *Relay, w queue.WebhookID) {
	for _, r := range []*Relay{a, b} {
		if r.Queue().(*memqueue.Queue).Lose(w) { //nolint:forcetypeassert // twoRelays made it
			return
		}
	}
}

// status returns a webhook as a relay shows it.
func status(t *testing.T, r *Relay, name string) WebhookStatus {
	t.Helper()
	w, ok := r.Webhook(name)
	if !ok {
		t.Fatalf("there is no webhook %s", name)
	}
	return w
}

// TestChangesAreInForceOnAllRelays: what one relay adds, changes, pauses, rotates,
// renames and deletes is so on the other one within a second.
func TestChangesAreInForceOnAllRelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(204)}
		a, b, stop := twoRelays(t, rs, Config{})
		defer stop()
		if err := a.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://r.example/", Secret: "one"}, "ann"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		accept(t, b, "fb_1")
		time.Sleep(time.Second)
		if n := len(rs.all()); n != 1 {
			t.Fatalf("an event that the other relay accepted was sent %d times", n)
		}
		if err := b.Change(t.Context(), "w", func(c *WebhookConfig) error { c.Events = []event.Type{event.Updated}; return nil }, "bob"); err != nil {
			t.Fatal(err)
		}
		if err := a.Disable(t.Context(), "w", "ann"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, r := range []*Relay{a, b} {
			if w := status(t, r, "w"); w.State != Disabled || len(w.Events) != 1 || w.Reason != "disabled by ann" {
				t.Errorf("after both have changed it, it is %s (%s) and wants %v", w.State, w.Reason, w.Events)
			}
		}
		if err := b.Enable(t.Context(), "w", "bob"); err != nil {
			t.Fatal(err)
		}
		secret, err := b.Rotate(t.Context(), "w", "", time.Hour, "bob")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Change(t.Context(), "w", func(c *WebhookConfig) error { c.Name = "renamed"; return nil }, "bob"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w, err := a.find("renamed")
		if err != nil {
			t.Fatal(err)
		}
		if c := w.currentTarget().config; c.Secret != secret || c.PreviousSecret != "one" || !w.enabled() {
			t.Error("the other relay does not sign with the new secret")
		}
		if _, err := b.Delete(t.Context(), "renamed", "bob"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if all := a.Webhooks(); len(all) != 0 {
			t.Errorf("a webhook that the other relay has deleted is %+v", all)
		}
		if err := b.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://r.example/"}, "bob"); err != nil {
			t.Errorf("a webhook of a name that was used: %v", err)
		}
	})
}

// TestTeamsWebhookReachesPublicAddressesFromAllRelays: egress allows inner addresses for the
// operator's webhooks only, whichever relay a team has added a webhook on.
func TestTeamsWebhookReachesPublicAddressesFromAllRelays(t *testing.T) {
	t.Parallel()
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer hook.Close()
	q := memqueue.New(memqueue.Options{Shared: true})
	relays := []*Relay{New(Options{Queue: q}), New(Options{Queue: q.Join()})}
	for _, r := range relays {
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Stop(context.Background()) }()
		if _, err := r.Attach(Config{Egress: deliver.Egress{Allow: []string{"127.0.0.1"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, public := range map[string]bool{"operators": false, "team": true} {
		if err := relays[0].Add(t.Context(), WebhookConfig{Name: name, URL: hook.URL, Projects: []string{"proj_a"}, Public: public}, "ann"); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range relays {
		for name, reached := range map[string]bool{"operators": true, "team": false} {
			var got TestResult
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
				var err error
				if got, err = r.Test(t.Context(), name); err == nil {
					break
				} else if time.Now().After(end) {
					t.Fatalf("relay %d does not follow: %v", i, err)
				}
			}
			if got.OK != reached || !reached && got.Attempt.ErrorClass != "egress" {
				t.Errorf("relay %d sends to %s: %t (%s), want %t", i, name, got.OK, got.Attempt.Error, reached)
			}
		}
	}
}

// TestConcurrentChangesAreMerged: two relays that change different settings of a webhook
// at the same time both have their way.
func TestConcurrentChangesAreMerged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(204)}
		a, b, stop := twoRelays(t, rs, Config{})
		defer stop()
		if err := a.Add(t.Context(), WebhookConfig{Name: "w", URL: "https://r.example/"}, "ann"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		// B holds its lock, so it has not followed when it writes.
		b.attachMu.Lock()
		if err := a.Change(t.Context(), "w", func(c *WebhookConfig) error { c.Concurrency = 3; return nil }, "ann"); err != nil {
			t.Fatal(err)
		}
		if err := a.Disable(t.Context(), "w", "ann"); err != nil {
			t.Fatal(err)
		}
		w, err := b.find("w")
		if err != nil {
			t.Fatal(err)
		}
		c := *w.apiConfig()
		c.Ordered = true
		if err := w.reconfigure(t.Context(), &c); err != nil {
			t.Fatal(err)
		}
		b.attachMu.Unlock()
		time.Sleep(time.Second)
		for _, r := range []*Relay{a, b} {
			if w := status(t, r, "w"); w.Concurrency != 3 || !w.Ordered || w.State != Disabled {
				t.Errorf("the webhook has concurrency %d, ordered %t, and is %s", w.Concurrency, w.Ordered, w.State)
			}
		}
	})
}

// TestOneMailPerChangeOfStateOverRelays: a webhook fails on one relay and recovers on
// the other one. Both show it, and each change is mailed once.
func TestOneMailPerChangeOfStateOverRelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		code := http.StatusInternalServerError
		rs := &receivers{answer: func(request) (int, http.Header) { return code, nil }}
		l := &letters{}
		a, b, stop := twoRelays(t, rs, Config{
			Notifiers: []notify.Notifier{l},
			Webhooks:  []WebhookConfig{{Name: "w", URL: "https://r.example/", Retry: []time.Duration{time.Minute}}},
		})
		defer stop()
		accept(t, b, "fb_1")
		time.Sleep(2 * time.Minute)
		for _, r := range []*Relay{a, b} {
			if w := status(t, r, "w"); w.State != Failing || !w.Probing || w.LastAnswer.Status != code {
				t.Errorf("a failing webhook is %s, probing %t, answered %d last", w.State, w.Probing, w.LastAnswer.Status)
			}
		}
		time.Sleep(time.Hour)
		if n := len(l.all()); n != 1 {
			t.Fatalf("%d mails about one change of state", n)
		}
		code = http.StatusOK
		moveLane(a, b, status(t, a, "w").ID)
		accept(t, a, "fb_2")
		time.Sleep(10 * time.Minute)
		for _, r := range []*Relay{a, b} {
			if w := status(t, r, "w"); w.State != Active || w.Probing || w.Counts.Delivered != 1 {
				t.Errorf("a webhook that recovered is %s, probing %t, with %+v", w.State, w.Probing, w.Counts)
			}
		}
		time.Sleep(time.Hour)
		var kinds []string
		for _, group := range l.all() {
			for _, n := range group {
				kinds = append(kinds, n.Kind)
			}
		}
		if !slices.Equal(kinds, []string{notify.Failing, notify.Recovered}) {
			t.Errorf("mails %v, want one of each", kinds)
		}
		if what := activities(t, a); strings.Count(what, "webhook added") != 1 || strings.Count(what, "webhook recovered") != 1 {
			t.Errorf("the activity log has %s", what)
		}
	})
}

// TestBreakerHoldsOverRelays: the relay that takes a lane over goes on with its owner's
// breaker, and with the hold that the receiver asked for.
func TestBreakerHoldsOverRelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: func(request) (int, http.Header) {
			return http.StatusServiceUnavailable, http.Header{"Retry-After": {"1800"}}
		}}
		a, b, stop := twoRelays(t, rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}})
		defer stop()
		accept(t, a, "fb_1")
		time.Sleep(5 * time.Second)
		if until := status(t, b, "w").HeldUntil; time.Until(until) < 29*time.Minute {
			t.Errorf("the other relay shows a hold until %v", until)
		}
		moveLane(a, b, status(t, a, "w").ID)
		accept(t, a, "fb_2")
		time.Sleep(20 * time.Minute)
		if n := len(rs.all()); n != 1 {
			t.Errorf("%d requests to a receiver that asked to be left alone", n)
		}
	})
}

// TestCountsOfRelaysAddUp: the last day counts what all relays accepted and delivered,
// and both show the same.
func TestCountsOfRelaysAddUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(204)}
		a, b, stop := twoRelays(t, rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}})
		defer stop()
		for i := range 5 {
			accept(t, a, fmt.Sprintf("fb_a%d", i))
			accept(t, b, fmt.Sprintf("fb_b%d", i))
			if i == 2 {
				time.Sleep(time.Minute)
				moveLane(a, b, status(t, a, "w").ID)
			}
		}
		for range 3 { // also after they have written
			time.Sleep(20 * time.Minute)
			for _, r := range []*Relay{a, b} {
				if sum := r.Day().Sum(); sum.Accepted != 10 || sum.Delivered != 10 {
					t.Errorf("after %v the day has %d accepted and %d delivered, want 10", 20*time.Minute, sum.Accepted, sum.Delivered)
				}
				if n := r.Day().FirstAttempts; n != 10 {
					t.Errorf("%d first attempts, want 10", n)
				}
			}
		}
	})
}

// TestFeedTellsOfAllRelays: who listens on one relay hears what happens on the other
// one, once.
func TestFeedTellsOfAllRelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(204)}
		a, b, stop := twoRelays(t, rs, Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}})
		defer stop()
		s := b.Subscribe(nil)
		defer s.Close()
		time.Sleep(5 * time.Second)
		accept(t, a, "fb_1")
		synctest.Wait()
		if err := a.Disable(t.Context(), "w", "ann"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var kinds []string
		happened, _ := s.Take()
		for _, h := range happened {
			kinds = append(kinds, h.Kind)
		}
		slices.Sort(kinds)
		if want := []string{feed.Accepted, feed.Activity, feed.Attempt, feed.State}; !slices.Equal(kinds, want) {
			t.Errorf("the other relay's feed has %v, want %v", kinds, want)
		}
		s.Close()
		time.Sleep(time.Minute)
		if a.feed.HasListeners() {
			t.Error("a relay tells what happens though nobody listens any more")
		}
	})
}

// TestDifferingConfigurationsAreShown: a relay shows that another one's configuration
// file differs, and nothing is fought over.
func TestDifferingConfigurationsAreShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(204)}
		c := Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://r.example/"}}}
		a, b, stop := twoRelays(t, rs, c)
		defer stop()
		time.Sleep(time.Second)
		if d := status(t, a, "w").Difference; d != "" {
			t.Errorf("equal configurations differ: %s", d)
		}
		other := Config{Webhooks: []WebhookConfig{{Name: "w", URL: "https://other.example/"}, {Name: "new", URL: "https://new.example/"}}}
		if _, err := b.Attach(other); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if d := status(t, a, "w").Difference; !strings.Contains(d, "other settings") {
			t.Errorf("other settings on the other relay: %q", d)
		}
		if d := status(t, a, "new").Difference; !strings.Contains(d, "this one does not") {
			t.Errorf("a webhook that only the other relay has: %q", d)
		}
		revision := func() (sum uint64) {
			all, err := a.Queue().Webhooks(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range all {
				if w.Name != tallyRecord {
					sum += w.Revision
				}
			}
			return sum
		}
		before := revision()
		time.Sleep(30 * time.Minute)
		if after := revision(); after != before {
			t.Errorf("the relays have written %d times while their configurations differ", after-before)
		}
		accept(t, b, "fb_1")
		time.Sleep(time.Second)
		if n := len(rs.all()); n != 2 {
			t.Errorf("%d requests, want one for each webhook of the relay that accepted", n)
		}
		if _, err := a.Attach(other); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, name := range []string{"w", "new"} {
			if d := status(t, b, name).Difference + status(t, a, name).Difference; d != "" {
				t.Errorf("equal again, webhook %s differs: %s", name, d)
			}
		}
		if what := activities(t, a); strings.Count(what, "webhook changed") != 1 {
			t.Errorf("the activity log has %s, want one change", what)
		}
	})
}
