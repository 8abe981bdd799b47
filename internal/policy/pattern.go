package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"authz-sidecar/internal/requirement"
)

// FieldError says what is wrong with one field of a Match.
type FieldError struct {
	// Field is "path_template", "hosts[0]", "headers[1].name" and so on, as in config.proto.
	Field string
	// Problem and Remedy are for whoever wrote it.
	Problem, Remedy string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// TemplateVariables are the names of a path template's variables, in order. The error is a *FieldError.
func TemplateVariables(template string) ([]string, error) {
	var p pattern
	if err := p.readTemplate(template); err != nil {
		return nil, err
	}
	return p.names, nil
}

// pattern is a Match as it is compared: with requests, and with other patterns.
type pattern struct {
	byName  bool
	hosts   []string // as readHost reads them, "*." apart
	methods []string
	headers []HeaderMatch

	// segments begin the path, a variable spelt anyVariable; rest lets more of them follow. For a regular expression they
	// are what all that it matches begins with.
	segments []string
	rest     bool
	names    []string // of the variables; the one for the rest, if it has a name, last
	// exact takes a path with a slash at its end only if slash, and one without only if not.
	exact, slash bool
	regex        *regexp.Regexp // over the whole path; nil for none
	source       string         // of regex
	literal      string         // what regex begins with
}

// anyVariable is no literal segment, since a literal has no braces.
const anyVariable = "{}"

func compile(m Match) (pattern, []FieldError) {
	p := pattern{byName: m.ByName, methods: m.Methods, headers: m.Headers, rest: true}
	var wrong []FieldError
	report := func(field, problem, remedy string) {
		wrong = append(wrong, FieldError{Field: field, Problem: problem, Remedy: remedy})
	}
	given := ""
	for _, path := range []struct {
		field, value string
		read         func(string) *FieldError
	}{
		{"path", m.Path, p.readWhole},
		{"path_prefix", m.PathPrefix, p.readPrefix},
		{"path_template", m.PathTemplate, p.readTemplate},
		{"path_regex", m.PathRegex, p.readRegex},
	} {
		switch {
		case path.value == "":
		case given != "":
			report(path.field, "a second path beside "+given, "keep one of them, or make it two rules")
		default:
			given = path.field
			if err := path.read(path.value); err != nil {
				wrong = append(wrong, *err)
			}
		}
	}
	if m.ExactTrailingSlash && (given == "" || given == "path_prefix") {
		report("exact_trailing_slash", "without effect where there is no path, path_template or path_regex", "remove it")
	}
	p.exact = m.ExactTrailingSlash
	for i, host := range m.Hosts {
		read, problem, remedy := readHostPattern(host)
		if problem != "" {
			report(fmt.Sprintf("hosts[%d]", i), problem, remedy)
		}
		p.hosts = append(p.hosts, read)
	}
	for i, method := range m.Methods {
		field := fmt.Sprintf("methods[%d]", i)
		switch {
		case method == "CONNECT":
			report(field, "matches no request: CONNECT has no path", "leave it out: Envoy's route decides who may connect")
		case strings.ContainsFunc(method, isLower):
			report(field, "matches no request: a method with lower-case letters is refused", "write it in capitals")
		}
	}
	for i, h := range m.Headers {
		if strings.Trim(h.Value, " \t") != h.Value {
			report(fmt.Sprintf("headers[%d].value", i), "matches no request: white space around a value is taken off", "write it without")
		}
		if h.Name == "" || h.Name != lower(h.Name) {
			report(fmt.Sprintf("headers[%d].name", i), "matches no request, whose names are in lower case", "write it so")
		}
	}
	return p, wrong
}

func (p *pattern) readWhole(path string) (err *FieldError) {
	p.rest = false
	p.segments, p.slash, err = readLiteral("path", path, "use path_prefix or path_template")
	return err
}

func (p *pattern) readPrefix(prefix string) (err *FieldError) {
	p.segments, _, err = readLiteral("path_prefix", prefix, `write the beginning: "/admin" is for /admin/users, too`)
	return err
}

func (p *pattern) readTemplate(template string) (err *FieldError) {
	const field = "path_template"
	p.rest = false
	segments := strings.Split(template, "/")
	var variables []int
	for i, segment := range segments {
		if len(segment) > 1 && (segment[0] == ':' || segment[0] == '<' && segment[len(segment)-1] == '>') {
			variable := "{name}"
			if name := strings.Trim(segment, ":<>"); variableName.MatchString(name) {
				variable = "{" + name + "}"
			}
			return &FieldError{field, fmt.Sprintf("%q is how other routers write a variable", segment),
				fmt.Sprintf("write %q; a literal one begins with %%3A or %%3C", variable)}
		}
		name, opens := strings.CutPrefix(segment, "{")
		name, closes := strings.CutSuffix(name, "}")
		if !opens || !closes || strings.ContainsAny(name, "{}") {
			if strings.ContainsAny(segment, "{}") {
				return &FieldError{field, fmt.Sprintf("the segment %q is neither literal nor a variable", segment),
					`let braces enclose the segment: "/{file}", not "/{file}.txt"; a literal one is written %7B or %7D`}
			}
			continue
		}
		name, p.rest = strings.CutSuffix(name, "=**")
		switch {
		case !variableName.MatchString(name):
			return &FieldError{field, fmt.Sprintf("%q names no variable", segment),
				`write "{org}" for one segment, "{rest=**}" for the rest, the name in letters, digits and _, no digit first`}
		case p.rest && i != len(segments)-1:
			return &FieldError{field, fmt.Sprintf("%q is not at the end", segment), "let nothing follow it, not even a slash"}
		case slices.Contains(p.names, name):
			return &FieldError{field, fmt.Sprintf("two variables are called %q", name), "give each a name of its own"}
		}
		p.names = append(p.names, name)
		variables = append(variables, i-1) // a leading slash makes an empty first segment
		segments[i] = "x"                  // anything that is read as it is
	}
	p.segments, p.slash, err = readLiteral(field, strings.Join(segments, "/"), `write "{name}", or a last "{rest=**}"`)
	if err != nil {
		return err
	}
	for _, i := range variables {
		p.segments[i] = anyVariable
	}
	if p.rest {
		p.segments = p.segments[:len(p.segments)-1]
	}
	return nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// readLiteral reads what is written in a rule as a request's path is read, so that the two compare. Who writes a wildcard is
// told what to write instead.
func readLiteral(field, path, instead string) (segments []string, slash bool, err *FieldError) {
	clean, ambiguous := ReadPath(path)
	switch {
	case strings.Contains(path, "?"):
		return nil, false, &FieldError{field, "a path with a query, which no rule looks at", `end it before the "?"`}
	case strings.ContainsAny(path, "*{}"):
		return nil, false, &FieldError{field, "a wildcard where there is none", instead + "; one that is none is %2A, %7B or %7D"}
	case ambiguous != nil:
		what := strings.TrimPrefix(ambiguous.Error(), ErrAmbiguousPath.Error()+": ")
		return nil, false, &FieldError{field, "matches no request: " + what,
			`write it as a normal path, without "//", ".", "..", ";" and encoded slashes, all beyond ASCII encoded (/caf%C3%A9)`}
	}
	body, slash := cutSlash(clean)
	return split(body), slash, nil
}

func (p *pattern) readRegex(source string) *FieldError {
	const field = "path_regex"
	_, err := regexp.Compile(source) // alone: "a)|(b" is one only in brackets
	if err == nil {
		p.regex, err = regexp.Compile(`\A(?:` + source + `)\z`) // "\Qa" is one only alone
	}
	if err != nil {
		what := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		return &FieldError{field, "no regular expression: " + what, "write it in RE2's syntax"}
	}
	if steps := instructions(source); steps > maxInstructions {
		return &FieldError{field, fmt.Sprintf("too large: %d instructions, more than %d", steps, maxInstructions),
			"repeat less: (.*a){200} is 200 expressions"}
	}
	p.source, p.literal = source, literalPrefix(source)
	if problem, remedy := examineRegex(source); problem != "" {
		return &FieldError{field, problem, remedy}
	}
	if last := strings.LastIndexByte(p.literal, '/'); last > 0 {
		p.segments = split(p.literal[:last])
	}
	return nil
}

// maxInstructions bounds a regular expression: each one may cost a step for each byte of a path. One for a UUID has 70.
const maxInstructions = 512

// instructions are those of RE2's program for an expression.
func instructions(source string) int {
	re, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return 0
	}
	program, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0
	}
	return len(program.Inst)
}

// literalPrefix is a text that every path begins with that an expression matches as a whole. It looks past a "^", which
// regexp may not: without that the expression matches more, never less.
func literalPrefix(source string) string {
	re, err := regexp.Compile(strings.TrimPrefix(source, "^"))
	if err != nil {
		return ""
	}
	prefix, _ := re.LiteralPrefix()
	return prefix
}

func readHostPattern(host string) (read, problem, remedy string) {
	name, wildcard := strings.CutPrefix(host, "*.")
	switch {
	case strings.HasPrefix(name, "["):
		if _, err := netip.ParseAddr(strings.TrimSuffix(name[1:], "]")); err != nil || wildcard || !strings.HasSuffix(name, "]") {
			return "", "no IPv6 address in brackets", `write "[2001:db8::1]"`
		}
	case strings.Contains(name, ":"):
		return "", "a port, which no rule looks at, or an address without brackets", `write "example.com", or "[2001:db8::1]"`
	case strings.Contains(name, "*"):
		return "", `a wildcard that is not "*." at the beginning`, `write "*.example.com" for every host below example.com`
	case strings.Trim(name, ".") == "":
		return "", "no host", `write "example.com", or "*.example.com" for every host below it`
	}
	read, err := readHost(name)
	if err != nil {
		return "", "not a host", `write "example.com"`
	}
	if wildcard {
		read = "*." + read
	}
	return read, "", ""
}

// readHost is the host that rules are matched by: in lower case, without port and trailing dots, an IPv6 address in brackets in its
// canonical spelling (RFC 5952); empty if there is none. Two Host lines, which Envoy joins, a user before the host, an encoded
// letter and whatever else is no host with a port at most (RFC 9110, section 4.2.3) is another host to some apps: the error is
// ErrAmbiguousHost.
func readHost(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	name, port := raw, ""
	if end := strings.IndexByte(raw, ']'); raw[0] == '[' && end > 0 {
		address, err := netip.ParseAddr(raw[1:end])
		if err != nil || !address.Is6() || address.Zone() != "" {
			return "", ErrAmbiguousHost
		}
		name, port = "["+address.String()+"]", raw[end+1:]
	} else {
		if i := strings.IndexByte(raw, ':'); i >= 0 {
			name, port = raw[:i], raw[i:]
		}
		name = strings.TrimRight(name, ".")
		if !isHost(name) {
			name = lower(name)
		}
		if !isHost(name) {
			return "", ErrAmbiguousHost
		}
	}
	if port != "" && (port[0] != ':' || strings.Trim(port[1:], "0123456789") != "") {
		return "", ErrAmbiguousHost
	}
	return name, nil
}

// isHost says whether a name is one that DNS may have, in lower case; the underscore is in many, though no host name should have it.
func isHost(name string) bool {
	for i := range len(name) {
		if !inHost[name[i]] {
			return false
		}
	}
	return name != ""
}

var inHost = func() (all [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyz0123456789.-_" {
		all[c] = true
	}
	return all
}()

// lower leaves all beyond ASCII as it is: the Kelvin sign is no k.
func lower(s string) string {
	if !strings.ContainsFunc(s, isUpper) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if isUpper(rune(c)) {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func isUpper(c rune) bool { return 'A' <= c && c <= 'Z' }

func isLower(c rune) bool { return 'a' <= c && c <= 'z' }

// cutSlash takes the slash off the end, of "/" as well; but "/" is a path of its own, and not one with a slash at its end.
func cutSlash(path string) (body string, slash bool) {
	body, slash = strings.CutSuffix(path, "/")
	return body, slash && body != ""
}

// split is the segments of a path without a slash at its end.
func split(body string) []string {
	if body == "" {
		return nil
	}
	return strings.Split(body[1:], "/")
}

// cutSegment takes the first segment off a body that is not empty.
func cutSegment(body string) (segment, rest string) {
	if end := strings.IndexByte(body[1:], '/'); end >= 0 {
		return body[1 : 1+end], body[1+end:]
	}
	return body[1:], ""
}

// byNameOnly says that there is nothing to compare with a request.
func (p *pattern) byNameOnly() bool {
	return p.byName && len(p.hosts)+len(p.methods)+len(p.headers)+len(p.segments) == 0 && p.rest && p.regex == nil
}

func (p *pattern) forHost(host string) bool {
	return len(p.hosts) == 0 || slices.ContainsFunc(p.hosts, func(ours string) bool { return coversHost(ours, host) })
}

// coversHost says whether a host, or all below it if that is a pattern too, is one of a pattern's.
func coversHost(pattern, host string) bool {
	if pattern == host {
		return true
	}
	suffix, wildcard := strings.CutPrefix(pattern, "*")
	return wildcard && len(host) > len(suffix) && strings.HasSuffix(host, suffix)
}

// forBody says whether the segments are the rule's. Of a regular expression it says only whether they can be.
func (p *pattern) forBody(body string) bool {
	for _, ours := range p.segments {
		if body == "" {
			return false
		}
		var segment string
		if segment, body = cutSegment(body); ours != anyVariable && ours != segment {
			return false
		}
	}
	return p.rest || body == ""
}

// forEnd judges what forBody leaves open: the slash at the end, and the regular expression.
func (p *pattern) forEnd(q *query) bool {
	if p.regex == nil {
		return !p.exact || p.slash == q.slash
	}
	return p.regex.MatchString(q.path) || !p.exact && q.slash && p.regex.MatchString(q.body)
}

func (p *pattern) forMethod(method string) bool {
	return len(p.methods) == 0 || slices.Contains(p.methods, method) || method == "HEAD" && slices.Contains(p.methods, "GET")
}

func (p *pattern) forHeaders(header func(string) (string, bool)) bool {
	for _, h := range p.headers {
		if header == nil {
			return false
		}
		if value, ok := header(h.Name); !ok || !h.Any && value != h.Value {
			return false
		}
	}
	return true
}

// variables are the values of the variables in a body that is the rule's.
func (p *pattern) variables(body string) requirement.Variables {
	if len(p.names) == 0 {
		return nil
	}
	variables := make(requirement.Variables, 0, len(p.names))
	add := func(value string) {
		decoded, _ := url.PathUnescape(value) // ReadPath has found no error
		variables = append(variables, requirement.Variable{Name: p.names[len(variables)], Value: decoded})
	}
	for _, ours := range p.segments {
		var segment string
		if segment, body = cutSegment(body); ours == anyVariable {
			add(segment)
		}
	}
	if p.rest {
		add(strings.TrimPrefix(body, "/"))
	}
	return variables
}
