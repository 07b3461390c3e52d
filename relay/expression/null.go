package expression

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Functions that replace CEL's own. Their names cannot be written in an expression.
const (
	memberFunction  = "@member"
	presentFunction = "@present"
	matchesFunction = "@matches"
	objectFunction  = "@object"
)

// orderings maps CEL's comparison operators to their replacements.
var orderings = map[string]struct {
	function string
	holds    func(compared types.Int) bool
}{
	operators.Less:          {"@less", func(c types.Int) bool { return c < 0 }},
	operators.LessEquals:    {"@less_equals", func(c types.Int) bool { return c <= 0 }},
	operators.Greater:       {"@greater", func(c types.Int) bool { return c > 0 }},
	operators.GreaterEquals: {"@greater_equals", func(c types.Int) bool { return c >= 0 }},
}

// rewrite plans a checked expression so that absent members read as null, maps keep the
// order in which they are written, and regular expressions are the compiled, bounded
// ones.
func rewrite(env *cel.Env, checked *cel.Ast, patterns map[string]pattern) (cel.Program, error) {
	options := []cel.EnvOption{
		binary(memberFunction, cel.DynType, member),
		binary(presentFunction, cel.BoolType, present),
		binary(matchesFunction, cel.BoolType, func(text, p ref.Val) ref.Val { return match(patterns, text, p) }),
		cel.Function(objectFunction, cel.Overload(objectFunction, []*cel.Type{cel.ListType(cel.DynType)}, cel.DynType, cel.UnaryBinding(newObject))),
	}
	for _, o := range orderings {
		options = append(options, binary(o.function, cel.BoolType, func(a, b ref.Val) ref.Val { return compare(a, b, o.holds) }))
	}
	extended, err := env.Extend(options...)
	if err != nil {
		return nil, err
	}
	optimizer, err := cel.NewStaticOptimizer(nullReader{})
	if err != nil {
		return nil, err
	}
	planned, issues := optimizer.Optimize(extended, checked)
	if issues.Err() != nil {
		return nil, positions(issues)
	}
	return extended.Program(planned, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(costs{patterns}), cel.CostLimit(maxCost))
}

// binary declares a function of two values of any type.
func binary(name string, result *cel.Type, f func(a, b ref.Val) ref.Val) cel.EnvOption {
	return cel.Function(name, cel.Overload(name, []*cel.Type{cel.DynType, cel.DynType}, result, cel.BinaryBinding(f)))
}

// nullReader replaces the operations that read members, the comparisons and the maps.
type nullReader struct{}

// Optimize implements cel.ASTOptimizer.
func (nullReader) Optimize(ctx *cel.OptimizerContext, a *ast.AST) *ast.AST {
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			s := e.AsSelect()
			function := memberFunction
			if s.IsTestOnly() {
				function = presentFunction
			}
			e.SetKindCase(ctx.NewCall(function, s.Operand(), ctx.NewLiteral(types.String(s.FieldName()))))
		case ast.MapKind:
			var pairs []ast.Expr
			for _, entry := range e.AsMap().Entries() {
				pairs = append(pairs, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
			}
			e.SetKindCase(ctx.NewCall(objectFunction, ctx.NewList(pairs, nil)))
		case ast.CallKind:
			c := e.AsCall()
			args := c.Args()
			if c.IsMemberFunction() {
				args = append([]ast.Expr{c.Target()}, args...)
			}
			name := c.FunctionName()
			switch {
			case name == operators.Index:
				e.SetKindCase(ctx.NewCall(memberFunction, args...))
			case name == overloads.Matches:
				e.SetKindCase(ctx.NewCall(matchesFunction, args...))
			case orderings[name].function != "":
				e.SetKindCase(ctx.NewCall(orderings[name].function, args...))
			}
		}
	}))
	return a
}

// member returns of[key], or null if there is no such member or of is null.
func member(of, key ref.Val) ref.Val {
	switch of := of.(type) {
	case types.Null:
		return of
	case traits.Mapper:
		if v, found := of.Find(key); found || types.IsUnknownOrError(v) {
			return v
		}
		return types.NullValue
	case traits.Lister:
		i, err := types.IndexOrError(key)
		if err != nil {
			return types.WrapErr(err)
		}
		if i < 0 || i >= int(of.Size().(types.Int)) {
			return types.NullValue
		}
		return of.Get(key)
	}
	return types.MaybeNoSuchOverloadErr(of)
}

// present returns has(of.key).
func present(of, key ref.Val) ref.Val {
	switch of := of.(type) {
	case types.Null:
		return types.False
	case traits.Mapper:
		v, found := of.Find(key)
		if !found && types.IsUnknownOrError(v) {
			return v
		}
		return types.Bool(found)
	}
	return types.MaybeNoSuchOverloadErr(of)
}

// compare returns the result of an ordering of a and b. It is false if one of them is
// null.
func compare(a, b ref.Val, holds func(types.Int) bool) ref.Val {
	if a == types.NullValue || b == types.NullValue {
		return types.False
	}
	c, ok := a.(traits.Comparer)
	if !ok {
		return types.MaybeNoSuchOverloadErr(a)
	}
	switch compared := c.Compare(b).(type) {
	case types.Int:
		return types.Bool(holds(compared))
	default:
		return compared
	}
}

// typeName returns the name of a value's type for an error message.
func typeName(v ref.Val) string {
	if v == types.NullValue {
		return "null"
	}
	return "a " + v.Type().TypeName()
}
