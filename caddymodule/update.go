package caddymodule

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay"
)

// updateTries bounds how often an update is merged anew because another one
// came in between. Each time somebody's update has gone through, so it takes
// that many others at once to exhaust them.
const updateTries = 64

// update answers a PATCH or PUT on …/{id}.
func (h *Handler) update(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
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
	body, err := readBody(w, r, h.MaxBody, bodyTimeout)
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
	id := path.Base(r.URL.Path)
	keys, err := idempotencyKeys(r.Header, id, "", body.Bytes())
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	feedback, receipt, err := h.merge(r.Context(), id, patch, keys, h.app.engine.clientTrace(r.Header))
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer feedback.Release()
	if receipt.Replayed {
		h.replay(w, r, format, receipt.Event)
		return
	}
	h.app.engine.metrics.ingested(time.Since(arrived), receipt.Event.Trace)
	writeAccepted(w, r, format, feedback)
}

// mayUpdate tells whether the request holds the token, or Caddy knows its user.
func (h *Handler) mayUpdate(r *http.Request) bool {
	if h.token != "" {
		if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
			// Hashes have one length, so the comparison tells nothing about the token's.
			got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(h.token))
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				return true
			}
		}
	}
	return authenticated(r) != ""
}

// merge applies the patch to the newest state of the feedback and stores the
// whole as a new event. Where another update comes in between, it merges anew,
// so no change is lost; where nothing changes, nothing is stored.
func (h *Handler) merge(ctx context.Context, id string, patch *event.Patch, keys []queue.Key, client trace.SpanContext) (*event.Feedback, queue.Receipt, error) {
	ctx = context.WithoutCancel(ctx)
	for range updateTries {
		latest, err := h.app.latest(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return nil, queue.Receipt{}, event.NewProblem(http.StatusNotFound, "There is no feedback with this id, or it has expired.")
		}
		if err != nil {
			return nil, queue.Receipt{}, err
		}
		feedback, err := event.Stored(latest.Body)
		if err != nil {
			return nil, queue.Receipt{}, fmt.Errorf("reading event %s: %w", latest.ID, err)
		}
		receipt, err := h.replaceLatest(ctx, latest, feedback, patch, keys, client)
		if err == nil {
			return feedback, receipt, nil
		}
		feedback.Release()
		if !errors.Is(err, queue.ErrConflict) {
			return nil, queue.Receipt{}, err
		}
	}
	return nil, queue.Receipt{}, fmt.Errorf("updating feedback %s: too many updates at once: %w", id, queue.ErrConflict)
}

// replaceLatest stores the merged feedback unless another event has come after
// latest.
func (h *Handler) replaceLatest(ctx context.Context, latest queue.Event, feedback *event.Feedback, patch *event.Patch, keys []queue.Key, client trace.SpanContext) (queue.Receipt, error) {
	changed, err := feedback.Merge(patch)
	if err != nil {
		return queue.Receipt{}, err
	}
	if !changed {
		return queue.Receipt{Event: latest}, nil
	}
	document, err := feedback.Document(event.Updated, time.Now())
	if err != nil {
		return queue.Receipt{}, err
	}
	return h.app.accept(ctx, relay.Acceptance{
		Type:       event.Updated,
		FeedbackID: latest.FeedbackID,
		ProjectID:  feedback.ProjectID(),
		Body:       document,
		Client:     client,
		Keys:       keys,
		Replaces:   latest.ID,
	})
}
