package body

import (
	"context"
	"time"
)

// Turns makes the bodies of dear expressions one after another, and rests after each, so
// that they leave the processors to whatever else the process does: all of them together
// take a fraction of one. Cheap expressions, presets and documents do not wait.
//
// A webhook has one place in the queue, however many of its deliveries wait.
type Turns struct{ free chan struct{} }

// NewTurns returns turns that one relay shares out.
func NewTurns() *Turns { return &Turns{make(chan struct{}, 1)} }

const (
	// rest is how long the next turn is kept back, in times that the last one took.
	rest = 4
	// watched is how many bodies a webhook makes in turn after a dear one.
	watched = 100
)

// Make returns what Body.Make returns, and waits for its turn if the body is dear or has
// not been made yet. It returns the cause if ctx ends meanwhile. Turns may be nil: then
// nothing waits.
func (t *Turns) Make(ctx context.Context, b *Body, e Event) (made []byte, mediaType string, err error) {
	if t == nil || b == nil || b.template == nil || b.watch.Load() <= 0 {
		made, mediaType, dear, err := b.make(e)
		if dear {
			b.watch.Store(watched)
		}
		return made, mediaType, err
	}
	for _, turn := range []chan struct{}{b.turn, t.free} {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			if turn == t.free {
				<-b.turn
			}
			return nil, "", context.Cause(ctx)
		}
	}
	began := time.Now()
	made, mediaType, dear, err := b.make(e)
	if <-b.turn; dear {
		b.watch.Store(watched)
	} else {
		b.watch.Add(-1)
	}
	time.AfterFunc(rest*time.Since(began), func() { <-t.free })
	return made, mediaType, err
}
