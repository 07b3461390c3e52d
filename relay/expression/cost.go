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

// What one evaluation may cost. A unit is one step of CEL, below a microsecond.
// TestDearExpressionsEnd prints what the bounds come to.
const (
	// maxCost bounds an evaluation. CEL's own counting gets slower with each step
	// of a comprehension, so five times as much would take twenty times as long.
	maxCost = 10_000
	// bytesPerUnit is how much of a new text costs one unit: all that an
	// evaluation makes is below maxCost times this, 320 kB.
	bytesPerUnit = 32
	// readPerUnit is how much of a text that is only read costs one unit.
	readPerUnit = 256
	// zoneCost is that of a function that is given a time zone: it reads a file.
	zoneCost = 500
	// maxNesting bounds comprehensions within comprehensions.
	maxNesting = 3
	// maxInstructions bounds the program of one regular expression.
	maxInstructions = 1000
	// maxMatching bounds one match: instructions times bytes read.
	maxMatching = 1 << 20
	// matchingPerUnit is how much of that costs one unit.
	matchingPerUnit = 64
)

// pattern is a regular expression and the number of its instructions.
type pattern struct {
	compiled     *regexp.Regexp
	instructions int
}

// checkCost refuses what could be dear by its form: regular expressions that are
// no constants or are large, and comprehensions that are nested deeply. It
// returns the regular expressions by their source.
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

// nesting counts the comprehensions that e is in, itself included.
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

// match is text.matches(p). A text that is too long for p is an error, before it
// is read.
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

// costs counts what a call has cost; all other steps cost one unit each.
type costs struct{ patterns map[string]pattern }

var _ interpreter.ActualCostEstimator = costs{}

// CallCost implements interpreter.ActualCostEstimator.
func (c costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	cost := 1
	switch function {
	case memberFunction, presentFunction, overloads.Size, overloads.TypeConvertType:
		// These look at one place.
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

// read is the cost of reading a value whole.
func read(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v) / readPerUnit
	case types.Bytes:
		return len(v) / readPerUnit
	case traits.MutableLister:
		return 0 // the list that a comprehension appends to: it is not read
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

// made is the cost of the text that a call made.
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

// readable returns ErrTooDear for each of the ways in which CEL gives up, and other
// errors as they are.
func readable(err error) error {
	var cancelled interpreter.EvalCancelledError
	if errors.Is(err, ErrTooDear) || errors.As(err, &cancelled) {
		return ErrTooDear
	}
	return err
}
