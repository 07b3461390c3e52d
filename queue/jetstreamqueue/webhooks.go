package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/userhero/relay/queue"
)

// registry holds the webhooks that this relay knows. A write must be the next message of
// the whole stream, so that no name and no id is given twice.
type registry struct {
	mu       sync.Mutex // held for a write: this relay does one at a time
	known    sync.Mutex // guards everything below
	seq      uint64     // the last message of the stream that was read
	webhooks map[queue.WebhookID]registered
	highest  queue.WebhookID // the highest id ever given
	// unreadable is the error of a record that could not be read.
	unreadable error
	watchers   map[*watcher]struct{}
}

// watcher collects the changes for one call of Watch.
type watcher struct {
	changed map[queue.WebhookID]struct{} // guarded by registry.known
	wake    chan struct{}                // of capacity 1
}

// registered is a webhook record with a field that only the queue needs.
type registered struct {
	queue.Webhook
	since uint64 // the last event before the webhook was made
}

// webhookHead is the stored form of a webhook. A deleted webhook keeps its record, without
// name and data, so that its id is not given again.
type webhookHead struct {
	Name     string `json:"name,omitempty"`
	Revision uint64 `json:"revision"`
	Expires  bool   `json:"expires,omitempty"`
	Deleted  bool   `json:"deleted,omitempty"`
	Since    uint64 `json:"since"`
	Data     []byte `json:"data,omitempty"`
	Sealed   bool   `json:"sealed,omitempty"` // Data is encrypted
}

// start reads the webhooks and follows their changes.
func (r *registry) start(ctx context.Context, q *Queue) error {
	r.webhooks = make(map[queue.WebhookID]registered)
	r.watchers = make(map[*watcher]struct{})
	if err := r.refresh(ctx, q); err != nil {
		return fmt.Errorf("reading the webhooks: %w", err)
	}
	r.known.Lock()
	from, err := r.seq+1, r.unreadable
	r.known.Unlock()
	if err != nil {
		return err
	}
	q.follow(q.names.registry(), from, false, func(m *message) { r.enter(q, m) })
	return nil
}

// refresh reads the webhooks from the stream's leader.
func (r *registry) refresh(ctx context.Context, q *Queue) error {
	s, err := q.info(ctx, q.names.registry(), "")
	if err != nil {
		return err
	}
	for {
		r.known.Lock()
		from := r.seq + 1
		r.known.Unlock()
		if from > s.last {
			return nil
		}
		m, err := q.get(ctx, q.names.registry(), getRequest{Seq: from, Next: q.names.prefix + ".w.*"})
		if errors.Is(err, queue.ErrNotFound) {
			r.known.Lock()
			r.seq = max(r.seq, s.last)
			r.known.Unlock()
			return nil
		}
		if err != nil {
			return err
		}
		r.enter(q, m)
	}
}

// enter enters a message of the stream.
func (r *registry) enter(q *Queue, m *message) {
	if m.subject == q.names.backup() {
		q.enterBackup(m.data)
	}
	id, ok := q.names.webhookOf(".w.", m.subject)
	var h webhookHead
	if ok {
		err := json.Unmarshal(m.data, &h)
		if err == nil && h.Sealed {
			h.Data, err = q.sealer.Open(number(id), h.Data)
		}
		if err != nil {
			q.o.Logger.Error("a webhook cannot be read", "webhook", id, "error", err)
			ok = false
			r.known.Lock()
			r.unreadable = fmt.Errorf("webhook %d: %w", id, err)
			r.known.Unlock()
		}
	}
	r.known.Lock()
	stale := m.seq <= r.seq
	r.seq = max(r.seq, m.seq)
	if ok && !stale {
		r.highest = max(r.highest, id)
		if h.Deleted {
			delete(r.webhooks, id)
		} else {
			r.webhooks[id] = registered{
				Webhook: queue.Webhook{ID: id, Name: h.Name, Revision: h.Revision, Expires: h.Expires, Data: h.Data},
				since:   h.Since,
			}
		}
		for w := range r.watchers {
			w.changed[id] = struct{}{}
			signal(w.wake)
		}
	}
	r.known.Unlock()
	if ok && h.Deleted {
		if l := q.laneOf(id); l != nil {
			l.stop()
		}
	}
}

// all returns the webhooks that this relay knows.
func (r *registry) all() map[queue.WebhookID]registered {
	r.known.Lock()
	defer r.known.Unlock()
	return maps.Clone(r.webhooks)
}

func (r *registry) get(id queue.WebhookID) (registered, bool) {
	r.known.Lock()
	defer r.known.Unlock()
	w, ok := r.webhooks[id]
	return w, ok
}

// Watch implements queue.Registry.
func (q *Queue) Watch(ctx context.Context, changed func(w queue.Webhook, deleted bool)) {
	r := &q.registry
	w := &watcher{changed: make(map[queue.WebhookID]struct{}), wake: make(chan struct{}, 1)}
	r.known.Lock()
	for id := range r.webhooks {
		w.changed[id] = struct{}{}
	}
	r.watchers[w] = struct{}{}
	r.known.Unlock()
	signal(w.wake)
	defer func() {
		r.known.Lock()
		defer r.known.Unlock()
		delete(r.watchers, w)
	}()
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		case <-q.closed.Done():
			return
		}
		r.known.Lock()
		ids := slices.Sorted(maps.Keys(w.changed))
		clear(w.changed)
		r.known.Unlock()
		for _, id := range ids {
			if ctx.Err() != nil {
				return
			}
			record, ok := r.get(id)
			record.ID, record.Data = id, slices.Clone(record.Data)
			changed(record.Webhook, !ok)
		}
	}
}

// change writes one webhook. decide reads the current webhooks and returns what to write.
// If another relay writes first, change calls decide again.
func (r *registry) change(ctx context.Context, q *Queue, decide func() (queue.WebhookID, webhookHead, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.refresh(ctx, q); err != nil {
			return err
		}
		id, head, err := decide()
		if err != nil {
			return err
		}
		head.Data, head.Sealed = q.sealer.Seal(number(id), head.Data)
		m, err := messageWith(q.names.webhook(id), head)
		if err != nil {
			return err
		}
		r.known.Lock()
		seq := r.seq
		r.known.Unlock()
		seq, err = q.publish(ctx, m, afterAll(seq))
		if errors.Is(err, errSequence) {
			continue
		}
		if err != nil {
			return err
		}
		r.enter(q, &message{seq: seq, subject: m.Subject, data: m.Data})
		return nil
	}
}

// Webhooks implements queue.Queue. It reads the webhooks from the servers.
func (q *Queue) Webhooks(ctx context.Context) ([]queue.Webhook, error) {
	if err := q.isClosed(); err != nil {
		return nil, err
	}
	if err := q.registry.refresh(ctx, q); err != nil {
		return nil, err
	}
	all := q.registry.all()
	list := make([]queue.Webhook, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		w := all[id].Webhook
		w.Data = slices.Clone(w.Data)
		list = append(list, w)
	}
	return list, nil
}

// PutWebhook implements queue.Queue.
func (q *Queue) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	if err := q.isClosed(); err != nil {
		return queue.Webhook{}, err
	}
	revision := w.Revision
	err := q.registry.change(ctx, q, func() (queue.WebhookID, webhookHead, error) {
		head := webhookHead{Name: w.Name, Revision: revision + 1, Expires: w.Expires, Data: w.Data}
		all := q.registry.all()
		if revision == 0 {
			q.registry.known.Lock()
			w.ID = q.registry.highest + 1
			q.registry.known.Unlock()
			events, err := q.info(ctx, q.names.events(), "")
			if err != nil {
				return 0, head, err
			}
			head.Since = events.last
		} else {
			stored := all[w.ID]
			if err := stored.AtRevision(w.ID, revision); err != nil {
				return 0, head, err
			}
			head.Since = stored.since
		}
		for id, other := range all {
			if other.Name == w.Name && id != w.ID {
				return 0, head, fmt.Errorf("a webhook named %q exists: %w", w.Name, queue.ErrConflict)
			}
		}
		return w.ID, head, nil
	})
	if err != nil {
		return queue.Webhook{}, err
	}
	w.Revision = revision + 1
	return w, nil
}

// DeleteWebhook implements queue.Queue. From then on the webhook's waiting deliveries count
// as failed, because the webhook does not exist. No record is written for them.
func (q *Queue) DeleteWebhook(ctx context.Context, id queue.WebhookID, revision uint64) (int64, error) {
	if err := q.isClosed(); err != nil {
		return 0, err
	}
	if l := q.laneOf(id); l != nil {
		_ = l.Sync(ctx) // store the settlements, so that they are counted
	}
	var waiting int64
	err := q.registry.change(ctx, q, func() (queue.WebhookID, webhookHead, error) {
		stored, _ := q.registry.get(id)
		if err := stored.AtRevision(id, revision); err != nil {
			return 0, webhookHead{}, err
		}
		s, err := q.stats(ctx)
		waiting = s.Webhooks[id].Waiting()
		return id, webhookHead{Revision: revision, Deleted: true, Since: stored.since}, err
	})
	return waiting, err
}
