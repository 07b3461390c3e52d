package jetstreamqueue

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/userhero/relay/queue"
)

// TestTokensTellNamesApart: each name is one token of a subject, and no other name's.
func TestTokensTellNamesApart(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("p", 300)
	seen := make(map[string]string)
	for _, name := range []string{
		"", "%", "=25", "a", "A", "a.b", "a b", "a*", ">", "a>", "ü", "a\x00", "a\r\n", "=", "==", "=3D", long, long + "q", "%" + hashed(long), strings.Repeat("ü", 100),
	} {
		got := token(name)
		if got == "" || strings.ContainsAny(got, ".*> \t\r\n\x00") || len(got) > 3*longToken {
			t.Errorf("the token of %.20q is %q", name, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%.20q and %.20q have the token %q", name, other, got)
		}
		seen[got] = name
	}
}

// TestDueTimesAreByTheServersClock: relays whose clocks differ agree on when.
func TestDueTimesAreByTheServersClock(t *testing.T) {
	t.Parallel()
	slow, right := &Queue{}, &Queue{}
	slow.ahead.Store(int64(5 * time.Second)) // the servers' clock is ahead of its own
	at := time.Now().Add(time.Minute)
	if got := right.localTime(slow.serverNanos(at)).Sub(at); got != 5*time.Second {
		t.Errorf("what is due in a minute on a clock 5 s behind is due %v later on the right one, want 5s", got)
	}
	if got := slow.localTime(slow.serverNanos(at)); !got.Equal(at) {
		t.Errorf("the same relay reads %v, want %v", got, at)
	}
	for _, once := range []time.Time{{}, time.Unix(1, 0), time.Unix(-1<<33, 0)} {
		if n := slow.serverNanos(once); n != 0 {
			t.Errorf("%v is stored as %d, want 0: at once", once, n)
		}
	}
	if got := slow.localTime(slow.serverNanos(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))); got.Before(time.Now().AddDate(20, 0, 0)) {
		t.Errorf("a due time in the year 9999 is stored as %v", got)
	}
}

// TestSlowAnswersDoNotMoveTheClock: an answer that took 8 s because the servers elected a
// leader does not change when stored deliveries are due.
func TestSlowAnswersDoNotMoveTheClock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ before, least, most, want time.Duration }{
		{0, -time.Millisecond, time.Millisecond, 0},
		{0, -8 * time.Second, 0, 0},
		{0, 0, 8 * time.Second, 0},
		{5 * time.Second, 4 * time.Second, 12 * time.Second, 5 * time.Second},
		{5 * time.Second, 4900 * time.Millisecond, 4910 * time.Millisecond, 5 * time.Second},
		{0, 5 * time.Second, 5010 * time.Millisecond, 5005 * time.Millisecond},
		{5 * time.Second, -3 * time.Second, -2 * time.Second, -2500 * time.Millisecond},
		{5 * time.Second, -time.Millisecond, time.Millisecond, 0},
	} {
		if got := corrected(c.before, c.least, c.most); got != c.want {
			t.Errorf("believed %v, known to be between %v and %v: %v, want %v", c.before, c.least, c.most, got, c.want)
		}
	}
}

// TestOldRecordsAreNotTakenForNew: the ledger reads records later than their lane has
// written them. A requeue that was followed by the delivery's end makes nothing wait.
func TestOldRecordsAreNotTakenForNew(t *testing.T) {
	t.Parallel()
	q := &Queue{lanes: make(map[queue.WebhookID]*lane)}
	l := &lane{
		q: q, head: 9, token: "owner", wake: make(chan struct{}, 1),
		passed: make(map[uint64]struct{}), records: make(map[uint64]record), ended: make(map[uint64]uint64), leased: make(map[uint64]*lease),
	}
	q.lanes[1] = l
	delivered := record{recordHead{State: queue.Delivered, By: "owner"}, 10}
	requeued := func(seq uint64) record { return record{recordHead{State: queue.Pending, By: "requeue"}, seq} }
	l.mu.Lock()
	l.recorded(5, delivered)
	l.mu.Unlock()
	q.tellLane(1, 5, requeued(8), false)
	if len(l.records) > 0 {
		t.Error("a record from before the end makes the delivery wait")
	}
	q.tellLane(1, 5, delivered, false)
	if len(l.ended) > 0 {
		t.Error("what the ledger has read is still kept")
	}
	q.tellLane(1, 5, requeued(12), false)
	if len(l.records) != 1 {
		t.Error("a requeue after the end makes nothing wait")
	}
}

// TestMessageThatIsBeingStoredIsRepeated: the servers refuse a repeated message while they
// store its first copy. A moment later they answer that they have it.
func TestMessageThatIsBeingStoredIsRepeated(t *testing.T) {
	for code, want := range map[jetstream.ErrorCode]bool{codeIDInFlight: true, codeSequenceInFlight: true, codeWrongSequence: false} {
		if got := transient(&jetstream.APIError{Code: 409, ErrorCode: code}); got != want {
			t.Errorf("code %d is transient: %t, want %t", code, got, want)
		}
	}
}
