package requirement

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// inspect refuses what CEL's type checker lets pass, and notes which headers an expression reads.
//
// Cost is one reason. CEL counts what an operation costs after it, by the length of its operands, but lists share their
// members: [a, a] in [b, b] in [c, c] and so on is short to write, and takes for ever to compare or to print. So nothing is
// compared whose type says nothing about its depth, unless it is a claim, and lists are not joined.
func (x *expression) inspect(checked *ast.AST, variables []string) *FieldError {
	var first *FieldError
	refuse := func(remedy, format string, args ...any) {
		if first == nil {
			first = &FieldError{Problem: fmt.Sprintf(format, args...), Remedy: remedy}
		}
	}
	var visit func(ast.NavigableExpr)
	visit = func(e ast.NavigableExpr) {
		switch {
		case isHeaders(checked, e):
			x.inspectHeader(e, refuse)
		case e.Kind() == ast.IdentKind && e.AsIdent() == "path":
			if name, constant, ok := key(e); ok && constant && !slices.Contains(variables, name) {
				refuse(whichVariables(variables), "no path variable is named %s", word(name))
			}
		case e.Kind() == ast.StructKind:
			refuse("compare its fields instead", "objects cannot be made in an expression")
		case e.Kind() == ast.CallKind:
			x.inspectCall(checked, e, refuse)
		}
		for _, child := range e.Children() {
			visit(child)
		}
	}
	visit(ast.NavigateAST(checked))
	return first
}

// isHeaders reports whether e is request.headers.
func isHeaders(checked *ast.AST, e ast.Expr) bool {
	return isField(checked, e, requestType, "headers")
}

func isField(checked *ast.AST, e ast.Expr, of *types.Type, name string) bool {
	return e.Kind() == ast.SelectKind && e.AsSelect().FieldName() == name && !e.AsSelect().IsTestOnly() &&
		checked.GetType(e.AsSelect().Operand().ID()).IsExactType(of)
}

// key returns what is looked up in the map e, if that is what is done with it: m.key, m["key"], "key" in m or has(m.key). A key
// that is only known when the expression is evaluated is not constant.
func key(e ast.NavigableExpr) (name string, constant, ok bool) {
	parent, ok := e.Parent()
	if !ok {
		return "", false, false
	}
	switch parent.Kind() {
	case ast.SelectKind:
		return parent.AsSelect().FieldName(), true, true
	case ast.CallKind:
		args := parent.AsCall().Args()
		var index ast.Expr
		switch function := parent.AsCall().FunctionName(); {
		case function == operators.Index && args[0].ID() == e.ID():
			index = args[1]
		case function == operators.In && args[1].ID() == e.ID():
			index = args[0]
		default:
			return "", false, false
		}
		if index.Kind() != ast.LiteralKind {
			return "", false, true
		}
		literal, isText := index.AsLiteral().(types.String)
		return string(literal), isText, true
	}
	return "", false, false
}

// inspectHeader notes the header that is read. Headers are fetched one by one, so nothing can be done with all of them.
func (x *expression) inspectHeader(e ast.NavigableExpr, refuse func(remedy, format string, args ...any)) {
	name, constant, ok := key(e)
	switch {
	case !ok:
		refuse(`name the header: request.headers["x-name"] or "x-name" in request.headers`, "request.headers cannot be listed or compared")
	case !constant:
		x.allHeaders = true
	case name != strings.ToLower(name):
		refuse("write "+word(strings.ToLower(name)), "header names are in lower case, and %s is not", word(name))
	default:
		x.headers = append(x.headers, name)
	}
}

func (x *expression) inspectCall(checked *ast.AST, e ast.Expr, refuse func(remedy, format string, args ...any)) {
	call := e.AsCall()
	args := call.Args()
	switch function := call.FunctionName(); function {
	case operators.Equals, operators.NotEquals, operators.In:
		if !isShallow(checked, args[0]) && !isShallow(checked, args[1]) {
			refuse("convert one of them: string(…), int(…), double(…), bool(…)",
				"neither side of %s is known to be a text, a number or the like", strings.Trim(function, "_@"))
		}
	case operators.Index:
		if !isShallow(checked, args[1]) {
			refuse("convert it: string(…) or int(…)", "the type of an index is not known")
		}
	case operators.Add:
		joins := slices.Contains(checked.GetOverloadIDs(e.ID()), overloads.AddList)
		if macro := args[0].Kind() == ast.IdentKind && strings.HasPrefix(args[0].AsIdent(), "@"); joins && !macro {
			refuse("look through one after the other, or if it is a text, convert it: string(…)", "lists cannot be joined")
		}
	case overloads.Matches:
		x.inspectPattern(args[len(args)-1], refuse)
	case "format", "join":
		refuse("compare the parts", "%s is not available", function)
	}
}

// inspectPattern notes how large a regular expression is.
func (x *expression) inspectPattern(e ast.Expr, refuse func(remedy, format string, args ...any)) {
	if e.Kind() != ast.LiteralKind {
		refuse("write it in quotes", "a regular expression must be constant")
		return
	}
	pattern, _ := e.AsLiteral().(types.String)
	parsed, err := syntax.Parse(string(pattern), syntax.Perl)
	if err != nil {
		refuse("see https://github.com/google/re2/wiki/Syntax", "%s", shorten(err.Error()))
		return
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxPattern {
		refuse("repeat less of it", "the regular expression is too large")
		return
	}
	x.patterns[string(pattern)] = uint64(len(program.Inst))
}

// isShallow reports whether a value is a scalar or holds nothing but scalars, or is a claim, which the JWT's length bounds.
func isShallow(checked *ast.AST, e ast.Expr) bool {
	t := checked.GetType(e.ID())
	if isScalar(t) || len(t.Parameters()) > 0 && !slices.ContainsFunc(t.Parameters(), func(p *types.Type) bool { return !isScalar(p) }) {
		return true
	}
	for {
		if isField(checked, e, sessionType, "claims") {
			return true
		}
		switch {
		case e.Kind() == ast.SelectKind:
			e = e.AsSelect().Operand()
		case e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.Index:
			e = e.AsCall().Args()[0]
		default:
			return false
		}
	}
}

func isScalar(t *types.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.BytesKind, types.DoubleKind, types.DurationKind, types.IntKind, types.NullTypeKind, types.StringKind,
		types.TimestampKind, types.TypeKind, types.UintKind:
		return true
	}
	return false
}
