// Package policy finds the rule for a request.
//
// A Set is compiled once and never changes. Matching reads the path in one way only, the strictest: whatever two
// servers could read differently (a dot segment, an encoded separator, a matrix parameter) is refused before any rule
// is looked at, so that no rule can be walked around by another spelling.
package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Requirement says whether a rule wants a session.
type Requirement int

const (
	// Required lets only a valid session pass.
	Required Requirement = iota
	// Optional lets a request without a credential pass as anonymous; a bad credential is still refused.
	Optional
	// None lets every request pass and looks at no credential.
	None
)

// Rule is what is required of the requests that it matches.
type Rule struct {
	// Name is what logs and metadata call it.
	Name string
	// PathPrefix is the path, or its beginning up to a segment border; unused in the default rule.
	PathPrefix string
	// Methods are the methods that it is for, GET covering HEAD; none means all.
	Methods []string
	// Session says whether a session is wanted.
	Session Requirement
	// MaxTokenAge is how old a session JWT may be before the session API is asked: 0 asks every time,
	// session.NoMaxAge never before the JWT expires.
	MaxTokenAge time.Duration
	// Project names the project whose sessions are accepted; empty only where Session is None.
	Project string
}

// Set is an ordered list of rules with a default.
type Set struct {
	rules    []Rule
	fallback Rule
}

// Compile makes a Set. The first rule that matches decides; fallback decides where none does.
func Compile(rules []Rule, fallback Rule) (*Set, error) {
	rules = slices.Clone(rules)
	for i := range rules {
		r := &rules[i]
		read, err := ReadPath(r.PathPrefix) // a prefix in another spelling means the same
		if err != nil {
			return nil, fmt.Errorf("rule %d (%s): path prefix %q can match no request: %w", i, r.Name, r.PathPrefix, err)
		}
		r.PathPrefix = read
	}
	return &Set{rules: rules, fallback: fallback}, nil
}

// All are the rules in order, the default one last.
func (s *Set) All() []Rule { return append(slices.Clone(s.rules), s.fallback) }

// Match returns the rule for a request. path is the request's path as it came, with its query. The error is
// ErrAmbiguousPath, wrapped with what is wrong.
func (s *Set) Match(method, path string) (*Rule, error) {
	clean, err := ReadPath(path)
	if err != nil {
		return nil, err
	}
	for i := range s.rules {
		if r := &s.rules[i]; r.matches(method, clean) {
			return r, nil
		}
	}
	return &s.fallback, nil
}

func (r *Rule) matches(method, path string) bool {
	// "/admin/" and "/admin" are one prefix: a trailing slash makes no other resource.
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(r.PathPrefix, "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	return len(r.Methods) == 0 || slices.Contains(r.Methods, method) ||
		method == "HEAD" && slices.Contains(r.Methods, "GET")
}
