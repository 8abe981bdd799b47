package requirement

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

const (
	// maxExpression bounds the text, in characters, and with it the time that parsing takes; as in config.proto.
	maxExpression = 4096
	// maxDepth and maxLoops bound how deep brackets nest, and how many lists are looked through: CEL's type checker takes the
	// cube of either.
	maxDepth, maxLoops = 50, 16
	// maxText is how long a text of a request may be, in bytes, for an expression to be judged; a session's are shorter,
	// since its JWT is at most as long.
	maxText = 8192
	// maxMembers and maxMember are how many members a list is taken to have, and how long each, when a cost is estimated: as
	// many roles as a session may have. Claims may be of other shapes, but not larger as a whole.
	maxMembers, maxMember = 256, 256
	// maxCost ends an evaluation, in CEL's units: after 60 ms of one core at most. Policies cost less than 500,
	// one that looks for 100 roles in a claim of 100 members 11,000.
	maxCost = 50_000
	// maxEstimate refuses an expression when it is loaded. The estimate takes every text and list to be as long as it can
	// be, all at once, so it is far above what evaluation costs: this much still lets every role be looked for in a
	// header. What passes here is still held to maxCost.
	maxEstimate = 200 * maxCost
	// maxPattern bounds a compiled regular expression, in RE2's instructions. A pattern for a UUID has 70.
	maxPattern = 512
	// stepCost is the cost of one instruction at one byte: 10 ns, of the 300 ns that a unit takes.
	stepCost = 1. / 32
	// interruptEvery is after how many rounds of a comprehension its context is looked at.
	interruptEvery = 64
)

// Why an expression could not be evaluated. CEL's own errors say more, but what they say may be a value.
var (
	errTooLong   = errors.New("a text of the request is longer than 8192 bytes")
	errCost      = errors.New("it costs too much to evaluate")
	errCancelled = errors.New("the request ended before it was evaluated")
	errMissing   = errors.New("something that it reads is not there")
	errEvaluated = errors.New("it could not be evaluated with what the session and the request hold")
)

// expression is a CEL expression, checked and planned. Programs are safe for concurrent use.
type expression struct {
	text    string
	program cel.Program
	// patterns are its regular expressions, with their instructions.
	patterns map[string]uint64
	// headers are those that it reads, all whether it may read any.
	headers    []string
	allHeaders bool
}

// environment is what every expression is checked in. It never changes, but for what it makes once and keeps.
var environment = sync.OnceValue(func() *cel.Env {
	env, err := cel.NewEnv(
		cel.CustomTypeProvider(provider{registry}),
		cel.CustomTypeAdapter(registry),
		cel.Variable("session", sessionType),
		cel.Variable("request", requestType),
		cel.Variable("path", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("now", cel.TimestampType),
		cel.CrossTypeNumericComparisons(true), // a claim's number may be either
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxDepth),
		ext.Strings(ext.StringsVersion(5)), // the first one whose costs are known
	)
	if err != nil {
		panic(err)
	}
	return env
})

// compile checks and plans an expression. The Field of its error is left to the caller.
func compile(text string, variables []string) (_ *expression, mistake *FieldError) {
	defer func() { // a fault of CEL's must not end a sidecar that reloads its configuration
		if recover() != nil {
			mistake = &FieldError{Problem: "makes the CEL compiler fail", Remedy: "write it in another way"}
		}
	}()
	env := environment()
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, compileError(issues)
	}
	loops := ast.MatchDescendants(ast.NavigateAST(parsed.NativeRep()), ast.KindMatcher(ast.ComprehensionKind))
	if len(loops) > maxLoops {
		return nil, &FieldError{Problem: fmt.Sprintf("looks through more than %d lists", maxLoops), Remedy: "make several expressions of it"}
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, compileError(issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, &FieldError{
			Problem: fmt.Sprintf("the result is of type %s, not bool", cel.FormatCELType(checked.OutputType())),
			Remedy:  `compare it, as in session.claims.plan == "pro" or session.claims.beta == true`,
		}
	}
	x := &expression{text: text, patterns: make(map[string]uint64)}
	if err := x.inspect(checked.NativeRep(), variables); err != nil {
		return nil, err
	}
	estimate, err := env.EstimateCost(checked, sizes{x.patterns})
	if err != nil {
		return nil, &FieldError{Problem: "its cost cannot be estimated: " + err.Error(), Remedy: "make it simpler"}
	}
	if estimate.Max > maxEstimate {
		problem := fmt.Sprintf("may cost %d, more than %d", estimate.Max, maxEstimate)
		if estimate.Max == math.MaxUint64 {
			problem = "may cost more than can be said"
		}
		return nil, &FieldError{Problem: problem,
			Remedy: "look through one list at a time, and compare whole texts rather than searching or replacing in them"}
	}
	x.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.InterruptCheckFrequency(interruptEvery),
		cel.CostLimit(maxCost), cel.CostTracking(x))
	if err != nil { // a constant part fails, such as int("x")
		return nil, &FieldError{Problem: shorten(err.Error()), Remedy: "mend the constant"}
	}
	return x, nil
}

// compileError is the first of CEL's complaints, in one line.
func compileError(issues *cel.Issues) *FieldError {
	remedy := "session, request, path and now are what there is; see https://cel.dev for the language"
	if len(issues.Errors()) == 0 {
		return &FieldError{Problem: shorten(issues.Err().Error()), Remedy: remedy}
	}
	first := issues.Errors()[0]
	problem := shorten(strings.ReplaceAll(first.Message, " (in container '')", ""))
	if strings.HasPrefix(problem, "undefined field") {
		remedy = knownFields
	}
	if first.Location.Line() > 0 {
		problem += fmt.Sprintf(" (line %d, column %d)", first.Location.Line(), first.Location.Column()+1)
	}
	return &FieldError{Problem: problem, Remedy: remedy}
}

// shorten makes one line of at most 256 bytes of CEL's words: a syntax error lists every token that could stand there.
func shorten(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "") + "…"
	}
	return s
}

// CallCost counts, after the fact, what CEL does not: the instructions of a regular expression, since (a{20}){20} is short, and
// the members of a list that is a claim, since its type is not known.
func (x *expression) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	var cost uint64
	switch function {
	case overloads.Matches:
		text, _ := args[0].(types.String)
		pattern, _ := args[1].(types.String)
		cost = uint64(math.Ceil(float64(uint64(len(text)+1)*x.patterns[string(pattern)]) * stepCost))
	case operators.In:
		list, ok := args[1].(traits.Lister)
		if !ok {
			return nil
		}
		size, _ := list.Size().(types.Int)
		cost = 1 + uint64(size)
	default:
		return nil
	}
	return &cost
}

// sizes are how long what expressions see can be. CEL asks for what it cannot tell by itself; of what is computed from these
// (texts that were joined, say) it mostly can.
type sizes struct{ patterns map[string]uint64 }

func (s sizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	longest := uint64(1)
	switch node.Type().Kind() {
	case types.ListKind, types.MapKind:
		longest = maxMembers
	case types.DynKind: // of a claim, a list or a text
		longest = max(maxMembers, maxMember)
	case types.StringKind, types.BytesKind:
		longest = maxText
		path, e := node.Path(), node.Expr()
		isMember := len(path) > 0 && strings.HasPrefix(path[len(path)-1], "@") // "@items" and such
		isConverted := e.Kind() == ast.CallKind && e.AsCall().FunctionName() == overloads.TypeConvertString
		if isMember || isConverted {
			longest = maxMember
		}
	}
	return &checker.SizeEstimate{Max: longest}
}

// EstimateCallCost is for regular expressions as CallCost is.
func (s sizes) EstimateCallCost(function, _ string, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	if function != overloads.Matches {
		return nil
	}
	text := args[0]
	if target != nil {
		text = *target
	}
	size := text.ComputedSize()
	if size == nil {
		size = s.EstimateSize(text)
	}
	pattern, _ := args[len(args)-1].Expr().AsLiteral().(types.String)
	steps := checker.SizeEstimate{Max: size.Max}.Add(checker.FixedSizeEstimate(1)).
		Multiply(checker.FixedSizeEstimate(s.patterns[string(pattern)]))
	return &checker.CallEstimate{CostEstimate: steps.MultiplyByCostFactor(stepCost)}
}

func (x *expression) met(ctx context.Context, e Evidence) (bool, error) {
	if max(len(e.Request.Method), len(e.Request.Host), len(e.Request.Path)) > maxText {
		return false, errTooLong
	}
	v := newEvaluation(e)
	result, _, err := x.program.ContextEval(ctx, v)
	switch {
	case v.tooLong:
		return false, errTooLong
	case err != nil:
		return false, reason(err)
	}
	met, ok := result.(types.Bool)
	if !ok {
		return false, errEvaluated
	}
	return bool(met), nil
}

// reason says why an evaluation failed without saying what with.
func reason(err error) error {
	if cancelled, ok := errors.AsType[interpreter.EvalCancelledError](err); ok && cancelled.Cause == interpreter.CostLimitExceeded {
		return errCost
	}
	if errors.Is(err, interpreter.InterruptError{}) {
		return errCancelled
	}
	for _, missing := range [...]string{"no such key", "no such attribute", "index out of bounds", errUnset.Error()} {
		if strings.HasPrefix(err.Error(), missing) {
			return errMissing
		}
	}
	return errEvaluated
}

func (x *expression) wants() string                   { return x.text }
func (x *expression) saw(_ Evidence, met bool) string { return fmt.Sprint(met) }

// readsHeaders adds to the headers that a Set's expressions read.
func (s *Set) readsHeaders(names []string, all bool) {
	s.allHeaders = s.allHeaders || all
	s.headers = append(s.headers, names...)
	slices.Sort(s.headers)
	s.headers = slices.Compact(s.headers)
}
