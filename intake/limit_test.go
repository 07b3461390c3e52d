package intake

import (
	"fmt"
	"strconv"
	"testing"
	"time"
)

func TestLimiterLetsABurstAndThenTheRateThrough(t *testing.T) {
	t.Parallel()
	l := newLimiter(&Limit{Events: 10, Per: time.Second, Burst: 50})
	now := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	for i := range 50 {
		if wait := l.take("a", now); wait != 0 {
			t.Fatalf("number %d of the burst waits %v", i+1, wait)
		}
	}
	if wait := l.take("a", now); wait != 100*time.Millisecond {
		t.Errorf("the 51st waits %v, want 100ms", wait)
	}
	if wait := l.take("b", now); wait != 0 {
		t.Errorf("another key waits %v", wait)
	}
	taken := 0
	for range 1000 { // ten seconds of asking
		if now = now.Add(10 * time.Millisecond); l.take("a", now) == 0 {
			taken++
		}
	}
	if taken != 100 {
		t.Errorf("%d in ten seconds, want 100", taken)
	}
	if l.take("a", now.Add(time.Hour)) != 0 {
		t.Error("an hour later the bucket is not full")
	}
}

func TestLimiterRemembersABoundedNumberOfKeys(t *testing.T) {
	t.Parallel()
	l := newLimiter(&Limit{Events: 1, Per: time.Hour})
	now := time.Now()
	for i := range 5 * maxKeys {
		l.take(strconv.Itoa(i), now)
	}
	if n := len(l.current) + len(l.previous); n > 2*maxKeys {
		t.Errorf("%d keys are remembered, want at most %d", n, 2*maxKeys)
	}
	if l.take(strconv.Itoa(5*maxKeys-1), now) == 0 {
		t.Error("the newest key was forgotten")
	}
}

func TestTooMuchIsRefusedWithATimeToComeBack(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{ClientLimit: &Limit{Events: 2, Per: time.Minute, Burst: 2}})
	for i := range 3 {
		a := s.post(fmt.Sprintf(`{"message":"%d"}`, i))
		if want := map[bool]int{true: 202, false: 429}[i < 2]; a.Status != want {
			t.Fatalf("submission %d: %d %s", i+1, a.Status, a.Body)
		}
		if i == 2 {
			if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 1 || after > 30 {
				t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
			}
		}
	}
	s.await(2)
}

func TestProjectsAreLimitedEach(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{ProjectLimit: &Limit{Events: 1, Per: time.Hour}})
	for i, c := range []struct {
		body   string
		status int
	}{
		{`{"message":"a","projectId":"p"}`, 202}, {`{"message":"b","projectId":"p"}`, 429}, {`{"message":"c","projectId":"q"}`, 202}, {`{"message":"d"}`, 202},
	} {
		if a := s.post(c.body); a.Status != c.status {
			t.Errorf("submission %d: %d, want %d: %s", i+1, a.Status, c.status, a.Body)
		}
	}
	s.await(3)
}
