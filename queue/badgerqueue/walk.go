package badgerqueue

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
	"github.com/userhero/relay/queue/badgerqueue/storefile"
)

// walk reads the records of a store, kind by kind, and decodes each one. Check uses it to
// compare records, and Salvage uses it to repair them.
type walk struct {
	txn  *badger.Txn
	tags storefile.Tags
	// going returns an error when the walk must end.
	going func() error
	// bad is called with each record that does not decode. If it returns an error, the walk
	// ends.
	bad  func(key []byte, where string, err error) error
	seen int64
	met  tally
}

// tally counts the records that a walk has read.
type tally struct {
	events, deliveries, attempts, webhooks, idempotencyKeys, activities int64
	newestEvent                                                         uint64 // sequence number
	newest                                                              uint64 // as newestEvent, but also counts events of which only deliveries exist
	newestWebhook                                                       queue.WebhookID
	counts                                                              map[queue.WebhookID]queue.Counts
	live                                                                int64 // bytes, as state.live
}

// each visits the records of a prefix whose keys are well-formed.
func (w *walk) each(prefix []byte, visit func(key, rec []byte) error) error {
	return scan(w.txn, prefix, nil, func(key, rec []byte) (bool, error) {
		if w.seen++; w.seen%1024 == 0 {
			if err := w.going(); err != nil {
				return false, err
			}
		}
		if !layout.WellFormed(key) {
			return true, nil
		}
		return true, visit(key, rec)
	})
}

// eachRecord visits the decoded records of a kind.
func eachRecord[T any](w *walk, prefix byte, where func(key []byte) string, decode func(key, rec []byte) (T, error), visit func(key, rec []byte, v T) error) error {
	return w.each([]byte{prefix}, func(key, rec []byte) error {
		v, err := decode(key, rec)
		if err != nil {
			return w.bad(key, where(key), err)
		}
		return visit(key, rec, v)
	})
}

// has reports whether the store has a record with this key.
func (w *walk) has(key []byte) bool {
	_, err := w.txn.Get(key)
	return err == nil
}

func eventName(seq uint64) string            { return fmt.Sprintf("event number %d", seq) }
func eventOfKey(key []byte) string           { return eventName(layout.SeqOf(key)) }
func webhookName(id queue.WebhookID) string  { return fmt.Sprintf("webhook %d", id) }
func always(name string) func([]byte) string { return func([]byte) string { return name } }
func webhookOfKey(key []byte) queue.WebhookID {
	return queue.WebhookID(binary.BigEndian.Uint32(key[1:]))
}

// prefixed adds to an error what it is about. It returns nil for nil.
func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (w *walk) eachWebhook(visit func(hook queue.Webhook) error) error {
	decode := func(key, rec []byte) (queue.Webhook, error) {
		w.met.newestWebhook = max(w.met.newestWebhook, webhookOfKey(key))
		return layout.DecodeWebhook(key, rec)
	}
	return eachRecord(w, layout.PrefixWebhook, func(key []byte) string { return webhookName(webhookOfKey(key)) }, decode, func(_, _ []byte, hook queue.Webhook) error {
		w.met.webhooks++
		return visit(hook)
	})
}

func (w *walk) eachEvent(visit func(seq uint64, e *queue.Event) error) error {
	decode := func(key, rec []byte) (storedEvent, error) {
		w.met.events++
		w.met.newestEvent = max(w.met.newestEvent, layout.SeqOf(key))
		w.met.newest = max(w.met.newest, layout.SeqOf(key))
		return decodeWhole(key, rec, w.tags)
	}
	return eachRecord(w, layout.PrefixEvent, eventOfKey, decode, func(key, _ []byte, e storedEvent) error {
		w.met.live += int64(e.size())
		return visit(layout.SeqOf(key), &e.Event)
	})
}

func (w *walk) eachDeliveries(visit func(key []byte, seq uint64, ds deliveries) error) error {
	decode := func(key, rec []byte) (deliveries, error) {
		w.met.newest = max(w.met.newest, layout.SeqOf(key))
		ds, err := decodeDeliveries(nil, key, rec)
		return ds, prefixed("deliveries", err)
	}
	return eachRecord(w, layout.PrefixDeliveries, eventOfKey, decode, func(key, _ []byte, ds deliveries) error {
		w.met.live += int64(ds.size())
		return visit(key, layout.SeqOf(key), ds)
	})
}

// meet counts one delivery. It returns an error if the log of its attempt does not
// decode.
func (w *walk) meet(key []byte, d *delivery) error {
	w.met.deliveries++
	w.met.newestWebhook = max(w.met.newestWebhook, d.webhook)
	n := w.met.counts[d.webhook]
	n.Count(d.state, 1)
	w.met.counts[d.webhook] = n
	if d.log == nil {
		return nil
	}
	w.met.attempts++
	_, err := parseAttempt(key, d.log, 1, "")
	return prefixed("attempt", err)
}

func (w *walk) eachAttempt(visit func(key []byte, seq uint64) error) error {
	decode := func(key, rec []byte) (queue.Attempt, error) {
		w.met.attempts++
		w.met.live += int64(attemptSize(key, rec))
		a, err := decodeAttempt(key, rec, "")
		return a, prefixed("attempt", err)
	}
	return eachRecord(w, layout.PrefixAttempt, eventOfKey, decode, func(key, _ []byte, _ queue.Attempt) error { return visit(key, layout.SeqOf(key)) })
}

func (w *walk) eachIdempotencyKey(visit func(key []byte, k layout.Idempotency) error) error {
	decode := func(key, rec []byte) (layout.Idempotency, error) {
		w.met.idempotencyKeys++
		return layout.DecodeIdempotency(key, rec)
	}
	return eachRecord(w, layout.PrefixIdempotency, always("an idempotency key"), decode, func(key, _ []byte, k layout.Idempotency) error { return visit(key, k) })
}

// others reads the records that no other record depends on. It calls visit for each
// activity that decodes.
func (w *walk) others(visit func()) error {
	activity := func(key, rec []byte) ([]byte, error) {
		w.met.activities++
		return layout.Unseal(key, rec)
	}
	return errors.Join(
		eachRecord(w, layout.PrefixActivity, always("an activity"), activity, func(_, _, _ []byte) error { visit(); return nil }),
		eachRecord(w, layout.PrefixCaught, always("what a honeypot caught"), decodeCaught, func(_, _ []byte, _ queue.Caught) error { return nil }))
}
