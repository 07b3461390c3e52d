package intake

import (
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

// maxMerges bounds how often an update is merged again because another one came in
// between. Each time somebody's update has gone through, so it takes that many others
// at once to exhaust them.
const maxMerges = 64

// update stores the event of a change to feedback, as a whole.
func (h *Handler) update(r *http.Request, s scope, body []byte) (accepted, error) {
	patch, err := event.ParsePatch(body)
	if err != nil {
		return accepted{}, err
	}
	id := lastSegment(r.URL)
	project, _, err := s.of(patch)
	if err != nil {
		return accepted{}, err
	}
	key, err := idempotencyKey(r.Header, body, project, r.Method, id)
	if err != nil {
		return accepted{}, err
	}
	a := accepted{format: formatJSON}
	if key.Name != "" { // Promise 1: an update that comes again is not applied to what others have changed since.
		// Before anything else: the feedback may have changed since, or be gone.
		receipt, err := lookUp(h.relay, func(s Store) (queue.Receipt, error) { return s.Repeat(lasting(r), key) })
		if err == nil {
			return a.with(receipt, nil)
		}
		if !errors.Is(err, queue.ErrNotFound) {
			return accepted{}, err
		}
	}
	feedbackID, err := h.find(lasting(r), s, id, patch)
	if err != nil {
		return accepted{}, err
	}
	feedback, receipt, err := h.merge(r, feedbackID, key, func(f *event.Feedback) (bool, error) { return f.Merge(patch) })
	if err != nil {
		return accepted{}, err
	}
	defer feedback.Release()
	return a.with(receipt, feedback)
}

// lastSegment returns the last segment of a path, which names a feedback.
func lastSegment(u *url.URL) string {
	escaped := strings.TrimRight(u.EscapedPath(), "/")
	segment, err := url.PathUnescape(escaped[strings.LastIndexByte(escaped, '/')+1:])
	if err != nil {
		return "" // no URL has such a path
	}
	return segment
}

// mayUpdate reports whether the request holds the token, or the server has
// authenticated its user.
func (h *Handler) mayUpdate(r *http.Request) bool {
	if token, err := h.token(r); err == nil && token != "" {
		if scheme, sent, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
			// Hashes have one length, so the time of the comparison does not depend on the token's.
			got, want := sha256.Sum256([]byte(strings.TrimSpace(sent))), sha256.Sum256([]byte(token))
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				return true
			}
		}
	}
	return h.user(r) != ""
}

// merge applies a change to the newest state of the feedback and stores the whole as a
// new event. If another update comes in between, it merges again, so no change is
// lost. If nothing changes it stores no event, and the key alone. The caller releases
// the feedback. The error is errNotHeld if nobody holds the feedback, and
// queue.ErrRedacted if its text is gone.
func (h *Handler) merge(r *http.Request, id queue.FeedbackID, key queue.Key, change func(*event.Feedback) (changed bool, err error)) (*event.Feedback, queue.Receipt, error) {
	for range maxMerges {
		latest, err := h.latest(lasting(r), id)
		if err != nil {
			return nil, queue.Receipt{}, err
		}
		if latest.Redacted {
			return nil, queue.Receipt{}, fmt.Errorf("updating %s: %w", id, queue.ErrRedacted)
		}
		feedback, err := event.Stored(latest.Body)
		if err != nil {
			return nil, queue.Receipt{}, fmt.Errorf("reading event %s: %w", latest.ID, err)
		}
		receipt, err := h.replace(r, latest, feedback, key, change)
		if err == nil {
			return feedback, receipt, nil
		}
		feedback.Release()
		if !errors.Is(err, queue.ErrConflict) {
			return nil, queue.Receipt{}, err
		}
	}
	return nil, queue.Receipt{}, fmt.Errorf("updating %s: too many updates at once: %w", id, queue.ErrConflict)
}

// replace changes the feedback of the latest event and stores it, unless another event
// has come after latest.
func (h *Handler) replace(r *http.Request, latest queue.Event, feedback *event.Feedback, key queue.Key, change func(*event.Feedback) (changed bool, err error)) (queue.Receipt, error) {
	changed, err := change(feedback)
	if err != nil {
		return queue.Receipt{}, err
	}
	e := queue.Entry{
		Type:     string(event.Updated),
		Feedback: latest.Feedback,
		Replaces: latest.ID,
		Key:      key,
	}
	if key.Name != "" {
		e.Answer = answerTo(feedback)
	} else if !changed {
		return queue.Receipt{Event: latest}, nil
	}
	if changed {
		if e.Body, err = feedback.Document(event.Updated, time.Now()); err != nil {
			return queue.Receipt{}, err
		}
	}
	return h.relay.Accept(lasting(r), e, r.Header)
}
