package queue

import "context"

// Eraser is a Queue that can erase feedback.
type Eraser interface {
	Queue
	// Erase removes feedbacks: every event of theirs, with its deliveries and attempts,
	// and the answers that are kept for repeats. Deliveries that wait are cancelled, and
	// those that are leased end when they are settled: Erase waits for that. A feedback
	// that is not stored is left out. Of an erased feedback a hash remains, so that
	// Enqueue can return ErrErased. Erase reads all events once, whatever the number of
	// ids. After an error some may be removed: call it again.
	Erase(ctx context.Context, ids []FeedbackID) (Erased, error)
	// Compact gives back the space of what was removed. When it returns, no file of the
	// engine's own holds anything of what was removed before the call.
	Compact(ctx context.Context) error
}

// Erased counts what Erase has removed.
type Erased struct {
	Feedbacks, Events, Deliveries int64
	Waiting                       int64 // deliveries that were cancelled
	Attempts                      int64
	Keys                          int64 // idempotency keys of which the hash remains
}

// Add returns the sum.
func (e Erased) Add(f Erased) Erased {
	return Erased{
		e.Feedbacks + f.Feedbacks, e.Events + f.Events, e.Deliveries + f.Deliveries,
		e.Waiting + f.Waiting, e.Attempts + f.Attempts, e.Keys + f.Keys,
	}
}
