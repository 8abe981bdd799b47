package policy_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compile(t testing.TB, rules ...policy.Rule) *policy.Set {
	t.Helper()
	return compileConfig(t, policy.Config{Rules: rules})
}

func compileConfig(t testing.TB, cfg policy.Config) *policy.Set {
	t.Helper()
	cfg.Default.Name = "default"
	set, err := policy.Compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// found is the name of the rule for a request, or what is wrong.
func found(set *policy.Set, r policy.Request) string {
	f, err := set.Match(r)
	switch {
	case errors.Is(err, policy.ErrAmbiguousPath):
		return "ambiguous"
	case errors.Is(err, policy.ErrAmbiguousMethod):
		return "ambiguous method"
	case errors.Is(err, policy.ErrAmbiguousHost):
		return "ambiguous host"
	case errors.Is(err, policy.ErrUnknownRule):
		return "unknown"
	case err != nil:
		return err.Error()
	}
	return f.Rule.Name
}

func rule(name string, m policy.Match) policy.Rule { return policy.Rule{Name: name, Match: m} }

func TestMatchTakesTheFirstRuleOfWhichAllHolds(t *testing.T) {
	set := compile(t,
		rule("webhooks", policy.Match{PathPrefix: "/hooks", Methods: []string{"POST"}}),
		rule("read admin", policy.Match{PathPrefix: "/admin", Methods: []string{"GET"}}),
		rule("admin", policy.Match{PathPrefix: "/admin/"}),
		rule("app", policy.Match{PathPrefix: "/app/v1"}),
		rule("spelt otherwise", policy.Match{PathPrefix: "/%63af%c3%a9"}),
		rule("never", policy.Match{Path: "/admin/users"}),
	)
	for _, c := range []struct{ method, path, rule string }{
		{"GET", "/admin", "read admin"},
		{"HEAD", "/admin", "read admin"},
		{"POST", "/admin", "admin"},
		{"POST", "/admin/", "admin"},
		{"POST", "/admin/users", "admin"},
		{"get", "/admin", "ambiguous method"}, // methods have case (RFC 9110, section 9.1), but not everywhere
		{"X-PURGE_1", "/admin", "admin"},
		{"POST", "/administrator", "default"},
		{"POST", "/Admin", "default"},
		{"POST", "/%61dmin/users", "admin"},
		{"POST", "/adm%69n", "admin"},
		{"POST", "/hooks", "webhooks"},
		{"HEAD", "/hooks", "default"},
		{"POST", "/hooks?next=/admin", "webhooks"},
		{"GET", "/?/admin", "default"},
		{"GET", "/app/v1", "app"},
		{"GET", "/app/v1/x", "app"},
		{"GET", "/app/v10", "default"},
		{"GET", "/app", "default"},
		{"GET", "/caf%C3%A9/menu", "spelt otherwise"},
		{"GET", "/", "default"},
		{"GET", "//admin", "ambiguous"},
		{"GET", "", "ambiguous"},
	} {
		if got := found(set, policy.Request{Method: c.method, Path: c.path}); got != c.rule {
			t.Errorf("%s %s: rule %q, want %q", c.method, c.path, got, c.rule)
		}
	}
}

func TestAPathIsForTheRequestsThatItsKindSays(t *testing.T) {
	for _, c := range []struct {
		name         string
		match        policy.Match
		paths, other []string
	}{
		{"no path is for all", policy.Match{}, []string{"/", "/a", "/a/b/"}, nil},
		{"the root as a prefix is for all", policy.Match{PathPrefix: "/"}, []string{"/", "/a", "/a/b/"}, nil},
		{"the root as a path is for itself", policy.Match{Path: "/"}, []string{"/", "/?x"}, []string{"/a", "/a/"}},
		{"a path is whole, and a slash at its end makes no difference", policy.Match{Path: "/a/b"},
			[]string{"/a/b", "/a/b/", "/%61/b"}, []string{"/a", "/a/b/c", "/a/bc", "/"}},
		{"neither does one in the rule", policy.Match{Path: "/a/b/"}, []string{"/a/b", "/a/b/"}, []string{"/a/b/c"}},
		{"but with exact_trailing_slash", policy.Match{Path: "/a/b", ExactTrailingSlash: true}, []string{"/a/b"}, []string{"/a/b/"}},
		{"on either side", policy.Match{Path: "/a/b/", ExactTrailingSlash: true}, []string{"/a/b/"}, []string{"/a/b"}},
		{"a template has a variable for one segment", policy.Match{PathTemplate: "/orgs/{org}/docs/{doc}"},
			[]string{"/orgs/1/docs/2", "/orgs/1/docs/2/", "/orgs/%C3%A9/docs/a.b"},
			[]string{"/orgs/1/docs", "/orgs/1/docs/", "/orgs/1/docs/2/3", "/orgs/1/2", "/"}},
		{"no segment is no value", policy.Match{PathTemplate: "/{x}"}, []string{"/a", "/a/"}, []string{"/", "/a/b"}},
		{"a template's slash counts where it is exact", policy.Match{PathTemplate: "/o/{x}/", ExactTrailingSlash: true},
			[]string{"/o/1/"}, []string{"/o/1", "/o/"}},
		{"a template's text is read as a path is", policy.Match{PathTemplate: "/%6frgs/%7bx%7d/{x}"},
			[]string{"/orgs/%7Bx%7d/1", "/orgs/{x}/1"}, []string{"/orgs/x/1"}},
		{"what would be a wildcard is written encoded", policy.Match{Path: "/%2A/a%2a"},
			[]string{"/*/a*", "/%2a/a*"}, []string{"/x/a*"}},
		{"and so in a template", policy.Match{PathTemplate: "/%2A/%7Bx%7D"},
			[]string{"/*/%7bx%7d", "/*/{x}"}, []string{"/*/x", "/*/{}"}},
		{"what may not stand in a path compares in any spelling", policy.Match{PathPrefix: "/admin area"},
			[]string{"/admin area", "/admin%20area/x"}, []string{"/admin+area", "/admin", "/adminarea"}},
		{"and the other way round", policy.Match{Path: "/a%7cb%5b%22"}, []string{`/a|b["`, "/a%7Cb%5B%22"}, []string{`/a|b[`, "/ab"}},
		{"and in a template", policy.Match{PathTemplate: "/a^b/{x}"}, []string{"/a^b/1", "/a%5eb/{x}"}, []string{"/ab/1"}},
		{"a colon at the beginning of a template's text is written encoded", policy.Match{PathTemplate: "/%3Ax/{v}"},
			[]string{"/:x/1", "/%3ax/1"}, []string{"/x/1"}},
		{"the rest is any number of segments, none too", policy.Match{PathTemplate: "/files/{rest=**}"},
			[]string{"/files", "/files/", "/files/a", "/files/a/b/", "/files/a/b/c"}, []string{"/filesystem", "/"}},
		{"the rest of all", policy.Match{PathTemplate: "/{rest=**}"}, []string{"/", "/a", "/a/b/"}, nil},
		{"the rest without a slash at its end", policy.Match{PathTemplate: "/files/{rest=**}", ExactTrailingSlash: true},
			[]string{"/files", "/files/a"}, []string{"/files/", "/files/a/"}},
		{"a regular expression is for the whole path", policy.Match{PathRegex: "/v[0-9]+/users"},
			[]string{"/v1/users", "/v12/users/", "/v1/user%73"}, []string{"/v/users", "/v1/users/2", "/x/v1/users", "/v1/users2"}},
		{"of each alternative", policy.Match{PathRegex: "/a|/b"}, []string{"/a", "/b", "/b/"}, []string{"/a/b", "/x/b", "/ab"}},
		{"with anchors of its own", policy.Match{PathRegex: "^/a/(b|c)$"}, []string{"/a/b", "/a/c/"}, []string{"/a/d", "/x/a/b"}},
		{"not of a line", policy.Match{PathRegex: "(?m)^/a$"}, []string{"/a"}, []string{"/a/b", "/ab"}},
		{"without case if it says so", policy.Match{PathRegex: "(?i)/admin/.*"}, []string{"/Admin/x", "/ADMIN/"}, []string{"/admin"}},
		{"with a slash at its end only that", policy.Match{PathRegex: "/a/"}, []string{"/a/"}, []string{"/a"}},
		{"as it is, where that is exact", policy.Match{PathRegex: "/a", ExactTrailingSlash: true}, []string{"/a"}, []string{"/a/"}},
		{"of the path as it is read", policy.Match{PathRegex: "/my%20files/(caf%C3%A9|a%7Cb)"},
			[]string{"/my files/caf%c3%a9", "/m%79%20files/a|b"}, []string{"/my+files/a|b", "/my files/b"}},
		{"for the root", policy.Match{PathRegex: "/"}, []string{"/"}, []string{"/a"}},
		{"the root is not the empty path", policy.Match{PathRegex: "(/a)*"}, []string{"/a", "/a/a/"}, []string{"/"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			byName := c.match
			byName.ByName = true
			set := compile(t, rule("it", c.match), rule("named", byName))
			try := func(path, want, wantNamed string) {
				if got := found(set, policy.Request{Path: path}); got != want {
					t.Errorf("%s: %s, want %s", path, got, want)
				}
				if got := found(set, policy.Request{Path: path, Rule: "named"}); got != wantNamed {
					t.Errorf("%s by name: %s, want %s", path, got, wantNamed)
				}
			}
			for _, path := range c.paths {
				try(path, "it", "named")
			}
			for _, path := range c.other {
				try(path, "default", "unknown")
			}
		})
	}
}

// variables are names and values in turn.
func variables(pairs ...string) (v requirement.Variables) {
	for i := 0; i < len(pairs); i += 2 {
		v = append(v, requirement.Variable{Name: pairs[i], Value: pairs[i+1]})
	}
	return v
}

func TestVariablesAreHandedOutDecoded(t *testing.T) {
	for _, c := range []struct {
		template, path string
		want           requirement.Variables
	}{
		{"/orgs/{org}/docs/{doc}", "/orgs/acme/docs/7", variables("org", "acme", "doc", "7")},
		{"/orgs/{org}/docs/{doc}", "/orgs/ac%6de/docs/a%20b%3Fc/", variables("org", "acme", "doc", "a b?c")},
		{"/{x}", "/100%25", variables("x", "100%")},
		{"/{x}", "/caf%c3%a9", variables("x", "café")},
		{"/{x}", "/a+b", variables("x", "a+b")},
		{"/{x}", "/a?x=b", variables("x", "a")},
		{"/{a}/x/{b}/{rest=**}", "/1/x/2/3/%C3%A9/", variables("a", "1", "b", "2", "rest", "3/é")},
		{"/{a}/{rest=**}", "/1", variables("a", "1", "rest", "")},
		{"/{rest=**}", "/", variables("rest", "")},
		{"/plain", "/plain", nil},
	} {
		set := compile(t, rule("it", policy.Match{PathTemplate: c.template}))
		for _, name := range []string{"", "it"} {
			f, err := set.Match(policy.Request{Path: c.path, Rule: name})
			if err != nil || f.Rule.Name != "it" || !reflect.DeepEqual(f.Variables, c.want) {
				t.Errorf("%s of %s: %v, %v, want %v", c.path, c.template, f.Variables, err, c.want)
			}
		}
	}
}

func TestVariablesAreThoseOfTheRuleThatDecides(t *testing.T) {
	set := compile(t,
		rule("post", policy.Match{PathTemplate: "/{a}/x", Methods: []string{"POST"}}),
		rule("get", policy.Match{PathTemplate: "/o/{b}"}),
		rule("prefix", policy.Match{PathPrefix: "/p"}),
	)
	f, err := set.Match(policy.Request{Method: "GET", Path: "/o/x"})
	if want := variables("b", "x"); err != nil || !reflect.DeepEqual(f.Variables, want) {
		t.Errorf("%v, %v", f, err)
	}
	if f, err := set.Match(policy.Request{Method: "GET", Path: "/p/x"}); err != nil || f.Variables != nil {
		t.Errorf("%v, %v", f, err)
	}
}

func TestAHostRuleIsNotWalkedAround(t *testing.T) {
	set := compile(t,
		rule("app", policy.Match{Hosts: []string{"App.example.com", "app.example.org."}}),
		rule("deep", policy.Match{Hosts: []string{"*.deep.example.net"}}),
		rule("below", policy.Match{Hosts: []string{"*.Example.net"}}),
		rule("address", policy.Match{Hosts: []string{"[2001:DB8::1]", "192.0.2.1"}}),
		rule("top", policy.Match{Hosts: []string{"*.localhost"}}),
	)
	for _, c := range []struct{ host, rule, read string }{
		{"app.example.com", "app", "app.example.com"},
		{"APP.Example.COM", "app", "app.example.com"},
		{"app.example.com:8443", "app", "app.example.com"},
		{"app.example.com:", "app", "app.example.com"},
		{"app.example.com.", "app", "app.example.com"},
		{"app.example.com.:443", "app", "app.example.com"},
		{"app.example.org", "app", "app.example.org"},
		{"app.example.com..", "app", "app.example.com"},
		{"app.example.com...:443", "app", "app.example.com"},
		{"app..example.com", "default", "app..example.com"},
		{"xapp.example.com", "default", "xapp.example.com"},
		{"x.app.example.com", "default", "x.app.example.com"},
		{"app.example.com.evil.test", "default", "app.example.com.evil.test"},
		{"a.example.net", "below", "a.example.net"},
		{"A.B.EXAMPLE.NET.:80", "below", "a.b.example.net"},
		{"a.deep.example.net", "deep", "a.deep.example.net"},
		{"deep.example.net", "below", "deep.example.net"},
		{strings.Repeat("a.", 20000) + "example.net", "below", strings.Repeat("a.", 20000) + "example.net"},
		{"example.net", "default", "example.net"},
		{".example.net", "default", ".example.net"},
		{"badexample.net", "default", "badexample.net"},
		{"[2001:db8::1]", "address", "[2001:db8::1]"},
		{"[2001:DB8:0:0::1]:443", "address", "[2001:db8::1]"},
		{"[2001:db8::2]", "default", "[2001:db8::2]"},
		{"192.0.2.1:80", "address", "192.0.2.1"},
		{"a.LOCALHOST", "top", "a.localhost"},
		{"a_b.localhost", "top", "a_b.localhost"},
		{"", "default", ""},
	} {
		for _, path := range []string{"/", "/a"} {
			f, err := set.Match(policy.Request{Host: c.host, Path: path})
			if err != nil || f.Rule.Name != c.rule || f.Host != c.read {
				t.Errorf("%.40s: %s, read as %.40s, %v; want %s", c.host, f.Rule.Name, f.Host, err, c.rule)
			}
		}
		want := c.rule
		if want != "app" {
			want = "unknown"
		}
		if got := found(set, policy.Request{Host: c.host, Path: "/", Rule: "app"}); got != want {
			t.Errorf("%.40s by name: %s, want %s", c.host, got, want)
		}
	}
}

func TestAHostThatTwoServersReadDifferentlyIsRefused(t *testing.T) {
	set := compile(t, rule("intern", policy.Match{Hosts: []string{"intern.example.com"}}), rule("odd", policy.Match{ByName: true}))
	for _, host := range []string{
		"app,intern.example.com", "intern.example.com,app", "app, intern.example.com", "app@intern.example.com", "app:80@intern.example.com",
		"%69ntern.example.com", "intern.example.com/x", "intern.example.com:80:443", "intern.example.com:x", "intern.example.com:+80",
		"intern.example.com\\x", "intern.example.com?", "intern.example.com#", " intern.example.com", "intern.example.com\t", "intern.example.com\x00",
		"intern\u3002example.com", "\u0131ntern.example.com", "a.\u212a", "\xff", "!", ".", "..", ":", ":80", "..:80",
		"[", "[]", "[::1", "[::1]x", "[::1]:x", "[::1].", "[nonsense]:1", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[1.2.3.4]", "::1", "a]", "x[::1]",
	} {
		for _, r := range []policy.Request{{Host: host, Path: "/"}, {Host: host, Path: "//"}, {Host: host, Path: "/", Rule: "odd"}} {
			if got := found(set, r); got != "ambiguous host" {
				t.Errorf("%q %s: %s", host, r.Path, got)
			}
		}
	}
}

func TestTheOrderOfTheListDecidesWhateverTheKind(t *testing.T) {
	kinds := []policy.Match{
		{Path: "/a/b"},
		{PathPrefix: "/a"},
		{PathTemplate: "/a/{x}"},
		{PathTemplate: "/{x}/b"},
		{PathTemplate: "/{x=**}"},
		{PathRegex: "/a/.*"},
		{PathRegex: ".*b"},
		{Hosts: []string{"h.test"}},
		{Hosts: []string{"*.test"}},
		{Methods: []string{"GET"}},
		{Headers: []policy.HeaderMatch{{Name: "x-a", Any: true}}},
	}
	r := policy.Request{Method: "GET", Host: "h.test", Path: "/a/b", Header: header("x-a", "")}
	for i, first := range kinds {
		for j, second := range kinds {
			if i == j {
				continue
			}
			if got := found(compile(t, rule("first", first), rule("second", second)), r); got != "first" {
				t.Errorf("%+v before %+v: %s", first, second, got)
			}
		}
	}
}

// header is the Header of a request with the headers given, names and values in turn.
func header(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestHeadersMustAllBeThere(t *testing.T) {
	set := compile(t,
		rule("both", policy.Match{Headers: []policy.HeaderMatch{{Name: "x-a", Any: true}, {Name: "x-b", Value: "1,2"}}}),
		rule("empty", policy.Match{Headers: []policy.HeaderMatch{{Name: "x-e"}}}),
	)
	for _, c := range []struct {
		name   string
		header func(string) (string, bool)
		rule   string
	}{
		{"both are there", header("x-a", "whatever", "x-b", "1,2"), "both"},
		{"any value is an empty one, too", header("x-a", "", "x-b", "1,2"), "both"},
		{"one is missing", header("x-b", "1,2"), "default"},
		{"one has another value", header("x-a", "", "x-b", "1"), "default"},
		{"values have case", header("x-a", "", "x-b", "1,2 "), "default"},
		{"an empty value is a value", header("x-e", ""), "empty"},
		{"which a missing header has not", header(), "default"},
		{"and which others are not", header("x-e", "x"), "default"},
		{"no headers at all", nil, "default"},
	} {
		if got := found(set, policy.Request{Path: "/", Header: c.header}); got != c.rule {
			t.Errorf("%s: %s, want %s", c.name, got, c.rule)
		}
	}
}

func TestAPreflightIsForRulesThatLetItPassWhateverTheirMethods(t *testing.T) {
	set := compile(t,
		rule("no preflight", policy.Match{PathPrefix: "/a", Methods: []string{"POST"}}),
		policy.Rule{Name: "preflight", Preflight: true, Match: policy.Match{PathPrefix: "/a", Methods: []string{"GET"}}},
	)
	for _, c := range []struct {
		r    policy.Request
		rule string
	}{
		{policy.Request{Method: "OPTIONS", Path: "/a", Preflight: true}, "preflight"},
		{policy.Request{Method: "OPTIONS", Path: "/a", Preflight: true, Rule: "preflight"}, "preflight"},
		{policy.Request{Method: "OPTIONS", Path: "/a", Preflight: true, Rule: "no preflight"}, "unknown"},
		{policy.Request{Method: "OPTIONS", Path: "/a"}, "default"},
		{policy.Request{Method: "OPTIONS", Path: "/b", Preflight: true}, "default"},
		{policy.Request{Method: "GET", Path: "/a"}, "preflight"},
	} {
		if got := found(set, c.r); got != c.rule {
			t.Errorf("%+v: %s, want %s", c.r, got, c.rule)
		}
	}
}

func TestARuleThatEnvoyNamesIsTheOnlyOne(t *testing.T) {
	set := compile(t,
		rule("first", policy.Match{PathPrefix: "/"}),
		rule("payments", policy.Match{ByName: true}),
		rule("posts", policy.Match{ByName: true, Methods: []string{"POST"}, Hosts: []string{"*.test"}, PathPrefix: "/p",
			Headers: []policy.HeaderMatch{{Name: "x-a", Any: true}}}),
		policy.Rule{Match: policy.Match{ByName: true}},
	)
	right := policy.Request{Method: "POST", Host: "a.test", Path: "/p", Header: header("x-a", "")}
	for _, c := range []struct {
		name, rule string
		edit       func(*policy.Request)
		want       string
	}{
		{"without a name", "", nil, "first"},
		{"a rule that is found by name only", "payments", nil, "payments"},
		{"one that is found without, too", "first", nil, "first"},
		{"the default rule", "default", nil, "default"},
		{"one that there is not", "payment", nil, "unknown"},
		{"in another case", "Payments", nil, "unknown"},
		{"one whose match holds", "posts", nil, "posts"},
		{"of another method", "posts", func(r *policy.Request) { r.Method = "GET" }, "unknown"},
		{"of another host", "posts", func(r *policy.Request) { r.Host = "test" }, "unknown"},
		{"of another path", "posts", func(r *policy.Request) { r.Path = "/q" }, "unknown"},
		{"without a header", "posts", func(r *policy.Request) { r.Header = nil }, "unknown"},
		{"of an ambiguous path", "payments", func(r *policy.Request) { r.Path = "//p" }, "ambiguous"},
	} {
		r := right
		r.Rule = c.rule
		if c.edit != nil {
			c.edit(&r)
		}
		if got := found(set, r); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := found(compile(t, rule("named", policy.Match{ByName: true})), policy.Request{Path: "/"}); got != "default" {
		t.Errorf("a rule that is found by name only decides for a request without a name: %s", got)
	}
}

// TestAMethodWithLowerCaseLettersIsRefused: a rule for DELETE would not be looked at for "delete", which some apps take for it.
func TestAMethodWithLowerCaseLettersIsRefused(t *testing.T) {
	set := compileConfig(t, policy.Config{
		Rules: []policy.Rule{
			rule("no deletion", policy.Match{PathPrefix: "/a", Methods: []string{"DELETE"}}),
			rule("reading", policy.Match{PathPrefix: "/a"}),
			rule("odd", policy.Match{ByName: true}),
		},
		AmbiguousPathRule: "odd",
	})
	for _, c := range []struct{ method, path, named, rule string }{
		{"DELETE", "/a", "", "no deletion"},
		{"GET", "/a", "", "reading"},
		{"DELETE", "//a", "", "odd"},
		{"DELETE", "/a", "odd", "odd"},
		{"", "/a", "", "reading"},
		{"delete", "/a", "", "ambiguous method"},
		{"DELETe", "/a", "", "ambiguous method"},
		{"delete", "/b", "", "ambiguous method"},
		{"delete", "/a", "odd", "ambiguous method"},
		{"delete", "/a", "default", "ambiguous method"},
		{"delete", "/a", "nobody", "ambiguous method"},
		{"delete", "//a", "", "ambiguous method"},
		{"delete", "//a", "odd", "ambiguous method"},
		{"delete", "//a", "reading", "ambiguous"},
	} {
		if got := found(set, policy.Request{Method: c.method, Path: c.path, Rule: c.named}); got != c.rule {
			t.Errorf("%s %s by %q: %s, want %s", c.method, c.path, c.named, got, c.rule)
		}
	}
	if set.AmbiguousPathRule() != "odd" || compile(t).AmbiguousPathRule() != "" {
		t.Errorf("the rule for ambiguous paths: %q, %q", set.AmbiguousPathRule(), compile(t).AmbiguousPathRule())
	}
}

func TestAmbiguousPathsHaveTheirRuleIfThereIsOne(t *testing.T) {
	set := compileConfig(t, policy.Config{
		Rules: []policy.Rule{
			rule("all", policy.Match{PathPrefix: "/"}),
			rule("odd", policy.Match{ByName: true}),
			rule("payments", policy.Match{ByName: true}),
		},
		AmbiguousPathRule: "odd",
	})
	for _, c := range []struct{ path, named, rule, read string }{
		{"//a", "", "odd", "//a"},
		{"/a/%2e%2e/b?x=1", "", "odd", "/a/%2e%2e/b"},
		{"", "", "odd", ""},
		{"//a", "odd", "odd", "//a"},
		{"//a", "payments", "ambiguous", ""},
		{"//a", "default", "ambiguous", ""},
		{"//a", "nobody", "ambiguous", ""},
	} {
		r := policy.Request{Host: "H.test:1", Path: c.path, Rule: c.named}
		if got := found(set, r); got != c.rule {
			t.Errorf("%q by %q: %s, want %s", c.path, c.named, got, c.rule)
			continue
		}
		want := policy.Found{}
		if c.rule == "odd" {
			want = policy.Found{Rule: &set.All()[1], Path: c.read, Host: "h.test", Ambiguous: true}
		}
		if f, _ := set.Match(r); !reflect.DeepEqual(f, want) {
			t.Errorf("%q: %+v", c.path, f)
		}
	}
	if f, err := set.Match(policy.Request{Path: "/a", Rule: "odd"}); err != nil || f.Ambiguous {
		t.Errorf("a path that is not ambiguous: %+v, %v", f, err)
	}
}

func TestCompileRefusesARuleThatLetsAmbiguousPathsPass(t *testing.T) {
	for _, c := range []struct {
		name  string
		rule  policy.Rule
		where string
	}{
		{"another name", rule("other", policy.Match{ByName: true}), "ambiguous_path_rule"},
		{"a path", rule("odd", policy.Match{ByName: true, PathPrefix: "/a"}), "rules[0].match"},
		{"the rest of a path", rule("odd", policy.Match{ByName: true, Path: "/"}), "rules[0].match"},
		{"an expression", rule("odd", policy.Match{ByName: true, PathRegex: "/.*"}), "rules[0].match"},
		{"a host", rule("odd", policy.Match{ByName: true, Hosts: []string{"a"}}), "rules[0].match"},
		{"a method", rule("odd", policy.Match{ByName: true, Methods: []string{"GET"}}), "rules[0].match"},
		{"a header", rule("odd", policy.Match{ByName: true, Headers: []policy.HeaderMatch{{Name: "a"}}}), "rules[0].match"},
		{"found without its name", rule("odd", policy.Match{}), "rules[0].match"},
		{"a session if there is one", policy.Rule{Name: "odd", Match: policy.Match{ByName: true}, Session: policy.Optional},
			"rules[0].session"},
		{"no session", policy.Rule{Name: "odd", Match: policy.Match{ByName: true}, Session: policy.None}, "rules[0].session"},
		{"preflights", policy.Rule{Name: "odd", Match: policy.Match{ByName: true}, Preflight: true}, "rules[0].preflight"},
		{"shadow", policy.Rule{Name: "odd", Match: policy.Match{ByName: true}, Shadow: true}, "rules[0].shadow"},
	} {
		_, err := policy.Compile(policy.Config{Rules: []policy.Rule{c.rule}, AmbiguousPathRule: "odd"})
		if err == nil || !strings.HasPrefix(err.Error(), c.where+": ") {
			t.Errorf("%s: %v, want an error at %s", c.name, err, c.where)
		}
	}
	_, err := policy.Compile(policy.Config{Default: policy.Rule{Name: "default"}, AmbiguousPathRule: "default"})
	if err == nil {
		t.Error("the default rule was taken")
	}
}

func TestCompileReportsTheFieldThatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name   string
		match  policy.Match
		fields []string
	}{
		{"nothing", policy.Match{}, nil},
		{"all that is right", policy.Match{
			Hosts: []string{"a", "*.b", "[::1]"}, Headers: []policy.HeaderMatch{{Name: "x-a"}}, PathTemplate: "/{a}/{b=**}",
		}, nil},
		{"no leading slash", policy.Match{PathPrefix: "admin"}, []string{"path_prefix"}},
		{"an empty segment", policy.Match{PathPrefix: "/a//b"}, []string{"path_prefix"}},
		{"a dot segment", policy.Match{Path: "/a/../b"}, []string{"path"}},
		{"a matrix parameter", policy.Match{PathTemplate: "/a;b/{x}"}, []string{"path_template"}},
		{"an encoded slash", policy.Match{Path: "/a%2fb"}, []string{"path"}},
		{"a letter beyond ASCII", policy.Match{Path: "/café"}, []string{"path"}},
		{"a query", policy.Match{Path: "/a?b"}, []string{"path"}},
		{"a wildcard in a path", policy.Match{Path: "/a/*"}, []string{"path"}},
		{"a wildcard in a prefix", policy.Match{PathPrefix: "/a*"}, []string{"path_prefix"}},
		{"a variable in a prefix", policy.Match{PathPrefix: "/{a}"}, []string{"path_prefix"}},
		{"a wildcard in a template", policy.Match{PathTemplate: "/{a}/*"}, []string{"path_template"}},
		{"two paths", policy.Match{Path: "/a", PathRegex: "/b"}, []string{"path_regex"}},
		{"three paths", policy.Match{Path: "/a", PathPrefix: "/a", PathTemplate: "/a"}, []string{"path_prefix", "path_template"}},
		{"no regular expression", policy.Match{PathRegex: "/("}, []string{"path_regex"}},
		{"one only in brackets", policy.Match{PathRegex: "/a)|(/b"}, []string{"path_regex"}},
		{"one only alone", policy.Match{PathRegex: `/\Qa`}, []string{"path_regex"}},
		{"an expression that begins with no slash", policy.Match{PathRegex: "admin/.*"}, []string{"path_regex"}},
		{"nor behind an anchor", policy.Match{PathRegex: "^admin/.*"}, []string{"path_regex"}},
		{"a slash of a prefix", policy.Match{PathPrefix: "/a", ExactTrailingSlash: true}, []string{"exact_trailing_slash"}},
		{"a slash of no path", policy.Match{ExactTrailingSlash: true}, []string{"exact_trailing_slash"}},
		{"hosts with ports", policy.Match{Hosts: []string{"a", "a:80", "[::1]:80", "::1"}}, []string{"hosts[1]", "hosts[2]", "hosts[3]"}},
		{"hosts with other wildcards", policy.Match{Hosts: []string{"*", "a.*", "*a"}}, []string{"hosts[0]", "hosts[1]", "hosts[2]"}},
		{"no hosts", policy.Match{Hosts: []string{"", "*.", "."}}, []string{"hosts[0]", "hosts[1]", "hosts[2]"}},
		{"no addresses", policy.Match{Hosts: []string{"[::1", "[x]", "*.[::1]"}}, []string{"hosts[0]", "hosts[1]", "hosts[2]"}},
		{"another router's variables", policy.Match{PathTemplate: "/orgs/:org"}, []string{"path_template"}},
		{"and those of a third", policy.Match{PathTemplate: "/orgs/<int:org>/x"}, []string{"path_template"}},
		{"a colon that is none", policy.Match{PathTemplate: "/a:b/:/{x}/%3Ay/<"}, nil},
		{"methods", policy.Match{Methods: []string{"GET", "CONNECT", "get", "M-SEARCH"}}, []string{"methods[1]", "methods[2]"}},
		{"values with white space around them", policy.Match{Headers: []policy.HeaderMatch{
			{Name: "x-a", Value: "b c"}, {Name: "x-b", Value: " b"}, {Name: "x-c", Value: "b\t"}, {Name: "x-d", Value: " "}, {Name: "x-e"},
		}}, []string{"headers[1].value", "headers[2].value", "headers[3].value"}},
		{"headers", policy.Match{Headers: []policy.HeaderMatch{{Name: "x"}, {Name: "X"}, {Name: ""}}},
			[]string{"headers[1].name", "headers[2].name"}},
	} {
		_, err := policy.Compile(policy.Config{Rules: []policy.Rule{{}, {Match: c.match}}})
		var fields []string
		if err != nil {
			for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
				e, ok := errors.AsType[*policy.RuleError](err)
				if !ok || e.Index != 1 || e.Problem == "" || e.Remedy == "" {
					t.Errorf("%s: %#v", c.name, err)
					continue
				}
				fields = append(fields, strings.TrimPrefix(e.Field, "match."))
			}
		}
		if !slices.Equal(fields, c.fields) {
			t.Errorf("%s: %q, want %q", c.name, fields, c.fields)
		}
	}
}

func TestCompileReportsAllAtOnce(t *testing.T) {
	_, err := policy.Compile(policy.Config{
		Rules: []policy.Rule{
			rule("a", policy.Match{Path: "//"}),
			rule("b", policy.Match{Hosts: []string{"*"}, PathTemplate: "/{a"}),
			rule("a", policy.Match{}), rule("a", policy.Match{}), rule("default", policy.Match{}),
		},
		Default:           policy.Rule{Name: "default"},
		AmbiguousPathRule: "nobody",
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatal(err)
	}
	var places []string
	for _, err := range joined.Unwrap() {
		e, ok := errors.AsType[*policy.RuleError](err)
		if !ok || e.Problem == "" || e.Remedy == "" {
			t.Fatalf("%#v", err)
		}
		places = append(places, fmt.Sprint(e.Index, " ", e.Field))
	}
	want := []string{"0 match.path", "1 match.path_template", "1 match.hosts[0]", "2 name", "-1 name", "-1 ambiguous_path_rule"}
	if !slices.Equal(places, want) {
		t.Errorf("%q, want %q", places, want)
	}
	for _, text := range []string{
		`rules[2].name: rules[0] has the same name, "a"`, "default_rule.name: rules[4] has", "\nambiguous_path_rule: ",
	} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in %q", text, err)
		}
	}
}

func TestRulesWithoutANameAreNoDuplicates(t *testing.T) {
	compile(t, policy.Rule{}, policy.Rule{})
}

func TestTemplateVariables(t *testing.T) {
	for _, c := range []struct {
		template string
		names    []string
		ok       bool
	}{
		{"/orgs/{org}/docs/{doc}", []string{"org", "doc"}, true},
		{"/{_a1}/{B=**}", []string{"_a1", "B"}, true},
		{"/a", nil, true},
		{"/{a}/", []string{"a"}, true},
		{"", nil, false},
		{"a/{b}", nil, false},
		{"{a}", nil, false},
		{"/{}", nil, false},
		{"/{1a}", nil, false},
		{"/{a-b}", nil, false},
		{"/{é}", nil, false},
		{"/{a}/{a}", nil, false},
		{"/{a}/{a=**}", nil, false},
		{"/{a", nil, false},
		{"/a}", nil, false},
		{"/{a}.txt", nil, false},
		{"/x{a}", nil, false},
		{"/{a}{b}", nil, false},
		{"/{{a}}", nil, false},
		{"/{a=*}", nil, false},
		{"/{**}", nil, false},
		{"/{=**}", nil, false},
		{"/**", nil, false},
		{"/{a=**}/b", nil, false},
		{"/{a=**}/", nil, false},
		{"/{a/b}", nil, false},
		{"/{a}//b", nil, false},
		{"/{a}?b", nil, false},
	} {
		names, err := policy.TemplateVariables(c.template)
		if !slices.Equal(names, c.names) || (err == nil) != c.ok {
			t.Errorf("%s: %q, %v", c.template, names, err)
		}
		if e, ok := errors.AsType[*policy.FieldError](err); err != nil && (!ok || e.Field != "path_template" || e.Remedy == "") {
			t.Errorf("%s: %#v", c.template, err)
		}
	}
}

func TestHeadersAreThoseThatRulesAndExpressionsRead(t *testing.T) {
	reads := func(expression string) *requirement.Set {
		set, err := requirement.New(requirement.Config{Expressions: []string{expression}})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	match := policy.Match{Headers: []policy.HeaderMatch{{Name: "x-c"}, {Name: "x-a"}}}
	set := compileConfig(t, policy.Config{
		Rules: []policy.Rule{
			rule("a", match), rule("b", match),
			{Name: "c", Require: reads(`request.headers["x-b"] == "1"`)},
		},
		Default: policy.Rule{
			Require: reads(`request.headers["x-d"] == "1"`),
			Match:   policy.Match{Headers: []policy.HeaderMatch{{Name: "unused"}}},
		},
	})
	if names, all := set.Headers(); !slices.Equal(names, []string{"x-a", "x-b", "x-c", "x-d"}) || all {
		t.Errorf("%q, %t", names, all)
	}
	if names, all := compile(t).Headers(); len(names) != 0 || all {
		t.Errorf("no rule: %q, %t", names, all)
	}
	set = compile(t, policy.Rule{Require: reads(`request.headers[request.method] == "1"`)}, rule("a", match))
	if names, all := set.Headers(); !all {
		t.Errorf("a name that is made: %q, %t", names, all)
	}
}

func TestAllAreTheRulesInOrderAndTheDefaultOneLast(t *testing.T) {
	set := compile(t, rule("a", policy.Match{PathPrefix: "/%61"}), rule("b", policy.Match{}))
	var names []string
	for _, r := range set.All() {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"a", "b", "default"}) || set.All()[0].Match.PathPrefix != "/%61" {
		t.Errorf("%q", names)
	}
}
