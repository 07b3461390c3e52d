package queuetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
	"github.com/userhero/relay/queue/queuetest"
)

// faultEnv names a fault. The test binary then runs the suite on an engine with this
// fault.
const faultEnv = "QUEUETEST_FAULT"

// fault is a way to break an engine, with the promises that the suite must find broken.
type fault struct {
	name   string
	breaks []string
	// breakIt wraps a sound queue. restarted reports whether the queue was opened
	// again.
	breakIt func(q queue.Queue, restarted bool) queue.Queue
}

var faults = []fault{
	{"none", nil, func(q queue.Queue, _ bool) queue.Queue { return &soundEraser{q.(queue.Eraser)} }},
	{"keys are not held", []string{"EnqueueIsIdempotentOnKey", "KeyWithAnotherBodyIsMismatch", "LongKeysAreToldApart", "ReplayWinsOverConflict"},
		entries(func(e *queue.Entry) { e.Key = queue.Key{} })},
	{"keys are looked up before the commit", []string{"ConcurrentEqualKeysMakeOneEvent"},
		func(q queue.Queue, _ bool) queue.Queue { return &racesKeys{Queue: q} }},
	{"Replaces is not looked at", []string{"ReplacesIsCompareAndSwap", "ConcurrentReplacesLetOneWin"},
		func(q queue.Queue, _ bool) queue.Queue { return &replacesAnything{q} }},
	{"a create replaces", []string{"CreateNeverReplaces", "ConcurrentCreatesLetOneWin", "RandomOperationsAgreeWithTheModel"},
		func(q queue.Queue, _ bool) queue.Queue { return &createsOver{q} }},
	{"feedback is known by its id alone", []string{"FeedbackIsKnownByProjectAndID", "RandomOperationsAgreeWithTheModel"},
		func(q queue.Queue, _ bool) queue.Queue { return &forgetsProjects{q} }},
	{"of a long project the beginning counts", []string{"LongProjectsAreToldApart"},
		entries(func(e *queue.Entry) { e.Feedback.Project = e.Feedback.Project[:min(256, len(e.Feedback.Project))] })},
	{"origins are not kept", []string{"SameOriginIsARepeat"}, entries(func(e *queue.Entry) { e.Origin = [32]byte{} })},
	{"answers are not kept", []string{"SameOriginIsARepeat", "RepeatsGetTheFirstAnswer", "KeyIsBoundWithoutEvent"},
		entries(func(e *queue.Entry) { e.Answer = nil })},
	{"keys are bound before anything is looked at", []string{"RefusedEntryBindsNoKey"},
		func(q queue.Queue, _ bool) queue.Queue { return &bindsEarly{Queue: q} }},
	{"an entry without a document binds nothing", []string{"KeyIsBoundWithoutEvent"},
		entries(func(e *queue.Entry) {
			if e.Body == nil {
				e.Key.Name += " of nothing"
			}
		})},
	{"bounds are not looked at", []string{"EntriesOutOfBoundsAreRefused"}, entries(func(e *queue.Entry) {
		if e.Check() != nil {
			*e = queue.Entry{Type: e.Type, Created: e.Created, Body: []byte("{}")}
		}
	})},
	{"the relay's own events are listed", []string{"RelayOwnEventsAreInNoList"},
		entries(func(e *queue.Entry) { e.Type = strings.TrimPrefix(e.Type, ".") })},
	{"bodies are trimmed", []string{"EventBytesAreUnchanged"},
		entries(func(e *queue.Entry) { e.Body = []byte(strings.TrimSpace(string(e.Body))) })},
	{"one event is lost at a restart", []string{"ReopenKeepsEverything", "CloseUnderLoadLosesNothing", "RandomOperationsAgreeWithTheModel"}, losesAnEvent},
	{"everything is lost at a crash", []string{"CrashKeepsWhatWasAcknowledged"}, nil},
	{"what was settled is lost at Close", []string{"CloseCommitsWhatWasSettled"},
		func(q queue.Queue, _ bool) queue.Queue { return &closesLikeACrash{q.(*memqueue.Queue)} }},
	{"the first lease after a restart is dropped", []string{"ReopenHandsLeasesOutAgain", "CrashLosesNoDelivery"}, dropsALease},
	{"leases are settled as often as asked", []string{"LeaseIsSettledOnce", "ConcurrentSettlesLetOneWin", "ClosedLaneLosesItsLeases"}, settles(settlesAgain)},
	{"the lease before settles the lease after", []string{"SettledLeaseHasNoPowerOverTheNext"}, settlesByDelivery},
	{"retries come 20 ms early", []string{"RetryIsNeverEarly"}, settles(retriesEarly)},
	{"Defer counts as an attempt", []string{"DeferUsesNoAttempt"}, settles(deferIsRetry)},
	{"Defer at once waits a moment", []string{"DeferAtOnceComesFirst"}, settles(deferLater)},
	{"now and then a retry is taken for delivered", []string{"RandomOperationsAgreeWithTheModel", "ConcurrentUseKeepsEveryPromise"}, retryIsAckSometimes()},
	{"fresh deliveries come back to front", []string{"FreshComeInOrderOfAcceptance", "RandomOperationsAgreeWithTheModel"}, lanes(backToFront)},
	{"retries go before fresh deliveries", []string{"FreshIsNotBehindBacklog"}, lanes(retriesFirst)},
	{"lanes wait for each other", []string{"SlowWebhookDelaysNobody"}, oneLaneAtATime},
	{"a lane hands out one too many", []string{"MaxInFlightIsABound"}, func(q queue.Queue, _ bool) queue.Queue { return &oneTooMany{q} }},
	{"Close leaves Next asleep", []string{"CloseWakesNext"}, lanes(func(l queue.Lane) queue.Lane { return neverCloses{l} })},
	{"Requeue forgets when", []string{"RequeueIsNeverEarly", "RequeueMovesWhatWaits"}, func(q queue.Queue, _ bool) queue.Queue { return &requeuesAtOnce{q} }},
	{"Requeue does nothing", []string{"RequeueGivesFreshLadder", "RequeueMakesAMissingDelivery"}, func(q queue.Queue, _ bool) queue.Queue { return &requeuesNothing{q} }},
	{"deliveries of all projects are listed", []string{"DeliveriesAreSelected"}, func(q queue.Queue, _ bool) queue.Queue { return &listsAllProjects{q} }},
	{"cursors count rows", []string{"CursorsStayRightWhileRowsCome"}, func(q queue.Queue, _ bool) queue.Queue { return &countsRows{q} }},
	{"attempts but the last are forgotten", []string{"RetryTakesTheNextRung", "AttemptsAreKeptWhole"}, func(q queue.Queue, _ bool) queue.Queue { return &lastAttempt{q} }},
	{"revisions are not looked at", []string{"WebhookRevisionsAreCompareAndSwap", "ConcurrentPutsLetOneWin"}, func(q queue.Queue, _ bool) queue.Queue { return &anyRevision{q} }},
	{"deleting a webhook counts nothing", []string{"DeleteEndsWhatWaits", "WebhookIDsAreNeverReused"}, func(q queue.Queue, _ bool) queue.Queue { return &countsNoneDeleted{q} }},
	{"counters start anew at a restart", []string{"StatsCountStates", "ReopenKeepsEverything"}, losesCounters},
	{"Sync does not wait", []string{"SyncIsDurable"}, lanes(func(l queue.Lane) queue.Lane { return neverSyncs{l} })},
	{"every lane says that it is owned", []string{"LaneHasOneOwner"}, lanes(func(l queue.Lane) queue.Lane { return alwaysOwned{l} })},
	{"nobody hears of deleted webhooks", []string{"WatchTellsOfEveryRelay"}, func(q queue.Queue, _ bool) queue.Queue { return &hidesDeleted{q} }},
	{"Erase removes nothing", []string{"EraseRemovesEverything", "ErasedNeverComesBack", "ErasedDeliveriesAreNotHandedOut", "EraseWaitsForAttemptsInFlight"},
		erases(func(context.Context, queue.Eraser, []queue.FeedbackID) (queue.Erased, error) {
			return queue.Erased{}, nil
		})},
	{"Erase removes feedback of other projects too", []string{"EraseRemovesEverything", "ErasedNeverComesBack"}, erases(eraseNamesakes)},
	{"Erase does not wait for attempts in flight", []string{"EraseWaitsForAttemptsInFlight", "EraseEndsWithItsContext"}, erases(eraseAtOnce)},
	{"Erase counts no attempts", []string{"EraseRemovesEverything"}, erases(eraseUncounted)},
	{"what was erased is accepted again", []string{"ErasedNeverComesBack", "CrashBringsNothingErasedBack"},
		func(q queue.Queue, _ bool) queue.Queue { return &acceptsErased{q.(queue.Eraser), true} }},
	{"a crash forgets what was erased", []string{"CrashBringsNothingErasedBack"},
		func(q queue.Queue, restarted bool) queue.Queue { return &acceptsErased{q.(queue.Eraser), restarted} }},
	{"what was erased is unknown", []string{"EraseRemovesEverything", "ErasedNeverComesBack"},
		func(q queue.Queue, _ bool) queue.Queue { return &unknowsErased{q.(queue.Eraser)} }},
	{"due times are times of day", []string{"ClockSetBackDelaysNothing", "ClockSetForwardHastensNothing"}, unbroken},
	{"sleep is no time", []string{"SleepIsTimeThatPasses"}, unbroken},
}

// TestBrokenEngine runs the suite on the engine with the fault in the environment,
// where it must fail. TestFaultsAreFound starts it. Without a fault in the environment
// it does nothing.
func TestBrokenEngine(t *testing.T) {
	name := os.Getenv(faultEnv)
	i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
	if i < 0 {
		return
	}
	queuetest.Run(t, brokenHarness(faults[i]))
}

func brokenHarness(f fault) queuetest.Harness {
	var inner sync.Map  // from a broken queue to the sound one inside it
	var clocks sync.Map // from a sound queue to the suite's clock
	broken := func(m *memqueue.Queue, restarted bool) queue.Queue {
		var q queue.Queue = m
		if f.breakIt != nil {
			q = f.breakIt(m, restarted)
		}
		if c, ok := clocks.Load(m); ok && timeFaults[f.name].breakIt != nil {
			q = timeFaults[f.name].breakIt(q, c.(queue.Clock))
		}
		inner.Store(q, m)
		return q
	}
	o := memqueue.Options{LazySettles: true, Shared: true}
	sound := func(q queue.Queue) *memqueue.Queue {
		m, _ := inner.Load(q)
		return m.(*memqueue.Queue) //nolint:forcetypeassert // broken stores them
	}
	again := func(t *testing.T, q queue.Queue) queue.Queue {
		t.Helper()
		m, ok := inner.Load(q)
		if !ok {
			t.Fatalf("the suite gave back a %T it did not get", q)
		}
		left := m.(*memqueue.Queue).Crash()
		if c, ok := clocks.Load(m); ok {
			clocks.Store(left, c)
		}
		return broken(left, true)
	}
	crash := again
	if f.breakIt == nil {
		crash = func(*testing.T, queue.Queue) queue.Queue { return broken(memqueue.New(o), true) }
	}
	patience := time.Second // a broken promise may cost the whole wait
	if f.breaks == nil {
		patience = 0
	}
	_, erases := broken(memqueue.New(o), false).(queue.Eraser)
	return queuetest.Harness{
		Open: func(*testing.T) queue.Queue { return broken(memqueue.New(o), false) },
		OpenOn: func(_ *testing.T, c queue.Clock) queue.Queue {
			o := o
			if !timeFaults[f.name].sleepless {
				o.Clock = c
			}
			m := memqueue.New(o)
			clocks.Store(m, c)
			return broken(m, false)
		},
		Join:     func(_ *testing.T, q queue.Queue) queue.Queue { return broken(sound(q).Join(), false) },
		Lose:     func(_ *testing.T, q queue.Queue, w queue.WebhookID) { sound(q).Lose(w) },
		Erases:   erases,
		Reopen:   again,
		Crash:    crash,
		Patience: patience,
	}
}

// TestFaultsAreFound runs, for each fault, the subtests that must find it, in their own
// process. For a sound engine it runs all subtests.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run", "^TestBrokenEngine$/^("+strings.Join(f.breaks, "|")+")$")
			if f.breaks == nil {
				run.Args[len(run.Args)-1] = "^TestBrokenEngine$"
			}
			run.Env = append(os.Environ(), faultEnv+"="+f.name)
			out, err := run.CombinedOutput()
			if f.breaks == nil && err != nil {
				t.Fatalf("the suite fails on a sound engine: %v\n%s", err, out)
			}
			for _, p := range f.breaks {
				if !strings.Contains(string(out), "--- FAIL: TestBrokenEngine/"+p+" ") {
					t.Errorf("%s does not notice it; the suite says:\n%s", p, out)
				}
			}
		})
	}
}

// sound breaks nothing.
type sound struct{ queue.Queue }

// soundEraser breaks nothing and erases.
type soundEraser struct{ queue.Eraser }

// erases replaces Erase.
func erases(erase func(context.Context, queue.Eraser, []queue.FeedbackID) (queue.Erased, error)) func(queue.Queue, bool) queue.Queue {
	return func(q queue.Queue, _ bool) queue.Queue { return &changesErase{q.(queue.Eraser), erase} }
}

type changesErase struct {
	queue.Eraser
	erase func(context.Context, queue.Eraser, []queue.FeedbackID) (queue.Erased, error)
}

func (q *changesErase) Erase(ctx context.Context, ids []queue.FeedbackID) (queue.Erased, error) {
	return q.erase(ctx, q.Eraser, ids)
}

func eraseNamesakes(ctx context.Context, q queue.Eraser, ids []queue.FeedbackID) (queue.Erased, error) {
	var all []queue.FeedbackID
	for _, id := range ids {
		projects, err := q.Projects(ctx, id.ID, 10)
		if err != nil {
			return queue.Erased{}, err
		}
		for _, p := range projects {
			all = append(all, queue.FeedbackID{Project: p, ID: id.ID})
		}
	}
	return q.Erase(ctx, all)
}

func eraseAtOnce(ctx context.Context, q queue.Eraser, ids []queue.FeedbackID) (queue.Erased, error) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	sum, err := q.Erase(ctx, ids)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return sum, err
}

func eraseUncounted(ctx context.Context, q queue.Eraser, ids []queue.FeedbackID) (queue.Erased, error) {
	sum, err := q.Erase(ctx, ids)
	sum.Attempts = 0
	return sum, err
}

// acceptsErased acknowledges what belongs to erased feedback, if it forgets.
type acceptsErased struct {
	queue.Eraser
	forgets bool
}

func (q *acceptsErased) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	r, err := q.Eraser.Enqueue(ctx, e)
	if q.forgets && errors.Is(err, queue.ErrErased) {
		err = nil
	}
	return r, err
}

// unknowsErased answers about erased feedback as about any that does not exist.
type unknowsErased struct{ queue.Eraser }

func (q *unknowsErased) Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error) {
	e, err := q.Eraser.Latest(ctx, id)
	if errors.Is(err, queue.ErrErased) {
		err = queue.ErrNotFound
	}
	return e, err
}

func (q *unknowsErased) Repeat(ctx context.Context, k queue.Key) (queue.Receipt, error) {
	r, err := q.Eraser.Repeat(ctx, k)
	if errors.Is(err, queue.ErrErased) {
		err = queue.ErrNotFound
	}
	return r, err
}

// entries changes the entries that are enqueued.
func entries(change func(*queue.Entry)) func(queue.Queue, bool) queue.Queue {
	return func(q queue.Queue, _ bool) queue.Queue { return &changesEntries{q, change} }
}

type changesEntries struct {
	queue.Queue
	change func(*queue.Entry)
}

func (q *changesEntries) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	q.change(&e)
	return q.Queue.Enqueue(ctx, e)
}

// racesKeys looks a key up and stores it later.
type racesKeys struct {
	queue.Queue
	held sync.Map
}

func (q *racesKeys) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	k := e.Key
	if first, ok := q.held.Load(k); ok {
		return queue.Receipt{Event: first.(queue.Event), Replayed: true}, nil
	}
	time.Sleep(time.Millisecond) // the time a disk would take
	e.Key = queue.Key{}
	r, err := q.Queue.Enqueue(ctx, e)
	q.held.Store(k, r.Event)
	return r, err
}

// replacesAnything ignores Replaces: it always replaces the latest event.
type replacesAnything struct{ queue.Queue }

func (q *replacesAnything) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	r, err := q.Queue.Enqueue(ctx, e)
	for errors.Is(err, queue.ErrConflict) {
		latest, missing := q.Latest(ctx, e.Feedback)
		if missing != nil {
			return r, err
		}
		e.Replaces = latest.ID
		r, err = q.Queue.Enqueue(ctx, e)
	}
	return r, err
}

// createsOver turns a create of an existing feedback into an update.
type createsOver struct{ queue.Queue }

func (q *createsOver) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	r, err := q.Queue.Enqueue(ctx, e)
	for errors.Is(err, queue.ErrExists) || errors.Is(err, queue.ErrConflict) && e.Type == "feedback.created" {
		latest, _ := q.Latest(ctx, e.Feedback)
		e.Replaces, e.Origin = latest.ID, [32]byte{}
		r, err = q.Queue.Enqueue(ctx, e)
	}
	return r, err
}

// forgetsProjects ignores the project of a feedback.
type forgetsProjects struct{ queue.Queue }

func (q *forgetsProjects) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if !e.Feedback.IsZero() {
		e.Feedback.Project = "one"
	}
	return (&createsOver{q.Queue}).Enqueue(ctx, e)
}

func (q *forgetsProjects) Latest(ctx context.Context, id queue.FeedbackID) (queue.Event, error) {
	id.Project = "one"
	return q.Queue.Latest(ctx, id)
}

// bindsEarly binds keys even if their entries are rejected.
type bindsEarly struct {
	queue.Queue
	held sync.Map // hashes by name
}

func (q *bindsEarly) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if hash, held := q.held.LoadOrStore(e.Key.Name, e.Key.Hash); held && hash != e.Key.Hash {
		return queue.Receipt{}, queue.ErrMismatch
	}
	return q.Queue.Enqueue(ctx, e)
}

// losesAnEvent hides the newest event after a restart.
func losesAnEvent(q queue.Queue, restarted bool) queue.Queue {
	if !restarted {
		return &sound{q}
	}
	lost := &hides{Queue: q}
	if newest, err := q.Events(context.Background(), queue.EventQuery{Limit: 1}); err == nil && len(newest.Items) > 0 {
		lost.id = newest.Items[0].ID
	}
	if newest, err := q.Deliveries(context.Background(), queue.DeliveryQuery{Limit: 1}); err == nil && len(newest.Items) > 0 {
		lost.id = newest.Items[0].ID.Event
	}
	return lost
}

type hides struct {
	queue.Queue
	id queue.EventID
}

func (q *hides) Events(ctx context.Context, want queue.EventQuery) (queue.Page[queue.Event], error) {
	page, err := q.Queue.Events(ctx, want)
	page.Items = slices.DeleteFunc(page.Items, func(e queue.Event) bool { return e.ID == q.id })
	return page, err
}

func (q *hides) Deliveries(ctx context.Context, want queue.DeliveryQuery) (queue.Page[queue.Delivery], error) {
	page, err := q.Queue.Deliveries(ctx, want)
	page.Items = slices.DeleteFunc(page.Items, func(d queue.Delivery) bool { return d.ID.Event == q.id })
	return page, err
}

// closesLikeACrash commits nothing when it is closed.
type closesLikeACrash struct{ *memqueue.Queue }

func (q *closesLikeACrash) Close(context.Context) error {
	left := q.Crash()
	*q = closesLikeACrash{left}
	return nil
}

// lanes wraps the lanes of a queue.
func lanes(wrap func(queue.Lane) queue.Lane) func(queue.Queue, bool) queue.Queue {
	return func(q queue.Queue, _ bool) queue.Queue { return &wrapsLanes{q, wrap} }
}

type wrapsLanes struct {
	queue.Queue
	wrap func(queue.Lane) queue.Lane
}

func (q *wrapsLanes) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	l, err := q.Queue.Lane(w, o)
	if err != nil {
		return nil, err
	}
	return q.wrap(l), nil
}

// dropsALease does not hand out the first lease after a restart.
func dropsALease(q queue.Queue, restarted bool) queue.Queue {
	if !restarted {
		return &sound{q}
	}
	return &wrapsLanes{q, func(l queue.Lane) queue.Lane { return &drops{Lane: l} }}
}

type drops struct {
	queue.Lane
	dropped bool
}

func (l *drops) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	if !l.dropped {
		if _, err := l.Lane.Next(ctx, 1); err != nil {
			return nil, err
		}
		l.dropped = true
	}
	return l.Lane.Next(ctx, most)
}

// neverCloses ignores Close.
type neverCloses struct{ queue.Lane }

func (neverCloses) Close() error { return nil }

// backToFront reverses what Next returns.
// neverSyncs has a Sync that does nothing.
type neverSyncs struct{ queue.Lane }

func (neverSyncs) Sync(context.Context) error { return nil }

// alwaysOwned takes itself for the owner.
type alwaysOwned struct{ queue.Lane }

func (alwaysOwned) Owned() bool { return true }

// hidesDeleted watches changes, but for deletions.
type hidesDeleted struct{ queue.Queue }

func (q *hidesDeleted) Watch(ctx context.Context, changed func(queue.Webhook, bool)) {
	q.Queue.Watch(ctx, func(w queue.Webhook, deleted bool) {
		if !deleted {
			changed(w, false)
		}
	})
}

func backToFront(l queue.Lane) queue.Lane { return reverses{l} }

type reverses struct{ queue.Lane }

func (l reverses) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	leases, err := l.Lane.Next(ctx, most)
	slices.Reverse(leases)
	return leases, err
}

// retriesFirst defers a fresh delivery if a retry is due too.
func retriesFirst(l queue.Lane) queue.Lane { return prefersRetries{l} }

type prefersRetries struct{ queue.Lane }

func (l prefersRetries) Next(ctx context.Context, _ int) ([]*queue.Lease, error) {
	first, err := l.Lane.Next(ctx, 1)
	if err != nil || first[0].Delivery.State == queue.Retrying {
		return first, err
	}
	moment, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	second, err := l.Lane.Next(moment, 1)
	if err != nil {
		return first, nil // there is no second one
	}
	back, stays := second, first
	if second[0].Delivery.State == queue.Retrying {
		back, stays = first, second
	}
	return stays, back[0].Defer(time.Time{})
}

// oneLaneAtATime makes Next of one lane wait for Next of another.
func oneLaneAtATime(q queue.Queue, _ bool) queue.Queue {
	turn := make(chan struct{}, 1)
	return &wrapsLanes{q, func(l queue.Lane) queue.Lane { return takesTurns{l, turn} }}
}

type takesTurns struct {
	queue.Lane
	turn chan struct{}
}

func (l takesTurns) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.turn }()
	return l.Lane.Next(ctx, most)
}

// oneTooMany allows one lease too many.
type oneTooMany struct{ queue.Queue }

func (q *oneTooMany) Lane(w queue.WebhookID, o queue.LaneOptions) (queue.Lane, error) {
	o.MaxInFlight++
	return q.Queue.Lane(w, o)
}

// settling changes a settlement, or not, and passes it on.
type settling func(s queue.Settlement, pass func(queue.Settlement) error) error

// settles changes how leases are settled.
func settles(how settling) func(queue.Queue, bool) queue.Queue {
	return lanes(func(l queue.Lane) queue.Lane { return wrapsLeases{l, how} })
}

type wrapsLeases struct {
	queue.Lane
	how settling
}

func (l wrapsLeases) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	leases, err := l.Lane.Next(ctx, most)
	for i, lease := range leases {
		leases[i] = queue.NewLease(lease.Delivery, lease.Event, settler{lease, l.how})
	}
	return leases, err
}

type settler struct {
	inner *queue.Lease
	how   settling
}

func (s settler) Lost(*queue.Lease) bool { return s.inner.Lost() }

func (s settler) Settle(_ *queue.Lease, what queue.Settlement) error {
	return s.how(what, func(what queue.Settlement) error { return pass(s.inner, what) })
}

// pass settles a lease with s.
func pass(l *queue.Lease, s queue.Settlement) error {
	switch s.Kind {
	case queue.SettleAck:
		return l.Ack(s.Attempt)
	case queue.SettleRetry:
		return l.Retry(s.At, s.Attempt)
	case queue.SettleDefer:
		return l.Defer(s.At)
	case queue.SettleDead:
		return l.Dead(s.Attempt)
	}
	return fmt.Errorf("no such way to settle: %d", s.Kind)
}

func settlesAgain(s queue.Settlement, pass func(queue.Settlement) error) error {
	_ = pass(s)
	return nil
}

// settlesByDelivery settles the newest lease of a delivery, even if an older lease is
// settled.
func settlesByDelivery(q queue.Queue, _ bool) queue.Queue {
	var out sync.Map // from a delivery to its newest lease
	return &wrapsLanes{q, func(l queue.Lane) queue.Lane { return remembers{l, &out} }}
}

type remembers struct {
	queue.Lane
	out *sync.Map
}

func (l remembers) Next(ctx context.Context, most int) ([]*queue.Lease, error) {
	leases, err := l.Lane.Next(ctx, most)
	for i, lease := range leases {
		l.out.Store(lease.Delivery.ID, lease)
		leases[i] = queue.NewLease(lease.Delivery, lease.Event, l)
	}
	return leases, err
}

func (l remembers) Lost(lease *queue.Lease) bool {
	newest, _ := l.out.Load(lease.Delivery.ID)
	return newest.(*queue.Lease).Lost()
}

func (l remembers) Settle(lease *queue.Lease, s queue.Settlement) error {
	newest, _ := l.out.Load(lease.Delivery.ID)
	return pass(newest.(*queue.Lease), s)
}

func retriesEarly(s queue.Settlement, pass func(queue.Settlement) error) error {
	s.At = s.At.Add(-20 * time.Millisecond)
	return pass(s)
}

func deferIsRetry(s queue.Settlement, pass func(queue.Settlement) error) error {
	if s.Kind == queue.SettleDefer {
		s.Kind = queue.SettleRetry
	}
	return pass(s)
}

func deferLater(s queue.Settlement, pass func(queue.Settlement) error) error {
	if s.Kind == queue.SettleDefer {
		s.At = time.Now().Add(5 * time.Millisecond)
	}
	return pass(s)
}

// retryIsAckSometimes turns every 20th retry into an Ack.
func retryIsAckSometimes() func(queue.Queue, bool) queue.Queue {
	var n atomic.Int64
	return settles(func(s queue.Settlement, pass func(queue.Settlement) error) error {
		if s.Kind == queue.SettleRetry && n.Add(1)%20 == 0 {
			s.Kind = queue.SettleAck
		}
		return pass(s)
	})
}

// requeuesAtOnce ignores the due time.
type requeuesAtOnce struct{ queue.Queue }

func (q *requeuesAtOnce) Requeue(ctx context.Context, d queue.DeliveryID, _ time.Time) error {
	return q.Queue.Requeue(ctx, d, time.Now())
}

// requeuesNothing returns nil and does nothing.
type requeuesNothing struct{ queue.Queue }

func (q *requeuesNothing) Requeue(context.Context, queue.DeliveryID, time.Time) error { return nil }

// countsRows uses the number of rows read as the cursor.
type listsAllProjects struct{ queue.Queue }

func (q *listsAllProjects) Deliveries(ctx context.Context, want queue.DeliveryQuery) (queue.Page[queue.Delivery], error) {
	want.Projects = nil
	return q.Queue.Deliveries(ctx, want)
}

type countsRows struct{ queue.Queue }

func (q *countsRows) Events(ctx context.Context, want queue.EventQuery) (page queue.Page[queue.Event], err error) {
	read := 0
	if want.Cursor != "" {
		if read, err = strconv.Atoi(want.Cursor); err != nil {
			return page, err
		}
	}
	limit := want.Limit
	want.Limit, want.Cursor = 1000, ""
	page, err = q.Queue.Events(ctx, want)
	page.Items, page.Next = page.Items[min(read, len(page.Items)):], ""
	if len(page.Items) > limit {
		page.Items, page.Next = page.Items[:limit], strconv.Itoa(read+limit)
	}
	return page, err
}

// lastAttempt keeps only the last attempt.
type lastAttempt struct{ queue.Queue }

func (q *lastAttempt) Attempts(ctx context.Context, id queue.DeliveryID) ([]queue.Attempt, error) {
	as, err := q.Queue.Attempts(ctx, id)
	return as[max(len(as)-1, 0):], err
}

// anyRevision accepts every revision.
type anyRevision struct{ queue.Queue }

func (q *anyRevision) PutWebhook(ctx context.Context, w queue.Webhook) (queue.Webhook, error) {
	all, err := q.Webhooks(ctx)
	for _, stored := range all {
		if stored.ID == w.ID && w.Revision != 0 {
			w.Revision = stored.Revision
		}
	}
	if err != nil {
		return w, err
	}
	return q.Queue.PutWebhook(ctx, w)
}

// countsNoneDeleted does not return how many deliveries it cancelled.
type countsNoneDeleted struct{ queue.Queue }

func (q *countsNoneDeleted) DeleteWebhook(ctx context.Context, id queue.WebhookID, revision uint64) (int64, error) {
	_, err := q.Queue.DeleteWebhook(ctx, id, revision)
	return 0, err
}

// losesCounters counts from zero after a restart.
func losesCounters(q queue.Queue, restarted bool) queue.Queue {
	if !restarted {
		return &sound{q}
	}
	return &subtracts{q, q.Stats(context.Background())}
}

type subtracts struct {
	queue.Queue
	before queue.Stats
}

func (q *subtracts) Stats(ctx context.Context) queue.Stats {
	st := q.Queue.Stats(ctx)
	for id, w := range st.Webhooks {
		b := q.before.Webhooks[id].Counts
		w.Pending -= b.Pending
		w.Retrying -= b.Retrying
		w.Delivered -= b.Delivered
		w.Failed -= b.Failed
		st.Webhooks[id] = w
	}
	return st
}
