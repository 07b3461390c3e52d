package relay

import (
	"context"
	"errors"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/deliver"
	"github.com/userhero/relay/relay/feed"
	"github.com/userhero/relay/relay/pace"
)

// laneRetry is how long a webhook waits after its lane failed.
const laneRetry = time.Second

// run is the webhook's goroutine. It stops when l.lanes ends, and returns when the
// attempts in flight are settled.
func (w *webhook) run(l lifetime) {
	defer close(l.ended)
	var lane queue.Lane
	var workers *workerPool
	closeLane := func() {
		if lane == nil {
			return
		}
		w.setLane(nil)
		workers.close() // before the lane closes: a closed lane hands unsettled deliveries out again
		_ = lane.Close()
		lane = nil
	}
	defer closeLane()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for ctx := l.lanes; ctx.Err() == nil; {
		free, wait := w.free(time.Now())
		if free == 0 {
			if w.idle() {
				closeLane()
			}
			w.sleep(ctx, timer, wait)
			continue
		}
		if lane == nil {
			var err error
			if lane, err = w.relay.queue.Lane(w.id, queue.LaneOptions{MaxInFlight: deliver.MaxConcurrency}); err != nil {
				if errors.Is(err, queue.ErrNotFound) {
					w.relay.forget(w) // an earlier deletion timed out here but succeeded in the store
					return
				}
				w.laneFailed(ctx, timer, err)
				continue
			}
			w.setLane(lane)
			workers = newWorkerPool(w.deliver, func() { w.wake(false) })
		}
		leases, err := w.next(ctx, lane, free)
		if err != nil {
			if errors.Is(err, context.Canceled) {
				continue
			}
			if errors.Is(err, queue.ErrClosed) {
				closeLane() // the next call to open it returns the reason
				continue
			}
			w.laneFailed(ctx, timer, err)
			continue
		}
		for _, lease := range leases {
			if ctx.Err() != nil {
				w.giveBack(lease, time.Time{})
				continue
			}
			w.dispatch(workers, task{lease: lease, attempts: l.attempts})
		}
	}
}

func (w *webhook) setLane(lane queue.Lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lane = lane
}

// idle reports whether the webhook is not enabled and has no attempt in flight. Until
// then its lane stays open: closing a lane waits for attempts in flight, and a webhook
// that is enabled again would wait with it.
func (w *webhook) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.enabledLocked() && w.underWay == 0
}

// sleep waits until something changes or the time has passed.
func (w *webhook) sleep(ctx context.Context, timer *time.Timer, wait time.Duration) {
	var due <-chan time.Time
	if wait > 0 {
		timer.Reset(wait)
		due = timer.C
	}
	select {
	case <-w.changed:
	case <-due:
	case <-ctx.Done():
	}
	timer.Stop()
}

func (w *webhook) laneFailed(ctx context.Context, timer *time.Timer, err error) {
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	known := w.failure != nil
	w.failure = err
	w.mu.Unlock()
	if !known {
		w.relay.log.Error("a webhook gets nothing", "webhook", w.name(), "error", err)
	}
	w.sleep(ctx, timer, laneRetry)
}

// free returns how many deliveries the webhook may lease now. If n is 0, wait is how
// long to wait; a wait of 0 means until something changes.
func (w *webhook) free(now time.Time) (n int, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.enabledLocked() {
		return 0, 0
	}
	ok, wait := w.breaker.Admits(now)
	switch {
	case !ok:
		return 0, wait
	case w.breaker.OneAtATime() && w.underWay > 0:
		return 0, 0
	}
	if n = 1; !w.breaker.OneAtATime() {
		n = w.window.Size() - w.underWay
	}
	if n <= 0 {
		return 0, 0
	}
	if w.limiter == nil {
		return n, 0
	}
	tokens := w.limiter.TokensAt(now)
	if tokens < 1 {
		return 0, max(time.Duration((1-tokens)/float64(w.limiter.Limit())*float64(time.Second)), time.Millisecond)
	}
	return min(n, int(tokens)), 0
}

// next waits for deliveries of the lane. A change of settings or state interrupts it,
// even if the change came before this call.
func (w *webhook) next(ctx context.Context, lane queue.Lane, free int) ([]*queue.Lease, error) {
	w.mu.Lock()
	if w.listening == nil {
		w.listening, w.interrupt = context.WithCancel(ctx)
	}
	listening := w.listening
	w.mu.Unlock()
	leases, err := lane.Next(listening, free)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.failure = nil
	}
	if listening.Err() != nil {
		w.listening = nil // the next call makes a new context
	}
	return leases, err
}

// dispatch hands a lease to a worker. If the webhook's state changed after the lease
// was taken, dispatch gives the lease back.
func (w *webhook) dispatch(workers *workerPool, t task) {
	now := time.Now()
	w.mu.Lock()
	ok := w.enabledLocked()
	if ok {
		ok, _ = w.breaker.Admits(now)
	}
	if w.breaker.OneAtATime() {
		ok = ok && w.underWay == 0
	}
	if !ok {
		w.mu.Unlock()
		w.giveBack(t.lease, time.Time{})
		return
	}
	w.breaker.Begin()
	w.underWay++
	if w.limiter != nil {
		w.limiter.AllowN(now, 1)
	}
	t.target = w.target
	w.mu.Unlock()
	workers.deliverTask(t)
}

// eventBefore reports whether an earlier event of the same feedback still waits for the
// webhook, and when to check again.
func (w *webhook) eventBefore(t task) (until time.Time, before bool) {
	ctx, cancel := context.WithTimeout(t.attempts, storeTime)
	defer cancel()
	return pace.EventBefore(ctx, w.relay.queue, t.lease)
}

// giveBack defers a lease. No attempt is counted.
func (w *webhook) giveBack(lease *queue.Lease, at time.Time) {
	if err := lease.Defer(at); err != nil && !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrLeaseLost) {
		w.logUnsettled("a delivery was not given back; it will be attempted again", lease, err)
	}
}

// deliver makes one attempt and settles its lease.
func (w *webhook) deliver(t task) {
	if !w.stillGets(t) {
		w.refuse(t.lease)
		return
	}
	if t.target.config.Ordered {
		if until, before := w.eventBefore(t); before {
			w.notAttempted()
			w.giveBack(t.lease, until)
			return
		}
	}
	d := &t.lease.Delivery
	id := d.ID.String()
	ctx, span := w.startProcess(t.attempts, t, id)
	attempt, o := t.target.attempt(ctx, deliver.Message{
		ID: id, Type: d.Type, Number: d.Rung + 1, Trace: t.lease.Event.Trace, Tracer: w.relay.tracer, Started: time.Now(),
		Lease: t.lease, // Promise 1: what another relay may have is not sent.
	}, t.lease.Event.Body, "/events/"+d.ID.Event.String()) // Promise 2: attempts send the stored bytes, or what the body makes of them.
	stopping := w.relay.lanes.Err() != nil
	if o.Canceled {
		if stopping {
			w.relay.putBack.Add(1)
		}
		span.end(o, d.State, time.Time{})
		w.notAttempted()
		w.giveBack(t.lease, time.Time{})
		return
	}
	if stopping {
		w.relay.ended.Add(1)
	}
	w.relay.observer.Attempted(w.name(), o.Class, attempt.Duration,
		queue.TraceContext{TraceID: attempt.TraceID, SpanID: attempt.SpanID, Flags: attempt.TraceFlags})
	ended := time.Now()
	held := o.RetryAfter > 0 && w.holdOff(ended, o.RetryAfter) // first, so that no waiting delivery uses up a rung in between
	if held {
		defer w.saveRecord() // so that the hold survives a restart
	}
	if d.Attempts == 0 {
		w.relay.tally.First(ended, ended.Sub(d.Created))
	}
	if o.OK {
		if !w.settle(t.lease, t.lease.Ack(attempt)) {
			span.end(o, d.State, time.Time{})
			return
		}
		span.end(o, queue.Delivered, time.Time{})
		w.logDelivered(d, &attempt)
		w.succeeded(ended, attempt)
		w.relay.observer.Delivered(w.name(), ended.Sub(d.Created), t.lease.Event.Trace)
		w.publishAttempt(d, &attempt, o.Class, queue.Delivered)
		return
	}
	due, more := deliver.NextDue(t.target.config.Retry, d.Rung, ended, o.RetryAfter) // Promise 1: no rung is early.
	var settled bool
	state := queue.Failed
	if more {
		state, attempt.Next = queue.Retrying, due.UTC()
		settled = w.settle(t.lease, t.lease.Retry(due, attempt))
		span.end(o, queue.Retrying, due)
	} else {
		settled = w.settle(t.lease, t.lease.Dead(attempt))
		span.end(o, queue.Failed, time.Time{})
	}
	if !settled {
		return
	}
	w.publishAttempt(d, &attempt, o.Class, state)
	w.logFailed(d, &attempt)
	w.failed(ended, attempt, o, t.target.config.Retry)
	switch {
	case o.Gone:
		w.setState(Disabled, "the receiver answered 410 Gone", ended)
	case !more:
		w.setState(Failing, attempt.Error, ended) // Promise 1: a delivery that has failed is shown: the webhook is failing.
	}
}

// refuse ends a delivery that was made before the webhook had its current projects. The
// webhook may have a new owner since then, who may have changed its URL.
func (w *webhook) refuse(lease *queue.Lease) { // Promise 6: a webhook gets no feedback of projects that it does not name.
	a := queue.Attempt{At: time.Now(), ErrorClass: "project", Error: "not sent: the webhook no longer gets feedback of this project"}
	if w.settle(lease, lease.Dead(a)) {
		w.notAttempted()
		w.publishAttempt(&lease.Delivery, &a, a.ErrorClass, queue.Failed)
		w.logFailed(&lease.Delivery, &a)
	}
}

// publishAttempt publishes a settled attempt to the feed.
func (w *webhook) publishAttempt(d *queue.Delivery, a *queue.Attempt, class string, state queue.State) {
	if !w.relay.feed.HasListeners() {
		return
	}
	w.relay.feed.Publish(feed.Happening{
		Kind: feed.Attempt, Event: d.ID.Event, Type: d.Type, Feedback: d.Feedback,
		Delivery: d.ID, Webhook: w.name(), Projects: w.projects(), Number: d.Attempts + 1, Status: a.Status, Class: class, Error: a.Error,
		Duration: a.Duration, State: state, Next: a.Next,
	})
}

// settle handles the error of settling a lease. If the lease was lost, the delivery is
// another relay's: settle releases its place, and reports that the attempt says nothing
// about the webhook.
func (w *webhook) settle(lease *queue.Lease, err error) (counts bool) {
	if err == nil {
		return true
	}
	w.logUnsettled("a delivery was not settled; it will be attempted again", lease, err)
	if !errors.Is(err, queue.ErrLeaseLost) {
		return true
	}
	w.notAttempted()
	return false
}

// holdOff holds the webhook's deliveries for as long as the receiver asks. It reports
// whether a new hold began.
func (w *webhook) holdOff(now time.Time, asked time.Duration) (begun bool) {
	w.mu.Lock()
	begun = !now.Before(w.breaker.HeldUntil())
	w.breaker.HoldOff(now, asked)
	until := w.breaker.HeldUntil()
	w.mu.Unlock()
	if begun {
		w.relay.log.Info("a receiver asks to be left alone; nothing is sent to it until then", "webhook", w.name(), "until", until.UTC())
	}
	return begun
}

// notAttempted releases the place of a delivery that was not attempted.
func (w *webhook) notAttempted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underWay--
	w.breaker.NotAttempted()
}

// noteAnswer records the result of an attempt. The caller holds w.mu.
func (w *webhook) noteAnswer(at time.Time, a queue.Attempt) {
	w.record.LastAttempt = at.UTC()
	w.record.LastAnswer = Answer{Status: a.Status, Error: a.Error, Class: a.ErrorClass, Duration: a.Duration}
}

func (w *webhook) succeeded(at time.Time, a queue.Attempt) {
	w.mu.Lock()
	w.underWay--
	probed := w.breaker.Open()
	if w.breaker.OneAtATime() {
		w.window.Restart(w.underWay)
	} else {
		w.window.Grow()
	}
	w.breaker.Succeeded(at)
	w.record.LastSuccess = at.UTC()
	w.noteAnswer(at, a)
	w.tally.Count(at, a)
	w.endOutageLocked()
	failing, warned := w.record.State == Failing, !w.record.Episode.IsZero()
	w.mu.Unlock()
	switch {
	case failing:
		w.setState(Active, "", at)
	case warned:
		w.recoveredAfterWarning(at)
	case probed:
		w.relay.log.Info("a webhook can be reached again", "webhook", w.name())
	}
}

func (w *webhook) failed(at time.Time, a queue.Attempt, o deliver.Outcome, ladder []time.Duration) {
	w.mu.Lock()
	w.underWay--
	probed := w.breaker.Open()
	w.breaker.Failed(at, o.NoConnection, ladder) // Promise 3: a receiver that cannot be reached is probed one delivery at a time.
	opened, probe := w.breaker.Open() && !probed, w.breaker.NextProbe()
	if o.Busy {
		w.window.Shrink()
	}
	w.noteAnswer(at, a)
	w.tally.Count(at, a)
	w.noteFailureLocked(at)
	w.mu.Unlock()
	if opened {
		w.relay.log.Warn("a webhook cannot be reached; one attempt at a time tries whether it can", "webhook", w.name(),
			"class", o.Class, "error", a.Error, "next", probe.UTC())
	}
}
