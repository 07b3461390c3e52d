package memqueue

import (
	"context"
	"fmt"
	"slices"

	"github.com/userhero/relay/queue"
)

// Join returns a queue for another relay on the same store. Options.Shared must be set.
func (q *Queue) Join() *Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return join(q.o, q.store)
}

// join returns a queue on a store. The caller holds the store's lock, or has made it.
func join(o Options, s *store) *Queue {
	q := &Queue{o: o, store: s, opened: make(map[queue.WebhookID]*lane)}
	if s.named++; o.Shared {
		q.node = fmt.Sprintf("node-%d", s.named)
	}
	s.nodes = append(s.nodes, q)
	return q
}

// Lose takes the lane of a webhook from this relay, as if its owner had been cut off:
// its leases are lost. Another relay that has opened the lane owns it then, or this one
// owns it anew. Lose reports whether this relay owned it.
func (q *Queue) Lose(w queue.WebhookID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[w]
	if l == nil || q.opened[w] != l {
		return false
	}
	q.commit()
	clear(l.leased)
	l.returned = nil
	if l.pass(); q.lanes[w] == nil {
		q.lanes[w] = l
	}
	l.signal()
	return true
}

// listener is a call that waits for what others write or say.
type listener[T any] struct {
	node *Queue
	wake chan struct{} // of capacity 1
	got  []T           // guarded by store.mu
}

// listen calls handle with what the listener gets, until ctx ends or the queue is
// closed.
//
// The caller holds q.mu, and listen releases it.
func listen[T any](ctx context.Context, q *Queue, all map[*listener[T]]struct{}, first []T, handle func(T)) {
	l := &listener[T]{node: q, wake: make(chan struct{}, 1), got: first}
	all[l] = struct{}{}
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(all, l)
	}()
	for {
		q.mu.Lock()
		got, closed := l.got, q.closed
		l.got = nil
		q.mu.Unlock()
		for _, one := range got {
			handle(one)
		}
		if closed {
			return
		}
		if len(got) > 0 {
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
	}
}

// hand gives listeners of other relays something, and those of this one if own is set.
// The caller holds q.mu.
func hand[T any](q *Queue, all map[*listener[T]]struct{}, own bool, one T) {
	for l := range all {
		if l.node == q && !own {
			continue
		}
		l.got = append(l.got, one)
		l.signal()
	}
}

// wake wakes the listeners of a relay. The caller holds q.mu.
func wake[T any](q *Queue, all map[*listener[T]]struct{}) {
	for l := range all {
		if l.node == q {
			l.signal()
		}
	}
}

func (l *listener[T]) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (q *Queue) tellWatchers(id queue.WebhookID) { hand(q, q.watching, true, id) }

// Node implements queue.Registry.
func (q *Queue) Node() string { return q.node }

// Watch implements queue.Registry.
func (q *Queue) Watch(ctx context.Context, changed func(w queue.Webhook, deleted bool)) {
	q.mu.Lock()
	var first []queue.WebhookID
	for id := range q.data.webhooks {
		first = append(first, id)
	}
	slices.Sort(first)
	listen(ctx, q, q.watching, first, func(id queue.WebhookID) {
		q.mu.Lock()
		w, ok := q.data.webhooks[id]
		w.ID, w.Data = id, slices.Clone(w.Data)
		q.mu.Unlock()
		changed(w, !ok)
	})
}

// Tell implements queue.Registry.
func (q *Queue) Tell(message []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	hand(q, q.hearing, false, slices.Clone(message))
}

// Hear implements queue.Registry.
func (q *Queue) Hear(ctx context.Context, heard func(message []byte)) {
	q.mu.Lock()
	listen(ctx, q, q.hearing, nil, heard)
}
