package badgerqueue

import "github.com/dgraph-io/badger/v4"

const (
	scratchBytes   = 64 << 10
	scratchMost    = 1 << 20 // kept from one batch to the next
	scratchEntries = 512
)

// scratch is what the keys, values and entries of a batch are made in. Badger has
// copied them when the commit returns, and the next batch is made in the same
// memory.
type scratch struct {
	free []byte         // length: what is taken
	made []badger.Entry // likewise
}

// take returns an empty slice with room for n bytes.
func (s *scratch) take(n int) []byte {
	if cap(s.free)-len(s.free) < n {
		s.free = make([]byte, 0, max(n, scratchBytes, min(2*cap(s.free), scratchMost)))
	}
	at := len(s.free)
	s.free = s.free[:at+n]
	return s.free[at : at : at+n]
}

// entry returns an entry that stays where it is until reset.
func (s *scratch) entry() *badger.Entry {
	if len(s.made) == cap(s.made) {
		s.made = make([]badger.Entry, 0, scratchEntries)
	}
	s.made = append(s.made, badger.Entry{})
	return &s.made[len(s.made)-1]
}

// reset takes everything back.
func (s *scratch) reset() {
	clear(s.made)
	s.made, s.free = s.made[:0], s.free[:0]
	if cap(s.free) > scratchMost {
		s.free = nil
	}
}

// recentPlaces is how many events the committer can remember, and remembered how
// many deliveries they may have.
const (
	recentPlaces = 1 << 14
	remembered   = 1 << 16
)

// recents are the deliveries of events touched a moment ago, so that settling
// them reads nothing. Events share places by number: a newer one takes an older
// one's place, and what is not remembered is on disk.
type recents struct {
	places [recentPlaces]recentEvent
	held   int    // deliveries in all places
	hand   uint64 // the place to be emptied next where there are too many
}

type recentEvent struct {
	seq uint64
	ds  deliveries // nil: the place is empty
}

func (r *recents) get(seq uint64) (deliveries, bool) {
	p := &r.places[seq%recentPlaces]
	return p.ds, p.ds != nil && p.seq == seq
}

// remember keeps an event, and no more deliveries in all than remembered.
func (r *recents) remember(seq uint64, ds deliveries) {
	p := &r.places[seq%recentPlaces]
	r.empty(p)
	if len(ds) == 0 || len(ds) > remembered {
		return
	}
	for r.held+len(ds) > remembered {
		r.empty(&r.places[r.hand%recentPlaces])
		r.hand++
	}
	*p = recentEvent{seq: seq, ds: ds}
	r.held += len(ds)
}

func (r *recents) forget(seq uint64) {
	if p := &r.places[seq%recentPlaces]; p.seq == seq {
		r.empty(p)
	}
}

func (r *recents) empty(p *recentEvent) {
	r.held -= len(p.ds)
	*p = recentEvent{}
}
