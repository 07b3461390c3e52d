package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/badgerqueue"
)

// backlog measures the cost of waiting deliveries, with the built Caddy on one store
// that grows. Each size is enqueued directly while no Caddy runs. 30 % of the
// deliveries wait on a rung for hours. The others are due at once, to a receiver that
// refuses connections.
func backlog(sizes ...int) scenario {
	var rows []row
	for i, n := range sizes {
		waiting := fmt.Sprintf("%d waiting", n)
		rows = append(rows,
			row{name: waiting + ", RssAnon", unit: "MiB", most: 128},
			row{name: waiting + ", mapped pages", unit: "MiB"},
			row{name: waiting + ", healthy after", unit: "s", most: 3},
			row{name: waiting + ", healthy after, read from the disk", unit: "s", most: 3},
			row{name: waiting + ", disk", unit: "B/event", most: 700},
		)
		if i > 0 {
			rows = append(rows, row{name: fmt.Sprintf("%s, RssAnon, of that with %d", waiting, sizes[0]), unit: "×", most: 1.2})
		}
	}
	return scenario{
		long: true,
		rows: rows,
		relay: func(ctx context.Context, o options) (outcome, error) {
			c, _, err := awayConfig(ctx, "5h")
			if err != nil {
				return outcome{}, err
			}
			s, err := startCaddy(ctx, o, c) // creates the store and its webhook
			if err != nil {
				return outcome{}, err
			}
			defer s.remove()
			if err := s.end(); err != nil {
				return outcome{}, err
			}
			var figures []float64
			least, piled := 0.0, 0
			for _, n := range sizes {
				if err := pile(ctx, filepath.Join(s.dir, "store"), piled, n); err != nil {
					return outcome{}, fmt.Errorf("piling up %d events: %w", n, err)
				}
				piled = n
				w, err := s.waiting(ctx, o, c)
				if err != nil {
					return outcome{}, fmt.Errorf("with %d waiting: %w", n, err)
				}
				figures = append(figures, w.anonymous, w.mapped, w.healthy.Seconds(), w.cold.Seconds(), w.disk/float64(n))
				if least == 0 {
					least = w.anonymous
				} else {
					figures = append(figures, w.anonymous/least)
				}
			}
			return outcome{figures: figures}, nil
		},
	}
}

// pile adds events to the store of one webhook, from one number of events to another.
func pile(ctx context.Context, path string, from, to int) error {
	s, err := badgerqueue.Open(ctx, badgerqueue.Options{Path: path})
	if err != nil {
		return err
	}
	return errors.Join(pileOn(ctx, s, from, to), s.Close(context.WithoutCancel(ctx)))
}

func pileOn(ctx context.Context, s *badgerqueue.Store, from, to int) error {
	const writers = 64
	all, err := s.Webhooks(ctx)
	if err != nil {
		return err
	}
	var id queue.WebhookID
	for _, w := range all {
		if w.Name == "sink0" {
			id = w.ID
		}
	}
	if id == 0 {
		return errors.New("the store has no webhook sink0")
	}
	var writing errgroup.Group
	writing.SetLimit(writers)
	for i := from; i < to; i++ {
		writing.Go(func() error {
			_, err := s.Enqueue(ctx, queue.Entry{
				Type: "feedback.created", Feedback: queue.FeedbackID{ID: fmt.Sprintf("fb_%d", i)}, Created: time.Now(),
				Body: submission(nil, uint64(i)), Webhooks: []queue.WebhookID{id},
			})
			return err
		})
	}
	if err := writing.Wait(); err != nil {
		return err
	}
	return putOff(ctx, s, id, (to-from)*3/10)
}

// putOff makes n deliveries fail once, so that they wait on the first rung.
func putOff(ctx context.Context, s *badgerqueue.Store, id queue.WebhookID, n int) error {
	l, err := s.Lane(id, queue.LaneOptions{MaxInFlight: 1 << 12})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	for n > 0 {
		leases, err := l.Next(ctx, min(n, 256))
		if err != nil {
			return err
		}
		for _, lease := range leases {
			now := time.Now()
			if err := lease.Retry(now.Add(5*time.Hour), queue.Attempt{At: now, Error: "connection refused", ErrorClass: "refused"}); err != nil {
				return err
			}
		}
		n -= len(leases)
	}
	return nil
}

// weight is what a Caddy with a backlog uses.
type weight struct {
	anonymous, mapped float64       // MiB, some seconds after the start
	healthy, cold     time.Duration // ready after the start, with the store in the page cache and without
	disk              float64       // bytes
}

func (s *server) waiting(ctx context.Context, o options, c config) (w weight, err error) {
	const settled = 20 * time.Second
	start := func(took *time.Duration) (*server, error) {
		began := time.Now()
		again, err := startCaddyIn(ctx, o, c, s.dir)
		*took = time.Since(began)
		return again, err
	}
	again, err := start(&w.healthy)
	if err != nil {
		return w, err
	}
	select {
	case <-time.After(settled):
	case <-ctx.Done():
	}
	w.anonymous, w.mapped, err = memory(again.process.PID())
	if err == nil {
		w.disk, err = again.counter(ctx, "userhero_queue_disk_bytes")
	}
	if err = errors.Join(err, again.end()); err != nil {
		return w, err
	}
	if err := evict(filepath.Join(s.dir, "store")); err != nil {
		return w, err
	}
	if again, err = start(&w.cold); err != nil {
		return w, err
	}
	return w, again.end()
}
