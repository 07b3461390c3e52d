package queue

import "context"

// Reader reads a store. An engine with a single process returns what is committed,
// including this caller's own writes. On a cluster, each method says what it returns:
// "current" is everything that was acknowledged, on any relay, before the call.
type Reader interface {
	// Event returns one event. It returns ErrNotFound also if retention has removed the
	// event. Current.
	Event(ctx context.Context, id EventID) (Event, error)
	// Latest returns the newest event of a feedback. It returns ErrErased if the
	// feedback was erased. Current.
	Latest(ctx context.Context, id FeedbackID) (Event, error)
	// Projects returns projects that have a feedback with this id, at most limit of
	// them, in no particular order. Current.
	Projects(ctx context.Context, id string, limit int) ([]string, error)
	// Events lists events, newest first. On a cluster the newest may be missing for some
	// milliseconds.
	Events(ctx context.Context, q EventQuery) (Page[Event], error)
	// Delivery returns one delivery. Current, but for settlements that are not yet
	// durable.
	Delivery(ctx context.Context, id DeliveryID) (Delivery, error)
	// EventDeliveries returns every delivery of one event, sorted by webhook id. It
	// promises what Delivery does.
	EventDeliveries(ctx context.Context, id EventID) ([]Delivery, error)
	// Deliveries lists deliveries, newest event first. On a cluster the newest changes
	// may be missing for some milliseconds.
	Deliveries(ctx context.Context, q DeliveryQuery) (Page[Delivery], error)
	// Attempts returns the attempts of one delivery, oldest first. It promises what
	// Delivery does.
	Attempts(ctx context.Context, id DeliveryID) ([]Attempt, error)

	// Activities lists the activity log, newest first. On a cluster the newest may be
	// missing for some milliseconds.
	Activities(ctx context.Context, limit int, cursor string) (Page[Activity], error)
	// Caught returns the submissions that honeypots caught within the last CaughtFor,
	// newest first, at most MaxCaught. It promises what Activities does.
	Caught(ctx context.Context) ([]Caught, error)

	// Stats returns counters from memory. It never scans the store. On a cluster it
	// counts what all relays did, as of Stats.AsOf: it waits for the servers briefly, and
	// if they do not answer, it returns what this relay knows.
	Stats(ctx context.Context) Stats
}

// EachEvent calls visit with every event that a query selects, newest first, page by
// page, until visit returns an error. events is Reader.Events, of an engine or of what
// bounds one.
func EachEvent(ctx context.Context, events func(context.Context, EventQuery) (Page[Event], error), q EventQuery, visit func(Event) error) error {
	for {
		page, err := events(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page.Items {
			if err := visit(e); err != nil {
				return err
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return nil
		}
	}
}
