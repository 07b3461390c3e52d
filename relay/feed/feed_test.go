package feed

import "testing"

func TestSlowListenersLoseTheOldestAndKnowHowMany(t *testing.T) {
	t.Parallel()
	var f Feed
	slow, _ := f.Subscribe(nil, nil)
	quick, _ := f.Subscribe(nil, nil)
	defer quick.Close()
	const all = 3*maxUntaken + 7
	next := uint64(1)
	for range all {
		f.Publish(Happening{Kind: State})
		happened, lost := quick.Take()
		if len(happened) != 1 || lost != 0 || happened[0].ID != next {
			t.Fatalf("the quick one took %d from %d, %d lost", len(happened), next, lost)
		}
		next++
	}
	kept, lost := slow.Take()
	if len(kept)+lost != all || len(kept) > maxUntaken || len(kept) < maxUntaken/2 {
		t.Errorf("%d kept, %d lost, of %d", len(kept), lost, all)
	}
	for i, h := range kept {
		if want := uint64(lost + i + 1); h.ID != want {
			t.Fatalf("kept %d is number %d, want %d: the newest, in order", i, h.ID, want)
		}
	}
	slow.Close()
	slow.Close()
	if f.Publish(Happening{}); !f.HasListeners() {
		t.Error("one still listens")
	}
	if kept, _ := slow.Take(); len(kept) != 0 {
		t.Error("a closed subscription is told")
	}
	quick.Close()
	if f.HasListeners() {
		t.Error("nobody listens")
	}
}
