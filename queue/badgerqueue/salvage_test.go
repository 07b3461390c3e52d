package badgerqueue

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/userhero/relay/queue"
)

// spared is how many of the events of a killedStore with n events in each part a
// damage must leave: all that do not lie in what was damaged.
func spared(name string, c change, n int, encrypted bool) int {
	all := 4 * n
	switch {
	case strings.HasSuffix(name, ".sst"):
		return all - n // whatever is done to one table, the others are whole
	case strings.HasSuffix(name, ".mem") && strings.HasPrefix(c.name, "flipped") && !encrypted:
		return all - 1
	case strings.HasSuffix(name, ".mem"):
		return all - n
	case name == "KEYREGISTRY" && encrypted:
		return 0 // without the keys nothing can be read
	}
	return all
}

// TestSalvageSavesWhatIsReadable damages every file in every way, and salvages:
// every event outside of the damage is in the new store with its id and its
// bytes, what waits is delivered, and the new store is sound.
func TestSalvageSavesWhatIsReadable(t *testing.T) {
	t.Parallel()
	const n = 20
	for kind, key := range map[string][]byte{"plain": nil, "encrypted": []byte("0123456789abcdef")} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			store := killedStore(t, n, key)
			held := eventsOf(t, openAt(t, Options{Path: store.write(t), EncryptionKey: key}))
			if len(held) != 4*n {
				t.Fatalf("%d events", len(held))
			}
			all := changes(3, 1, 1)
			if key != nil {
				all = []change{removed, flipped, lastCut, halfClear}
			}
			if n := soak(); n > 0 {
				all = changes(3, 50*n, 20*n)
			}
			for name := range store {
				for _, c := range worth(name, all) {
					from := store.with(name, c).write(t)
					to := filepath.Join(fastDir(t), "saved")
					before := readFiles(t, from)
					r, err := Salvage(t.Context(), SalvageOptions{From: from, To: to, EncryptionKey: key})
					want := spared(name, c, n, key != nil)
					if err != nil {
						if want > 0 || !strings.Contains(err.Error(), "encryption key") {
							t.Errorf("%s %s: %v", name, c.name, err)
						}
						continue
					}
					if !readFiles(t, from).equal(before) {
						t.Errorf("%s %s: the damaged store was changed", name, c.name)
					}
					s, err := open(context.Background(), Options{Path: to, EncryptionKey: key}, smallMemtables)
					if err != nil {
						t.Errorf("%s %s: the new store: %v", name, c.name, err)
						continue
					}
					now := eventsOf(t, s)
					if len(now) < want || int64(len(now)) != r.Events {
						t.Errorf("%s %s: %d events, %d reported, want %d", name, c.name, len(now), r.Events, want)
					}
					if len(now) < len(held) && r.LostCount == 0 {
						t.Errorf("%s %s: %d events are lost in silence", name, c.name, len(held)-len(now))
					}
					for id, body := range now {
						if held[id] != body {
							t.Errorf("%s %s: event %s has other bytes: %q", name, c.name, id, body)
						}
					}
					wantNoFindings(t, s)
					if r.Webhooks == 1 {
						w, _ := onlyWebhook(t.Context(), s)
						deliverAll(t, s, int(s.Stats(context.Background()).Webhooks[w].Pending))
					}
					if err := s.Close(context.Background()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// eventsOf are the bodies of all events of a store.
func eventsOf(t *testing.T, s *Store) map[queue.EventID]string {
	t.Helper()
	all := make(map[queue.EventID]string)
	for c := ""; ; {
		page, err := s.Events(t.Context(), queue.EventQuery{Limit: 1000, Cursor: c})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			full, err := s.Event(t.Context(), e.ID)
			if err != nil {
				t.Fatal(err)
			}
			all[e.ID] = string(full.Body)
		}
		if c = page.Next; c == "" {
			return all
		}
	}
}

// TestSalvageWithADamagedRegistry: of the registry of keys only the keys matter.
func TestSalvageWithADamagedRegistry(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef")
	store := killedStore(t, 10, key)
	for _, at := range []int{3, 20} { // in what the key is recognised by
		from := store.with("KEYREGISTRY", change{do: func(f *file) { f.flip(at, 2) }}).write(t)
		r, err := Salvage(t.Context(), SalvageOptions{From: from, To: filepath.Join(fastDir(t), "saved"), EncryptionKey: key})
		if err != nil || r.Events != 40 {
			t.Errorf("flipped at byte %d: %d of 40 events, %v", at, r.Events, err)
		}
	}
	for _, wrong := range [][]byte{nil, []byte("fedcba9876543210")} {
		_, err := Salvage(t.Context(), SalvageOptions{From: store.write(t), To: filepath.Join(fastDir(t), "saved"), EncryptionKey: wrong})
		if err == nil || !strings.Contains(err.Error(), "encryption key") {
			t.Errorf("with key %q: %v", wrong, err)
		}
	}
}
