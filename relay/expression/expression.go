// Package expression evaluates the CEL expressions of webhooks over an event's
// document: conditions, which are true or false, and templates, which make the body of a
// request.
//
// It promises three things. First, an absent member reads as null, and so does
// everything below it. Null equals only null, and every ordering with it is false,
// without an error. Second, Compile rejects an expression that is wrong, or expensive
// with every event, and reports the position. Third, an expression that becomes
// expensive with a particular event ends with ErrTooDear after some milliseconds and
// some hundred kilobytes. Its cost is counted in steps and bytes, never in time, so the
// same event gives the same result on a slow machine.
//
// The package does not know webhooks, HTTP or the queue.
package expression

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// ErrTooDear reports that evaluating an expression would cost too much.
var ErrTooDear = errors.New("it costs too much; make the expression simpler")

// maxLength bounds an expression's source, in characters.
const maxLength = 4096

// Document is the document of one event. It is parsed once for all expressions. Only
// one goroutine at a time may use it.
type Document struct {
	body []byte
	vars map[string]any
}

// NewDocument returns the document in body. It is parsed when the first expression
// reads it.
func NewDocument(body []byte) *Document { return &Document{body: body} }

func (d *Document) variables() (map[string]any, error) {
	if d.vars == nil {
		var parsed struct {
			Event string         `json:"event"`
			Data  map[string]any `json:"data"`
		}
		if err := json.Unmarshal(d.body, &parsed); err != nil {
			return nil, fmt.Errorf("the event cannot be read: %w", err)
		}
		d.vars = map[string]any{"event": parsed.Event, "data": parsed.Data}
	}
	return d.vars, nil
}

// Condition is a compiled expression whose value is true or false.
type Condition struct{ program cel.Program }

// nothing is an event without members. An expression that is expensive with it is
// expensive with every event.
const nothing = `{"event":"feedback.created","timestamp":"2026-01-07T15:30:00Z","data":{}}`

// CompileCondition compiles a condition. The expression may use `event`, the event's
// type, and `data`, the feedback. An error includes line and column.
func CompileCondition(source string) (*Condition, error) {
	program, err := compile(source, "true or false", types.BoolKind)
	if err != nil {
		return nil, err
	}
	c := &Condition{program: program}
	if _, err := c.Match(NewDocument([]byte(nothing))); errors.Is(err, ErrTooDear) {
		return nil, at(1, 0, "%w", err)
	}
	return c, nil
}

// Match reports whether the condition is true for the document. It returns an error if
// the condition cannot be judged: a type does not fit, or ErrTooDear. A nil Condition
// matches every document.
func (c *Condition) Match(d *Document) (bool, error) {
	holds, _, err := c.Judge(d)
	return holds, err
}

// Judge does what Match does, and also reports whether the document was dear to judge: see
// Made.Dear.
func (c *Condition) Judge(d *Document) (holds, dear bool, err error) {
	if c == nil {
		return true, false, nil
	}
	vars, err := d.variables()
	if err != nil {
		return false, false, err
	}
	v, details, err := c.program.Eval(vars)
	dear = isDear(details)
	if err != nil {
		return false, dear, readable(err)
	}
	holds, ok := v.Value().(bool)
	if !ok {
		return false, dear, fmt.Errorf("it gives %s, not true or false", typeName(v))
	}
	return holds, dear, nil
}

// compile checks source as its author wrote it and plans it with the rules of this
// package. The value must be of one of the kinds, which wanted describes.
func compile(source, wanted string, kinds ...types.Kind) (cel.Program, error) {
	variables := []cel.EnvOption{
		cel.Variable("event", cel.StringType),
		cel.Variable("data", cel.MapType(cel.StringType, cel.DynType)),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxLength),
	}
	if !slices.Contains(kinds, types.BoolKind) {
		variables = append(variables,
			cel.Variable("timestamp", cel.StringType),
			cel.Variable("webhook", cel.MapType(cel.StringType, cel.StringType)))
	}
	env, err := cel.NewEnv(variables...)
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, positions(issues)
	}
	patterns, err := checkCost(ast)
	if err != nil {
		return nil, err
	}
	if output := ast.OutputType(); !slices.Contains(append(kinds, types.DynKind), output.Kind()) {
		root := ast.NativeRep().SourceInfo().GetStartLocation(ast.NativeRep().Expr().ID())
		return nil, at(root.Line(), root.Column(), "gives a %s; it must give %s", output, wanted)
	}
	return rewrite(env, ast, patterns)
}

// positions returns an error with one line for each of the first problems that CEL
// found.
func positions(issues *cel.Issues) error {
	const most = 3
	var lines []string
	for _, e := range issues.Errors() {
		if len(lines) == most {
			break
		}
		// Drop the source that CEL repeats below some messages; the position is enough.
		message, _, _ := strings.Cut(e.Message, "\n")
		lines = append(lines, at(e.Location.Line(), e.Location.Column(), "%s", message).Error())
	}
	return errors.New(strings.Join(lines, "; "))
}

// at returns an error at a position line:column of the source, both from 1.
func at(line, column int, format string, args ...any) error {
	return fmt.Errorf("%d:%d: %w", line, column+1, fmt.Errorf(format, args...))
}
