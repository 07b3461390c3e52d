package relay

import "context"

// turn is a lock that is held while the store works, which may be long: who
// waits for it can give up. It is made with a capacity of 1.
type turn chan struct{}

// take waits for the turn, which release must end, unless the context ends first.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil // whether or not the context has ended
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) release() { <-t }
