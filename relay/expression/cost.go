package expression

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// Bounds of one evaluation. A cost unit is one step of CEL, which takes less than a
// microsecond. TestDearExpressionsEnd prints the resulting times.
const (
	// maxCost bounds an evaluation. CEL's cost counting gets slower with each step of a
	// comprehension: five times this bound would take twenty times as long.
	maxCost = 10_000
	// bytesPerUnit is how many bytes of new text cost one unit. An evaluation makes
	// less than maxCost times this, 320 kB.
	bytesPerUnit = 32
	// readPerUnit is how many bytes of text cost one unit if they are only read.
	readPerUnit = 256
	// zoneCost is the cost of a function with a time zone, which reads a file.
	zoneCost = 500
	// maxNesting bounds how deep comprehensions are nested.
	maxNesting = 3
	// maxInstructions bounds the program of one regular expression.
	maxInstructions = 1000
	// maxMatching bounds one match: instructions times bytes read.
	maxMatching = 1 << 20
	// matchingPerUnit is how many of these cost one unit.
	matchingPerUnit = 64
)

// pattern is a regular expression and its number of instructions.
type pattern struct {
	compiled     *regexp.Regexp
	instructions int
}

// checkCost rejects expressions whose form alone can be expensive: regular expressions
// that are large or not constant, and deeply nested comprehensions. It returns the
// compiled regular expressions by source.
func checkCost(a *cel.Ast) (map[string]pattern, error) {
	patterns := make(map[string]pattern)
	var problems []string
	root := ast.NavigateAST(a.NativeRep())
	refuse := func(e ast.NavigableExpr, format string, args ...any) {
		location := a.NativeRep().SourceInfo().GetStartLocation(e.ID())
		problems = append(problems, at(location.Line(), location.Column(), format, args...).Error())
	}
	for _, e := range ast.MatchDescendants(root, ast.FunctionMatcher(overloads.Matches)) {
		args := e.AsCall().Args()
		last := args[len(args)-1]
		if last.Kind() != ast.LiteralKind {
			refuse(e, "the regular expression of matches must be written as a text in quotes")
			continue
		}
		source, _ := last.AsLiteral().Value().(string)
		p, err := compilePattern(source)
		if err != nil {
			refuse(e, "%v", err)
			continue
		}
		patterns[source] = p
	}
	for _, e := range ast.MatchDescendants(root, ast.KindMatcher(ast.ComprehensionKind)) {
		if nesting(e) > maxNesting {
			refuse(e, "it is nested too deeply in all, exists, filter or map; at most %d are possible", maxNesting)
			break
		}
	}
	if len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "; "))
	}
	return patterns, nil
}

// nesting returns how many comprehensions contain e, including e itself.
func nesting(e ast.NavigableExpr) int {
	n := 1
	for parent, ok := e.Parent(); ok; parent, ok = parent.Parent() {
		if parent.Kind() == ast.ComprehensionKind {
			n++
		}
	}
	return n
}

func compilePattern(source string) (pattern, error) {
	parsed, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return pattern{}, fmt.Errorf("the regular expression is wrong: %w", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return pattern{}, fmt.Errorf("the regular expression is wrong: %w", err)
	}
	n := len(program.Inst)
	if n > maxInstructions {
		return pattern{}, fmt.Errorf("the regular expression is too large: %d instructions, at most %d are possible", n, maxInstructions)
	}
	compiled, err := regexp.Compile(source)
	return pattern{compiled, n}, err
}

// match returns text.matches(p). If the text is too long for p, it returns an error
// before it reads the text.
func match(patterns map[string]pattern, text, p ref.Val) ref.Val {
	s, ok := text.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(text)
	}
	known := patterns[string(p.(types.String))]
	if len(s)*known.instructions > maxMatching {
		return types.WrapErr(ErrTooDear)
	}
	return types.Bool(known.compiled.MatchString(string(s)))
}

// costs returns the cost of a call. All other steps cost one unit each.
type costs struct{ patterns map[string]pattern }

var _ interpreter.ActualCostEstimator = costs{}

// CallCost implements interpreter.ActualCostEstimator.
func (c costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	cost := 1
	switch function {
	case memberFunction, presentFunction, overloads.Size, overloads.TypeConvertType:
		// These operations read one element only.
	case objectFunction:
		if pairs, ok := args[0].(traits.Lister); ok { // else one of them is an error
			cost += int(pairs.Size().(types.Int)) // it does not read the values
		}
	case matchesFunction:
		text, _ := args[0].(types.String)
		p, _ := args[1].(types.String)
		cost += len(text) * c.patterns[string(p)].instructions / matchingPerUnit
	default:
		if len(args) == 2 && args[0].Type() == types.TimestampType {
			cost += zoneCost
		}
		for _, a := range args {
			cost += read(a)
		}
		cost += made(function, result)
	}
	n := uint64(cost)
	return &n
}

// read returns the cost of reading all of a value.
func read(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v) / readPerUnit
	case types.Bytes:
		return len(v) / readPerUnit
	case traits.MutableLister:
		return 0 // a comprehension appends to this list and does not read it
	case traits.Mapper:
		n := 0
		for it := v.Iterator(); it.HasNext() == types.True && n <= maxCost; {
			n += 1 + read(v.Get(it.Next()))
		}
		return n
	case traits.Lister:
		n := 0
		for it := v.Iterator(); it.HasNext() == types.True && n <= maxCost; {
			n += 1 + read(it.Next())
		}
		return n
	}
	return 0
}

// made returns the cost of the text that a call created.
func made(function string, result ref.Val) int {
	if function == operators.Conditional {
		return 0
	}
	switch v := result.(type) {
	case types.String:
		return len(v) / bytesPerUnit
	case types.Bytes:
		return len(v) / bytesPerUnit
	}
	return 0
}

// quoted matches what CEL's errors quote of the values that they are about.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'`)

// readable returns ErrTooDear if CEL stopped because of cost. It hides the values that
// other errors quote: errors are logged, and what visitors write is not.
func readable(err error) error {
	var cancelled interpreter.EvalCancelledError
	if errors.Is(err, ErrTooDear) || errors.As(err, &cancelled) {
		return ErrTooDear
	}
	return errors.New(quoted.ReplaceAllString(err.Error(), `"…"`))
}
