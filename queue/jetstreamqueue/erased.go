package jetstreamqueue

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/userhero/relay/queue"
)

// erasedSet holds the hashes of erased feedback. Each relay reads all of them, so that it
// can refuse a submission without asking the servers. A hash takes about 50 bytes.
type erasedSet struct {
	mu     sync.Mutex // guards everything below
	hashes map[[32]byte]struct{}
	// storing counts the calls that are storing something of a feedback, by its hash.
	storing map[[32]byte]int
	// seen are erased feedbacks of which an event was stored after they were erased, or
	// was read late.
	seen map[queue.FeedbackID]struct{}
}

// begin reports whether something of a feedback may be stored, and then keeps Erase from
// looking for its events until end is called. Erase must look after it.
func (s *erasedSet) begin(id queue.FeedbackID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := id.Hash()
	if _, erased := s.hashes[hash]; erased && !id.IsZero() {
		return false
	}
	if s.storing == nil {
		s.storing = make(map[[32]byte]int)
	}
	s.storing[hash]++
	return true
}

func (s *erasedSet) end(id queue.FeedbackID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := id.Hash()
	if s.storing[hash]--; s.storing[hash] == 0 {
		delete(s.storing, hash)
	}
}

func (s *erasedSet) isStoring(hash [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storing[hash] > 0
}

// noteLate notes an event of an erased feedback.
func (s *erasedSet) noteLate(id queue.FeedbackID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = make(map[queue.FeedbackID]struct{})
	}
	s.seen[id] = struct{}{}
}

// late removes and returns what noteLate noted.
func (s *erasedSet) late() []queue.FeedbackID {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Collect(maps.Keys(s.seen))
	clear(s.seen)
	return ids
}

// add adds the hash of a feedback that was erased.
func (s *erasedSet) add(hash [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hashes == nil {
		s.hashes = make(map[[32]byte]struct{})
	}
	s.hashes[hash] = struct{}{}
}

func (s *erasedSet) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hashes) > 0
}

func (s *erasedSet) all() [][32]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.hashes))
}

// has reports whether a feedback was erased.
func (s *erasedSet) has(id queue.FeedbackID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.hashes) == 0 || id.IsZero() {
		return false
	}
	_, ok := s.hashes[id.Hash()]
	return ok
}

// erasedOf reads the subject of what remains of an erased feedback.
func (n names) erasedOf(subject string) (hash [32]byte, ok bool) {
	text, ok := strings.CutPrefix(subject, n.prefix+".z.")
	b, err := base32Lower.DecodeString(text)
	if !ok || err != nil || len(b) != len(hash) {
		return hash, false
	}
	return [32]byte(b), true
}
