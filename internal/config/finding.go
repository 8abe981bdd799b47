package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"authz-sidecar/internal/watch"
)

// maxFindings bounds an Error: whoever has that many has one mistake many times.
const maxFindings = 1000

// Error is all that is wrong with a configuration file.
type Error struct {
	// Findings are in the order of the file.
	Findings []Finding
	// files are what was read before that was known.
	files watch.Files
}

// Error prints one finding a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Finding is one thing that is wrong.
type Finding struct {
	File string
	// Line and Column begin at 1; 0 is unknown.
	Line, Column int
	// Field is the path of the field, "projects[0].secret_file"; empty is the whole file.
	Field string
	// Problem says what is wrong, Got what the file has there (quoted; empty where it has nothing or may hold a
	// secret), and Remedy what to do.
	Problem, Got, Remedy string
}

// String is "file:line:column: field: problem (got value): remedy".
func (f Finding) String() string {
	var s strings.Builder
	s.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&s, ":%d", f.Line)
	}
	if f.Column > 0 {
		fmt.Fprintf(&s, ":%d", f.Column)
	}
	if f.Field != "" {
		s.WriteString(": " + f.Field)
	}
	s.WriteString(": " + f.Problem)
	if f.Got != "" {
		s.WriteString(" (got " + f.Got + ")")
	}
	if f.Remedy != "" {
		s.WriteString(": " + f.Remedy)
	}
	return s.String()
}

func sortFindings(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// maxShown is how much of a value a finding shows.
const maxShown = 100

// holdsSecret says of a value whether one of the vendor's secrets is in it: they begin so.
func holdsSecret(value string) bool {
	return strings.Contains(value, "secret-live-") || strings.Contains(value, "secret-test-")
}

// show quotes a value for a finding; it is empty for what may be a secret: one of the vendor's, or a key, which is pasted
// with its line breaks.
func show(value string) string {
	if holdsSecret(value) || strings.ContainsFunc(value, isLineBreak) || !utf8.ValidString(value) {
		return ""
	}
	if len(value) > maxShown {
		cut := maxShown
		for !utf8.RuneStart(value[cut]) {
			cut--
		}
		value = value[:cut] + "…"
	}
	return fmt.Sprintf("%q", value)
}

func isLineBreak(r rune) bool {
	return r == '\n' || r == '\r' || r == '\u0085' || r == '\u2028' || r == '\u2029'
}

// showName is show for a name that the file makes up, within a sentence.
func showName(name string) string {
	if s := show(name); s != "" {
		return s
	}
	return "one that is not shown"
}

// mayHoldSecret says of a field whether its value is never shown. secret_file, secret_env and key_file hold names, but a
// secret is soon pasted into them.
func mayHoldSecret(field string) bool {
	return strings.Contains(field, "secret") || field == "key_file"
}

// looksLikeSecret says of a field's name that somebody may have written a secret there.
func looksLikeSecret(field string) bool {
	folded := fold(field)
	return slices.ContainsFunc([]string{"secret", "password", "passwd", "token", "apikey", "credential", "privatekey"},
		func(word string) bool { return strings.Contains(folded, word) })
}

// fold makes the spellings of a name equal: projectId, project-id, project_id.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == ' ' {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}
