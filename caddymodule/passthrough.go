package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// pass lets the next handler answer and makes an event of its 2xx. What is no
// submission goes by without being buffered; a body that is no valid feedback
// goes by untouched and is counted.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.cors.configured() && isPreflight(r) {
		h.cors.allow(w.Header(), r.Header)
		h.cors.preflight(w, r)
		return nil
	}
	if isSubmission(r) {
		if err := h.limitClient(r); err != nil {
			h.refuse(w, r, err)
			return nil
		}
	}
	s := h.overhear(r)
	if s == nil {
		return next.ServeHTTP(w, r)
	}
	defer s.release()
	var err error
	if s.scope, err = h.scopeOf(r); err != nil {
		h.refuse(w, r, err)
		return nil
	}
	if s.feedback != nil {
		if err := h.limitProject(cmp.Or(s.feedback.ProjectID(), s.scope.project)); err != nil {
			h.refuse(w, r, err)
			return nil
		}
	}

	// The app's answer is read for the id it gave, so it must not be coded.
	// What lies outside, such as encode, has taken its decision already.
	forwarded := r.Clone(r.Context())
	forwarded.Header.Del("Accept-Encoding")
	g := newGate(w, func(answer []byte) error { return h.record(r, s, answer) })
	g.decorate = func(header http.Header) { h.cors.allow(header, r.Header) }
	if err := next.ServeHTTP(g, forwarded); err != nil {
		return err // nothing of the answer has left, or all of it had been released
	}
	return g.finish()
}

// overheard is a submission on its way to the next handler.
type overheard struct {
	arrived  time.Time
	scope    scope
	feedback *event.Feedback // of a POST; nil for an update
	patch    *event.Patch    // of a PATCH or PUT
	body     []byte
	identity []byte
}

func (s *overheard) release() {
	if s.feedback != nil {
		s.feedback.Release()
	}
}

// isSubmission tells whether a request may be a submission, by what stands
// before its body.
func isSubmission(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut:
		return r.Header.Get("Upgrade") == ""
	}
	return false
}

// overhear reads the request if it is a submission, and leaves it readable. The
// buffer is not one that is used again: a transport may read a body until
// after the answer.
func (h *Handler) overhear(r *http.Request) *overheard {
	if !isSubmission(r) {
		return nil
	}
	update := r.Method != http.MethodPost
	format, err := formatOf(r.Header)
	if err != nil || update && format != formatJSON {
		return nil
	}
	s := &overheard{arrived: time.Now()}
	if err := h.readAhead(r, s); err != nil {
		h.app.engine.metrics.Rejected("too_large")
		return nil
	}
	if update {
		s.patch, err = event.ParsePatch(s.body)
		s.identity = s.body
	} else {
		s.feedback, s.identity, err = format.parse(s.body, r.Header)
	}
	if err != nil {
		_, reason := explain(err)
		h.app.engine.metrics.Rejected(reason)
		return nil
	}
	if s.feedback != nil && h.trapped(s.feedback) {
		return nil
	}
	return s
}

var errNotRead = errors.New("body not read whole")

// readAhead reads the body and puts it back. Where it is larger than MaxBody
// or breaks off, the next handler gets what was read and then the rest, or the
// same error.
func (h *Handler) readAhead(r *http.Request, s *overheard) error {
	if r.ContentLength > h.MaxBody {
		return errNotRead
	}
	var buf bytes.Buffer
	_, err := buf.ReadFrom(io.LimitReader(r.Body, h.MaxBody+1))
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(buf.Bytes()), restOf(rest, err)), rest}
	if err != nil || int64(buf.Len()) > h.MaxBody {
		return errNotRead
	}
	s.body = buf.Bytes()
	return nil
}

// restOf is what follows what was read: the reader, or its error.
func restOf(r io.Reader, err error) io.Reader {
	if err == nil {
		return r
	}
	return errReader{err}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// record makes the event of a submission that the app has accepted. answer is
// the app's answer where it is JSON.
func (h *Handler) record(r *http.Request, s *overheard, answer []byte) error {
	e, err := h.recordOnce(r, s, answer, r.Header)
	if errors.Is(err, queue.ErrMismatch) {
		// The app decides what is a repeat; it has accepted this one.
		e, err = h.recordOnce(r, s, answer, nil)
	}
	if err == nil {
		h.app.engine.metrics.ingested(time.Since(s.arrived), e.Trace)
		return nil
	}
	problem, reason := explain(err)
	h.app.engine.metrics.Rejected(reason)
	if problem.Status == http.StatusServiceUnavailable {
		h.complain(r, reason, err)
		return err
	}
	// The app has it, but it makes no event (for instance an update of what was
	// created before the relay was there): the client's business is done.
	h.app.unrecorded.log(r.Context(), h.app.log, slog.LevelWarn, "accepted by the next handler, but made no event",
		slog.String("reason", reason), slog.String("detail", problem.Detail))
	return nil
}

func (h *Handler) recordOnce(r *http.Request, s *overheard, answer []byte, header http.Header) (queue.Event, error) {
	ctx := context.WithoutCancel(r.Context())
	if s.patch != nil {
		id := lastSegment(r.URL)
		feedback, receipt, err := h.change(r, header, s.scope, id, s.patch, s.identity)
		if err != nil {
			return queue.Event{}, err
		}
		if feedback != nil {
			feedback.Release()
		}
		return receipt.Event, nil
	}
	if answer != nil {
		if err := s.feedback.Override(answer); err != nil {
			return queue.Event{}, err
		}
	}
	now := time.Now()
	s.feedback.Fill(h.defaults(r, s.scope, s.feedback))
	project := s.feedback.ProjectID()
	if err := s.scope.admit(project); err != nil {
		return queue.Event{}, err
	}
	key, err := idempotencyKey(header, s.identity, project)
	if err != nil {
		return queue.Event{}, err
	}
	s.feedback.Complete(now, event.NewID)
	document, err := s.feedback.Document(event.Created, now)
	if err != nil {
		return queue.Event{}, err
	}
	receipt, err := h.app.accept(ctx, relay.Acceptance{
		Type:     event.Created,
		Feedback: queue.FeedbackID{Project: project, ID: s.feedback.ID()},
		Body:     document,
		Client:   h.app.engine.clientTrace(r.Header),
		Key:      key,
	})
	return receipt.Event, err
}
