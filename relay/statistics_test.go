package relay

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/relay/tally"
)

func TestDayTellsHoursApartAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		rs := &receivers{answer: always(200)}
		c := Config{Webhooks: []WebhookConfig{{Name: "a", URL: "http://a.example.com/", Retry: []time.Duration{48 * time.Hour}}}}
		r, stop := startOn(t, q, rs, c)
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		rs.mu.Lock()
		rs.answer = always(500)
		rs.mu.Unlock()
		accept(t, r, "fb_3")
		synctest.Wait()

		check := func(r *Relay, when string, accepted, delivered, failed [2]int64) {
			t.Helper()
			d := r.Day()
			if of, ok := r.WebhookDay("a"); !ok || of.Sum().Delivered != d.Sum().Delivered || of.Sum().Failed != d.Sum().Failed {
				t.Errorf("%s: the only webhook's day is %+v, the relay's %+v", when, of.Sum(), d.Sum())
			}
			now, before := d.Hours[tally.Hours-1], d.Hours[tally.Hours-3]
			if got := [2]int64{before.Accepted, now.Accepted}; got != accepted {
				t.Errorf("%s: accepted %v, want %v", when, got, accepted)
			}
			if got := [2]int64{before.Delivered, now.Delivered}; got != delivered {
				t.Errorf("%s: delivered %v, want %v", when, got, delivered)
			}
			if got := [2]int64{before.Failed, now.Failed}; got != failed {
				t.Errorf("%s: failed %v, want %v", when, got, failed)
			}
		}
		check(r, "running", [2]int64{2, 1}, [2]int64{2, 0}, [2]int64{0, 1})
		if n := r.Day().FirstAttempts; n != 3 {
			t.Errorf("%d first attempts, want 3", n)
		}
		if w, _ := r.Webhook("a"); w.LastAnswer.Status != 500 || w.LastAnswer.Class != "http_500" {
			t.Errorf("the last answer is %+v", w.LastAnswer)
		}
		stop()
		r, stop = startOn(t, q, rs, c)
		check(r, "restarted", [2]int64{2, 1}, [2]int64{2, 0}, [2]int64{0, 1})
		if d := r.Day(); d.FirstAttempts != 3 {
			t.Errorf("%d first attempts after a restart, want 3", d.FirstAttempts)
		}
		time.Sleep(22 * time.Hour)
		if sum := r.Day().Sum(); sum.Accepted != 1 || sum.Delivered != 0 || sum.Failed != 1 {
			t.Errorf("a day later the first hour still counts: %+v", sum)
		}
		stop()
	})
}

// TestTalliesAreStoredEachHour: after a kill, the tallies of completed hours are in the
// store.
func TestTalliesAreStoredEachHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		c := Config{Webhooks: []WebhookConfig{{Name: "a", URL: "http://a.example.com/"}}}
		r, stop := startOn(t, q, &receivers{answer: always(200)}, c)
		accept(t, r, "fb_1")
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		killed := New(Options{Queue: q})
		if err := killed.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if sum := killed.Day().Sum(); sum.Accepted != 1 || sum.Delivered != 1 {
			t.Errorf("stored after an hour: %+v", sum)
		}
		stop()
		if err := killed.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTryTestsWhatIsNotThereYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rs := &receivers{answer: always(202)}
		r, stop := startOn(t, memqueue.New(memqueue.Options{}), rs, Config{})
		defer stop()
		result, err := r.Try(t.Context(), WebhookConfig{Name: "new", URL: "http://new.example.com/", Secret: "s"})
		if err != nil || !result.OK || result.Attempt.Status != 202 {
			t.Errorf("%+v, %v", result, err)
		}
		seen := rs.all()
		if len(seen) != 1 || seen[0].body != Sample || seen[0].header["X-UserHero-Test"] == nil || seen[0].header["X-UserHero-Signature"] == nil {
			t.Errorf("sent: %+v", seen)
		}
		if _, err := r.Try(t.Context(), WebhookConfig{Name: "new", URL: "nowhere"}); err == nil {
			t.Error("a wrong URL is tried")
		}
		if n := len(r.Webhooks()); n != 0 {
			t.Errorf("%d webhooks were made", n)
		}
	})
}

// TestSeriesKeepAMonth: what a webhook's attempts resulted in is kept by hours, quarters
// of a day and days, over a restart, and expires.
func TestSeriesKeepAMonth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := memqueue.New(memqueue.Options{})
		rs := &receivers{answer: always(200)}
		c := Config{Webhooks: []WebhookConfig{{Name: "a", URL: "http://a.example.com/", Retry: []time.Duration{}}}}
		r, stop := startOn(t, q, rs, c)
		accept(t, r, "fb_1")
		accept(t, r, "fb_2")
		synctest.Wait()
		began := time.Now()
		time.Sleep(3 * 24 * time.Hour)
		rs.mu.Lock()
		rs.answer = always(503)
		rs.mu.Unlock()
		accept(t, r, "fb_3")
		synctest.Wait()
		check := func(when string, back time.Duration, parts int, delivered, failed int64, since time.Time, answers string) {
			t.Helper()
			s, ok := r.WebhookSeries("a", back)
			var d, f int64
			for _, part := range s.Parts {
				d, f = d+part.Delivered, f+part.Failed
			}
			if !ok || len(s.Parts) != parts || d != delivered || f != failed || !s.Since.Equal(since) || fmt.Sprint(s.Answers) != answers {
				t.Errorf("%s: %d delivered, %d failed, since %s, answers %v: %+v", when, d, f, s.Since, s.Answers, s)
			}
		}
		now := time.Now()
		check("a day", tally.LastDay, 24, 0, 1, now.Truncate(time.Hour), "[{503 1}]")
		check("a week", tally.LastWeek, 28, 2, 1, began.Truncate(6*time.Hour), "[{200 2} {503 1}]")
		check("a month", tally.LastMonth, 30, 2, 1, began.Truncate(24*time.Hour), "[{200 2} {503 1}]")
		stop()
		r, stop = startOn(t, q, rs, c)
		check("restarted", tally.LastMonth, 30, 2, 1, began.Truncate(24*time.Hour), "[{200 2} {503 1}]")
		time.Sleep(28 * 24 * time.Hour)
		check("later", tally.LastMonth, 30, 0, 1, now.Truncate(24*time.Hour), "[{503 1}]")
		check("later", tally.LastWeek, 28, 0, 0, time.Time{}, "[]")
		stop()
	})
}
