package policy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
)

// reference finds a rule as config.proto says it: one rule after the other, each path written as a regular expression.
func reference(cfg policy.Config, r policy.Request, host string) (name string, variables requirement.Variables) {
	path, err := policy.ReadPath(r.Path)
	if err != nil {
		return "ambiguous", nil
	}
	for _, rule := range append(slices.Clone(cfg.Rules), cfg.Default) {
		if r.Rule == "" && rule.Match.ByName || r.Rule != "" && r.Rule != rule.Name {
			continue
		}
		variables, ok := holds(rule, r, path, host)
		if ok {
			return rule.Name, variables
		}
	}
	if r.Rule != "" {
		return "unknown", nil
	}
	return "default", nil
}

func holds(rule policy.Rule, r policy.Request, path, host string) (variables requirement.Variables, ok bool) {
	m := rule.Match
	methods := m.Methods
	if slices.Contains(methods, "GET") {
		methods = append(slices.Clone(methods), "HEAD")
	}
	if len(methods) > 0 && !slices.Contains(methods, r.Method) && !(rule.Preflight && r.Preflight) {
		return nil, false
	}
	for _, h := range m.Headers {
		if value, ok := r.Header(h.Name); !ok || !h.Any && value != h.Value {
			return nil, false
		}
	}
	if len(m.Hosts) > 0 && !slices.ContainsFunc(m.Hosts, func(ours string) bool {
		ours = strings.ToLower(ours)
		if ours[0] == '*' {
			return len(host) >= len(ours) && strings.HasSuffix(host, ours[1:])
		}
		return host == ours
	}) {
		return nil, false
	}
	var names []string
	slash := "/?"
	if m.ExactTrailingSlash {
		slash = ""
	}
	literal := func(raw string) string {
		read, err := policy.ReadPath(raw)
		if err != nil {
			panic(err)
		}
		if m.ExactTrailingSlash && read != "/" {
			return regexp.QuoteMeta(read)
		}
		return regexp.QuoteMeta(strings.TrimSuffix(read, "/"))
	}
	expression := "/.*"
	switch {
	case m.Path == "/":
		expression = "/"
	case m.Path != "":
		expression = literal(m.Path) + slash
	case m.PathPrefix != "":
		expression = literal(m.PathPrefix) + "(/.*)?"
	case m.PathTemplate != "":
		expression = ""
		for _, segment := range strings.Split(m.PathTemplate[1:], "/") {
			switch name := strings.Trim(segment, "{}"); {
			case segment == "":
				if m.ExactTrailingSlash {
					expression += "/"
				}
			case strings.HasSuffix(name, "=**"):
				names = append(names, strings.TrimSuffix(name, "=**"))
				expression += "((?:/[^/]+)*)"
			case name != segment:
				names = append(names, name)
				expression += "/([^/]+)"
			default:
				expression += literal("/" + segment)
			}
		}
		expression += slash
	case m.PathRegex != "":
		re := regexp.MustCompile("^(?:" + m.PathRegex + ")$")
		without := strings.TrimSuffix(path, "/")
		return nil, re.MatchString(path) || !m.ExactTrailingSlash && without != "" && re.MatchString(without)
	}
	values := regexp.MustCompile("^(?:" + expression + ")$").FindStringSubmatch(path)
	if values == nil && path == "/" && m.PathTemplate == "/{rest=**}" {
		values = []string{"", ""} // however exact: "/" is a path of its own
	}
	if values == nil {
		return nil, false
	}
	for i, name := range names {
		value, err := url.PathUnescape(strings.TrimPrefix(values[i+1], "/"))
		if err != nil {
			panic(err)
		}
		variables = append(variables, requirement.Variable{Name: name, Value: value})
	}
	return variables, true
}

// maker makes rules and requests of few parts, so that they meet.
type maker struct{ *rand.Rand }

func pick[T any](m maker, of ...T) T { return of[m.IntN(len(of))] }

func (m maker) segments(of ...string) string {
	var path strings.Builder
	for range m.IntN(4) {
		path.WriteString("/" + pick(m, of...))
	}
	if path.Len() == 0 || m.IntN(4) == 0 {
		path.WriteString("/")
	}
	return path.String()
}

func (m maker) match() (match policy.Match) {
	literals := []string{"a", "b", "ab", "%61", "%c3%a9", "x.y"}
	switch m.IntN(6) {
	case 0:
		match.Path = m.segments(literals...)
	case 1:
		match.PathPrefix = m.segments(literals...)
	case 2, 3:
		variables := []string{"{v}", "{w}", "{u}"}
		for i, segment := range strings.Split(m.segments("a", "b", "ab", "", "")[1:], "/") {
			if segment == "" && i < len(variables) {
				segment = variables[i]
			}
			match.PathTemplate += "/" + segment
		}
		if m.IntN(3) == 0 {
			match.PathTemplate = strings.TrimSuffix(match.PathTemplate, "/") + "/{rest=**}"
		} else if m.IntN(4) == 0 {
			match.PathTemplate = strings.TrimSuffix(match.PathTemplate, "/") + "/"
		}
	case 4:
		match.PathRegex = pick(m, "/a.*", "/a/b+", "/(a|b)/[^/]*", "/a/?", "^/a/b", "^/a|/b", "(?i)/A", "/ab/.+", "/", ".*b/",
			"/a", "/a/b/(a|x.y)")
	}
	match.ExactTrailingSlash = match.Path+match.PathTemplate+match.PathRegex != "" && m.IntN(3) == 0
	for range pick(m, 0, 0, 1, 2) {
		match.Hosts = append(match.Hosts, pick(m, "h.test", "H.test", "*.test", "*.h.test", "*.g.h.test", "[::1]"))
	}
	for range pick(m, 0, 0, 0, 1, 2) {
		match.Methods = append(match.Methods, pick(m, "GET", "POST", "HEAD", "OPTIONS"))
	}
	for range pick(m, 0, 0, 0, 1, 2) {
		h := policy.HeaderMatch{Name: pick(m, "x-a", "x-b"), Value: pick(m, "", "1"), Any: m.IntN(2) == 0}
		match.Headers = append(match.Headers, h)
	}
	match.ByName = m.IntN(8) == 0
	return match
}

func (m maker) rules(n int) (rules []policy.Rule) {
	for i := range n {
		rules = append(rules, policy.Rule{Name: fmt.Sprint(i), Match: m.match(), Preflight: m.IntN(4) == 0})
	}
	return rules
}

// request is one with its host as rules see it.
func (m maker) request() (r policy.Request, host string) {
	host = pick(m, "h.test", "test", "g.h.test", "f.g.h.test", "other", "[::1]", ".test", "")
	spelt := host
	if m.IntN(2) == 0 {
		spelt = strings.ToUpper(spelt)
	}
	if host != "" && host[0] != '[' && m.IntN(3) == 0 {
		spelt += "."
	}
	if host != "" && m.IntN(3) == 0 {
		spelt += ":8443"
	}
	r = policy.Request{
		Method: pick(m, "GET", "POST", "HEAD", "OPTIONS"),
		Host:   spelt,
		Path:   m.segments("a", "b", "ab", "%61b", "%C3%a9", "A", "x.y", "aa") + pick(m, "", "", "?q"),
		Header: header(),
	}
	r.Preflight = r.Method == "OPTIONS" && m.IntN(2) == 0
	switch m.IntN(4) {
	case 0:
		r.Header = header("x-a", "1")
	case 1:
		r.Header = header("x-a", "", "x-b", "1")
	}
	if m.IntN(4) == 0 {
		r.Rule = fmt.Sprint(m.IntN(12))
	}
	return r, host
}

func FuzzMatchIsWhatOneRuleAfterTheOtherFinds(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed, "/a/b/")
	}
	f.Add(uint64(0), "//a")
	f.Add(uint64(0), "/{}/{v}")
	f.Fuzz(func(t *testing.T, seed uint64, path string) {
		m := maker{rand.New(rand.NewPCG(seed, 0))}
		cfg := policy.Config{Rules: m.rules(1 + m.IntN(30)), Default: policy.Rule{Name: "default"}}
		set := compileConfig(t, cfg)
		for i := range 40 {
			r, host := m.request()
			if i < 4 {
				r.Path = path
			}
			want, variables := reference(cfg, r, host)
			if got := found(set, r); got != want {
				t.Fatalf("%+v: %s, want %s of\n%s", r, got, want, list(cfg.Rules))
			}
			if f, _ := set.Match(r); !reflect.DeepEqual(f.Variables, variables) {
				t.Fatalf("%+v: %v, want %v of\n%s", r, f.Variables, variables, list(cfg.Rules))
			}
		}
	})
}

// FuzzHost sends any host: it is read in one way, as whoever writes it down in the configuration would, and reading it again changes
// nothing.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{
		"h.test", "A.H.TEST.:8443", ".h.test", "h.test..", "h.test:80:90", "xh.test", "[::1]", "[0:0::0001]:80", "[::1", "[::1]x", "::1",
		"[::FFFF:1.2.3.4]", "[fe80::1%EN0]", "[H.test]", "[[::1]", "[:::]", "h.test\x00", "\u212a.h.test", "a@h.test", "h.test/x", "", ":", "[]",
	} {
		f.Add(seed)
	}
	names := []string{"h.test", "*.h.test", "[::1]"}
	var rules []policy.Rule
	for _, name := range names {
		rules = append(rules, policy.Rule{Name: name, Match: policy.Match{Hosts: []string{name}}})
	}
	set := compile(f, rules...)
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := set.Match(policy.Request{Path: "/", Host: raw})
		host := ""
		if parts := aHost.FindStringSubmatch(raw); parts != nil {
			host = strings.TrimRight(parts[1], ".")
			if address, err := netip.ParseAddr(parts[2]); err == nil {
				host = "[" + address.String() + "]"
			} else if parts[2] != "" {
				host = ""
			}
		}
		if host == "" && raw != "" {
			if !errors.Is(err, policy.ErrAmbiguousHost) {
				t.Fatalf("%q is %q, %v", raw, got.Host, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		host = capital.ReplaceAllStringFunc(host, strings.ToLower)
		i := slices.IndexFunc(names, func(name string) bool {
			return name == host || name[0] == '*' && len(host) > len(name)-1 && strings.HasSuffix(host, name[1:])
		})
		if got.Host != host || (i < 0) != (got.Rule.Name == "default") || i >= 0 && got.Rule.Name != names[i] {
			t.Fatalf("%q is %q of rule %s, want %q of %d", raw, got.Host, got.Rule.Name, host, i)
		}
		if again, err := set.Match(policy.Request{Path: "/", Host: got.Host}); err != nil || again.Host != got.Host || again.Rule != got.Rule {
			t.Fatalf("%q is %q, and that is %q, %v", raw, got.Host, again.Host, err)
		}
	})
}

var (
	aHost   = regexp.MustCompile(`^([0-9A-Za-z._-]+|\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\])(:[0-9]*)?$`)
	capital = regexp.MustCompile(`[A-Z]`)
)

func list(rules []policy.Rule) string {
	var text strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&text, "%s %+v %t\n", r.Name, r.Match, r.Preflight)
	}
	return text.String()
}

// mixed is 40 % prefixes, 30 % templates, 20 % paths and 10 % regular expressions with literal prefixes, and a path for the
// last one.
func mixed(n int, methods ...string) (rules []policy.Rule, path string) {
	for i := range n {
		m := policy.Match{Methods: methods}
		switch i % 10 {
		case 0, 4, 6, 8:
			m.PathPrefix = fmt.Sprintf("/api/v1/service-%d/public", i)
			path = m.PathPrefix + "/x/y"
		case 1, 5, 9:
			m.PathTemplate = fmt.Sprintf("/orgs/{org}/service-%d/docs/{doc}", i)
			path = strings.NewReplacer("{org}", "acme", "{doc}", "7").Replace(m.PathTemplate)
		case 2, 7:
			m.Path = fmt.Sprintf("/api/v1/service-%d/status", i)
			path = m.Path
		case 3:
			m.PathRegex = fmt.Sprintf("/api/v1/service-%d/items/[0-9]+", i)
			path = fmt.Sprintf("/api/v1/service-%d/items/42", i)
		}
		rules = append(rules, policy.Rule{Name: fmt.Sprint(i), Match: m})
	}
	return rules, path
}

func TestFewRulesAreLookedAtHoweverManyThereAre(t *testing.T) {
	for _, n := range []int{10, 1000, 10000} {
		rules, _ := mixed(n)
		set := compile(t, rules...)
		for last := n - 10; last < n; last++ {
			_, path := mixed(last + 1)
			r := policy.Request{Method: "GET", Host: "app.example.com", Path: path}
			if got := found(set, r); got != fmt.Sprint(last) {
				t.Errorf("%s: rule %s, want %d", path, got, last)
			}
			if looked := set.Looked(r); looked != 1 {
				t.Errorf("%s of %d rules: %d were looked at", path, n, looked)
			}
		}
		if looked := set.Looked(policy.Request{Path: "/api/v1/service-1"}); looked != 0 {
			t.Errorf("a path that no rule is for: %d of %d rules were looked at", looked, n)
		}
	}
}

func TestRulesForOtherHostsAreNotLookedAt(t *testing.T) {
	var rules []policy.Rule
	for i := range 1000 {
		hosts := []string{fmt.Sprintf("h%d.test", i), fmt.Sprintf("*.h%d.test", i)}
		rules = append(rules, policy.Rule{Name: fmt.Sprint(i), Match: policy.Match{Hosts: hosts, PathPrefix: "/a"}})
	}
	set := compile(t, rules...)
	for _, host := range []string{"h999.test", "a.b.h999.test:80"} {
		r := policy.Request{Host: host, Path: "/a/b"}
		if got, looked := found(set, r), set.Looked(r); got != "999" || looked != 1 {
			t.Errorf("%s: rule %s, %d looked at", host, got, looked)
		}
	}
}

func TestNoRuleIsLookedAtBehindTheOneThatMatches(t *testing.T) {
	var rules []policy.Rule
	for i := range 1000 {
		rules = append(rules, policy.Rule{Name: fmt.Sprint(i), Match: policy.Match{PathRegex: "/a.*", Methods: []string{"GET"}}})
	}
	set := compile(t, rules...)
	if looked := set.Looked(policy.Request{Method: "GET", Path: "/ab"}); looked != 1 {
		t.Errorf("%d were looked at", looked)
	}
}

func TestMatchAllocatesNothingButVariables(t *testing.T) {
	for _, n := range []int{10, 1000} {
		rules, _ := mixed(n, "GET")
		hosts := []string{"app.example.com", "*.example.com"}
		rules = append(rules, policy.Rule{Match: policy.Match{Hosts: hosts, PathPrefix: "/x"}})
		set := compile(t, rules...)
		const host = "app.example.com:8443"
		for _, c := range []struct {
			name, host, path string
			want             float64
		}{
			{"a prefix", host, fmt.Sprintf("/api/v1/service-%d/public/x?y", n-2), 0},
			{"a path", host, fmt.Sprintf("/api/v1/service-%d/status/", n-3), 0},
			{"a regular expression", host, fmt.Sprintf("/api/v1/service-%d/items/42", n-7), 0},
			{"a host", host, "/x", 0},
			{"a host without a port", "app.example.com", "/x", 0},
			{"no rule", host, "/nothing", 0},
			{"variables", host, fmt.Sprintf("/orgs/acme/service-%d/docs/7", n-1), 1},
			{"a bad host", "app example.com", "/x", 0},
			{"a dot segment", host, "/x/../y", 0},
			{"an empty segment", host, "/x//y", 0},
			{"an encoded slash", host, "/x%2fy", 0},
			{"a byte beyond ASCII", host, "/x\xffy", 0},
			{"a control character", host, "/x%00y", 0},
			{"a bad encoding", host, "/x%zz", 0},
			{"a double encoding", host, "/x%252f", 0},
			{"a matrix parameter", host, "/x;y", 0},
			{"too long", host, "/" + strings.Repeat("x", 8192), 0},
		} {
			r := policy.Request{Method: "GET", Host: c.host, Path: c.path}
			if got := testing.AllocsPerRun(100, func() { set.Match(r) }); got > c.want {
				t.Errorf("%d rules, %s: %v allocations", n, c.name, got)
			}
		}
	}
}

func BenchmarkRefused(b *testing.B) {
	set := compile(b)
	for _, path := range []string{"/x/../y", "/x%2fy", "/x\xffy", "//"} {
		b.Run(path, func(b *testing.B) {
			r := policy.Request{Method: "GET", Host: "app.example.com", Path: path}
			b.ReportAllocs()
			for b.Loop() {
				set.Match(r)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1000} {
		for _, kind := range []struct {
			name string
			last int // of the ten rules, the kind that comes last
		}{{"prefix", 9}, {"template", 10}, {"exact", 8}, {"regex", 4}} {
			b.Run(fmt.Sprintf("%d/%s", n, kind.name), func(b *testing.B) {
				rules, _ := mixed(n + kind.last)
				rules = rules[kind.last:]
				_, path := mixed(n + kind.last)
				set := compile(b, rules...)
				r := policy.Request{Method: "GET", Host: "app.example.com", Path: path}
				if got := found(set, r); got != fmt.Sprint(n+kind.last-1) {
					b.Fatal(got)
				}
				b.ReportAllocs()
				for b.Loop() {
					set.Match(r)
				}
			})
		}
	}
}
