package badgerqueue

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue/layout"
)

// Webhooks implements queue.Queue.
func (s *Store) Webhooks(ctx context.Context) (list []queue.Webhook, err error) {
	err = s.view(ctx, func(txn *badger.Txn) error {
		return scan(txn, []byte{layout.PrefixWebhook}, nil, func(key, rec []byte) (bool, error) {
			w, err := layout.DecodeWebhook(key, rec)
			list = append(list, w)
			return err == nil, err
		})
	})
	return list, err
}

// PutWebhook implements queue.Queue.
func (s *Store) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	put := w
	err := s.commit(ctx, 4, 1024+len(w.Data)+len(w.Name), func(b *batch) error {
		put = w
		named := false // it has the name already
		if w.Revision == 0 {
			put.ID = b.stateOf.Webhook + 1
		} else {
			held, err := b.atRevision(w.ID, w.Revision)
			if err != nil {
				return err
			}
			named = held.Name == w.Name
		}
		if !named { // this looks at every webhook
			if err := b.nameIsFree(w.Name, put.ID); err != nil {
				return err
			}
		}
		b.stateOf.Webhook = max(b.stateOf.Webhook, put.ID)
		put.Revision = w.Revision + 1
		h := s.webhook(put.ID)
		if put.Expires && (h == nil || !h.parked()) {
			b.stateOf.Rewind() // its waiting deliveries may expire now, wherever their events are
		}
		key := layout.WebhookKey(put.ID)
		if err := b.set(key, layout.EncodeWebhook(key, put)); err != nil {
			return err
		}
		if h == nil {
			h = newWebhookState(put.ID, s.bounds)
			h.marks.Fresh = b.stateOf.Seq + 1
			b.change(h, laneChange{})
			b.effects = append(b.effects, func() {
				s.webhooksMu.Lock()
				s.webhooks[h.id] = h
				s.webhooksMu.Unlock()
			})
		}
		b.effects = append(b.effects, func() {
			h.mu.Lock()
			h.expires = put.Expires
			h.mu.Unlock()
		})
		return nil
	})
	if err != nil {
		return queue.Webhook{}, fmt.Errorf("storing webhook %q: %w", w.Name, err)
	}
	return put, nil
}

// nameIsFree reports whether no webhook but id has the name.
func (b *batch) nameIsFree(name string, id queue.WebhookID) error {
	return scan(b.txn, []byte{layout.PrefixWebhook}, nil, func(key, rec []byte) (bool, error) {
		w, err := layout.DecodeWebhook(key, rec)
		if err == nil && w.Name == name && w.ID != id {
			err = fmt.Errorf("the name is taken: %w", queue.ErrConflict)
		}
		return err == nil, err
	})
}

// atRevision reads a webhook as it is stored, which must have this revision.
func (b *batch) atRevision(id queue.WebhookID, revision uint64) (queue.Webhook, error) {
	w, err := getRecord(b.txn, layout.WebhookKey(id), layout.DecodeWebhook)
	if err == nil || errors.Is(err, badger.ErrKeyNotFound) {
		err = w.AtRevision(id, revision)
	}
	return w, err
}

// DeleteWebhook implements queue.Queue. The sweep removes the keys of the webhook's waiting
// deliveries later; without a webhook the store ignores them.
func (s *Store) DeleteWebhook(ctx context.Context, id queue.WebhookID, revision uint64) (int64, error) {
	var ended int64 // owned by the committer until commit returns without an error
	err := s.commit(ctx, 4, 1024, func(b *batch) error {
		if _, err := b.atRevision(id, revision); err != nil {
			return err
		}
		h := b.webhook(id)
		if h == nil {
			return queue.ErrNotFound
		}
		if err := b.delete(layout.WebhookKey(id)); err != nil {
			return err
		}
		if err := b.delete(layout.LaneKey(id)); err != nil {
			return err
		}
		ended = b.changeOf(h).counts.Waiting()
		b.deleted[h] = struct{}{}
		b.stateOf.Rewind()
		delete(b.lanes, h)
		b.effects = append(b.effects, func() {
			s.webhooksMu.Lock()
			delete(s.webhooks, id)
			s.webhooksMu.Unlock()
			h.closeLane()
			s.orphans.Store(true)
		})
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("deleting webhook %d: %w", id, err)
	}
	return ended, nil
}

// AppendActivity implements queue.Queue.
func (s *Store) AppendActivity(ctx context.Context, a queue.Activity) error {
	err := s.commit(ctx, 2, 256+len(a.Data), func(b *batch) error {
		b.stateOf.Noted++
		key := layout.ActivityKey(a.At.UnixNano(), uint32(b.stateOf.Noted))
		return b.set(key, layout.Seal(key, append(layout.Record(len(a.Data)), a.Data...)))
	})
	if err != nil {
		return fmt.Errorf("recording an activity: %w", err)
	}
	return nil
}
