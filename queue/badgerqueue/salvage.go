package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// SalvageReport says what was saved of a damaged store, and what was not.
type SalvageReport struct {
	Events     int64 `json:"events"`
	Deliveries int64 `json:"deliveries"`
	Waiting    int64 `json:"waiting"`
	Attempts   int64 `json:"attempts"`
	Webhooks   int64 `json:"webhooks"`
	Activities int64 `json:"activities"`
	// Unaddressed are events without a delivery: nobody wanted them, or the
	// record is lost. They can be sent again, by webhook.
	Unaddressed int64 `json:"unaddressed"`
	// Lost are what could not be read, the first of them; LostCount is how many.
	Lost      []storefile.Finding `json:"lost"`
	LostCount int64               `json:"lost_count"`
}

func (r *SalvageReport) lost(where, format string, args ...any) {
	r.LostCount++
	if len(r.Lost) < mostFindings {
		r.Lost = append(r.Lost, storefile.Finding{Where: where, What: fmt.Sprintf(format, args...)})
	}
}

// SalvageOptions say where a damaged store is and where what is saved goes.
type SalvageOptions struct {
	From string // it is read and not changed; no process may have it open
	To   string // must not exist, or be empty
	// EncryptionKey is that of the damaged store, and becomes that of the new one.
	EncryptionKey []byte
}

// Salvage writes every record that can be read from a damaged store to a new
// one: events with their ids and bytes, deliveries with their states, attempts,
// webhooks, the activity log, idempotency keys. The files are read without
// Badger, behind a damage too. What can be computed is made anew: counters, the
// keys that wake deliveries, the index of feedbacks. Where a newer version of a
// record is lost the one before it counts, so a delivery may be made again.
func Salvage(ctx context.Context, o SalvageOptions) (r SalvageReport, err error) {
	r.Lost = []storefile.Finding{}
	to, err := filepath.Abs(o.To)
	if err != nil {
		return r, err
	}
	if there, err := storefile.Occupied(to); err != nil || there {
		return r, errors.Join(err, fmt.Errorf("%s is not empty: salvage into a new folder", to))
	}
	o.From = storefile.Folder(o.From)
	unlock, err := lockFolder(o.From)
	if err != nil {
		return r, err
	}
	defer unlock()
	b, err := newBuild(to+".salvaging", o.EncryptionKey, true)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.discard()) }()
	s := salvage{ctx: ctx, o: o, b: b, r: &r}
	if err := s.collect(); err != nil {
		return r, fmt.Errorf("salvaging the store at %s: %w", o.From, err)
	}
	if err := b.reopen(); err != nil {
		return r, err
	}
	seq, t, err := s.mend()
	if err != nil {
		return r, fmt.Errorf("salvaging the store at %s: %w", o.From, err)
	}
	if s.wrong && r.Events+r.Webhooks == 0 {
		return r, storefile.WrongKey(o.From)
	}
	if err := b.finish(seq, t); err != nil {
		return r, err
	}
	if err := errors.Join(storefile.CloseFiles(b.path), storefile.Adopt(b.path, o.From)); err != nil {
		return r, err
	}
	return r, b.moveTo(to)
}

// mostTransactions is more than any store has seen.
const mostTransactions = 1 << 48

// salvage is one salvage under way.
type salvage struct {
	ctx context.Context
	o   SalvageOptions
	b   *build
	r   *SalvageReport
	// wrong says that the key does not fit the registry of keys: it is another,
	// or the registry is damaged where nothing depends on it.
	wrong bool
}

// collect writes every entry that can be read to the new store, as of its
// transaction.
func (s *salvage) collect() (err error) {
	s.wrong, err = storefile.ReadAll(s.o.From, s.o.EncryptionKey, func(e storefile.Entry) error {
		if !wellFormed(e.Key) || len(e.Value) > defaultBounds.maxValue() || e.Version > mostTransactions {
			return nil // Badger's own, or decrypted with a key that is none
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
		return s.b.setAt(e.Key, e.Value, e.ExpiresAt, e.Version, e.Deleted)
	}, func(where, what string) { s.r.lost(where, "%s", what) })
	return err
}

// mend makes a store of what was collected and returns the number of its newest
// event, there or not, and its tags.
func (s *salvage) mend() (newest uint64, t storefile.Tags, err error) {
	err = s.b.db.View(func(txn *badger.Txn) error {
		m := mender{salvage: s, bad: make(map[uint64]bool), erased: make(map[uint64]bool), marks: make(map[queue.WebhookID]*marks), webhooks: make(map[queue.WebhookID]bool)}
		m.walk = walk{
			txn: txn, met: tally{counts: make(map[queue.WebhookID]queue.Counts)}, going: s.ctx.Err, bad: m.unreadable,
		}
		if err := m.format(); err != nil {
			return err
		}
		for _, step := range []func() error{
			m.indexes, m.webhookRecords, m.events, m.deliveries, m.attempts, m.idempotencyKeys, m.activities, m.counters,
		} {
			if err := step(); err != nil {
				return err
			}
		}
		newest, t = m.seq, m.f.tags
		return s.ctx.Err()
	})
	return newest, t, err
}

// mender goes through the collected records, kind by kind. The new store keeps those
// that are not deleted.
type mender struct {
	*salvage
	walk
	f        format
	counted  state           // by the store that is salvaged
	seq      uint64          // of the newest event, there or not
	bad      map[uint64]bool // events whose record is damaged, or was erased
	erased   map[uint64]bool
	webhooks map[queue.WebhookID]bool
	marks    map[queue.WebhookID]*marks // made anew
}

func (m *mender) drop(key []byte, where, format string, args ...any) error {
	m.r.lost(where, format, args...)
	return m.b.delete(key)
}

// unreadable removes a record that does not decode.
func (m *mender) unreadable(key []byte, where string, err error) error {
	switch key[0] {
	case prefixEvent:
		m.bad[seqOf(key)] = true
	case prefixDeliveries:
		m.r.Unaddressed++
	}
	return m.drop(key, where, "%v", err)
}

// readable reports whether the event can be read.
func (m *mender) readable(seq uint64) bool { return m.has(eventKey(seq)) && !m.bad[seq] }

// format finds what ids are made of, in the store or beside it. Where that is
// lost, events get new ones.
func (m *mender) format() (err error) {
	beside, _ := storefile.ReadHighWater(m.o.From) // what cannot be read is zero
	m.f, err = getRecord(m.txn, keyFormat, func(_, rec []byte) (format, error) { return decodeFormat(rec) })
	switch {
	case err == nil:
		if err := knows("store", m.f.version); err != nil {
			return err
		}
	case len(beside.Tags) > 0:
		m.f = format{version: formatVersion, tags: beside.Tags}
	default:
		m.r.lost("the format record", "%v; every event gets a new id", err)
		m.f = format{version: formatVersion, tags: storefile.Tags{storefile.NewTag(0)}}
	}
	if st, err := getRecord(m.txn, keyState, func(_, rec []byte) (state, error) { return decodeState(rec) }); err == nil {
		m.counted = st
	}
	m.tags, m.seq = m.f.tags, max(m.counted.seq, beside.Mark.Seq)
	return nil
}

// indexes removes what is made anew.
func (m *mender) indexes() error {
	for _, prefix := range [][]byte{{prefixWaiting}, {prefixEnded}, {prefixFormer}, {prefixFeedback}, []byte("Mw")} {
		if err := m.each(prefix, func(key, _ []byte) error { return m.b.delete(key) }); err != nil {
			return err
		}
	}
	return nil
}

func (m *mender) webhookRecords() error {
	return m.eachWebhook(func(hook queue.Webhook) error {
		m.r.Webhooks++
		m.webhooks[hook.ID] = true
		return nil
	})
}

// events also makes the index of feedbacks: the last event of each stays.
func (m *mender) events() error {
	return m.eachEvent(func(seq uint64, e *queue.Event) error {
		if m.has(erasedKey(e.Feedback)) { // that it was removed is what could not be read
			m.bad[seq], m.erased[seq] = true, true
			return m.b.delete(eventKey(seq))
		}
		m.r.Events++
		if !m.has(deliveriesKey(seq)) {
			m.r.Unaddressed++
		}
		if e.Feedback.IsZero() {
			return nil
		}
		index := feedbackKey(e.Feedback)
		held, err := getRecord(m.txn, index, decodeFeedback)
		if err != nil {
			held = feedback{} // without its origin nothing is a repeat of what created it
		}
		held.seq = seq
		return m.b.set(index, held.encode(index), 0)
	})
}

// deliveries also makes the keys that wake them.
func (m *mender) deliveries() error {
	return m.eachDeliveries(func(key []byte, seq uint64, ds deliveries) error {
		if !m.readable(seq) {
			if m.erased[seq] {
				return m.b.delete(key)
			}
			return m.drop(key, eventName(seq), "%d deliveries are there, and the event cannot be read", len(ds))
		}
		mended := false
		for i := range ds {
			d := &ds[i]
			m.r.Deliveries++
			switch err := m.meet(key, d); {
			case err != nil:
				m.r.lost(eventName(seq), "%v", err)
				d.log, mended = nil, true
			case d.log != nil:
				m.r.Attempts++
			}
			if d.state.Waiting() {
				m.r.Waiting++
			}
			if err := m.wakes(seq, d); err != nil {
				return err
			}
		}
		if mended {
			return m.b.set(key, ds.encode(key, record(ds.size())), 0)
		}
		return nil
	})
}

// wakes has the lane of a delivery find it, if it waits.
func (m *mender) wakes(seq uint64, d *delivery) error {
	lane := m.marks[d.webhook]
	if lane == nil {
		lane = &marks{due: make(map[uint8]int64)}
		m.marks[d.webhook] = lane
	}
	if d.fresh() && lane.fresh == 0 {
		lane.fresh = seq
	}
	at, ok := d.waitsAt(seq)
	if !ok {
		return nil
	}
	if low, used := lane.due[d.rung]; !used || at.due < low {
		lane.due[d.rung] = at.due
	}
	return m.b.set(waitingKey(d.webhook, d.rung, at), nil, 0)
}

func (m *mender) attempts() error {
	return m.eachAttempt(func(key []byte, seq uint64) error {
		if !m.readable(seq) {
			return m.b.delete(key)
		}
		m.r.Attempts++
		return nil
	})
}

func (m *mender) idempotencyKeys() error {
	return m.eachIdempotencyKey(func(key []byte, k idempotency) error {
		if k.seq != erasedSeq && !m.readable(k.about()) {
			return m.b.delete(key)
		}
		return nil
	})
}

func (m *mender) activities() error { return m.others(func() { m.r.Activities++ }) }

// counters writes the records that are made anew. The sweep begins at the first
// event again.
func (m *mender) counters() error {
	m.seq = max(m.seq, m.met.newest)
	if m.seq > m.counted.seq {
		m.r.lost("the newest events", "number %d to %d had been acknowledged, and whatever of them can be read is saved", m.counted.seq+1, m.seq)
	}
	if missing := m.counted.events - m.r.Events - int64(len(m.erased)); missing > 0 {
		m.r.lost("events", "%d of the %d that the store counted cannot be read", missing, m.counted.events)
	}
	for id := range m.webhooks {
		lane := m.marks[id]
		if lane == nil {
			lane = new(marks)
		}
		if lane.fresh == 0 {
			lane.fresh = m.seq + 1
		}
		key := laneKey(id)
		if err := m.b.set(key, encodeLane(key, m.met.counts[id], *lane), 0); err != nil {
			return err
		}
	}
	st := m.counted // with its clock
	st.seq, st.events = m.seq, m.r.Events
	st.webhook, st.noted = max(st.webhook, m.met.newestWebhook), max(st.noted, uint64(m.r.Activities))
	st.swept, st.ended, st.live, st.counted = 0, 0, 0, false
	if err := m.b.set(keyState, st.encode(), 0); err != nil {
		return err
	}
	m.f.version, m.f.tags, m.f.former = formatVersion, append(m.f.tags, storefile.NewTag(m.seq+1)), 0
	return m.b.set(keyFormat, m.f.encode(), 0)
}
