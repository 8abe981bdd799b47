// Package envoylint finds what is unsafe in an Envoy's configuration: settings with which a request reaches the app without
// an answer of the sidecar's, or means one thing to Envoy and the sidecar and another to the app.
//
// What it keeps true: what it cannot read it takes for unsafe, or says that it has not seen it; an extension that it does not
// know stops nothing; a finding has a place, what can happen and the lines to write, and no value of the file but names and the
// settings that were judged, so that no key or token of the file is ever shown.
//
// How: the file (a bootstrap, a config dump or the resources of a discovery answer, in YAML or JSON) becomes one tree with places
// (parse), in which listeners, routes, clusters and extensions are found by their type, wherever they are (newEnvoy), and each
// rule of a table looks at what it is about (rules). Nothing is decoded into Envoy's own messages: they would weigh on the binary
// of the server, and lose the places.
package envoylint

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Severity is how bad a finding is.
type Severity string

const (
	// Error is a way past the sidecar, or a sidecar that is asked in vain.
	Error Severity = "error"
	// Warning is a layer of defence that is missing, or wrong answers for honest clients.
	Warning Severity = "warning"
	// Note is what an operator should know.
	Note Severity = "note"
)

// Config is what the sidecar's configuration says about what Envoy must do. The zero Config is for the sidecar's defaults.
type Config struct {
	// IdentityHeaders are what the app trusts, in lower case; nil is defaultIdentityHeaders.
	IdentityHeaders []string
	// EnvoyStopsUnderscores says that the sidecar does not remove other spellings of IdentityHeaders, with "_" for "-"; nil is not
	// known.
	EnvoyStopsUnderscores *bool
	// HeadersRead are the headers that the policy reads, in lower case, and ReadsAny says that it may read any; nil is
	// defaultHeadersRead.
	HeadersRead []string
	ReadsAny    bool
	// Rules are the names of the policy's rules; nil is not known.
	Rules []string
	// SessionAPITimeout is the longest that a call of the session API may take; 0 is defaultSessionAPITimeout.
	SessionAPITimeout time.Duration
	// Listeners are the names of those that are judged; nil is all.
	Listeners []string
}

// defaultSessionAPITimeout is the sidecar's session_api.timeout.
const defaultSessionAPITimeout = 2 * time.Second

var (
	// defaultIdentityHeaders are the sidecar's identity_headers.
	defaultIdentityHeaders = []string{
		"x-auth-subject", "x-auth-session-id", "x-auth-organization-id", "x-auth-organization-slug", "x-auth-roles",
	}
	// defaultHeadersRead are the headers of the credentials.
	defaultHeadersRead = []string{"authorization", "cookie"}
)

// Report is what was found in a file.
type Report struct {
	// Findings are in the order of the file.
	Findings []Finding
	// More is how many findings were left out, beyond maxFindings.
	More int

	file string
	// managers is how many HTTP connection managers were judged.
	managers int
}

// Finding is one unsafe setting.
type Finding struct {
	// ID and Severity are those of the rule.
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// Line and Column begin at 1 and are those of the field, or of the message that lacks it.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Field is its path.
	Field string `json:"field"`
	// Problem says what can happen, Got what the file has there (empty for nothing, or what is no plain setting), and Remedy what
	// to write.
	Problem string `json:"problem"`
	Got     string `json:"got,omitempty"`
	Remedy  string `json:"remedy"`
}

// maxFindings bounds a report: whoever has that many has one mistake many times.
const maxFindings = 1000

// Lint judges a file. The error is about a file that cannot be read, or is none of Envoy's, and quotes nothing of it.
func Lint(file string, text []byte, cfg Config) (*Report, error) {
	root, twice, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	e := newEnvoy(root, cfg)
	switch {
	case len(e.absent) > 0:
		return nil, fmt.Errorf("%s: no listener is called %q", file, e.absent[0])
	case len(e.managers) == 0:
		return nil, fmt.Errorf("%s: nothing to judge: it has no HTTP connection manager for the way in; where listeners come by "+
			"discovery, judge what http://127.0.0.1:9901/config_dump?include_eds says", file)
	}
	e.twice = twice
	r := &Report{file: file, managers: len(e.managers)}
	// A route configuration may be used by many managers, and is reached once by each.
	type key struct {
		id, missing string
		value       *value
	}
	seen := map[key]bool{}
	for _, rule := range rules {
		rule.check(e, func(p place, problem, remedy string) {
			k := key{rule.ID, strings.Join(p.missing, "."), p.value}
			if seen[k] {
				return
			}
			seen[k] = true
			if len(r.Findings) == maxFindings {
				r.More++
				return
			}
			r.Findings = append(r.Findings, Finding{
				ID: rule.ID, Severity: rule.Severity, Line: int(p.value.line), Column: int(p.value.column),
				Field: p.field(), Problem: problem, Got: p.got(), Remedy: remedy,
			})
		})
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r, nil
}

// place is where a finding is: a value, or the fields that it lacks.
type place struct {
	value   *value
	missing []string
}

// at is the place of a field beneath v, as deep as the file goes.
func at(v *value, fields ...string) place {
	for i, name := range fields {
		next := v.get(name)
		if next == nil {
			return place{v, fields[i:]}
		}
		v = next
	}
	return place{value: v}
}

func (p place) field() string {
	return strings.TrimPrefix(strings.Join(append([]string{p.value.path()}, p.missing...), "."), ".")
}

// plainSetting is what a boolean, a number, a duration or an enum may look like.
var plainSetting = regexp.MustCompile(`^[\w.+-]{1,40}$`)

func (p place) got() string {
	if p.missing == nil && p.value.kind == scalar && plainSetting.MatchString(p.value.text) {
		return p.value.text
	}
	return ""
}

// Count is how many findings have a severity.
func (r *Report) Count(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Summary is "2 errors, 1 warning, 3 notes".
func (r *Report) Summary() string {
	if len(r.Findings) == 0 {
		return fmt.Sprintf("ok (HTTP connection managers: %d)", r.managers)
	}
	var parts []string
	for _, s := range []Severity{Error, Warning, Note} {
		if n := r.Count(s); n == 1 {
			parts = append(parts, "1 "+string(s))
		} else if n > 1 {
			parts = append(parts, fmt.Sprintf("%d %ss", n, s))
		}
	}
	if r.More > 0 {
		parts = append(parts, fmt.Sprintf("and %d more findings", r.More))
	}
	return strings.Join(parts, ", ")
}

// WriteText prints one finding a line, "file:line:column: severity: id: field: problem (got value): remedy", and the summary.
func (r *Report) WriteText(w io.Writer) error {
	var s strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&s, "%s:%d:%d: %s: %s: %s: %s", r.file, f.Line, f.Column, f.Severity, f.ID, f.Field, f.Problem)
		if f.Got != "" {
			fmt.Fprintf(&s, " (got %s)", f.Got)
		}
		fmt.Fprintf(&s, ": %s\n", f.Remedy)
	}
	fmt.Fprintf(&s, "%s: %s\n", r.file, r.Summary())
	_, err := io.WriteString(w, s.String())
	return err
}

// WriteJSON prints {"file", "errors", "warnings", "notes", "findings"}.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		File     string    `json:"file"`
		Errors   int       `json:"errors"`
		Warnings int       `json:"warnings"`
		Notes    int       `json:"notes"`
		More     int       `json:"more,omitempty"`
		Findings []Finding `json:"findings"`
	}{r.file, r.Count(Error), r.Count(Warning), r.Count(Note), r.More, append([]Finding{}, r.Findings...)})
}
