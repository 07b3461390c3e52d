package body

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/userhero/relay/event"
)

func compiled(t *testing.T, source string) *Body {
	t.Helper()
	b, err := Compile(source)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCheapBodiesDoNotWaitForDearOnes: while a dear body has the turn, one that was cheap,
// a preset and the document are made at once; a body that is not known yet waits, and so do
// the hundred after a dear one.
func TestCheapBodiesDoNotWaitForDearOnes(t *testing.T) {
	t.Parallel()
	many := "[" + strings.TrimSuffix(strings.Repeat("1,", 50), ",") + "]"
	// Dear if the message is x.
	dear := compiled(t, `{"t": data.message == "x" ? `+many+`.all(a, `+many+`.all(b, `+many+`.all(c, a + b + c > 0))) : true}`)
	cheap, unknown := compiled(t, `{"t": data.message}`), compiled(t, `{"t": data.message}`)
	of := func(message string) Event {
		return Event{Type: event.Created, Document: []byte(`{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{"message":"` + message + `"}}`), Webhook: "w"}
	}
	synctest.Test(t, func(t *testing.T) {
		cheap.turn, dear.turn, unknown.turn = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
		turns := NewTurns()
		makes := func(b *Body, message string) error {
			_, _, err := turns.Make(t.Context(), b, of(message))
			synctest.Wait() // for the end of the rest
			return err
		}
		if err := makes(cheap, "x"); err != nil {
			t.Fatal(err)
		}
		if err := makes(dear, "x"); err == nil {
			t.Fatal("the dear expression ends without an error")
		}
		waits := func(b *Body) bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _, err := turns.Make(ctx, b, of("long"))
			synctest.Wait()
			return errors.Is(err, context.DeadlineExceeded)
		}
		turns.free <- struct{}{} // somebody has the turn
		for name, b := range map[string]*Body{"cheap": cheap, "preset": compiled(t, "slack"), "document": nil} {
			if waits(b) {
				t.Errorf("the %s waits", name)
			}
		}
		if !waits(dear) || !waits(unknown) {
			t.Error("a dear body, or one that was never made, does not wait")
		}
		<-turns.free
		for range watched {
			if err := makes(dear, "long"); err != nil {
				t.Fatal(err)
			}
		}
		turns.free <- struct{}{}
		if waits(dear) {
			t.Error("a body that was cheap a hundred times still waits")
		}
	})
}

// TestTurnsRest: the next turn begins when four times as long has passed as the last body
// took.
func TestTurnsRest(t *testing.T) {
	t.Parallel()
	turns := NewTurns()
	for range 20 { // the machine may stop this goroutine for longer than the body takes
		b := compiled(t, `{"t": data.list.map(x, x + x)}`)
		document := []byte(`{"event":"feedback.created","data":{"list":["` + strings.Repeat(`x","`, 500) + `"]}}`)
		began := time.Now()
		if _, _, err := turns.Make(t.Context(), b, Event{Type: event.Created, Document: document}); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		turns.free <- struct{}{}
		rested := time.Since(began) - took
		<-turns.free
		if rested > took*rest*3/4 {
			return
		}
	}
	t.Error("twenty times, the next turn came at once")
}

// TestWebhookHasOnePlace: however many of its deliveries wait for a turn.
func TestWebhookHasOnePlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns()
		many, one := compiled(t, `{"t": data.a}`), compiled(t, `{"t": data.b}`)
		many.watch.Store(10)
		turns.free <- struct{}{}
		time.AfterFunc(time.Minute, func() { <-turns.free })
		order := make(chan *Body, 4)
		send := func(b *Body) {
			_, _, _ = turns.Make(t.Context(), b, Event{Type: event.Created, Document: []byte(`{"data":{}}`)})
			order <- b
		}
		for range 3 {
			go send(many)
		}
		synctest.Wait()
		go send(one)
		<-order
		if second := <-order; second != one {
			t.Error("the other webhook waits for more than one delivery")
		}
		<-order
		<-order
	})
}
