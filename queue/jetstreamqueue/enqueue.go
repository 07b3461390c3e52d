package jetstreamqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/userhero/relay/queue"
)

// Enqueue implements queue.Queue. Webhooks that do not exist get no delivery.
func (q *Queue) Enqueue(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return queue.Receipt{}, err
	}
	if err := e.Check(); err != nil {
		return queue.Receipt{}, err
	}
	if err := q.isClosed(); err != nil {
		return queue.Receipt{}, err
	}
	ctx = q.patient(ctx)
	e.Created = e.Created.UTC().Truncate(time.Millisecond)
	if e.Key.Name == "" {
		return q.store(ctx, e, "")
	}
	return q.storeKeyed(ctx, e)
}

// store stores an entry. claim is the claim on its idempotency key, or empty if it has no
// key.
func (q *Queue) store(ctx context.Context, e queue.Entry, claim string) (queue.Receipt, error) {
	if !q.erased.begin(e.Feedback) {
		return queue.Receipt{}, errErased(e.Feedback)
	}
	defer q.erased.end(e.Feedback)
	origin, answer, last := e.Origin[:], e.Answer, uint64(0)
	if e.Origin == [32]byte{} {
		origin = nil
	}
	if !e.Replaces.IsZero() {
		latest, err := q.replaceable(ctx, e)
		if err != nil {
			return queue.Receipt{}, err
		}
		origin, answer, last = latest.origin, latest.answer, latest.place
	}
	if e.Body == nil {
		return queue.Receipt{Answer: e.Answer}, nil
	}
	if err := q.room(); err != nil {
		return queue.Receipt{}, err
	}
	subject, expected := q.names.ownEvent(), whatever
	if !e.Feedback.IsZero() {
		subject, expected = q.names.event(e.Feedback), after(0)
		if !e.Replaces.IsZero() {
			expected = after(last)
		}
	}
	webhooks := q.existing(e.Webhooks)
	stored := queue.Event{Type: e.Type, Feedback: e.Feedback, Created: e.Created, Trace: e.Trace, Replaces: e.Replaces, Body: e.Body}
	m, err := newEventMessage(subject, stored, webhooks, origin, answer)
	if err != nil {
		return queue.Receipt{}, err
	}
	if claim != "" {
		m.Header.Set(headerKey, claim)
	}
	seq, err := q.publish(ctx, m, expected)
	if errors.Is(err, errSequence) {
		return q.refuse(ctx, e)
	}
	if err != nil {
		return queue.Receipt{}, err
	}
	q.size.add(len(e.Body))
	stored.ID = queue.NewEventID(e.Created, q.tags.of(seq), seq)
	return queue.Receipt{Event: stored, Answer: e.Answer}, nil
}

// errErased wraps queue.ErrErased with the feedback.
func errErased(id queue.FeedbackID) error { return fmt.Errorf("%s: %w", id, queue.ErrErased) }

// replaceable returns the latest event of a feedback if it is the one that the entry
// replaces.
func (q *Queue) replaceable(ctx context.Context, e queue.Entry) (*storedEvent, error) {
	latest, err := q.latest(ctx, e.Feedback)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return nil, err
	}
	if err != nil || latest.ID != e.Replaces {
		return nil, fmt.Errorf("%s has another latest event than %s: %w", e.Feedback, e.Replaces, queue.ErrConflict)
	}
	if latest.Redacted {
		return nil, fmt.Errorf("%s: %w", e.Feedback, queue.ErrRedacted)
	}
	return latest, nil
}

// refuse returns why an entry could not be stored, or the receipt if it is a repeat.
func (q *Queue) refuse(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	if !e.Replaces.IsZero() {
		return queue.Receipt{}, fmt.Errorf("%s has another latest event than %s: %w", e.Feedback, e.Replaces, queue.ErrConflict)
	}
	held, err := q.latest(ctx, e.Feedback)
	if err != nil {
		return queue.Receipt{}, err
	}
	if e.Origin == [32]byte{} || !slices.Equal(held.origin, e.Origin[:]) {
		return queue.Receipt{}, fmt.Errorf("%s: %w", e.Feedback, queue.ErrExists)
	}
	return queue.Receipt{Event: held.Event, Replayed: true, Answer: held.answer}, nil
}

// existing returns the webhooks that exist, each only once.
func (q *Queue) existing(ids []queue.WebhookID) []queue.WebhookID {
	var have []queue.WebhookID
	for _, id := range ids {
		if _, ok := q.registry.get(id); ok && !slices.Contains(have, id) {
			have = append(have, id)
		}
	}
	return have
}

// latest reads the newest event of a feedback from the leader. Its place is the last message
// of the feedback, which an update must follow.
func (q *Queue) latest(ctx context.Context, id queue.FeedbackID) (*storedEvent, error) {
	m, err := q.last(ctx, q.names.events(), q.names.event(id))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	e, err := q.event(m)
	if err != nil || !e.isHold() {
		return e, err
	}
	if e, err = q.eventAt(ctx, e.latest); err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	e.place = m.seq
	return e, nil
}

// heldKey is the stored form of an idempotency key. A relay first claims the key, then
// stores the event, then binds the key. If the relay dies before it binds the key, the next
// relay that reads the key resolves the claim: it binds the key if the event is stored, and
// else stores the repeat as the feedback that the claim names.
type heldKey struct {
	Name     string `json:"name,omitempty"` // for a backup; the subject has only its hash
	Hash     []byte `json:"hash"`
	Claim    string `json:"claim,omitempty"`
	Project  string `json:"project,omitempty"`
	Feedback string `json:"feedback,omitempty"`
	Bound    bool   `json:"bound,omitempty"`
	Free     bool   `json:"free,omitempty"` // the entry was refused
	Event    string `json:"event,omitempty"`
	Answer   []byte `json:"answer,omitempty"`
	// About is the event that the submission left as it was, if it stored none.
	About string `json:"about,omitempty"`
	// Erased is set in what remains of a key whose feedback was erased.
	Erased bool `json:"erased,omitempty"`
	// Until is when a key expires that was restored from a backup.
	Until *time.Time `json:"until,omitempty"`
}

const (
	// claimRests is how long another relay leaves a claim to the one that has made it.
	claimRests = time.Second
	// claimHolds is how many times the queue's patience a claim may stay open before it
	// counts as abandoned. Who made it gives up long before that.
	claimHolds = 3
)

// storeKeyed stores an entry that has an idempotency key.
func (q *Queue) storeKeyed(ctx context.Context, e queue.Entry) (queue.Receipt, error) {
	claim, seq, err := q.resolveKey(ctx, e.Key, e.Replaces.IsZero() && !e.Feedback.IsZero())
	var begun *queue.BegunError
	switch {
	case err == nil:
		return q.replay(ctx, claim, e.Key)
	case errors.As(err, &begun) && !slices.Equal(claim.Hash, e.Key.Hash[:]):
		return queue.Receipt{}, queue.ErrMismatch
	case errors.As(err, &begun) && begun.Feedback == e.Feedback:
		// Store the event under the claim that is there. If both relays do, the first one
		// that creates the feedback wins.
	case !errors.Is(err, queue.ErrNotFound):
		return queue.Receipt{}, err
	case q.erased.has(e.Feedback):
		return queue.Receipt{}, errErased(e.Feedback) // nothing names it again
	default:
		claim = heldKey{Name: e.Key.Name, Hash: e.Key.Hash[:], Claim: newToken(), Project: e.Feedback.Project, Feedback: e.Feedback.ID}
		seq, err = q.writeKey(ctx, e.Key, claim, seq)
		if errors.Is(err, errSequence) { // another claim came first
			return q.storeKeyed(ctx, e)
		}
		if err != nil {
			return queue.Receipt{}, err
		}
	}
	return q.storeClaimed(ctx, e, claim, seq)
}

// storeClaimed stores an entry under a claim on its key, and binds the key. seq is the
// sequence number of the claim.
func (q *Queue) storeClaimed(ctx context.Context, e queue.Entry, claim heldKey, seq uint64) (queue.Receipt, error) {
	r, err := q.store(ctx, e, claim.Claim)
	if errors.Is(err, queue.ErrExists) {
		found, failed := q.findClaim(ctx, claim)
		if failed != nil {
			return queue.Receipt{}, failed
		}
		if found != nil { // another relay was faster
			r, err = queue.Receipt{Event: found.Event, Replayed: true, Answer: found.answer}, nil
		}
	}
	bound := claim
	switch {
	case err == nil:
		bound.Bound, bound.Answer = true, r.Answer
		if !r.Event.ID.IsZero() {
			bound.Event = r.Event.ID.String()
		}
		if e.Body == nil {
			bound.Event, bound.About = "", e.Replaces.String()
		}
	case errors.Is(err, queue.ErrUnavailable) || ctx.Err() != nil:
		return r, err // the event may be stored, so the claim stays open
	default:
		bound.Free = true
	}
	settled := context.WithoutCancel(ctx)
	if _, failed := q.writeKey(settled, e.Key, bound, seq); failed != nil && !errors.Is(failed, errSequence) && err == nil {
		return queue.Receipt{}, failed
	}
	return r, err
}

func (q *Queue) writeKey(ctx context.Context, k queue.Key, held heldKey, last uint64) (uint64, error) {
	return q.publishJSON(ctx, q.names.key(k.Name), held, after(last))
}

// resolveKey reads a key. If the key is claimed, resolveKey waits until it is bound or free, for
// at most the queue's patience. It returns queue.ErrNotFound if the key is free. If creates
// is set, the key belongs to a submission that creates a feedback; then resolveKey returns
// queue.BegunError for a claim that its relay has left open. seq is the sequence number of
// the key's last message, which a claim must follow.
func (q *Queue) resolveKey(ctx context.Context, k queue.Key, creates bool) (held heldKey, seq uint64, err error) {
	giveUp := q.giveUp(ctx)
	pause := 2 * time.Millisecond
	for {
		m, err := q.last(ctx, q.names.keys(), q.names.key(k.Name))
		if errors.Is(err, queue.ErrNotFound) && q.erased.any() {
			m, err = q.last(ctx, q.names.keys(), q.names.erasedKey(k.Name))
		}
		if err != nil {
			return held, 0, err
		}
		held = heldKey{}
		if err := json.Unmarshal(m.data, &held); err != nil {
			return held, 0, fmt.Errorf("an idempotency key cannot be read: %w", err)
		}
		seq = m.seq
		switch {
		case held.Until != nil && time.Now().After(*held.Until):
			return held, seq, queue.ErrNotFound
		case held.Bound, held.Erased:
			return held, seq, nil
		case held.Free:
			return held, seq, queue.ErrNotFound
		}
		// The relay that stored the event may have stopped before it bound the key.
		found, err := q.findClaim(ctx, held)
		if err != nil {
			return held, 0, err
		}
		age := time.Since(q.localTime(m.at.UnixNano()))
		if found != nil && age > claimRests {
			held.Bound, held.Event, held.Answer = true, found.ID.String(), found.answer
			if _, err := q.writeKey(ctx, k, held, seq); err != nil && !errors.Is(err, errSequence) {
				return held, 0, err
			}
			continue
		}
		switch {
		case found == nil && age > claimHolds*q.o.Patience:
			return held, seq, queue.ErrNotFound
		case found == nil && creates && age > claimRests:
			return held, seq, &queue.BegunError{Feedback: queue.FeedbackID{Project: held.Project, ID: held.Feedback}}
		case time.Until(giveUp) < pause:
			return held, seq, fmt.Errorf("%w: another relay has begun to store a submission with this idempotency key, and has not ended", queue.ErrUnavailable)
		}
		if err := q.pause(ctx, pause); err != nil {
			return held, 0, err
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}

// findClaim returns the event that was stored with a claim, or nil if there is none.
func (q *Queue) findClaim(ctx context.Context, held heldKey) (*storedEvent, error) {
	id := queue.FeedbackID{Project: held.Project, ID: held.Feedback}
	if id.IsZero() {
		return nil, nil //nolint:nilnil // no event is a result
	}
	for from := uint64(1); ; {
		m, err := q.get(ctx, q.names.events(), getRequest{Seq: from, Next: q.names.event(id)})
		if errors.Is(err, queue.ErrNotFound) {
			return nil, nil //nolint:nilnil // no event is a result
		}
		if err != nil {
			return nil, err
		}
		if m.header.Get(headerKey) == held.Claim {
			return q.event(m)
		}
		from = m.seq + 1
	}
}

// replay returns the receipt of a repeat.
func (q *Queue) replay(ctx context.Context, held heldKey, k queue.Key) (queue.Receipt, error) {
	if !slices.Equal(held.Hash, k.Hash[:]) {
		return queue.Receipt{}, queue.ErrMismatch
	}
	if held.Erased || q.erased.has(queue.FeedbackID{Project: held.Project, ID: held.Feedback}) {
		return queue.Receipt{}, fmt.Errorf("the submission with this idempotency key: %w", queue.ErrErased)
	}
	r := queue.Receipt{Replayed: true, Answer: held.Answer}
	if held.Event == "" {
		return r, nil
	}
	id, err := queue.ParseEventID(held.Event)
	if err != nil {
		return queue.Receipt{}, err
	}
	e, err := q.Event(ctx, id)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return queue.Receipt{}, err
	}
	r.Event = e
	return r, nil
}

// Repeat implements queue.Queue.
func (q *Queue) Repeat(ctx context.Context, k queue.Key) (queue.Receipt, error) {
	if err := q.isClosed(); err != nil {
		return queue.Receipt{}, err
	}
	if k.Name == "" {
		return queue.Receipt{}, fmt.Errorf("no idempotency key: %w", queue.ErrNotFound)
	}
	held, _, err := q.resolveKey(q.patient(ctx), k, false)
	if err != nil {
		return queue.Receipt{}, fmt.Errorf("idempotency key %q: %w", k.Name, err)
	}
	return q.replay(ctx, held, k)
}
