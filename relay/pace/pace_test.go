package pace

import (
	"testing"
	"time"
)

func TestBreakerLetsOneProbeThroughAtATime(t *testing.T) {
	t.Parallel()
	ladder := []time.Duration{time.Second, 4 * time.Second}
	start := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	var b Breaker
	if ok, _ := b.Admits(start); !ok {
		t.Fatal("a closed breaker refuses")
	}
	b.Failed(start, false, ladder)
	b.Trip(ladder)
	now := start
	for i, delay := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
		ok, wait := b.Admits(now)
		if ok || wait != delay {
			t.Fatalf("probe %d: admitted %v, wait %v; want a wait of %v", i, ok, wait, delay)
		}
		now = now.Add(delay)
		if ok, _ := b.Admits(now); !ok {
			t.Fatalf("probe %d is not let out in its time", i)
		}
		b.Begin()
		if ok, wait := b.Admits(now.Add(time.Hour)); ok || wait != 0 {
			t.Fatalf("a second probe beside probe %d: %v, %v", i, ok, wait)
		}
		b.Failed(now, false, ladder)
	}
	b.Begin()
	b.Succeeded(now)
	if ok, _ := b.Admits(now); !ok || b.open {
		t.Error("a success leaves the breaker open")
	}
}

func TestBreakerOpensAfterConnectionFailuresInARow(t *testing.T) {
	t.Parallel()
	var b Breaker
	now := time.Date(2026, 1, 7, 15, 30, 0, 0, time.UTC)
	for range connectionFailures - 1 {
		b.Failed(now, true, nil)
	}
	b.Failed(now, false, nil) // the receiver responded, so a connection was made
	for range connectionFailures - 1 {
		b.Failed(now, true, nil)
	}
	if b.open {
		t.Fatal("open after fewer failures in a row than it takes")
	}
	if b.Failed(now, true, nil); !b.open {
		t.Fatal("closed after ten connections that were never made")
	}
}

func TestWindowGrowsGentlyAndShrinksFast(t *testing.T) {
	t.Parallel()
	var w Window
	w.Set(8)
	if w.size != 8 {
		t.Fatalf("a new window lets %d out, want all 8", w.size)
	}
	for _, want := range []int{4, 2, 1, 1} {
		if w.Shrink(); w.size != want {
			t.Fatalf("shrunk to %d, want %d", w.size, want)
		}
	}
	for range 100 {
		w.Grow()
	}
	if w.size != 8 {
		t.Errorf("grown to %d, want 8", w.size)
	}
	w.Restart(0)
	w.Set(16)
	if w.size != 1 {
		t.Errorf("a wider bound opened a window that was careful to %d", w.size)
	}
}

// TestWhatIsUnderWayDoesNotEndAHold: a success does not end the hold if its attempt
// began before the receiver sent Retry-After.
func TestWhatIsUnderWayDoesNotEndAHold(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var b Breaker
	b.HoldOff(now, 30*time.Second)
	b.HoldOff(now, 5*time.Second)
	b.Succeeded(now.Add(time.Second))
	b.Failed(now.Add(2*time.Second), false, nil)
	if ok, wait := b.Admits(now.Add(3 * time.Second)); ok || wait != 27*time.Second {
		t.Errorf("admitted %t, or in %s", ok, wait)
	}
	later := now.Add(31 * time.Second)
	if ok, _ := b.Admits(later); !ok || !b.OneAtATime() {
		t.Errorf("after the hold admitted %t, alone %t", ok, b.OneAtATime())
	}
	b.Failed(later, false, nil)
	if b.OneAtATime() {
		t.Error("the probe has ended, and the hold has not")
	}
}
