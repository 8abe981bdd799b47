package policy

import (
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// examineRegex reports an expression, or a piece of one, that no path can match as ReadPath reads it: whoever wrote it expects
// requests that would not come. What cannot be told is not reported.
func examineRegex(source string) (problem, remedy string) {
	re, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return "", ""
	}
	if slash, _ := begins(re); !slash {
		return "matches no request: a path begins with a slash", "begin it with one"
	}
	for _, alternative := range alternatives(re) {
		if slash, empty := begins(alternative); !slash && !empty {
			return "one of its alternatives matches no request: a path begins with a slash", `begin each with one: "/a|/b", or "/(a|b)"`
		}
	}
	if wrong := unread(re); wrong != nil {
		return wrong.problem, wrong.remedy
	}
	return "", ""
}

// begins says whether what an expression matches can begin with a slash, and whether it can be empty.
func begins(re *syntax.Regexp) (slash, empty bool) {
	switch re.Op {
	case syntax.OpNoMatch:
		return false, false
	case syntax.OpLiteral:
		return re.Rune[0] == '/', false
	case syntax.OpCharClass:
		return inClass(re, '/'), false
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true, false
	case syntax.OpCapture, syntax.OpPlus:
		return begins(re.Sub[0])
	case syntax.OpStar, syntax.OpQuest:
		slash, _ = begins(re.Sub[0])
		return slash, true
	case syntax.OpRepeat:
		slash, empty = begins(re.Sub[0])
		return slash, empty || re.Min == 0
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			first, nothing := begins(sub)
			if slash = slash || first; !nothing {
				return slash, false
			}
		}
		return slash, true
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			first, nothing := begins(sub)
			slash, empty = slash || first, empty || nothing
		}
		return slash, empty
	}
	return false, true // an anchor or word boundary
}

// alternatives are those that an expression begins with, or the expression.
func alternatives(re *syntax.Regexp) (all []*syntax.Regexp) {
	switch re.Op {
	case syntax.OpCapture:
		return alternatives(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			switch sub.Op {
			case syntax.OpBeginLine, syntax.OpBeginText, syntax.OpEmptyMatch:
			default:
				return alternatives(sub)
			}
		}
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			all = append(all, alternatives(sub)...)
		}
		return all
	}
	return []*syntax.Regexp{re}
}

func inClass(re *syntax.Regexp, r rune) bool {
	for i := 0; i < len(re.Rune); i += 2 {
		if re.Rune[i] <= r && r <= re.Rune[i+1] {
			return true
		}
	}
	return false
}

// unreadable is a piece of an expression that no path has.
type unreadable struct {
	problem, remedy string
	// misspelt says that paths have it in another spelling, which is meant.
	misspelt bool
}

// unread finds what an expression cannot do without and no path has. Of alternatives all must be such; but one that is misspelt, or
// an optional piece that is, would be a hole in the rule. "/a(/.*|\?.*|$)" is well.
func unread(re *syntax.Regexp) *unreadable {
	switch re.Op {
	case syntax.OpLiteral:
		return unreadText(text(re))
	case syntax.OpCapture, syntax.OpPlus:
		return unread(re.Sub[0])
	case syntax.OpQuest, syntax.OpStar, syntax.OpRepeat:
		if wrong := unread(re.Sub[0]); wrong != nil && (wrong.misspelt || re.Op == syntax.OpRepeat && re.Min > 0) {
			return wrong
		}
	case syntax.OpConcat:
		run := ""
		for _, sub := range re.Sub {
			if literal := literalOf(sub); literal != nil {
				run += text(literal)
				continue
			}
			if wrong := unreadText(run); wrong != nil {
				return wrong
			}
			if wrong := unread(sub); wrong != nil {
				return wrong
			}
			run = ""
		}
		return unreadText(run)
	case syntax.OpAlternate:
		var first *unreadable
		all := true
		for _, sub := range re.Sub {
			wrong := unread(sub)
			if wrong != nil && wrong.misspelt {
				return wrong
			}
			if all = all && wrong != nil; first == nil {
				first = wrong
			}
		}
		if all {
			return first
		}
	}
	return nil
}

// literalOf is the literal that an expression is, in brackets maybe; nil if it is none.
func literalOf(re *syntax.Regexp) *syntax.Regexp {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	if re.Op != syntax.OpLiteral {
		return nil
	}
	return re
}

// text is what a literal matches, in capitals where case makes no difference.
func text(literal *syntax.Regexp) string {
	s := string(literal.Rune)
	if literal.Flags&syntax.FoldCase != 0 {
		return strings.ToUpper(s)
	}
	return s
}

// splitEncoding is the beginning of an encoding at the end of a text, whose end is not literal.
var splitEncoding = regexp.MustCompile(`%[0-9A-Fa-f]?$`)

// unreadText is unread of literal text from somewhere in a path.
func unreadText(run string) *unreadable {
	run = splitEncoding.ReplaceAllString(run, "")
	no := func(what, remedy string) *unreadable {
		return &unreadable{problem: fmt.Sprintf("matches no request: %s in %q", what, run), remedy: remedy}
	}
	const refused = "leave it out: a path that has it is refused"
	if strings.Contains(run, "?") {
		return no("a query", `end it before the "?": no rule looks at a query`)
	}
	var ascii strings.Builder
	for _, r := range run {
		if r < utf8.RuneSelf {
			ascii.WriteRune(r)
		} else {
			ascii.WriteString(url.PathEscape(string(r)))
		}
	}
	read, err := readCharacters(ascii.String())
	switch {
	case err != nil:
		return no(strings.TrimPrefix(err.Error(), ErrAmbiguousPath.Error()+": "), refused)
	case slices.ContainsFunc([]string{"//", "/./", "/../"}, func(s string) bool { return strings.Contains(read, s) }):
		return no("empty or dot segment", refused)
	case doublyEncoded(read):
		return no("double percent-encoding", refused)
	case read != run:
		return &unreadable{
			problem: fmt.Sprintf("matches no request: a path with %q is read as %q", run, read),
			remedy: fmt.Sprintf("write %q there: what may stand in a path is decoded, all else is %%XX in capitals",
				regexp.QuoteMeta(read)),
			misspelt: true,
		}
	}
	return nil
}
