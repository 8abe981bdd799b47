// Package requirement judges what a session has beyond being valid: organization, roles, custom claims, expressions,
// permission, authentication factors.
//
// A Set is compiled once, expressions type-checked and bounded in cost, and never changes. What cannot be evaluated is not
// met. Factors are judged last, so that further authentication is only asked of whoever lacks
// nothing else.
package requirement

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/internal/session"
)

// What Check says no with.
var (
	// ErrForbidden: the session lacks something that logging in again does not give. It is an *UnmetError.
	ErrForbidden = errors.New("the session does not meet a requirement")
	// ErrStepUp: the session lacks nothing but authentication factors. It is a *StepUpError.
	ErrStepUp = errors.New("the session needs further authentication")
	// ErrUnavailable: whether the session has a permission could not be learnt. It wraps the reason.
	ErrUnavailable = errors.New("a permission could not be learnt")
)

// UnmetError names the requirement that is not met; errors.Is(err, ErrForbidden).
type UnmetError struct {
	// Requirement is "organization", "any_role", "all_roles", "claims[0]", "cel[0]" or "permission".
	Requirement string
	// Detail is for the log.
	Detail string
}

func (e *UnmetError) Error() string        { return e.Requirement + ": " + e.Detail }
func (e *UnmetError) Is(target error) bool { return target == ErrForbidden }

// StepUpError holds the factors that are missing; errors.Is(err, ErrStepUp).
type StepUpError struct{ Missing []Factors }

func (e *StepUpError) Error() string {
	missing := make([]string, len(e.Missing))
	for i, f := range e.Missing {
		missing[i] = f.String()
	}
	return "needed: " + strings.Join(missing, "; ")
}

func (e *StepUpError) Is(target error) bool { return target == ErrStepUp }

// Config is what a rule requires. All of it must hold.
type Config struct {
	Organization Organization
	AnyRole      []string
	AllRoles     []string
	Claims       []Claim
	// Expressions are in CEL.
	Expressions []string
	// Permission is nil for none.
	Permission *Permission
	Factors    []Factors
	// Variables are the names of the rule's path variables, which organization and expressions may use.
	Variables []string
}

// Organization says whose members pass; empty is everybody's.
type Organization struct {
	IDs []string
	// IDVariable and SlugVariable name the path variable that must hold the organization's id or slug.
	IDVariable, SlugVariable string
}

// Claim is a custom claim that the session must have.
type Claim struct {
	Name string
	// Values are texts, or numbers and booleans as JSON writes them. None: anything but null and false.
	Values []string
}

// Permission is an action on a resource.
type Permission struct {
	ResourceID, Action string
	// AskAPI has the session API judge, with the exchange; else Evidence.Permissions does.
	AskAPI bool
}

// Factors are authentication factors: at least MinCount of those of one of the Types, by one of the DeliveryMethods
// (each none for all) and authenticated at most MaxAge ago (0 for any time).
type Factors struct {
	MinCount        int
	Types           []string
	DeliveryMethods []string
	MaxAge          time.Duration
}

// Evidence is what requirements are judged by.
type Evidence struct {
	Session *session.Session
	Request Request
	// Variables are those of the rule's path template.
	Variables Variables
	// Permissions is nil where no rule needs it.
	Permissions Permissions
	// Granted says that the session API, asked about the rule's permission, has said yes for this very request.
	Granted bool
	Now     time.Time
}

// Request is the part of a request that expressions see.
type Request struct {
	// Host is in lower case without port and trailing dot, Path as policy.ReadPath reads it.
	Method, Host, Path string
	// Header returns the value of a header by its lower-case name, several lines joined by commas.
	Header func(name string) (value string, ok bool)
}

// Permissions says by a project's RBAC policy what a session may.
type Permissions interface {
	// Allowed says whether the session's roles grant the action on the resource. An error means that this could not be
	// learnt.
	Allowed(ctx context.Context, s *session.Session, resourceID, action string) (bool, error)
}

// Variables are the variables of a path template, percent-decoded.
type Variables []Variable

// Variable is one of them.
type Variable struct{ Name, Value string }

// Get returns the value of a variable.
func (v Variables) Get(name string) (string, bool) {
	for _, variable := range v {
		if variable.Name == name {
			return variable.Value, true
		}
	}
	return "", false
}

// Result is how one requirement stands, in words.
type Result struct {
	// Requirement is as in UnmetError, or "factors[0]".
	Requirement string
	// Wants and Saw say what was asked for and what the session has.
	Wants, Saw string
	Met        bool
	// Err is set where it could not be judged.
	Err error
}

// Set is a Config made ready, safe for concurrent use. A nil Set requires nothing.
type Set struct {
	permission *Permission
	// required are all but factors, in the order of Config.
	required   []requirement
	factors    []Factors
	headers    []string
	allHeaders bool
	// expressions says that there are some.
	expressions bool
}

// requirement is one of what a Set requires.
type requirement struct {
	// name is as in UnmetError.
	name string
	judge
}

// judge is what one kind of requirement does. It is given the Evidence by value, so that judging allocates nothing.
type judge interface {
	// met judges; an error says why that was not possible.
	met(ctx context.Context, e Evidence) (bool, error)
	// wants and saw put what is asked for, and what there is, in words. Neither is used where all is well.
	wants() string
	saw(e Evidence, met bool) string
}

// errNoSession is why nothing can be judged of a request that has no session.
var errNoSession = errors.New("there is no session")

// New compiles a Set. Its error is a *FieldError for each mistake, joined if there are several.
func New(cfg Config) (*Set, error) {
	s := &Set{permission: cfg.Permission, factors: cfg.Factors}
	add := func(name string, j judge) { s.required = append(s.required, requirement{name, j}) }
	var mistakes []error

	if o := cfg.Organization; len(o.IDs) > 0 || o.IDVariable != "" || o.SlugVariable != "" {
		mistakes = append(mistakes, o.validate(cfg.Variables)...)
		add("organization", o)
	}
	if len(cfg.AnyRole) > 0 {
		add("any_role", anyRole(cfg.AnyRole))
	}
	if len(cfg.AllRoles) > 0 {
		add("all_roles", allRoles(cfg.AllRoles))
	}
	for i, c := range cfg.Claims {
		name := index("claims", i)
		if err := c.validate(name); err != nil {
			mistakes = append(mistakes, err)
		}
		add(name, c)
	}
	for i, text := range cfg.Expressions {
		name := index("cel", i)
		x, err := compile(text, cfg.Variables)
		if err != nil {
			err.Field = name
			mistakes = append(mistakes, err)
			continue
		}
		s.expressions = true
		s.readsHeaders(x.headers, x.allHeaders)
		add(name, x)
	}
	if cfg.Permission != nil {
		add("permission", cfg.Permission)
	}
	if len(mistakes) > 1 {
		return nil, errors.Join(mistakes...)
	}
	if len(mistakes) == 1 {
		return nil, mistakes[0]
	}
	return s, nil
}

func index(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// FieldError says which part of a Config is wrong.
type FieldError struct {
	// Field is as in UnmetError, or a part of that: "claims[0].name", "organization.id_in_path".
	Field string
	// Problem and Remedy are for whoever wrote it.
	Problem, Remedy string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Permission is the permission that is required, nil for none.
func (s *Set) Permission() *Permission {
	if s == nil {
		return nil
	}
	return s.permission
}

// TakesTime says whether Check may take more than a moment, and so needs a deadline: a permission may have to be learnt first, and
// expressions loop over what a client sends.
func (s *Set) TakesTime() bool { return s != nil && (s.permission != nil || s.expressions) }

// Check judges in the order of Config and returns the first no: ErrForbidden, ErrUnavailable, or last ErrStepUp.
func (s *Set) Check(ctx context.Context, e Evidence) error {
	if s == nil {
		return nil
	}
	for _, r := range s.required {
		met, err := r.check(ctx, e)
		if errors.Is(err, ErrUnavailable) {
			return err
		}
		if !met || err != nil {
			return &UnmetError{r.name, r.detail(e, err)}
		}
	}
	var missing []Factors
	for _, f := range s.factors {
		if e.Session == nil || !f.met(e) {
			missing = append(missing, f)
		}
	}
	if missing != nil {
		return &StepUpError{missing}
	}
	return nil
}

// check judges, and lets nobody pass who has no session: an expression may be true of nothing.
func (r requirement) check(ctx context.Context, e Evidence) (bool, error) {
	if e.Session == nil {
		return false, errNoSession
	}
	return r.met(ctx, e)
}

// detail says for the log why a requirement is not met. It leaves out the text of an expression and the value of a claim, which may
// hold what belongs into no log.
func (r requirement) detail(e Evidence, err error) string {
	switch _, isExpression := r.judge.(*expression); {
	case err != nil && isExpression:
		return err.Error()
	case err != nil:
		return "wants " + r.wants() + "; " + err.Error()
	case isExpression:
		return r.saw(e, false)
	}
	if _, isClaim := r.judge.(Claim); isClaim {
		return "wants " + r.wants() + "; saw something else"
	}
	return "wants " + r.wants() + "; saw " + r.saw(e, false)
}

// Examine judges every requirement, whatever the others say.
func (s *Set) Examine(ctx context.Context, e Evidence) []Result {
	if s == nil {
		return nil
	}
	var results []Result
	for _, r := range s.required {
		met, err := r.check(ctx, e)
		result := Result{Requirement: r.name, Wants: r.wants(), Met: met && err == nil, Err: err}
		if err != nil {
			result.Saw = err.Error()
		} else {
			result.Saw = r.saw(e, met)
		}
		results = append(results, result)
	}
	for i, f := range s.factors {
		result := Result{Requirement: index("factors", i), Wants: f.String(), Saw: errNoSession.Error()}
		if e.Session != nil {
			result.Met, result.Saw = f.met(e), f.saw(e)
		} else {
			result.Err = errNoSession
		}
		results = append(results, result)
	}
	return results
}

// Headers are the request headers that expressions read, in order; all is true if they may read any.
func (s *Set) Headers() (names []string, all bool) {
	if s == nil {
		return nil, false
	}
	return s.headers, s.allHeaders
}
