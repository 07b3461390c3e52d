package badgerqueue

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// stateOnDisk reads the state record.
func stateOnDisk(t *testing.T, s *Store) (st layout.State) {
	t.Helper()
	if err := s.view(t.Context(), func(txn *badger.Txn) (err error) {
		st, err = getState(txn)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return st
}

// settled waits until everything that was settled before is on the disk.
func settled(t *testing.T, s *Store) {
	t.Helper()
	if err := s.commit(t.Context(), 1, 1, func(*batch) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestCountersAreExactWhileLaneRecordsLag: whichever records the last commits wrote, the
// check, the next process and its check count what is there. A webhook that was deleted
// while its record lagged counts nothing.
func TestCountersAreExactWhileLaneRecordsLag(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(testing.TB, Options) *Store{"usual transactions": openAt, "small transactions": openSmall} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const webhooks = 40
			o := Options{Path: fastDir(t)}
			s := open(t, o)
			ids := addWebhooks(t, s, webhooks)
			lags := 0
			for round := range 6 {
				enqueue(t, s, entry(round, ids...))
				for i, id := range ids {
					lane, err := s.Lane(id, queue.LaneOptions{})
					if err != nil {
						t.Fatal(err)
					}
					leases, err := lane.Next(t.Context(), 1)
					if err != nil {
						t.Fatal(err)
					}
					a := queue.Attempt{At: time.Now(), Status: 200}
					switch (i + round) % 4 {
					case 0:
						err = leases[0].Ack(a)
					case 1:
						err = leases[0].Retry(time.Now().Add(time.Hour), a)
					case 2:
						err = leases[0].Dead(a)
					}
					if err != nil {
						t.Fatal(err)
					}
					if err := lane.Close(); err != nil {
						t.Fatal(err)
					}
				}
				settled(t, s)
				if round == 3 {
					hooks, err := s.Webhooks(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if _, err := s.DeleteWebhook(t.Context(), hooks[7].ID, hooks[7].Revision); err != nil {
						t.Fatal(err)
					}
					ids = append(ids[:7], ids[8:]...)
				}
				if stateOnDisk(t, s).Changes > 0 {
					lags++
				}
				wantNoFindings(t, s)
				counted := s.Stats(t.Context()).Webhooks
				if err := s.Close(context.Background()); err != nil {
					t.Fatal(err)
				}
				s = open(t, o)
				for id, w := range s.Stats(t.Context()).Webhooks {
					if w.Counts != counted[id].Counts {
						t.Errorf("opened again, webhook %d counts %+v, want %+v", id, w.Counts, counted[id].Counts)
					}
				}
				wantNoFindings(t, s)
			}
			if lags == 0 {
				t.Error("lane records never lagged")
			}
		})
	}
}

// TestWideEventWritesFewCounters: what an accept writes grows by some bytes for each
// webhook, not by a record. All lane records are written about once a second, so the least
// of several accepts counts.
func TestWideEventWritesFewCounters(t *testing.T) {
	t.Parallel()
	const wide = 300
	s := openAt(t, Options{Path: fastDir(t)})
	ids := addWebhooks(t, s, wide)
	written := func() (n int64) {
		t.Helper()
		if err := s.commit(t.Context(), 1, 1, func(*batch) error { n = s.disk.Written(); return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	least, before := int64(math.MaxInt64), written()
	for i := range 20 {
		enqueue(t, s, entry(i, ids...))
		after := written()
		least, before = min(least, after-before), after
	}
	if most := int64(1000 + wide*(deliverySize+2*layout.ChangeSize)); least > most {
		t.Errorf("an event for %d webhooks writes %d bytes, want at most %d", wide, least, most)
	}
	wantNoFindings(t, s)
}

// TestChangesThatAreMissingAreDamage: a store without one of the records that its state
// counts does not open with wrong counters.
func TestChangesThatAreMissingAreDamage(t *testing.T) {
	t.Parallel()
	s := openAt(t, Options{Path: fastDir(t)})
	w := newWebhook(t, s, "w")
	for i := 0; stateOnDisk(t, s).Changes == 0; i++ {
		enqueue(t, s, entry(i, w))
	}
	if err := s.commit(t.Context(), 1, 64, func(b *batch) error { return b.delete(layout.ChangesKey(0)) }); err != nil {
		t.Fatal(err)
	}
	r, err := s.Check(t.Context())
	if err != nil || r.Found == 0 {
		t.Errorf("the check finds %v, %v", r.Findings, err)
	}
	if err := s.view(t.Context(), func(txn *badger.Txn) error { return s.loadWebhooks(txn, stateOnDisk(t, s).Changes) }); err == nil {
		t.Error("the counters are read without it")
	}
}
