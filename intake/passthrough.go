package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// Pass lets the next handler answer and makes an event of its 2xx. Every 2xx to
// a POST, PATCH or PUT makes an event or is counted and logged as missed. The
// error is that of next.
func (h *Handler) Pass(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request) error) error {
	if h.cors.configured() && isPreflight(r) {
		h.cors.allow(w.Header(), r.Header)
		h.cors.preflight(w, r)
		return nil
	}
	if !isSubmission(r) {
		return next(w, r)
	}
	s, err := h.admit(w, r)
	if err != nil {
		h.cors.allow(w.Header(), r.Header)
		h.refuse(w, r, err)
		return nil
	}
	defer s.release()

	forwarded := r.Clone(r.Context())
	keepReadableCodings(forwarded)
	if s.asked {
		forwarded.Header.Del("Expect")
	}
	g := newGate(w, func(answer []byte) error { return h.record(r, s, answer) })
	g.decorate = func(header http.Header) { h.cors.allow(header, r.Header) }
	defer g.broken() // the handler has panicked, as a proxy does if the app's answer breaks off, or failed
	if err := next(g, forwarded); err != nil {
		return err // nothing of the answer has left, or all of it had been released
	}
	g.finish()
	return nil
}

// admit reads a submission if the limits allow it.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request) (*overheard, error) {
	if err := h.limitClient(r); err != nil {
		return nil, err
	}
	scope, err := h.scopeOf(r)
	if err != nil {
		return nil, err
	}
	s, err := h.overhear(w, r, bodyTimeout)
	if err != nil {
		return nil, err
	}
	s.scope = scope
	if s.feedback != nil {
		if err := h.limitProject(cmp.Or(s.feedback.ProjectID(), scope.project)); err != nil {
			s.release()
			return nil, err
		}
	}
	return s, nil
}

// keepReadableCodings leaves the app no coding of its answer that cannot be read
// here. A module around this one, such as encode, has taken its decision already.
func keepReadableCodings(r *http.Request) {
	gzip := acceptsGzip(r.Header)
	r.Header.Del("Accept-Encoding")
	if gzip {
		r.Header["Accept-Encoding"] = []string{"gzip"}
	}
}

// record makes the event of a submission that the app has accepted. text is the
// app's answer, if it can be one about feedback. The error is the store's: the
// client must be told that the event is not on disk.
func (h *Handler) record(r *http.Request, s *overheard, text []byte) error {
	e, err := h.recordEvent(r, s, text)
	if err == nil {
		h.observer.Ingested(time.Since(s.arrived), e.Trace)
		return nil
	}
	return h.miss(r, err)
}

// errTooManyTries: others were faster, again and again.
var errTooManyTries = fmt.Errorf("recording what the next handler has accepted: too many changes at once: %w", queue.ErrConflict)

// recordEvent returns the event, or why there is none.
func (h *Handler) recordEvent(r *http.Request, s *overheard, text []byte) (queue.Event, error) {
	if s.trapped {
		if err := h.keepCaught(r, s.scope, s.feedback); err != nil {
			return queue.Event{}, err
		}
		return queue.Event{}, missed{"honeypot", "The honeypot is filled in."}
	}
	answer, err := event.ParseAnswer(text, s.makes)
	if err == nil && answer != nil {
		err = answer.Unread()
	}
	if err != nil {
		h.log.unread.log(r.Context(), h.log.Logger, slog.LevelWarn, "part of the next handler's answer is in no event", slog.Any("error", err))
	}
	receipt, err := h.recordOnce(r, s, answer, r.Header)
	if errors.Is(err, queue.ErrMismatch) || err == nil && receipt.Replayed && answer != nil && answer.ID() != receipt.Event.Feedback.ID {
		// Whether it is a repeat is for the app to say, and it has taken this one for another.
		receipt, err = h.recordOnce(r, s, answer, nil)
	}
	if err == nil && receipt.Replayed {
		err = missed{"repeat", "The event was made when the submission came first."}
	}
	return receipt.Event, err
}

// recordOnce takes the Idempotency-Key, if there is one, from header.
func (h *Handler) recordOnce(r *http.Request, s *overheard, answer *event.Answer, header http.Header) (queue.Receipt, error) {
	switch {
	case s.feedback != nil:
		return h.recordCreation(r, s, answer, header)
	case s.unread != nil && answer == nil:
		return queue.Receipt{}, s.unread
	}
	receipt, err := h.recordChange(r, s, answer, header)
	if s.unread != nil && isNotHeld(err) {
		err = s.unread
	}
	return receipt, err
}

// recordCreation records a POST. If the project holds the feedback that the app's
// answer names, the POST has changed that.
func (h *Handler) recordCreation(r *http.Request, s *overheard, answer *event.Answer, header http.Header) (queue.Receipt, error) {
	for range updateTries {
		receipt, err := h.recordNew(r, s, answer, header)
		if !errors.Is(err, queue.ErrExists) {
			return receipt, err
		}
		id := queue.FeedbackID{Project: s.feedback.ProjectID(), ID: s.feedback.ID()}
		if err := h.readAgain(s); err != nil {
			return queue.Receipt{}, err
		}
		if answer == nil {
			s.feedback.RemoveID() // the visitor's own gives way to a new one
			continue
		}
		receipt, err = h.recordHeld(r, s, id, s.feedback.Patch(), answer, header)
		if !isNotHeld(err) { // else it has expired in between
			return receipt, err
		}
	}
	return queue.Receipt{}, errTooManyTries
}

// recordNew stores the event of new feedback: queue.ErrExists if the project
// holds its id.
func (h *Handler) recordNew(r *http.Request, s *overheard, answer *event.Answer, header http.Header) (queue.Receipt, error) {
	now := time.Now()
	f := s.feedback
	f.Override(answer)
	f.Fill(h.defaults(r, s.scope, f))
	f.Complete(now, event.NewID)
	if err := s.scope.admit(f.ProjectID()); err != nil {
		return queue.Receipt{}, err
	}
	document, err := f.Document(event.Created, now)
	if err != nil {
		return queue.Receipt{}, err
	}
	a := queue.Entry{Type: string(event.Created), Feedback: queue.FeedbackID{Project: f.ProjectID(), ID: f.ID()}, Body: document}
	a.Key = s.key(header, f.ProjectID())
	a.Answer = appendAnswer(nil, f)
	return h.relay.Accept(context.WithoutCancel(r.Context()), a, r.Header)
}

// recordChange records a PATCH or PUT, or a POST that is no feedback by itself. It
// is a problem with status 404 if nobody holds the feedback and the answer is not
// whole.
func (h *Handler) recordChange(r *http.Request, s *overheard, answer *event.Answer, header http.Header) (queue.Receipt, error) {
	for range updateTries {
		id, err := h.findAccepted(r, s, answer)
		if err == nil {
			receipt, err := h.recordHeld(r, s, id, s.patch, answer, header)
			if !isNotHeld(err) { // else it has expired in between
				return receipt, err
			}
			continue
		}
		if !isNotHeld(err) || answer == nil || !answer.Whole() {
			return queue.Receipt{}, err
		}
		receipt, err := h.recordWhole(r, s, answer, header)
		if !errors.Is(err, queue.ErrExists) { // else somebody was faster
			return receipt, err
		}
	}
	return queue.Receipt{}, errTooManyTries
}

// recordHeld stores the event of feedback that is held: a problem with status 404
// if it is not.
func (h *Handler) recordHeld(r *http.Request, s *overheard, id queue.FeedbackID, patch *event.Patch, answer *event.Answer, header http.Header) (queue.Receipt, error) {
	key := s.key(header, id.Project)
	if s.makes == event.Updated {
		key = s.key(header, id.Project, r.Method, id.ID)
	}
	changed := false
	change := func(f *event.Feedback) (bool, error) {
		var err error
		changed, err = f.MergeAccepted(patch, answer)
		return changed, err
	}
	feedback, receipt, err := h.merge(context.WithoutCancel(r.Context()), id, change, key, r.Header)
	if feedback != nil {
		feedback.Release()
	}
	if err == nil && !changed && !receipt.Replayed {
		err = missed{"unchanged", "The feedback is as it was."}
	}
	return receipt, err
}

// recordWhole stores the event of feedback that nobody holds, as the app's answer
// represents it: queue.ErrExists if somebody has come to hold it.
func (h *Handler) recordWhole(r *http.Request, s *overheard, answer *event.Answer, header http.Header) (queue.Receipt, error) {
	f, err := event.Represented(answer, s.patch)
	if err != nil {
		return queue.Receipt{}, err
	}
	defer f.Release()
	f.Fill(event.Defaults{Project: s.scope.project, Widget: s.scope.widget})
	if err := s.scope.admit(f.ProjectID()); err != nil {
		return queue.Receipt{}, err
	}
	document, err := f.Document(event.Updated, time.Now())
	if err != nil {
		return queue.Receipt{}, err
	}
	a := queue.Entry{Type: string(event.Updated), Feedback: queue.FeedbackID{Project: f.ProjectID(), ID: f.ID()}, Body: document}
	a.Key = s.key(header, f.ProjectID(), r.Method, f.ID())
	a.Answer = appendAnswer(nil, f)
	return h.relay.Accept(context.WithoutCancel(r.Context()), a, r.Header)
}

// maxSegments bounds the segments of a path that are looked up.
const maxSegments = 8

// findAccepted returns the feedback that the app has changed: the one that its
// answer names, else the one that the path names, from its end. It is a problem
// with status 404 if nobody holds it.
func (h *Handler) findAccepted(r *http.Request, s *overheard, answer *event.Answer) (queue.FeedbackID, error) {
	project := s.scope.project
	if s.patch != nil {
		if named, _ := s.patch.Project(); named != "" {
			project = named
		}
	}
	var ids []string
	if answer != nil {
		project = cmp.Or(answer.ProjectID(), project)
		ids = []string{answer.ID()}
	} else {
		ids = strings.Split(r.URL.Path, "/")
		slices.Reverse(ids)
		ids = slices.DeleteFunc(ids, func(id string) bool { return !event.IsID(id) })
		ids = ids[:min(len(ids), maxSegments)]
	}
	if err := s.scope.admit(project); err != nil {
		return queue.FeedbackID{}, err
	}
	for _, id := range ids {
		if found, err := h.held(context.WithoutCancel(r.Context()), project, id); !isNotHeld(err) {
			return found, err
		}
	}
	return queue.FeedbackID{}, notHeld()
}

// held returns the feedback with this id that the project holds, or if that is
// empty the only one that any does.
func (h *Handler) held(ctx context.Context, project, id string) (queue.FeedbackID, error) {
	if project == "" {
		projects, err := h.relay.Projects(ctx, id, 2)
		switch {
		case err != nil:
			return queue.FeedbackID{}, err
		case len(projects) == 0:
			return queue.FeedbackID{}, notHeld()
		case len(projects) > 1:
			return queue.FeedbackID{}, missed{"ambiguous", "Several projects have feedback with this id. Give each app a project of its own."}
		}
		project = projects[0]
	}
	found := queue.FeedbackID{Project: project, ID: id}
	_, err := h.relay.Latest(ctx, found)
	if errors.Is(err, queue.ErrNotFound) {
		err = notHeld()
	}
	return found, err
}

// isNotHeld reports whether an error says that nobody holds the feedback.
func isNotHeld(err error) bool {
	var problem *event.Problem
	return errors.As(err, &problem) && problem.Status == http.StatusNotFound
}
