package policy

import (
	"slices"
	"strings"
)

// UnreachableRule is a rule that decides for no request.
type UnreachableRule struct {
	// Index is its place in the list, By that of the first rule before it that takes all of its requests.
	Index, By int
}

// Unreachable finds the rules that decide for no request, unless Envoy names them, because one rule before them takes all of
// theirs. What it finds is certain. What several rules take between them it does not see, and regular expressions it compares
// by their text and the literal text that they begin with. A rule that is found by name only, or that does not compile, takes
// nothing and is not found. Rules for one path that differ in nothing but methods, headers or further hosts are compared each
// with each.
func Unreachable(rules []Rule) []UnreachableRule {
	patterns := make([]pattern, len(rules))
	for i, rule := range rules {
		p, wrong := compile(rule.Match)
		p.byName = p.byName || len(wrong) > 0
		patterns[i] = p
	}
	x := newIndex(patterns)
	var found []UnreachableRule
	var groups []*group
	var lists [][]int32
	for i := range patterns {
		theirs := &patterns[i]
		methods := theirs.methods // that a rule without Preflight must have
		if rules[i].Preflight && len(methods) > 0 {
			methods = append(slices.Clip(methods), "OPTIONS")
		}
		host := ""
		if len(theirs.hosts) > 0 {
			host = theirs.hosts[0] // whoever takes all hosts takes this one
		}
		groups, lists = x.groups(host, groups[:0]), lists[:0]
		body := "" // in which a variable is a segment that no literal of ours equals
		if len(theirs.segments) > 0 {
			body = "/" + strings.Join(theirs.segments, "/")
		}
		for _, g := range groups {
			lists = g.paths.collect(body, lists)
			if theirs.regex != nil {
				lists = g.regexes.collect(theirs.literal, lists)
			}
		}
		first := i
		for _, list := range lists {
			for _, by := range list {
				if int(by) >= first {
					break
				}
				asked := methods
				if rules[by].Preflight {
					asked = theirs.methods
				}
				if patterns[by].takes(theirs, asked) {
					first = int(by)
					break
				}
			}
		}
		if first < i {
			found = append(found, UnreachableRule{Index: i, By: first})
		}
	}
	return found
}

// takes says whether every request that another pattern matches with one of the methods, which mostly are its own, is matched
// by this one, too.
func (p *pattern) takes(theirs *pattern, methods []string) bool {
	return !p.byName && !theirs.byName &&
		p.takesMethods(methods) && p.takesHeaders(theirs.headers) && p.takesPath(theirs) && p.takesHosts(theirs.hosts)
}

func (p *pattern) takesMethods(theirs []string) bool {
	return len(p.methods) == 0 ||
		len(theirs) > 0 && !slices.ContainsFunc(theirs, func(method string) bool { return !p.forMethod(method) })
}

func (p *pattern) takesHeaders(theirs []HeaderMatch) bool {
	for _, ours := range p.headers {
		if !slices.ContainsFunc(theirs, func(h HeaderMatch) bool {
			return h.Name == ours.Name && (ours.Any || !h.Any && h.Value == ours.Value)
		}) {
			return false
		}
	}
	return true
}

func (p *pattern) takesPath(theirs *pattern) bool {
	if p.regex != nil {
		return theirs.regex != nil && p.source == theirs.source && (!p.exact || theirs.exact)
	}
	if p.exact && (!theirs.exact || theirs.regex != nil || p.slash != theirs.slash) {
		return false
	}
	if theirs.rest && !p.rest {
		return false
	}
	for i, ours := range p.segments {
		if i >= len(theirs.segments) || ours != anyVariable && ours != theirs.segments[i] {
			return false
		}
	}
	return p.rest || len(p.segments) == len(theirs.segments)
}

func (p *pattern) takesHosts(theirs []string) bool {
	return len(p.hosts) == 0 ||
		len(theirs) > 0 && !slices.ContainsFunc(theirs, func(host string) bool { return !p.forHost(host) })
}
