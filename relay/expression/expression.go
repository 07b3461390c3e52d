// Package expression evaluates the CEL expressions that webhooks are configured
// with, over the document of an event.
//
// It promises three things. A member that is absent reads as null, and so does
// everything below it: null equals null alone, and each ordering with it is
// false, without an error. An expression that is wrong, or that is dear whatever
// the event, is refused by Compile, with its position. One that becomes dear with
// an event ends with ErrTooDear after some milliseconds and some hundred
// kilobytes: its cost is counted in steps and bytes, never in time, so the same
// event gives the same result on a slow machine.
//
// The package does not know webhooks, HTTP or the queue.
package expression

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// ErrTooDear says that evaluating an expression would cost too much.
var ErrTooDear = errors.New("it costs too much; make the expression simpler")

// maxLength bounds an expression's source, in characters.
const maxLength = 4096

// Document is the document of one event, parsed once for all expressions. One
// goroutine at a time may use it.
type Document struct {
	body []byte
	vars map[string]any
}

// NewDocument keeps body, which is an event's document; it is parsed when the
// first expression asks for it.
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

// Condition is an expression that gives true or false.
type Condition struct{ program cel.Program }

// CompileCondition compiles a condition over `event`, the event's type, and
// `data`, the feedback. An error names line and column.
func CompileCondition(source string) (*Condition, error) {
	program, output, err := compile(source)
	if err != nil {
		return nil, err
	}
	if !output.IsExactType(types.BoolType) && !output.IsExactType(types.DynType) {
		return nil, fmt.Errorf("gives a %s; it must give true or false", output)
	}
	c := &Condition{program: program}
	// What is dear with an event that says nothing is dear with every event.
	if _, err := c.Match(NewDocument([]byte(`{"event":"feedback.created","data":{}}`))); errors.Is(err, ErrTooDear) {
		return nil, err
	}
	return c, nil
}

// Match reports whether the condition holds for the document. An error says why
// it cannot be judged: a type that does not fit, or ErrTooDear. A nil Condition
// holds for every document.
func (c *Condition) Match(d *Document) (bool, error) {
	if c == nil {
		return true, nil
	}
	vars, err := d.variables()
	if err != nil {
		return false, err
	}
	v, _, err := c.program.Eval(vars)
	if err != nil {
		return false, readable(err)
	}
	holds, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("it gives %s, not true or false", typeName(v))
	}
	return holds, nil
}

// compile checks source as its author wrote it, then plans it with the rules of
// this package; the type is that of its value.
func compile(source string) (cel.Program, *cel.Type, error) {
	env, err := cel.NewEnv(
		cel.Variable("event", cel.StringType),
		cel.Variable("data", cel.MapType(cel.StringType, cel.DynType)),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxLength),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("preparing CEL: %w", err)
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, nil, positions(issues)
	}
	patterns, err := checkCost(ast)
	if err != nil {
		return nil, nil, err
	}
	planned, err := rewrite(env, ast, patterns)
	if err != nil {
		return nil, nil, err
	}
	return planned, ast.OutputType(), nil
}

// positions is one line for each of the first problems that CEL found.
func positions(issues *cel.Issues) error {
	const most = 3
	var lines []string
	for _, e := range issues.Errors() {
		if len(lines) == most {
			break
		}
		// CEL repeats the source below some messages: the position is enough.
		message, _, _ := strings.Cut(e.Message, "\n")
		lines = append(lines, at(e.Location.Line(), e.Location.Column(), "%s", message).Error())
	}
	return errors.New(strings.Join(lines, "; "))
}

// at is an error at a position of the source, line:column, both from 1.
func at(line, column int, format string, args ...any) error {
	return fmt.Errorf("%d:%d: %s", line, column+1, fmt.Sprintf(format, args...))
}
