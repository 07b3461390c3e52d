package queuetest

import (
	"bytes"
	"slices"
	"strings"

	"github.com/userhero/relay/queue"
)

// projects returns the projects that hold an id, sorted.
func (t *trial) projects(id string, limit int) []string {
	t.Helper()
	projects, err := t.q.Projects(t.ctx, id, limit)
	t.ok("Projects", err)
	slices.Sort(projects)
	return projects
}

// gets checks that an entry is a repeat and gets this answer.
func (t *trial) gets(when string, e queue.Entry, answer string) {
	t.Helper()
	events := t.q.Stats(t.ctx).Events
	r, err := t.q.Enqueue(t.ctx, e)
	t.ok(when+", Enqueue of a repeat", err)
	equal(t, when+": Replayed", r.Replayed, true)
	equal(t, when+": the answer", string(r.Answer), answer)
	equal(t, when+": the number of events", t.q.Stats(t.ctx).Events, events)
}

func feedbackIsKnownByProjectAndID(t *trial) {
	ids := []queue.FeedbackID{{Project: "a", ID: "x"}, {Project: "b", ID: "x"}, {ID: "x"}, {Project: "a", ID: "y"}, {Project: "ax"}, {Project: "a\x00", ID: "x"}}
	ids[4].ID = "x" // project and id, joined, are the same as those of another id
	latest := make(map[queue.FeedbackID]queue.Event)
	for _, id := range ids {
		e := t.entry()
		e.Feedback = id
		latest[id] = t.accept(e)
	}
	latest[ids[0]] = t.accept(t.update(latest[ids[0]]))
	stranger := t.update(latest[ids[1]])
	stranger.Feedback = ids[0]
	_, err := t.q.Enqueue(t.ctx, stranger)
	t.is("Enqueue that replaces another project's event", err, queue.ErrConflict)
	check := func() {
		t.Helper()
		for _, id := range ids {
			got := t.latest(id)
			equal(t, "the latest event of "+id.String(), got.ID, latest[id].ID)
			equal(t, "its feedback", got.Feedback, id)
		}
		_, err := t.q.Latest(t.ctx, queue.FeedbackID{Project: "c", ID: "x"})
		t.is("Latest of a project that does not hold the id", err, queue.ErrNotFound)
		sameIDs(t, "the projects that hold x", t.projects("x", 10), []string{"", "a", "a\x00", "ax", "b"})
		sameIDs(t, "the projects that hold y", t.projects("y", 10), []string{"a"})
		equal(t, "how many projects hold an id that nobody has", len(t.projects("z", 10)), 0)
		equal(t, "how many of the projects that hold x are told", len(t.projects("x", 2)), 2)
	}
	check()
	t.reopen()
	check()
}

func longProjectsAreToldApart(t *trial) {
	long := strings.Repeat("p", 90_000)
	id := strings.Repeat("i", queue.MaxFeedbackID)
	names := []string{long[:255], long[:256], long, long[:89_999] + "q"}
	events := make([]queue.Event, len(names))
	for i, name := range names {
		e := t.entry()
		e.Feedback = queue.FeedbackID{Project: name, ID: id}
		events[i] = t.accept(e)
	}
	events[2] = t.accept(t.update(events[2]))
	t.reopen()
	for _, e := range events {
		if got := t.latest(e.Feedback); got.ID != e.ID || got.Feedback != e.Feedback {
			t.Errorf("the latest event of a project of %d bytes is %s, want %s", len(e.Feedback.Project), got.ID, e.ID)
		}
	}
	sameIDs(t, "the projects", t.projects(id, 10), names)
}

// createNeverReplaces: if a client sends an id that is taken, its event must not become
// the one that updates replace.
func createNeverReplaces(t *trial) {
	first := t.enqueue()
	again := t.entry()
	again.Feedback = first.Feedback
	refused := func(when string, latest queue.Event) {
		t.Helper()
		_, err := t.q.Enqueue(t.ctx, again)
		t.is(when+", Enqueue that creates a feedback that is there", err, queue.ErrExists)
		again.Origin[0]++ // with another origin it is no repeat either
		equal(t, when+": the latest event", t.latest(first.Feedback).ID, latest.ID)
	}
	refused("at once", first)
	refused("with an origin", first)
	second := t.accept(t.update(first))
	refused("after an update", second)
	t.reopen()
	refused("after reopening", second)
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, 2)
}

func concurrentCreatesLetOneWin(t *trial) {
	for round := range 5 {
		entries := make([]queue.Entry, 16)
		for i := range entries {
			entries[i] = t.entry()
			entries[i].Feedback = queue.FeedbackID{Project: "p", ID: strings.Repeat("x", round+1)}
		}
		_, errs := t.atOnce(entries)
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			t.is("Enqueue that came second", err, queue.ErrExists)
		}
		equal(t, "how many created the same feedback", won, 1)
	}
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, 5)
}

func sameOriginIsARepeat(t *trial) {
	e := t.entry()
	e.Origin, e.Answer = [32]byte{7}, []byte("the first answer")
	first := t.accept(e)
	again := t.entry()
	again.Feedback, again.Origin, again.Answer = e.Feedback, e.Origin, []byte("another answer")
	t.gets("at once", again, "the first answer")
	updated := t.accept(t.update(first))
	t.accept(t.update(updated))
	t.gets("after updates", again, "the first answer")
	t.reopen()
	t.gets("after reopening", again, "the first answer")

	again.Key = key("k", 7)
	t.gets("with a key", again, "the first answer")
	other := t.entry()
	other.Key = key("k", 8)
	_, err := t.q.Enqueue(t.ctx, other)
	t.is("Enqueue of another submission with the key of the repeat", err, queue.ErrMismatch)

	elsewhere := again
	elsewhere.Key, elsewhere.Feedback.Project = queue.Key{}, "another project"
	t.accept(elsewhere)
}

func repeatsGetTheFirstAnswer(t *trial) {
	_, err := t.q.Repeat(t.ctx, key("k", 1))
	t.is("Repeat with a key that nobody holds", err, queue.ErrNotFound)
	_, err = t.q.Repeat(t.ctx, queue.Key{})
	t.is("Repeat without a key", err, queue.ErrNotFound)
	e := t.entry()
	e.Key, e.Answer = key("k", 1), bytes.Repeat([]byte("a"), queue.MaxAnswer)
	first := t.accept(e)
	check := func() {
		t.Helper()
		again := t.entry()
		again.Key, again.Answer = e.Key, []byte("another answer")
		t.gets("a repeat", again, string(e.Answer))
		r, err := t.q.Repeat(t.ctx, e.Key)
		t.ok("Repeat", err)
		equal(t, "Repeat: the event", r.Event.ID, first.ID)
		equal(t, "Repeat: Replayed", r.Replayed, true)
		equal(t, "Repeat: the answer", string(r.Answer), string(e.Answer))
		_, err = t.q.Repeat(t.ctx, key("k", 2))
		t.is("Repeat with another body", err, queue.ErrMismatch)
	}
	check()
	t.reopen()
	check()
}

func refusedEntryBindsNoKey(t *trial) {
	first := t.enqueue()
	stale, again := t.update(first), t.entry()
	stale.Replaces = t.enqueue().ID
	stale.Key = key("stale", 1)
	again.Feedback, again.Key = first.Feedback, key("again", 1)
	_, err := t.q.Enqueue(t.ctx, stale)
	t.is("Enqueue that replaces what is not the latest", err, queue.ErrConflict)
	_, err = t.q.Enqueue(t.ctx, again)
	t.is("Enqueue that creates a feedback that is there", err, queue.ErrExists)
	for _, k := range []queue.Key{stale.Key, again.Key} {
		_, err := t.q.Repeat(t.ctx, k)
		t.is("Repeat with the key of what was refused", err, queue.ErrNotFound)
		e := t.entry()
		e.Key = key(k.Name, 2)
		t.accept(e)
	}
}

// keyIsBoundWithoutEvent: a submission that changes nothing is also recognised as a
// repeat.
func keyIsBoundWithoutEvent(t *trial) {
	w := t.webhook("w")
	first := t.enqueue()
	unchanged := t.update(first, w)
	unchanged.Body, unchanged.Key, unchanged.Answer = nil, key("k", 1), []byte("as it was")
	r, err := t.q.Enqueue(t.ctx, unchanged)
	t.ok("Enqueue without a document", err)
	equal(t, "Replayed", r.Replayed, false)
	equal(t, "its event", r.Event.ID, queue.EventID{})
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, 1)
	second := t.accept(t.update(first))
	t.gets("after somebody else's change", unchanged, "as it was")
	change := t.update(second)
	change.Key = unchanged.Key
	t.gets("as a change", change, "as it was")
	stale := unchanged
	stale.Key = key("K", 1)
	_, err = t.q.Enqueue(t.ctx, stale)
	t.is("Enqueue without a document, of what is not the latest", err, queue.ErrConflict)
	t.reopen()
	t.gets("after reopening", unchanged, "as it was")
	equal(t, "the latest event", t.latest(first.Feedback).ID, second.ID)
	t.counts(w, queue.Counts{})
}

func entriesOutOfBoundsAreRefused(t *trial) {
	first := t.enqueue()
	for name, spoil := range map[string]func(*queue.Entry){
		"a feedback id that is too long":             func(e *queue.Entry) { e.Feedback.ID = strings.Repeat("x", queue.MaxFeedbackID+1) },
		"an answer that is too long":                 func(e *queue.Entry) { e.Answer = make([]byte, queue.MaxAnswer+1) },
		"a project without a feedback":               func(e *queue.Entry) { e.Feedback.ID = "" },
		"an event to replace without a feedback":     func(e *queue.Entry) { e.Feedback, e.Replaces = queue.FeedbackID{}, first.ID },
		"an origin without a feedback":               func(e *queue.Entry) { e.Feedback, e.Origin = queue.FeedbackID{}, [32]byte{1} },
		"neither a document nor a key":               func(e *queue.Entry) { e.Body, e.Feedback, e.Replaces = nil, first.Feedback, first.ID },
		"neither a document nor an event to replace": func(e *queue.Entry) { e.Body, e.Key = nil, key("k", 1) },
	} {
		e := t.entry()
		spoil(&e)
		if _, err := t.q.Enqueue(t.ctx, e); err == nil {
			t.Errorf("an entry with %s is taken", name)
		}
	}
	equal(t, "the number of events", t.q.Stats(t.ctx).Events, 1)
}
