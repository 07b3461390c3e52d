package queuetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/userhero/relay/queue"
)

// caughtAreTheNewestForADay: submissions that a honeypot caught survive a restart, are
// bounded in number and time, and appear in no other list.
func caughtAreTheNewestForADay(t *trial) {
	start := time.Now().Add(-time.Hour)
	keep := func(from, to int) { // concurrently
		var kept sync.WaitGroup
		for i := from; i < to; i++ {
			kept.Go(func() {
				c := queue.Caught{At: start.Add(time.Duration(i) * time.Millisecond), Body: fmt.Appendf(nil, `{"n":%d}`, i)}
				t.ok("KeepCaught", t.q.KeepCaught(t.ctx, c))
			})
		}
		kept.Wait()
	}
	const old = 10
	t.ok("KeepCaught", t.q.KeepCaught(t.ctx, queue.Caught{At: start.Add(-queue.CaughtFor), Body: []byte("{}")}))
	keep(0, old)
	all, err := t.q.Caught(t.ctx)
	t.ok("Caught", err)
	equal(t, "how many of the last day are kept", len(all), old)
	keep(old, old+1)
	keep(old+1, old+queue.MaxCaught-1)
	keep(old+queue.MaxCaught-1, old+queue.MaxCaught)
	t.reopen()
	keep(old+queue.MaxCaught, old+queue.MaxCaught+1) // replaces number 10
	all, err = t.q.Caught(t.ctx)
	t.ok("Caught", err)
	equal(t, "how many are kept", len(all), queue.MaxCaught)
	for i, c := range all {
		n := old + queue.MaxCaught - i
		equal(t, "a document", string(c.Body), fmt.Sprintf(`{"n":%d}`, n))
		equal(t, "its time", c.At, start.Add(time.Duration(n)*time.Millisecond).UTC().Truncate(time.Millisecond))
	}
	equal(t, "how many events there are", len(t.allEvents(queue.EventQuery{})), 0)
	equal(t, "how many events are counted", t.q.Stats(t.ctx).Events, 0)
}
