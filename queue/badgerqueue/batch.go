package badgerqueue

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/codec"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// batch is a transaction that is being filled. The committer has one batch, which it
// empties and fills again. Nobody else sees its changes before the commit.
type batch struct {
	scratch
	s *Store

	// These fields keep their values from one batch to the next.
	committed layout.State // as the last commit left it
	// outdated is set if the store on disk has an older format. The next commit writes
	// the current format.
	outdated             bool
	recent               recents
	caught               *uint16 // the place of the newest submission that a honeypot caught; nil: not known yet
	lagging              lagging
	packer               codec.Packer
	maxEntries, maxBytes int // the most that one Badger transaction holds

	// These fields belong to one batch.
	txn                     *badger.Txn
	now                     time.Time
	touched                 map[uint64]touched           // B records to write
	stored                  map[uint64]int               // sizes of B records before the batch
	lanes                   map[*webhookState]laneChange // webhooks whose counters or R keys change
	wroteLanes              bool                         // the batch writes the lane record of each webhook that lags
	deleted                 map[*webhookState]struct{}   // webhooks that are removed
	fresh                   []freshEvent                 // new deliveries to pass to lanes
	settled                 []inLane                     // leases that end
	moving                  []inLane                     // deliveries whose due time or state this commit changes while they wait
	effects                 []func()                     // run after the commit
	retired                 map[uint64]struct{}          // events whose B record is removed
	stateOf                 layout.State                 // committed, with this batch's changes
	entries, bytes, pending int                          // entries and bytes written; pending: bytes of the B records to write
	writes                  int                          // how many changes the batch holds
}

// operation is a change to commit.
type operation interface {
	// cost returns about how many entries and bytes the operation writes. It returns too
	// many rather than too few.
	cost() (entries, bytes int)
	// lazy reports whether no caller waits for the operation.
	lazy() bool
	// apply writes into the batch and changes nothing else. If the batch is given up,
	// apply is called again with another batch.
	apply(b *batch) error
	// done passes the result to the caller. It is nil only after the commit, when lanes
	// and readers see the change.
	done(err error)
}

// laneChange is a batch's change to a webhook's lane: the new counters, the added R keys,
// and the marks that are written with them.
type laneChange struct {
	counts queue.Counts
	added  []ticket
	marks  layout.Marks // zero if the batch does not write the lane record
}

// lagging holds the webhooks whose lane record does not count the last commits.
//
// An event for 1,000 webhooks would write 1,000 lane records when it is accepted, and
// another 1,000 when it is delivered. So a commit writes one record instead, with what it
// changed in all counters, and the state record counts these records. Once in lagMost a
// commit writes the lane records of all webhooks that lag. Each of these commits leaves
// exact counters on the disk: the lane records with the changes added.
type lagging struct {
	webhooks []*webhookState
	size     int       // of their lane records, in bytes
	since    time.Time // when all lane records were written last, by the store's clock
}

const (
	lagMost     = time.Second
	changesMost = 1 << 10 // records of changes, which a start reads
)

type touched struct {
	ds   deliveries
	size int
}

type freshEvent struct {
	event   *queue.Event
	webhook *webhookState
}

// inLane names one delivery of a lane.
type inLane struct {
	webhook *webhookState
	seq     uint64
}

// begin empties the batch for the next transaction.
func (b *batch) begin() {
	b.reset()
	b.now, b.stateOf = b.s.clock.Now(), b.committed
	b.txn = b.s.db.NewTransaction(true)
	b.touched, b.lanes, b.deleted, b.retired = emptied(b.touched), emptied(b.lanes), emptied(b.deleted), emptied(b.retired)
	b.stored, b.wroteLanes = emptied(b.stored), false
	clear(b.fresh)
	clear(b.effects)
	b.fresh, b.settled, b.moving, b.effects = b.fresh[:0], b.settled[:0], b.moving[:0], b.effects[:0]
	b.entries, b.bytes, b.pending, b.writes = 0, 0, 0, 0
}

// giveUp discards the batch.
func (b *batch) giveUp() {
	b.txn.Discard()
	for _, l := range b.moving {
		l.webhook.stays(l.seq)
	}
	for seq := range b.touched {
		b.recent.forget(seq) // it shares its memory with the changed deliveries
	}
}

// transactionRoom returns how many entries and bytes the operations of one batch may
// write. The batch needs the rest of a Badger transaction for the state record and for lane
// records.
func transactionRoom(db *badger.DB) (entries, bytes int) {
	return int(db.MaxBatchCount()) * 3 / 4, int(db.MaxBatchSize()) * 3 / 4
}

// emptied returns the map without its entries. It returns a new map if clearing the old
// one would take too long.
func emptied[K comparable, V any](m map[K]V) map[K]V {
	const many = 1 << 12
	if m == nil || len(m) > many {
		return make(map[K]V)
	}
	clear(m)
	return m
}

// changeOf returns the batch's change to a webhook's lane so far.
func (b *batch) changeOf(h *webhookState) laneChange {
	if c, ok := b.lanes[h]; ok {
		return c
	}
	return laneChange{counts: h.counts}
}

// count adds n to a webhook's counter of a state.
func (b *batch) count(h *webhookState, s queue.State, n int64) {
	c := b.changeOf(h)
	c.counts.Count(s, n)
	b.change(h, c)
}

// change sets the batch's change to a webhook's lane.
func (b *batch) change(h *webhookState, c laneChange) {
	b.lanes[h] = c
	b.writes++
}

// takes reports whether the transaction has room for an operation.
func (b *batch) takes(op operation) bool {
	entries, bytes := op.cost()
	return b.entries+len(b.touched)+entries <= b.maxEntries && b.bytes+b.pending+bytes <= b.maxBytes
}

// finish writes the records that the operations of a batch share: each changed B record
// once, the counters, the cursors and the time.
func (b *batch) finish() error {
	for seq, t := range b.touched {
		b.grow(t.size - b.stored[seq])
		key := b.key(layout.PrefixDeliveries, seq)
		if err := b.set(key, t.ds.encode(key, b.record(t.size))); err != nil {
			return err
		}
	}
	if err := b.writeCounters(); err != nil {
		return err
	}
	if b.outdated { // after this, older builds refuse the store, because they could not read it
		if err := b.set(layout.KeyFormat, layout.Format{Version: layout.FormatVersion, Tags: b.s.tags, Former: b.s.former}.Encode()); err != nil {
			return err
		}
	}
	// Every transaction writes the state, even if it is unchanged: inspect reads from its
	// newest version how far the tables go.
	b.stateOf.At, b.stateOf.Shift = b.now.UnixNano(), b.s.clock.ReadShift()
	return b.set(layout.KeyState, b.stateOf.Encode())
}

// writeCounters writes the changes of the webhooks' counters, or all lane records that lag.
func (b *batch) writeCounters() error {
	if len(b.lanes) == 0 {
		return nil
	}
	if b.mayLag() {
		key := layout.ChangesKey(b.stateOf.Changes)
		rec := b.record(len(b.lanes) * layout.ChangeSize)
		for h, c := range b.lanes {
			rec = layout.AppendChange(rec, layout.Change{Webhook: h.id, Counts: c.counts.Sub(h.counts)})
		}
		b.stateOf.Changes++
		return b.set(key, layout.Seal(key, rec))
	}
	for _, h := range b.lagging.webhooks {
		if _, changed := b.lanes[h]; !changed && b.webhook(h.id) == h {
			b.lanes[h] = laneChange{counts: h.counts}
		}
	}
	for h, c := range b.lanes {
		c.marks = h.storedMarks(c.added)
		b.lanes[h] = c
		key := layout.LaneKey(h.id)
		if err := b.set(key, layout.EncodeLane(key, c.counts, c.marks)); err != nil {
			return err
		}
	}
	b.stateOf.Changes, b.wroteLanes = 0, true
	return nil
}

// mayLag reports whether the batch may leave the lane records as they are: a later batch
// must have room for all of them.
func (b *batch) mayLag() bool {
	if b.stateOf.Changes >= changesMost || b.now.Sub(b.lagging.since) >= lagMost {
		return false
	}
	n, size := len(b.lagging.webhooks), b.lagging.size
	for h, c := range b.lanes {
		if !h.keeps(c.added) {
			return false
		}
		if !h.lags {
			n, size = n+1, size+h.laneSize()
		}
	}
	return n <= b.maxEntries/4 && size <= b.maxBytes/4
}

// lagged notes, after the commit, which lane records do not count it.
func (b *batch) lagged() {
	l := &b.lagging
	if b.wroteLanes {
		for _, h := range l.webhooks {
			h.lags = false
		}
		clear(l.webhooks)
		*l = lagging{webhooks: l.webhooks[:0], since: b.now}
	}
	for h, c := range b.lanes {
		switch {
		case b.wroteLanes:
			h.written = c.marks.Due
		case !h.lags:
			h.lags = true
			l.webhooks = append(l.webhooks, h)
			l.size += h.laneSize()
		}
	}
}

// record starts a value of about size bytes in the batch's own memory, with the same
// header as the function record.
func (b *batch) record(size int) []byte {
	return append(b.take(layout.RecordHeader+size), layout.RecordVersion, 0, 0, 0, 0)
}

// key returns an A or B key in the batch's own memory.
func (b *batch) key(prefix byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b.take(9), prefix), seq)
}

// set writes a record. The caller must not change key or value before the commit.
func (b *batch) set(key, value []byte) error { return b.setFor(0, key, value) }

// setFor writes a record that expires after ttl. A ttl of 0 means never.
func (b *batch) setFor(ttl time.Duration, key, value []byte) error {
	if ttl == 0 {
		return b.setUntil(0, key, value)
	}
	return b.setUntil(uint64(time.Now().Add(ttl).Unix()), key, value)
}

// setUntil writes a record that expires at a time in seconds since 1970; 0 means never.
func (b *batch) setUntil(expires uint64, key, value []byte) error {
	if most := b.s.bounds.maxValue(); len(value) >= most {
		return fmt.Errorf("a value of %d bytes; one of %d would go to the value log, which is not synced", len(value), most)
	}
	e := b.entry()
	e.Key, e.Value, e.ExpiresAt = key, value, expires
	b.wrote(len(key) + len(value))
	return b.txn.SetEntry(e)
}

// delete writes a tombstone.
func (b *batch) delete(key []byte) error {
	b.wrote(len(key))
	return b.txn.Delete(key)
}

// logged returns at least as many bytes as the batch takes in Badger's log. The log adds
// at most 25 bytes to the key and value of an entry, and one entry at the end of the
// transaction.
func (b *batch) logged() int { return b.bytes + (25-entryOverhead)*b.entries + 64 }

func (b *batch) wrote(n int) {
	b.entries++
	b.writes++
	b.bytes += n + entryOverhead
}

// deliveriesOf returns an event's deliveries with this batch's changes. A caller that
// changes them must pass them to touch.
func (b *batch) deliveriesOf(seq uint64) (deliveries, error) {
	if t, ok := b.touched[seq]; ok {
		return t.ds, nil
	}
	if _, ok := b.retired[seq]; ok {
		return nil, nil
	}
	ds, ok := b.recent.get(seq)
	if !ok {
		var err error
		if ds, err = getDeliveries(b.txn, seq); err != nil {
			return nil, err
		}
	}
	if ds != nil {
		b.stored[seq] = ds.size()
	}
	return ds, nil
}

// grow adds n to the bytes that the stored events take.
func (b *batch) grow(n int) {
	if b.stateOf.Measured() {
		b.stateOf.Live += int64(n)
	}
}

func (b *batch) touch(seq uint64, ds deliveries) {
	size := ds.size()
	b.pending += size - b.touched[seq].size
	b.touched[seq] = touched{ds: ds, size: size}
	b.writes++
}

// retire marks the B record of an event as removed, so that the batch does not write it.
func (b *batch) retire(seq uint64) {
	b.pending -= b.touched[seq].size
	delete(b.touched, seq)
	b.retired[seq] = struct{}{}
}

// attempted counts an attempt of a delivery and keeps its log, in the B record or in a
// record of its own.
func (b *batch) attempted(seq uint64, ds deliveries, d *delivery, log []byte) error {
	if d.attempts == math.MaxUint16 {
		return nil
	}
	d.attempts++
	if d.attempts == 1 && d.state == queue.Delivered && len(log) <= maxLog && len(ds) <= maxLogged {
		d.log = log
		return nil
	}
	key := layout.AttemptKey(seq, d.webhook, d.attempts)
	rec := layout.Seal(key, append(b.record(len(log)), log...))
	b.grow(attemptSize(key, rec))
	return b.set(key, rec)
}

// move changes a delivery's state and updates its R key and the counters.
func (b *batch) move(h *webhookState, seq uint64, d *delivery, to delivery) error {
	if at, ok := d.waitsAt(seq); ok {
		if err := b.delete(layout.WaitingKey(h.id, d.rung, at)); err != nil {
			return err
		}
	}
	c := b.changeOf(h)
	c.counts.Count(d.state, -1)
	c.counts.Count(to.state, 1)
	if at, ok := to.waitsAt(seq); ok {
		if err := b.set(layout.WaitingKey(h.id, to.rung, at), nil); err != nil { // Promise 1: a retry is found again after a restart: its key is written with its state.
			return err
		}
		c.added = append(c.added, ticket{seq: seq, rung: to.rung, due: at.Due})
	}
	b.change(h, c)
	*d = to
	return nil
}

// webhook returns the state of a webhook, or nil if it does not exist after this batch.
func (b *batch) webhook(id queue.WebhookID) *webhookState {
	h := b.s.webhook(id)
	if _, deleted := b.deleted[h]; deleted {
		return nil
	}
	return h
}

const (
	scratchBytes   = 64 << 10
	scratchMost    = 1 << 20 // kept from one batch to the next
	scratchEntries = 512
)

// scratch is the memory of a batch's keys, values and entries. Badger has copied them
// when the commit returns, so the next batch uses the same memory.
type scratch struct {
	free []byte         // the bytes up to its length are taken
	made []badger.Entry // the entries up to its length are taken
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

// reset makes all of the memory free again.
func (s *scratch) reset() {
	clear(s.made)
	s.made, s.free = s.made[:0], s.free[:0]
	if cap(s.free) > scratchMost {
		s.free = nil
	}
}

const (
	recentPlaces = 1 << 14 // events
	remembered   = 1 << 16 // deliveries in all places together
)

// recents holds the deliveries of recently changed events in memory, so that a settlement
// reads nothing from the disk. An event's number determines its place. A newer event in the
// same place replaces an older one; the older event's deliveries are then read from the
// disk.
type recents struct {
	places [recentPlaces]recentEvent
	held   int    // deliveries in all places
	hand   uint64 // the place to empty next if there are too many
}

type recentEvent struct {
	seq uint64
	ds  deliveries // nil: the place is empty
}

func (r *recents) get(seq uint64) (deliveries, bool) {
	p := &r.places[seq%recentPlaces]
	return p.ds, p.ds != nil && p.seq == seq
}

// remember keeps an event's deliveries, and empties places until recents holds at most
// remembered deliveries.
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
