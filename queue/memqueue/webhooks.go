package memqueue

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// Webhooks implements queue.Queue.
func (q *Queue) Webhooks(context.Context) ([]queue.Webhook, error) {
	if err := q.open(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	list := make([]queue.Webhook, 0, len(q.data.webhooks))
	for _, id := range slices.Sorted(maps.Keys(q.data.webhooks)) {
		w := q.data.webhooks[id]
		w.Data = bytes.Clone(w.Data)
		list = append(list, w)
	}
	return list, nil
}

// PutWebhook implements queue.Queue.
func (q *Queue) PutWebhook(_ context.Context, w queue.Webhook) (queue.Webhook, error) {
	if err := q.open(); err != nil {
		return queue.Webhook{}, err
	}
	defer q.mu.Unlock()
	d := q.data
	if w.Revision == 0 {
		w.ID = 0
	} else if err := d.webhooks[w.ID].AtRevision(w.ID, w.Revision); err != nil {
		return queue.Webhook{}, err
	}
	for _, other := range d.webhooks {
		if other.Name == w.Name && other.ID != w.ID {
			return queue.Webhook{}, fmt.Errorf("a webhook named %q exists: %w", w.Name, queue.ErrConflict)
		}
	}
	q.commit()
	if w.Revision == 0 {
		d.webhook++
		w.ID = d.webhook
	}
	w.Revision++
	w.Data = bytes.Clone(w.Data)
	d.webhooks[w.ID] = w
	q.tellWatchers(w.ID)
	return w, nil
}

// DeleteWebhook implements queue.Queue.
func (q *Queue) DeleteWebhook(_ context.Context, id queue.WebhookID, revision uint64) (int64, error) {
	if err := q.open(); err != nil {
		return 0, err
	}
	defer q.mu.Unlock()
	d := q.data
	if err := d.webhooks[id].AtRevision(id, revision); err != nil {
		return 0, err
	}
	q.commit()
	for _, node := range q.nodes {
		if l := node.opened[id]; l != nil {
			l.end()
		}
	}
	delete(d.webhooks, id)
	q.tellWatchers(id)
	var ended int64
	for _, e := range d.events {
		if waits := e.deliveries[id]; waits != nil && waits.State.Waiting() {
			waits.end(queue.Failed)
			waits.Ended = time.Time{} // it was cancelled; no attempt ended it
			ended++
		}
	}
	return ended, nil
}
