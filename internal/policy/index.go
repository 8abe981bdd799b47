package policy

import (
	"slices"
	"strings"
)

// index finds the rules whose hosts and path can be a request's: by host, then segment by segment. Its lists of rules are in
// order.
type index struct {
	every   group             // the rules for every host
	exact   map[string]*group // by host
	below   map[string]*group // by what follows "*."
	longest int               // of the texts in below
}

// group is the rules for one pattern of hosts.
type group struct {
	paths   node
	regexes literals
}

func newIndex(patterns []pattern) index {
	x := index{exact: map[string]*group{}, below: map[string]*group{}}
	for i := range patterns {
		p := &patterns[i]
		if p.byName {
			continue
		}
		if len(p.hosts) == 0 {
			x.every.add(p, int32(i))
		}
		for _, host := range p.hosts {
			groups := x.exact
			if suffix, wildcard := strings.CutPrefix(host, "*."); wildcard {
				groups, host = x.below, suffix
				x.longest = max(x.longest, len(suffix))
			}
			if groups[host] == nil {
				groups[host] = &group{}
			}
			groups[host].add(p, int32(i))
		}
	}
	x.every.regexes.link()
	for _, g := range x.exact {
		g.regexes.link()
	}
	for _, g := range x.below {
		g.regexes.link()
	}
	return x
}

func (g *group) add(p *pattern, rule int32) {
	if p.regex != nil {
		g.regexes.add(p.literal, rule)
	} else {
		g.paths.add(p, rule)
	}
}

// groups appends those that a host is in. For a "*.suffix" they are those that all hosts below it are in.
func (x *index) groups(host string, groups []*group) []*group {
	groups = append(groups, &x.every)
	if g := x.exact[host]; g != nil {
		groups = append(groups, g)
	}
	if len(x.below) == 0 {
		return groups
	}
	// From the right, and no further than a pattern reaches: a host is as long as a client likes.
	for dot := len(host); ; {
		dot = strings.LastIndexByte(host[:dot], '.')
		if dot <= 0 || len(host)-dot-1 > x.longest {
			return groups
		}
		if g := x.below[host[dot+1:]]; g != nil {
			groups = append(groups, g)
		}
	}
}

// node is a place in the tree of path segments.
type node struct {
	literal  map[string]*node
	variable *node
	// here are the rules for the paths that end here, below those for them and all below.
	here, below []int32
}

func (n *node) add(p *pattern, rule int32) {
	for _, segment := range p.segments {
		next := n.variable
		if segment != anyVariable {
			next = n.literal[segment]
		}
		if next == nil {
			next = &node{}
			switch {
			case segment == anyVariable:
				n.variable = next
			case n.literal == nil:
				n.literal = map[string]*node{segment: next}
			default:
				n.literal[segment] = next
			}
		}
		n = next
	}
	if p.rest {
		n.below = append(n.below, rule)
	} else {
		n.here = append(n.here, rule)
	}
}

// collect appends the rules for a body.
func (n *node) collect(body string, lists [][]int32) [][]int32 {
	if len(n.below) > 0 {
		lists = append(lists, n.below)
	}
	if body == "" {
		if len(n.here) > 0 {
			lists = append(lists, n.here)
		}
		return lists
	}
	segment, rest := cutSegment(body)
	if next := n.literal[segment]; next != nil {
		lists = next.collect(rest, lists)
	}
	if n.variable != nil {
		lists = n.variable.collect(rest, lists)
	}
	return lists
}

// literals are the rules with regular expressions, by the text that what they match begins with.
type literals struct {
	rules map[string][]int32
	// texts are sorted, so that whatever of them a path begins with is the last one that does not follow it, or a shorter text
	// that this one begins with. Of these, shorter has the place of the longest, -1 for none.
	texts   []string
	shorter []int
	lists   [][]int32
}

func (l *literals) add(text string, rule int32) {
	if l.rules == nil {
		l.rules = map[string][]int32{}
	}
	l.rules[text] = append(l.rules[text], rule)
}

// link makes ready what was added.
func (l *literals) link() {
	for text := range l.rules {
		l.texts = append(l.texts, text)
	}
	slices.Sort(l.texts)
	for i, text := range l.texts {
		l.lists = append(l.lists, l.rules[text])
		l.shorter = append(l.shorter, l.longest(text, i-1))
	}
	l.rules = nil
}

// longest is the place of the longest text that a path begins with, which is at i or in its chain.
func (l *literals) longest(path string, i int) int {
	for i >= 0 && !strings.HasPrefix(path, l.texts[i]) {
		i = l.shorter[i]
	}
	return i
}

// collect appends the rules whose text a path begins with.
func (l *literals) collect(path string, lists [][]int32) [][]int32 {
	i, found := slices.BinarySearch(l.texts, path)
	if !found {
		i--
	}
	for i = l.longest(path, i); i >= 0; i = l.shorter[i] {
		lists = append(lists, l.lists[i])
	}
	return lists
}
