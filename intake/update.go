package intake

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
)

// updateTries bounds how often an update is merged anew because another one
// came in between. Each time somebody's update has gone through, so it takes
// that many others at once to exhaust them.
const updateTries = 64

// update answers a PATCH or PUT on …/{id}.
func (h *Handler) update(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	s, err := h.scopeOf(r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if !h.mayUpdate(r) {
		h.refuse(w, r, event.NewProblem(http.StatusForbidden, "Send the token of update_auth as \"Authorization: Bearer …\", or be a user that Caddy has authenticated."))
		return
	}
	format, err := formatOf(r.Header)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if format != formatJSON {
		h.refuse(w, r, unsupported(r.Header.Get("Content-Type")))
		return
	}
	body, err := readBody(w, r, h.maxBody, bodyTimeout)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer body.release()
	patch, err := event.ParsePatch(body.Bytes())
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	feedback, receipt, err := h.change(r, r.Header, s, lastSegment(r.URL), patch, body.Bytes())
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if receipt.Replayed {
		h.replay(w, r, format, receipt)
		return
	}
	defer feedback.Release()
	h.observer.Ingested(time.Since(arrived), receipt.Event.Trace)
	writeAccepted(w, r, format, feedback)
}

// change applies an update, unless it is a repeat: then the receipt says so, and
// there is no feedback. The header is where its Idempotency-Key may be, identity
// what a repeat must equal.
func (h *Handler) change(r *http.Request, header http.Header, s scope, id string, patch *event.Patch, identity []byte) (*event.Feedback, queue.Receipt, error) {
	ctx := context.WithoutCancel(r.Context())
	project, _, err := s.of(patch)
	if err != nil {
		return nil, queue.Receipt{}, err
	}
	key, err := idempotencyKey(header, identity, project, r.Method, id)
	if err != nil {
		return nil, queue.Receipt{}, err
	}
	if key.Name != "" { // Promise 1: an update that comes again is not applied to what others have changed since.
		// Before anything else: the feedback may have changed since, or be gone.
		receipt, err := h.relay.Repeat(ctx, key)
		if !errors.Is(err, queue.ErrNotFound) {
			return nil, receipt, err
		}
	}
	feedbackID, err := h.find(ctx, s, id, patch)
	if err != nil {
		return nil, queue.Receipt{}, err
	}
	merge := func(f *event.Feedback) (bool, error) { return f.Merge(patch) }
	return h.merge(ctx, feedbackID, merge, key, r.Header)
}

// lastSegment is the last segment of a path, which names a feedback.
func lastSegment(u *url.URL) string {
	escaped := strings.TrimRight(u.EscapedPath(), "/")
	segment, err := url.PathUnescape(escaped[strings.LastIndexByte(escaped, '/')+1:])
	if err != nil {
		return "" // no such path is an URL's
	}
	return segment
}

// mayUpdate tells whether the request holds the token, or Caddy knows its user.
func (h *Handler) mayUpdate(r *http.Request) bool {
	if token, err := h.token(r); err == nil && token != "" {
		if scheme, sent, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
			// Hashes have one length, so the comparison tells nothing about the token's.
			got, want := sha256.Sum256([]byte(strings.TrimSpace(sent))), sha256.Sum256([]byte(token))
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				return true
			}
		}
	}
	return h.user(r) != ""
}

// merge applies a change to the newest state of the feedback and stores the
// whole as a new event. If another update comes in between, it merges again, so no
// change is lost. If nothing changes, it stores no event, and the key alone.
func (h *Handler) merge(ctx context.Context, id queue.FeedbackID, change func(*event.Feedback) (changed bool, err error), key queue.Key, submission http.Header) (*event.Feedback, queue.Receipt, error) {
	for range updateTries {
		latest, err := h.relay.Latest(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return nil, queue.Receipt{}, notHeld()
		}
		if err != nil {
			return nil, queue.Receipt{}, err
		}
		feedback, err := event.Stored(latest.Body)
		if err != nil {
			return nil, queue.Receipt{}, fmt.Errorf("reading event %s: %w", latest.ID, err)
		}
		receipt, err := h.replaceLatest(ctx, latest, feedback, change, key, submission)
		if err == nil && !receipt.Replayed {
			return feedback, receipt, nil
		}
		feedback.Release()
		if !errors.Is(err, queue.ErrConflict) {
			return nil, receipt, err
		}
	}
	return nil, queue.Receipt{}, fmt.Errorf("updating %s: too many updates at once: %w", id, queue.ErrConflict)
}

// replaceLatest stores the merged feedback unless another event has come after
// latest.
func (h *Handler) replaceLatest(ctx context.Context, latest queue.Event, feedback *event.Feedback, change func(*event.Feedback) (changed bool, err error), key queue.Key, submission http.Header) (queue.Receipt, error) {
	changed, err := change(feedback)
	if err != nil {
		return queue.Receipt{}, err
	}
	a := queue.Entry{
		Type:     string(event.Updated),
		Feedback: latest.Feedback,
		Replaces: latest.ID,
		Key:      key,
	}
	if key.Name != "" {
		a.Answer = appendAnswer(nil, feedback)
	} else if !changed {
		return queue.Receipt{Event: latest}, nil
	}
	if changed {
		if a.Body, err = feedback.Document(event.Updated, time.Now()); err != nil {
			return queue.Receipt{}, err
		}
	}
	return h.relay.Accept(ctx, a, submission)
}
