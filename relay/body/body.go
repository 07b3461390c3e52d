// Package body makes what is sent to a webhook with a body of its own: a message of a
// chat tool, or what an expression makes.
//
// It promises that the same event gives the same bytes, that a message keeps the
// published limits of its chat tool, whatever the feedback holds, and that a message
// mentions nobody. JSON is in canonical form.
//
// The package does not know HTTP, signatures or the queue. Its tests make messages of a
// thousand hostile feedbacks and check the limits that each service publishes.
package body

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/expression"
)

// The media types of bodies.
const (
	JSON = "application/json"
	Text = "text/plain; charset=utf-8"
)

// presets makes the messages of chat tools.
var presets = map[string]func(card) any{"slack": slack, "discord": discord, "teams": teams}

// Presets returns the names of the presets.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

// Body is a compiled body. A nil Body sends the event's document.
type Body struct {
	preset   func(card) any
	template *expression.Template

	turn  chan struct{} // held by the one delivery that waits for its turn, or has it
	watch atomic.Int32  // how many bodies still wait for a turn
}

// Compile compiles the name of a preset, or an expression. An error of an expression
// includes line and column. Without a source it returns nil.
func Compile(source string) (*Body, error) {
	source = strings.TrimSpace(source)
	if source == "" {
		return nil, nil
	}
	if preset := presets[source]; preset != nil {
		return &Body{preset: preset}, nil
	}
	template, err := expression.CompileTemplate(source)
	if err != nil {
		if !strings.ContainsAny(source, " \n\t{[(\"'.") {
			err = fmt.Errorf("%w; besides an expression it can be %s", err, strings.Join(Presets(), ", "))
		}
		return nil, err
	}
	b := &Body{template: template, turn: make(chan struct{}, 1)}
	b.watch.Store(1)
	return b, nil
}

// Event is the event that a body is made of.
type Event struct {
	Type     event.Type
	Document []byte
	// Webhook is the name of the webhook that gets the body.
	Webhook string
	// Link is the event's page in the console; empty if there is none.
	Link string
}

// Make returns what is sent for an event, and its media type. Expressions see feedback
// only: operational events are sent as they are, unless the body is a preset.
func (b *Body) Make(e Event) (made []byte, mediaType string, err error) {
	made, mediaType, _, err = b.make(e)
	return made, mediaType, err
}

// make also reports whether the body was dear to make.
func (b *Body) make(e Event) (made []byte, mediaType string, dear bool, err error) {
	switch {
	case b == nil, b.preset == nil && e.Type.Operational():
		return e.Document, JSON, false, nil
	case b.preset == nil:
		m, err := b.template.Make(e.Document, e.Webhook)
		if m.Text {
			return m.Body, Text, m.Dear, err
		}
		return m.Body, JSON, m.Dear, err
	}
	c, err := newCard(e)
	if err != nil {
		return nil, JSON, false, err
	}
	written, err := json.Marshal(b.preset(c))
	if err != nil {
		return nil, JSON, false, fmt.Errorf("writing the message: %w", err)
	}
	made, err = event.Canonical(written)
	return made, JSON, false, err
}
