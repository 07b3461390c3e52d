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
