package badgerqueue

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

// put remembers an event, and no more deliveries in all than remembered.
func (r *recents) put(seq uint64, ds deliveries) {
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
