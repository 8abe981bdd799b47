// Package policy finds the rule for a request.
//
// A Set is compiled once and never changes. Matching reads the path in one way only, the strictest: whatever two
// servers could read differently (a dot segment, an encoded separator, a matrix parameter) is refused before any rule
// is looked at, or left to the one rule for such paths, so that no rule can be walked around by another spelling. Rules are
// read as paths are. A method with lower-case letters is refused for the same reason.
//
// The rules that a request's host and path leave are found in an index; the first of them whose methods, headers and regular
// expression match, too, decides.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"authz-sidecar/internal/requirement"
)

// ErrUnknownRule says that Envoy's route names a rule that there is not, or one whose match does not hold.
var ErrUnknownRule = errors.New("unknown rule")

// ErrAmbiguousMethod says that a method has lower-case letters: to this package it is another one than that in capitals, to some
// apps it is the same.
var ErrAmbiguousMethod = errors.New("ambiguous method")

// ErrAmbiguousHost says that a host is no host with a port at most, or is another one to some apps.
var ErrAmbiguousHost = errors.New("ambiguous host")

// Need says whether a rule wants a session.
type Need int

const (
	// Required lets only a valid session pass.
	Required Need = iota
	// Optional lets a request without a credential pass as anonymous; a bad credential is still refused.
	Optional
	// None lets every request pass and looks at no credential.
	None
	// Refused lets no request pass, and looks at no credential.
	Refused
)

// Rule is what is required of the requests that it matches. Its fields are documented in config.proto.
type Rule struct {
	// Name is what logs and metadata call it.
	Name string
	// Match is unused in the default rule.
	Match Match
	// Session says whether a session is wanted.
	Session Need
	// Project names the project whose sessions are accepted; empty only where Session is None or Refused.
	Project string
	// MaxTokenAge is how old a session JWT may be before the session API is asked: 0 asks every time,
	// session.NoMaxAge never before the JWT expires.
	MaxTokenAge time.Duration
	// TokenReuse is how long the exchange of an opaque token serves.
	TokenReuse time.Duration
	// DenyExpired answers 401 where others trade an old JWT.
	DenyExpired bool
	// RefreshAhead is how long before its end a JWT is traded in the background; 0 is never.
	RefreshAhead time.Duration
	// SessionDurationMinutes extends the session with each exchange; 0 does not.
	SessionDurationMinutes int
	// Require is nil for nothing.
	Require *requirement.Set
	// Grace is how long an old JWT still passes while the session API cannot be asked.
	Grace                time.Duration
	GraceSafeMethodsOnly bool
	// LeaveToEnvoy answers what cannot be asked with an error_response, which obeys failure_mode_allow.
	LeaveToEnvoy bool
	// Preflight lets CORS preflights pass, RefuseCrossSite refuses requests of other sites' pages, RedirectToLogIn sends
	// browsers to the log-in page.
	Preflight, RefuseCrossSite, RedirectToLogIn bool
	// Shadow observes only.
	Shadow bool
}

// Match says which requests a rule is for. All that is given must hold, so the zero Match is for every request; of the four
// paths at most one is given.
type Match struct {
	// ByName is for requests alone whose Envoy route names the rule.
	ByName bool
	// Hosts are exact, or "*.suffix"; none is all.
	Hosts []string
	// Path is the whole path, PathPrefix its beginning up to a segment border, PathTemplate has variables in braces,
	// PathRegex is RE2 over the whole path.
	Path, PathPrefix, PathTemplate, PathRegex string
	// ExactTrailingSlash makes "/a/" another path than "/a" in Path, PathTemplate and PathRegex, which otherwise is tried
	// without the slash, too.
	ExactTrailingSlash bool
	// Methods are the methods that it is for, in capitals, GET covering HEAD; none is all.
	Methods []string
	// Headers must all be there.
	Headers []HeaderMatch
}

// HeaderMatch is a header that a request must have.
type HeaderMatch struct {
	// Name is in lower case.
	Name string
	// Value is compared exactly, unless Any. It has no white space around it, which Envoy takes off.
	Value string
	Any   bool
}

// Request is the part of a request that rules are matched by.
type Request struct {
	// Host and Path are as they came.
	Method, Host, Path string
	// Rule is the name that Envoy's route gives; empty for none.
	Rule string
	// Header returns the value of a header by its lower-case name, several lines joined by commas. It may be nil.
	Header func(name string) (value string, ok bool)
	// Preflight says that it is a CORS preflight, which rules with Preflight match whatever their methods.
	Preflight bool
}

// Found is the rule for a request, and how its path was read. Its texts may be pieces of the Request's.
type Found struct {
	Rule *Rule
	// Path is as ReadPath reads it, or as it came without the query if it is ambiguous.
	Path string
	// Host is in lower case without port and trailing dots, an IPv6 address in its canonical spelling.
	Host string
	// Variables are those of the rule's path template, percent-decoded; a slash at the end of the path is in none.
	Variables requirement.Variables
	// Ambiguous says that the path is, and the rule the one for such paths.
	Ambiguous bool
}

// Config is what a Set is made of.
type Config struct {
	Rules   []Rule
	Default Rule
	// AmbiguousPathRule is the name of the rule for ambiguous paths; empty refuses them.
	AmbiguousPathRule string
}

// Set is an ordered list of rules with a default.
type Set struct {
	rules     []Rule // the default one last
	patterns  []pattern
	index     index
	byName    map[string]int
	ambiguous *Rule // nil refuses ambiguous paths
}

// RuleError says what is wrong with one rule.
type RuleError struct {
	// Index is the rule's place in Config.Rules; -1 for the default rule, and where there is none to be wrong.
	Index int
	// Field is "name", "match.path_template", "match.hosts[0]" and so on, as in config.proto; "ambiguous_path_rule" where
	// Config.AmbiguousPathRule names no rule.
	Field string
	// Problem and Remedy are for whoever wrote it.
	Problem, Remedy string
}

func (e *RuleError) Error() string {
	field := e.Field
	switch {
	case e.Index >= 0:
		field = fmt.Sprintf("rules[%d].%s", e.Index, e.Field)
	case field != ambiguousPathRule:
		field = "default_rule." + field
	}
	return fmt.Sprintf("%s: %s (%s)", field, e.Problem, e.Remedy)
}

const ambiguousPathRule = "ambiguous_path_rule"

// Compile makes a Set. The first rule that matches decides; the default one where none does. The error joins a *RuleError
// for each thing that is wrong.
func Compile(cfg Config) (*Set, error) {
	s := &Set{
		rules:    append(slices.Clone(cfg.Rules), cfg.Default),
		patterns: make([]pattern, len(cfg.Rules)),
		byName:   make(map[string]int, len(cfg.Rules)+1),
	}
	var errs []error
	for i, rule := range cfg.Rules {
		var wrong []FieldError
		s.patterns[i], wrong = compile(rule.Match)
		for _, e := range wrong {
			errs = append(errs, &RuleError{Index: i, Field: "match." + e.Field, Problem: e.Problem, Remedy: e.Remedy})
		}
	}
	errs = append(errs, s.readNames()...)
	if err := s.readAmbiguousPathRule(cfg.AmbiguousPathRule); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.index = newIndex(s.patterns)
	return s, nil
}

// readNames reports each name of several rules once, with the first two of them. A rule without a name cannot be named.
func (s *Set) readNames() (errs []error) {
	reported := map[string]bool{}
	for i, rule := range s.rules {
		first, taken := s.byName[rule.Name]
		switch {
		case rule.Name == "" || reported[rule.Name]:
		case !taken:
			s.byName[rule.Name] = i
		default:
			reported[rule.Name] = true
			if i == s.fallback() {
				i = -1
			}
			errs = append(errs, &RuleError{
				Index: i, Field: "name",
				Problem: fmt.Sprintf("rules[%d] has the same name, %q", first, rule.Name),
				Remedy:  "give each rule a name of its own",
			})
		}
	}
	return errs
}

// readAmbiguousPathRule takes no rule that could let an ambiguous path pass without a session.
func (s *Set) readAmbiguousPathRule(name string) error {
	if name == "" {
		return nil
	}
	i, ok := s.byName[name]
	if !ok || i == s.fallback() {
		return &RuleError{
			Index: -1, Field: ambiguousPathRule, Problem: fmt.Sprintf("there is no rule %q in the list", name),
			Remedy: `name one whose match is "{by_name: true}"`,
		}
	}
	rule := &s.rules[i]
	wrong := func(field, problem, remedy string) error {
		return &RuleError{Index: i, Field: field, Problem: problem + " in the rule for ambiguous paths", Remedy: remedy}
	}
	switch {
	case !s.patterns[i].byNameOnly():
		return wrong("match", "more than the name", `write "match: {by_name: true}": such a path is compared with nothing`)
	case rule.Session != Required:
		return wrong("session", "no session is required", `let it be "required"`)
	case rule.Preflight:
		return wrong("preflight", "requests pass without a session", "remove it")
	case rule.Shadow:
		return wrong("shadow", "requests pass without a session", "remove it")
	}
	s.ambiguous = rule
	return nil
}

// fallback is the place of the default rule.
func (s *Set) fallback() int { return len(s.rules) - 1 }

// All are the rules in order, the default one last.
func (s *Set) All() []Rule { return slices.Clone(s.rules) }

// Headers are the request headers that rules match by or that their expressions read, in order; all is true if they may
// read any.
func (s *Set) Headers() (names []string, all bool) {
	for i := range s.rules {
		if i < s.fallback() {
			for _, h := range s.rules[i].Match.Headers {
				names = append(names, h.Name)
			}
		}
		read, whichever := s.rules[i].Require.Headers()
		names, all = append(names, read...), all || whichever
	}
	slices.Sort(names)
	return slices.Compact(names), all
}

// AmbiguousPathRule is the name of the rule for ambiguous paths; empty if they are refused.
func (s *Set) AmbiguousPathRule() string {
	if s.ambiguous == nil {
		return ""
	}
	return s.ambiguous.Name
}

// Match returns the rule for a request. The error is ErrAmbiguousPath, wrapped with what is wrong, ErrAmbiguousHost, ErrAmbiguousMethod or
// ErrUnknownRule.
//
// What it costs depends on the path and hardly on the number of rules, with two exceptions. Rules for one path that differ
// in methods, headers, or what follows the literal text of a regular expression are looked at one after the other. And where
// some templates have a variable and others text, both ways are gone.
func (s *Set) Match(r Request) (Found, error) {
	host, err := readHost(r.Host)
	if err != nil {
		return Found{}, err
	}
	q := query{Request: r, host: host}
	clean, err := ReadPath(r.Path)
	if err != nil && (s.ambiguous == nil || r.Rule != "" && r.Rule != s.ambiguous.Name) {
		return Found{}, err
	}
	if strings.ContainsFunc(r.Method, isLower) {
		return Found{}, ErrAmbiguousMethod
	}
	if err != nil {
		raw, _, _ := strings.Cut(r.Path, "?")
		return Found{Rule: s.ambiguous, Path: raw, Host: q.host, Ambiguous: true}, nil
	}
	q.path = clean
	q.body, q.slash = cutSlash(clean)

	var i int
	if r.Rule == "" {
		i, _ = s.first(&q)
	} else if i, err = s.named(&q); err != nil {
		return Found{}, err
	}
	found := Found{Rule: &s.rules[i], Path: clean, Host: q.host}
	if i < s.fallback() {
		found.Variables = s.patterns[i].variables(q.body)
	}
	return found, nil
}

// query is a Request as it is read.
type query struct {
	Request
	host, path string
	// body is path without a slash at its end, which slash says that it has. The body of "/" is empty.
	body  string
	slash bool
}

// named is the rule that Envoy's route names.
func (s *Set) named(q *query) (int, error) {
	i, ok := s.byName[q.Rule]
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: %q", ErrUnknownRule, q.Rule)
	case i == s.fallback():
		return i, nil
	case !s.patterns[i].forHost(q.host) || !s.patterns[i].forBody(q.body) || !s.holds(i, q):
		return 0, fmt.Errorf("%w: the match of %q does not hold", ErrUnknownRule, q.Rule)
	}
	return i, nil
}

// first is the first rule that matches, and how many were looked at to find it.
func (s *Set) first(q *query) (rule, looked int) {
	rule = s.fallback()
	var groupRoom [8]*group
	var listRoom [16][]int32 // enough to allocate nothing; more is only slower
	groups := s.index.groups(q.host, groupRoom[:0])
	lists := listRoom[:0]
	for _, g := range groups {
		lists = g.paths.collect(q.body, lists)
	}
	for _, g := range groups {
		lists = g.regexes.collect(q.path, lists) // last, since they are the dearest
	}
	for _, list := range lists {
		for _, i := range list {
			if int(i) >= rule {
				break
			}
			looked++
			if s.holds(int(i), q) {
				rule = int(i)
				break
			}
		}
	}
	return rule, looked
}

// holds says whether what the index does not know holds, too.
func (s *Set) holds(i int, q *query) bool {
	p := &s.patterns[i]
	return (q.Preflight && s.rules[i].Preflight || p.forMethod(q.Method)) && p.forHeaders(q.Header) && p.forEnd(q)
}
