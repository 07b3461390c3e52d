package console

import (
	"net/http"
	"slices"

	"github.com/userhero/relay/relay"
	"github.com/userhero/relay/relay/body"
)

// bodyChoice is the choice of what a webhook sends, as a form has it.
type bodyChoice struct {
	Choice     string // "" for the document, the name of a preset, or ownExpression
	Expression string
}

// ownExpression is the choice of an expression.
const ownExpression = "own"

// sentOf returns the choice that a webhook's body is.
func sentOf(source string) bodyChoice {
	if source == "" || slices.Contains(body.Presets(), source) {
		return bodyChoice{Choice: source}
	}
	return bodyChoice{ownExpression, source}
}

// sentIn reads the choice of a form.
func sentIn(r *http.Request) bodyChoice { return bodyChoice{field(r, "sent"), field(r, "body")} }

// source returns the webhook's body.
func (s bodyChoice) source() string {
	if s.Choice == ownExpression {
		return s.Expression
	}
	return s.Choice
}

// Choices are the options of the form.
func (s bodyChoice) Choices() []choice {
	choices := []choice{{Value: "", Name: "The event's document"}}
	for _, preset := range []struct{ value, name string }{{"slack", "Slack"}, {"discord", "Discord"}, {"teams", "Microsoft Teams"}} {
		choices = append(choices, choice{Value: preset.value, Name: "A message for " + preset.name})
	}
	choices = append(choices, choice{Value: ownExpression, Name: "What the expression makes"})
	for i := range choices {
		choices[i].Chosen = choices[i].Value == s.Choice
	}
	return choices
}

// preview is what a body makes of one event.
type preview struct {
	Of          string // the event's id; empty for the sample
	ContentType string
	Body        piece
	Error       string
}

// previewsOf returns what the body of a form makes.
func (p pages) previewsOf(r *http.Request, name string) (previews []preview, err error) {
	made, err := p.relay.Preview(r.Context(), name, linesOf(r, "projects"), sentIn(r).source())
	for _, m := range slices.Backward(made) { // the newest feedback first
		previews = append(previews, previewOf(m))
	}
	return previews, err
}

func previewOf(m relay.Preview) preview {
	p := preview{ContentType: m.MediaType, Body: pieceOf(indented(m.Body), mostBody, "")}
	if m.Err != nil {
		p = preview{Error: m.Err.Error()}
	}
	if !m.Event.IsZero() {
		p.Of = m.Event.String()
	}
	return p
}
