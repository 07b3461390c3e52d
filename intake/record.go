package intake

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// recording makes the event of one submission that the app has accepted.
type recording struct {
	*Handler
	request    *http.Request
	submission *submission
	answer     *event.Answer // the app's; nil if it represents no feedback
}

// errTooManyTries: others were faster, again and again.
var errTooManyTries = fmt.Errorf("recording what the next handler has accepted: too many changes at once: %w", queue.ErrConflict)

// record returns the event, or why there is none. text is the app's answer.
func (c *recording) record(text []byte) (queue.Event, error) {
	r, s := c.request, c.submission
	if s.caught {
		if err := c.keepCaught(r, s.scope, s.feedback); err != nil {
			return queue.Event{}, err
		}
		return queue.Event{}, noEvent{"honeypot", "The honeypot is filled in."}
	}
	var err error
	if c.answer, err = event.ParseAnswer(text, s.makes); err == nil && c.answer != nil {
		err = c.answer.Unread()
	}
	if err != nil {
		c.log.unread.log(r.Context(), c.log.Logger, slog.LevelWarn, "part of the next handler's answer is in no event", slog.Any("error", err))
	}
	receipt, err := c.store(r.Header)
	if errors.Is(err, queue.ErrMismatch) || begunAs(err) != "" || err == nil && receipt.Replayed && c.answer != nil && c.answer.ID() != receipt.Event.Feedback.ID {
		// The app decides whether it is a repeat, and it has taken this one for another.
		receipt, err = c.store(nil)
	}
	if err == nil && receipt.Replayed {
		err = noEvent{"repeat", "The event was made when the submission came first."}
	}
	return receipt.Event, err
}

// store stores the event. The Idempotency-Key, if there is one, is in keyHeader.
func (c *recording) store(keyHeader http.Header) (queue.Receipt, error) {
	s := c.submission
	switch {
	case s.feedback != nil:
		return c.storeCreation(keyHeader)
	case s.invalid != nil && c.answer == nil:
		return queue.Receipt{}, s.invalid
	}
	receipt, err := c.storeChange(keyHeader)
	if s.invalid != nil && errors.Is(err, errNotHeld) {
		err = s.invalid
	}
	return receipt, err
}

// storeCreation stores the event of a POST. If the project holds the feedback that the
// app's answer names, the POST has changed that.
func (c *recording) storeCreation(keyHeader http.Header) (queue.Receipt, error) {
	s := c.submission
	for range maxMerges {
		receipt, err := c.storeFeedback(keyHeader)
		if begun := begunAs(err); begun != "" && c.answer == nil {
			s.feedback.Rename(begun)
			receipt, err = c.storeFeedback(keyHeader)
		}
		if !errors.Is(err, queue.ErrExists) {
			return receipt, err
		}
		id := queue.FeedbackID{Project: s.feedback.ProjectID(), ID: s.feedback.ID()}
		if err := c.parseAgain(s); err != nil {
			return queue.Receipt{}, err
		}
		if c.answer == nil {
			s.feedback.RemoveID() // the visitor's own gives way to a new one
			continue
		}
		receipt, err = c.storeMerged(keyHeader, id, s.feedback.Patch())
		if !errors.Is(err, errNotHeld) { // else it has expired in between
			return receipt, err
		}
	}
	return queue.Receipt{}, errTooManyTries
}

// storeFeedback stores the event of new feedback. If the project holds its id, the
// error is queue.ErrExists.
func (c *recording) storeFeedback(keyHeader http.Header) (queue.Receipt, error) {
	s := c.submission
	f := s.feedback
	f.Override(c.answer)
	c.complete(c.request, s.scope, f)
	if err := s.scope.admit(f.ProjectID()); err != nil {
		return queue.Receipt{}, err
	}
	return c.storeNew(c.request, event.Created, f, s.key(keyHeader, f.ProjectID()), [32]byte{})
}

// storeChange stores the event of a PATCH or PUT, or of a POST that is no feedback by
// itself. The error is errNotHeld if nobody holds the feedback and the answer is not
// whole.
func (c *recording) storeChange(keyHeader http.Header) (queue.Receipt, error) {
	for range maxMerges {
		id, err := c.findChanged()
		if err == nil {
			receipt, err := c.storeMerged(keyHeader, id, c.submission.patch)
			if !errors.Is(err, errNotHeld) { // else it has expired in between
				return receipt, err
			}
			continue
		}
		if !errors.Is(err, errNotHeld) || c.answer == nil || !c.answer.Whole() {
			return queue.Receipt{}, err
		}
		receipt, err := c.storeRepresented(keyHeader)
		if !errors.Is(err, queue.ErrExists) { // else somebody was faster
			return receipt, err
		}
	}
	return queue.Receipt{}, errTooManyTries
}

// storeMerged stores the event of feedback that is held, changed by a patch and by the
// app's answer. The error is errNotHeld if it is not held.
func (c *recording) storeMerged(keyHeader http.Header, id queue.FeedbackID, patch *event.Patch) (queue.Receipt, error) {
	s := c.submission
	names := []string{id.Project}
	if s.makes == event.Updated {
		names = append(names, c.request.Method, id.ID)
	}
	changed := false
	feedback, receipt, err := c.merge(c.request, id, s.key(keyHeader, names...), func(f *event.Feedback) (bool, error) {
		var err error
		changed, err = f.MergeAccepted(patch, c.answer)
		return changed, err
	})
	if err != nil {
		return queue.Receipt{}, err
	}
	feedback.Release()
	if !changed && !receipt.Replayed {
		err = noEvent{"unchanged", "The feedback is as it was."}
	}
	return receipt, err
}

// storeRepresented stores the event of feedback that nobody holds, as the app's answer
// represents it. If somebody has come to hold it, the error is queue.ErrExists.
func (c *recording) storeRepresented(keyHeader http.Header) (queue.Receipt, error) {
	s := c.submission
	f, err := event.Represented(c.answer, s.patch)
	if err != nil {
		return queue.Receipt{}, err
	}
	defer f.Release()
	f.Fill(event.Defaults{Project: s.scope.project, Widget: s.scope.widget})
	if err := s.scope.admit(f.ProjectID()); err != nil {
		return queue.Receipt{}, err
	}
	return c.storeNew(c.request, event.Updated, f, s.key(keyHeader, f.ProjectID(), c.request.Method, f.ID()), [32]byte{})
}

// maxSegments bounds the segments of a path that are looked up.
const maxSegments = 8

// findChanged returns the feedback that the app has changed: the one that its answer
// names, else the one that the path names, from its end. The error is errNotHeld if
// nobody holds it.
func (c *recording) findChanged() (queue.FeedbackID, error) {
	s := c.submission
	project := s.scope.project
	if s.patch != nil {
		if named, _ := s.patch.Project(); named != "" {
			project = named
		}
	}
	var ids []string
	if c.answer != nil {
		project = cmp.Or(c.answer.ProjectID(), project)
		ids = []string{c.answer.ID()}
	} else {
		ids = strings.Split(c.request.URL.Path, "/")
		slices.Reverse(ids)
		ids = slices.DeleteFunc(ids, func(id string) bool { return !event.IsID(id) })
		ids = ids[:min(len(ids), maxSegments)]
	}
	if err := s.scope.admit(project); err != nil {
		return queue.FeedbackID{}, err
	}
	for _, id := range ids {
		if found, err := c.held(project, id); !errors.Is(err, errNotHeld) {
			return found, err
		}
	}
	return queue.FeedbackID{}, errNotHeld
}

// held returns the feedback with this id that the project holds, or if that is empty
// the only one that any does.
func (c *recording) held(project, id string) (queue.FeedbackID, error) {
	ctx := lasting(c.request)
	if project == "" {
		var err error
		if project, err = c.onlyProject(ctx, id); errors.Is(err, errAmbiguous) {
			err = noEvent{"ambiguous", "Several projects have feedback with this id. Give each app a project of its own."}
		}
		if err != nil {
			return queue.FeedbackID{}, err
		}
	}
	found := queue.FeedbackID{Project: project, ID: id}
	_, err := c.latest(ctx, found)
	return found, err
}
