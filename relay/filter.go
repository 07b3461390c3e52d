package relay

import (
	"encoding/json"
	"fmt"

	"cel.dev/cel-go/cel"
)

// filter decides which events a webhook wants, by a CEL expression over
// `event`, the type, and `data`, the feedback.
type filter struct{ program cel.Program }

// filterCost bounds the work of one evaluation, in CEL's units.
const filterCost = 1 << 20

// compileFilter's errors have the position in the expression.
func compileFilter(expression string) (*filter, error) {
	env, err := cel.NewEnv(
		cel.Variable("event", cel.StringType),
		cel.Variable("data", cel.MapType(cel.StringType, cel.DynType)),
		cel.CrossTypeNumericComparisons(true),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	ast, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("does not compile: %w", err)
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("gives a %s; it must give true or false", t)
	}
	p, err := env.Program(ast, cel.CostLimit(filterCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("does not compile: %w", err)
	}
	return &filter{program: p}, nil
}

// document is an event parsed once for all filters.
type document struct {
	body []byte
	vars map[string]any
}

// matches tells whether the webhook wants the event. An expression that cannot
// be evaluated, mostly for a member that is absent, does not match.
func (f *filter) matches(d *document) bool {
	if f == nil {
		return true
	}
	if d.vars == nil {
		var parsed struct {
			Event string         `json:"event"`
			Data  map[string]any `json:"data"`
		}
		if err := json.Unmarshal(d.body, &parsed); err != nil {
			return false // the body is canonical: this does not happen
		}
		d.vars = map[string]any{"event": parsed.Event, "data": parsed.Data}
	}
	v, _, err := f.program.Eval(d.vars)
	if err != nil {
		return false
	}
	ok, isBool := v.Value().(bool)
	return isBool && ok
}
