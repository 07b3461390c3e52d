package badgerqueue

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// SalvageReport counts what was saved from a damaged store, and lists what was lost.
type SalvageReport struct {
	Events     int64 `json:"events"`
	Deliveries int64 `json:"deliveries"`
	Waiting    int64 `json:"waiting"`
	Attempts   int64 `json:"attempts"`
	Webhooks   int64 `json:"webhooks"`
	Activities int64 `json:"activities"`
	// Unaddressed counts events without a delivery: no webhook took them, or the record
	// of their deliveries is lost. They can be sent again, webhook by webhook.
	Unaddressed int64 `json:"unaddressed"`
	// Lost lists the first records and files that could not be read. LostCount counts all
	// of them.
	Lost      []storefile.Finding `json:"lost"`
	LostCount int64               `json:"lost_count"`
}

func (r *SalvageReport) lost(where, format string, args ...any) {
	r.LostCount++
	if len(r.Lost) < mostFindings {
		r.Lost = append(r.Lost, storefile.Finding{Where: where, What: fmt.Sprintf(format, args...)})
	}
}

// SalvageOptions name the damaged store and the folder of the new one.
type SalvageOptions struct {
	From string // the damaged store: it is not changed, and no process may have it open
	To   string // the new store's folder: it must not exist, or be empty
	// EncryptionKey is the key of the damaged store. The new store has the same key.
	EncryptionKey []byte
}

// Salvage copies every readable record of a damaged store to a new store: events with
// their ids and bytes, deliveries with their states, attempts, webhooks, the activity
// log, and idempotency keys. It reads the files without Badger, and continues after a
// damaged part. It computes counters, the keys that wake deliveries and the index of
// feedbacks again. If the newest version of a record is lost, the version before it
// counts, so a delivery may be made twice.
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

// mostTransactions is more transactions than any real store has.
const mostTransactions = 1 << 48

// salvage is one salvage under way.
type salvage struct {
	ctx context.Context
	o   SalvageOptions
	b   *build
	r   *SalvageReport
	// wrong is set if the encryption key does not fit the key registry. Either it is not
	// the store's key, or the part of the registry that checks the key is damaged.
	wrong bool
}

// collect writes every readable entry to the new store, with the number of its
// transaction.
func (s *salvage) collect() (err error) {
	s.wrong, err = storefile.ReadAll(s.o.From, s.o.EncryptionKey, func(e storefile.Entry) error {
		if !layout.WellFormed(e.Key) || len(e.Value) > defaultBounds.maxValue() || e.Version > mostTransactions {
			return nil // Badger's own entry, or one decrypted with a wrong key
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
		return s.b.setAt(e.Key, e.Value, e.ExpiresAt, e.Version, e.Deleted)
	}, func(where, what string) { s.r.lost(where, "%s", what) })
	return err
}

// mend makes the collected records a whole store. It returns the number of the newest
// event, even if that event is lost, and the tags.
func (s *salvage) mend() (newest uint64, t storefile.Tags, err error) {
	err = s.b.db.View(func(txn *badger.Txn) error {
		m := mender{salvage: s, bad: make(map[uint64]bool), erased: make(map[uint64]bool), marks: make(marks), webhooks: make(map[queue.WebhookID]bool)}
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
		newest, t = m.seq, m.f.Tags
		return s.ctx.Err()
	})
	return newest, t, err
}

// mender reads the collected records, kind by kind, and deletes those that the new store
// may not keep.
type mender struct {
	*salvage
	walk
	f        layout.Format
	counted  layout.State    // the state record of the damaged store
	seq      uint64          // number of the newest event, even if it is lost
	bad      map[uint64]bool // events whose record is damaged, or whose feedback was erased
	erased   map[uint64]bool
	webhooks map[queue.WebhookID]bool
	marks    marks
}

func (m *mender) drop(key []byte, where, format string, args ...any) error {
	m.r.lost(where, format, args...)
	return m.b.delete(key)
}

// unreadable removes a record that does not decode.
func (m *mender) unreadable(key []byte, where string, err error) error {
	switch key[0] {
	case layout.PrefixEvent:
		m.bad[layout.SeqOf(key)] = true
	case layout.PrefixDeliveries:
		m.r.Unaddressed++
	}
	return m.drop(key, where, "%v", err)
}

// readable reports whether the event can be read.
func (m *mender) readable(seq uint64) bool { return m.has(layout.EventKey(seq)) && !m.bad[seq] }

// format finds the tags of the event ids, in the store or in the high-water file. If both
// are lost, every event gets a new id.
func (m *mender) format() (err error) {
	beside, _ := storefile.ReadHighWater(m.o.From) // zero if it cannot be read
	m.f, err = getRecord(m.txn, layout.KeyFormat, func(_, rec []byte) (layout.Format, error) { return layout.DecodeFormat(rec) })
	switch {
	case err == nil:
		if err := layout.Knows("store", m.f.Version); err != nil {
			return err
		}
	case len(beside.Tags) > 0:
		m.f = layout.Format{Version: layout.FormatVersion, Tags: beside.Tags}
	default:
		m.r.lost("the format record", "%v; every event gets a new id", err)
		m.f = layout.Format{Version: layout.FormatVersion, Tags: storefile.Tags{storefile.NewTag(0)}}
	}
	if st, err := getState(m.txn); err == nil {
		m.counted = st
	}
	m.tags, m.seq = m.f.Tags, max(m.counted.Seq, beside.Mark.Seq)
	return nil
}

// indexes deletes the records that later steps compute again.
func (m *mender) indexes() error {
	for _, prefix := range [][]byte{{layout.PrefixWaiting}, {layout.PrefixEnded}, {layout.PrefixFormer}, {layout.PrefixFeedback}, layout.LanePrefix, layout.ChangesPrefix} {
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

// events reads the events and writes the index of feedbacks: each feedback's latest event.
func (m *mender) events() error {
	return m.eachEvent(func(seq uint64, e *queue.Event) error {
		if m.has(erasedKey(e.Feedback)) { // its tombstone was lost
			m.bad[seq], m.erased[seq] = true, true
			return m.b.delete(layout.EventKey(seq))
		}
		m.r.Events++
		if !m.has(layout.DeliveriesKey(seq)) {
			m.r.Unaddressed++
		}
		if e.Feedback.IsZero() {
			return nil
		}
		index := layout.FeedbackKey(e.Feedback)
		held, err := getRecord(m.txn, index, layout.DecodeFeedback)
		if err != nil {
			held = layout.Feedback{} // without an origin, no submission counts as a repeat
		}
		held.Seq = seq
		return m.b.set(index, held.Encode(index), 0)
	})
}

// deliveries reads the deliveries and writes the keys that wake them.
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
			if err := m.marks.wakes(m.b, seq, d); err != nil {
				return err
			}
		}
		if mended {
			return m.b.set(key, ds.encode(key, layout.Record(ds.size())), 0)
		}
		return nil
	})
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
	return m.eachIdempotencyKey(func(key []byte, k layout.Idempotency) error {
		if k.Seq != erasedSeq && !m.readable(k.About()) {
			return m.b.delete(key)
		}
		return nil
	})
}

func (m *mender) activities() error { return m.others(func() { m.r.Activities++ }) }

// counters writes the computed counters, marks and format. The sweep starts again at the
// first event.
func (m *mender) counters() error {
	m.seq = max(m.seq, m.met.newest)
	if m.seq > m.counted.Seq {
		m.r.lost("the newest events", "number %d to %d had been acknowledged, and whatever of them can be read is saved", m.counted.Seq+1, m.seq)
	}
	if missing := m.counted.Events - m.r.Events - int64(len(m.erased)); missing > 0 {
		m.r.lost("events", "%d of the %d that the store counted cannot be read", missing, m.counted.Events)
	}
	for id := range m.webhooks {
		key := layout.LaneKey(id)
		if err := m.b.set(key, layout.EncodeLane(key, m.met.counts[id], m.marks.of(id, m.seq)), 0); err != nil {
			return err
		}
	}
	st := m.counted // keeps the clock
	st.Seq, st.Events = m.seq, m.r.Events
	st.Webhook, st.Noted = max(st.Webhook, m.met.newestWebhook), max(st.Noted, uint64(m.r.Activities))
	st.Swept, st.Ended, st.Live, st.Counted, st.Changes = 0, 0, 0, false, 0
	if err := m.b.set(layout.KeyState, st.Encode(), 0); err != nil {
		return err
	}
	m.f.Version, m.f.Tags, m.f.Former = layout.FormatVersion, append(m.f.Tags, storefile.NewTag(m.seq+1)), 0
	return m.b.set(layout.KeyFormat, m.f.Encode(), 0)
}
