package badgerqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// CheckReport counts what a store holds, and lists what is wrong with it.
type CheckReport struct {
	Events      int64  `json:"events"`
	Deliveries  int64  `json:"deliveries"`
	Waiting     int64  `json:"waiting"`
	Attempts    int64  `json:"attempts"`
	Webhooks    int64  `json:"webhooks"`
	Feedbacks   int64  `json:"feedbacks"`
	Idempotency int64  `json:"idempotency_keys"`
	Activities  int64  `json:"activities"`
	Newest      uint64 `json:"newest_event"` // sequence number
	// Findings lists the first faults. Found counts all of them.
	Findings []storefile.Finding `json:"findings"`
	Found    int64               `json:"found"`
	// Notes lists observations that are not damage.
	Notes []storefile.Finding `json:"notes,omitempty"`
}

// mostFindings is the most findings that a report lists.
const mostFindings = 1000

func (r *CheckReport) found(where, format string, args ...any) {
	r.Found++
	if len(r.Findings) < mostFindings {
		r.Findings = append(r.Findings, storefile.Finding{Where: where, What: fmt.Sprintf(format, args...)})
	}
}

// Check reads every record of one snapshot while the store continues to work. It checks
// every checksum, that related records agree, and that the counters are right. It returns
// queue.ErrClosed early if the store closes.
func (s *Store) Check(ctx context.Context) (CheckReport, error) {
	c := checker{s: s, webhooks: make(map[queue.WebhookID]laneRecord)}
	c.r.Findings = []storefile.Finding{}
	err := s.view(ctx, func(txn *badger.Txn) error {
		c.walk = walk{
			txn: txn, tags: s.tags, met: tally{counts: make(map[queue.WebhookID]queue.Counts)}, going: func() error { return s.going(ctx) },
			bad: func(_ []byte, where string, err error) error { c.r.found(where, "%v", err); return nil },
		}
		for _, step := range []func() error{
			c.webhookRecords, c.events, c.deliveries, c.waiting, c.attempts, c.feedbacks, c.idempotencyKeys, c.activities, c.counters, c.unknownKeys,
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	met := &c.met
	c.r.Events, c.r.Deliveries, c.r.Attempts, c.r.Webhooks = met.events, met.deliveries, met.attempts, met.webhooks
	c.r.Idempotency, c.r.Activities = met.idempotencyKeys, met.activities
	if err != nil {
		return c.r, fmt.Errorf("checking the store at %s: %w", s.o.Path, err)
	}
	return c.r, nil
}

// checker is one running check.
type checker struct {
	walk
	s        *Store
	r        CheckReport
	webhooks map[queue.WebhookID]laneRecord
}

// laneRecord is the stored record of a webhook's lane.
type laneRecord struct {
	counts queue.Counts
	marks  layout.Marks
	err    error // the record cannot be read
}

// passed reports a waiting delivery that its webhook's lane will not find.
func (c *checker) passed(seq uint64, w queue.WebhookID) {
	c.r.found(eventName(seq), "the lane of webhook %d has passed its delivery, which waits", w)
}

func (c *checker) webhookRecords() error {
	st, _ := getState(c.txn) // counters reports an error
	changed, err := getChanges(c.txn, st.Changes)
	if err != nil {
		c.r.found("the counters", "%v", err)
	}
	return c.eachWebhook(func(hook queue.Webhook) error {
		var l laneRecord
		if l.counts, l.marks, l.err = getLane(c.txn, hook.ID); errors.Is(l.err, badger.ErrKeyNotFound) {
			l.err = nil
		}
		l.counts = l.counts.Add(changed[hook.ID])
		c.webhooks[hook.ID] = l
		return nil
	})
}

func (c *checker) events() error {
	return c.eachEvent(func(uint64, *queue.Event) error { return nil })
}

// deliveries checks the B records. Every delivery that waits on a rung must have its R key,
// and no lane may have passed a fresh delivery that waits.
func (c *checker) deliveries() error {
	return c.eachDeliveries(func(key []byte, seq uint64, ds deliveries) error {
		if !c.has(layout.EventKey(seq)) {
			c.r.found(eventName(seq), "is missing, and its deliveries are there")
		}
		for i := range ds {
			d := &ds[i]
			if d.state < queue.Pending || d.state > queue.Failed {
				c.met.deliveries++
				c.r.found(eventName(seq), "the delivery to webhook %d has state %d, which is none", d.webhook, d.state)
				continue
			}
			if err := c.meet(key, d); err != nil {
				c.r.found(eventName(seq), "%v", err)
			}
			l, lives := c.webhooks[d.webhook]
			if d.state.Waiting() && lives {
				c.r.Waiting++
			}
			if d.fresh() && lives && l.err == nil && seq < l.marks.Fresh {
				c.passed(seq, d.webhook)
			}
			at, ok := d.waitsAt(seq)
			if ok && lives && !c.has(layout.WaitingKey(d.webhook, d.rung, at)) {
				c.r.found(eventName(seq), "the delivery to webhook %d waits, and nothing will wake it", d.webhook)
			}
		}
		return nil
	})
}

// waiting checks that each R key names a delivery that waits for that time, and that no
// lane has passed the key.
func (c *checker) waiting() error {
	return c.each([]byte{layout.PrefixWaiting}, func(key, _ []byte) error {
		w, at, _ := layout.ParseWaitingKey(key)
		l, lives := c.webhooks[w]
		if !lives {
			return nil // its webhook was deleted; the sweep removes it
		}
		if low, used := l.marks.Due[key[5]]; l.err == nil && (!used || at.Due < low) {
			c.passed(at.Seq, w)
		}
		ds, err := getDeliveries(c.txn, at.Seq)
		if err != nil {
			return nil //nolint:nilerr // already reported
		}
		d := ds.find(w)
		if d == nil || !(ticket{seq: at.Seq, rung: key[5], due: at.Due}).names(*d) {
			c.r.found(eventName(at.Seq), "a key says that the delivery to webhook %d waits, and its record does not", w)
		}
		return nil
	})
}

func (c *checker) attempts() error {
	var last uint64
	var there bool
	return c.eachAttempt(func(_ []byte, seq uint64) error {
		if seq != last {
			last, there = seq, c.has(layout.EventKey(seq))
		}
		if !there {
			c.r.found(eventName(seq), "is missing, and attempts of it are there")
		}
		return nil
	})
}

func (c *checker) feedbacks() error {
	latest := func(name string, seq uint64, decoded error, names func(queue.FeedbackID) bool) {
		c.r.Feedbacks++
		if decoded != nil {
			c.r.found(name, "%v", decoded)
			return
		}
		e, err := c.s.getHeader(c.txn, seq)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			c.r.found(name, "its latest event, number %d, is missing", seq)
		case err == nil && !names(e.Feedback):
			c.r.found(name, "its latest event, number %d, is of %s", seq, e.Feedback)
		}
	}
	err := c.each([]byte{layout.PrefixFeedback}, func(key, rec []byte) error {
		id, _, _ := layout.ParseFeedbackKey(key)
		held, err := layout.DecodeFeedback(key, rec)
		latest(id.String(), held.Seq, err, func(f queue.FeedbackID) bool { return bytes.Equal(layout.FeedbackKey(f), key) })
		return nil
	})
	return errors.Join(err, c.each([]byte{layout.PrefixFormer}, func(key, rec []byte) error {
		id := string(key[1:])
		seq, err := layout.DecodeSeq(key, rec)
		latest(fmt.Sprintf("feedback %q", id), seq, err, func(f queue.FeedbackID) bool { return f.ID == id })
		return nil
	}))
}

func (c *checker) idempotencyKeys() error {
	return c.eachIdempotencyKey(func([]byte, layout.Idempotency) error { return nil })
}

func (c *checker) activities() error { return c.others(func() {}) }

// counters compares the committer's counters with the records. Events are numbered without
// a gap, and the counter changes when retention removes one. So the counter shows every
// event that is missing.
func (c *checker) counters() error {
	st, err := getState(c.txn)
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
		c.r.found("the counters", "%v", err)
		return nil
	}
	if st.Events != c.met.events {
		c.r.found("the counters", "they count %d events, and %d are there", st.Events, c.met.events)
	}
	if st.Counted && st.Live != c.met.live {
		c.r.found("the counters", "they count %d bytes of events, and %d are there", st.Live, c.met.live)
	}
	if st.Seq < c.met.newestEvent {
		c.r.found("the counters", "they end with event number %d, and the newest is %d", st.Seq, c.met.newestEvent)
	}
	c.r.Newest = max(c.met.newestEvent, st.Seq)
	for _, w := range slices.Sorted(maps.Keys(c.webhooks)) {
		switch l := c.webhooks[w]; {
		case l.err != nil:
			c.r.found(webhookName(w), "counters: %v", l.err)
		case l.counts != c.met.counts[w]:
			c.r.found(webhookName(w), "it counts %+v, and %+v are there", l.counts, c.met.counts[w])
		}
	}
	return nil
}

// unknownKeys reports keys that no store writes. X keys need no other check: if the event
// is gone, the key is stale, and the sweep removes it.
func (c *checker) unknownKeys() (err error) {
	scanKeys(c.txn, nil, nil, func(key []byte) bool {
		if !layout.WellFormed(key) {
			c.r.found(fmt.Sprintf("key %q", key), "is none of ours")
		}
		if c.seen++; c.seen%1024 == 0 {
			err = c.going()
		}
		return err == nil
	})
	return err
}

// CheckFolder checks a store that no process has open. It checks the files first. If they
// are whole, it opens the store, as a start of the server does, and checks the records. If
// the files are damaged, it opens and changes nothing. It returns an error only if it
// cannot check the store; faults are in the report.
func CheckFolder(ctx context.Context, o Options) (CheckReport, error) {
	if err := o.complete(); err != nil {
		return CheckReport{}, err
	}
	o.Path = storefile.Folder(o.Path)
	in, err := inspectLocked(ctx, o, math.MaxInt64)
	if err != nil {
		return CheckReport{}, err
	}
	if !in.Exists {
		return CheckReport{}, fmt.Errorf("there is no store at %s", o.Path)
	}
	if len(in.Damage) > 0 {
		return CheckReport{Newest: in.Mark.Seq, Findings: in.Damage, Found: int64(len(in.Damage)), Notes: in.Notes}, nil
	}
	s, err := Open(ctx, o)
	if err != nil {
		return CheckReport{}, err
	}
	r, err := s.Check(ctx)
	r.Notes = in.Notes
	return r, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}
