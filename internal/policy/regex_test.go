package policy_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"authz-sidecar/internal/policy"
)

func TestAnExpressionThatMatchesNoReadPathIsRefused(t *testing.T) {
	const slash, unread, misspelt = "a path begins with a slash", "matches no request: ", "is read as"
	for _, c := range []struct{ source, problem, remedy string }{
		{"admin/.*", slash, ""},
		{"(admin|internal)/.*", slash, ""},
		{"(?i)admin/.*", slash, ""},
		{"^(?:admin)$", slash, ""},
		{`\w+/admin`, slash, ""},
		{"[^/]+", slash, ""},
		{"(a|b)?c", slash, ""},
		{"/a|admin/.*", slash, ""},
		{"^(/v1|v2)/users", slash, ""},
		{"/a|(b|/c)", slash, ""},
		{"/caf%c3%a9/.*", misspelt, `"/caf%C3%A9/"`},
		{"/admin%2Dpanel", misspelt, `"/admin-panel"`},
		{"/a%2eb", misspelt, `"/a\\.b"`},
		{"/café/.*", misspelt, `"/caf%C3%A9/"`},
		{"/my files/.*", misspelt, `"/my%20files/"`},
		{`/a\|b`, misspelt, `"/a%7Cb"`},
		{"/a{b}", misspelt, `"/a%7Bb%7D"`},
		{`/\[x\]`, misspelt, `"/%5Bx%5D"`},
		{"(?i)/my%2dfiles", misspelt, `"/MY-FILES"`},
		{"/[a-z]+/(my )files", misspelt, "%20"},
		{"/admin|/caf%c3%a9", misspelt, ""},
		{"/a( |%20)b", misspelt, ""},
		{"/(%41)+", misspelt, `"A"`},
		{"/(%41){2,}", misspelt, `"A"`},
		{"/a//b", unread + "empty", ""},
		{"/a(/)(/b)", unread, ""},
		{`/admin\?x=1`, unread + "a query", ""},
		{"/a#b", unread + "fragment", ""},
		{"/a;b.*", unread + "matrix", ""},
		{`/a\\b`, unread, ""},
		{"/a\tb", unread, ""},
		{"/a/\\.\\./b", unread + "empty or dot", ""},
		{"/a/%2e/b", unread, ""},
		{"/a%2Fb", unread + "encoded slash", ""},
		{"/100%x", unread, ""},
		{"/a%2520", unread + "double", ""},
		{"/a(;b|#c)", unread, ""},
	} {
		_, err := policy.Compile(policy.Config{Rules: []policy.Rule{{Match: policy.Match{PathRegex: c.source}}}})
		wrong, ok := errors.AsType[*policy.RuleError](err)
		if !ok || wrong.Field != "match.path_regex" || !strings.Contains(wrong.Problem, c.problem) ||
			wrong.Remedy == "" || !strings.Contains(wrong.Remedy, c.remedy) {
			t.Errorf("%s: %v, want %s and %s", c.source, err, c.problem, c.remedy)
		}
	}
}

func TestASaneExpressionIsNotRefused(t *testing.T) {
	for source, path := range map[string]string{ // and a path that it is for
		"/":                                "/",
		".*":                               "/a",
		".*b":                              "/b",
		".+/admin":                         "/x/admin",
		"^/a$":                             "/a",
		`\A/a\z`:                           "/a",
		"(?i)/admin/.*":                    "/ADMIN/x",
		"(?i:/Admin)/.*":                   "/admin/x",
		"/a|/b":                            "/b",
		"/(a|b|)":                          "/a",
		"(/a|/b)/c":                        "/b/c",
		"(?:/a|/b)+":                       "/a/b",
		"(^|/)admin":                       "/admin",
		"(/[a-z]+)?/admin":                 "/admin",
		"/?admin":                          "/admin",
		"(/a)*":                            "/a/a",
		"[/a-z]+":                          "/a",
		`\S+`:                              "/a",
		`\D\w+`:                            "/a",
		"[^a-z].*":                         "/a",
		`\b?/a`:                            "/a",
		"/v[0-9]+/users(/.*)?":             "/v1/users/7",
		"/caf%C3%A9(/.*)?":                 "/caf%c3%a9",
		"/caf%[cC]3%[aA]9":                 "/caf%C3%A9",
		"(?i)/caf%c3%a9":                   "/CAF%c3%a9",
		"/%E[0-9A-F](%[0-9A-F]{2})+":       "/%e2%82%ac",
		"/%D0%B(0|1)":                      "/%d0%b1",
		"/caf%C3%A9|/caf%C3%A8":            "/caf%c3%a8",
		"/my%20files/[^/]+":                "/my files/x",
		"/a%7Cb":                           "/a|b",
		"/100%25":                          "/100%25",
		`/@[\w.-]+/\$!&'\(\)\*\+,=:~`:      "/@me/$!&'()*+,=:~",
		`/admin(;x=1){0,2}`:                "/admin",
		`/admin(\?.*)?`:                    "/admin",
		`/admin(/.*|\?.*|$)`:               "/admin",
		`/admin(/|\?|$).*`:                 "/admin/x",
		"/a(/|//)b":                        "/a/b",
		"/+a":                              "/a",
		"/a(?:%2F|/)b":                     "/a/b",
		"/a(;.*|/x)":                       "/a/x",
		`/[^/?#]+\.(png|svg)`:              "/a.png",
		`/\.well-known/.*`:                 "/.well-known/x",
		`/a\.\.b`:                          "/a..b",
		`/[a-zé]+`:                         "/a",
		"/orgs/[0-9a-f]{8}(-[0-9a-f]{4})+": "/orgs/01234567-89ab",
		`(?s)/a.*`:                         "/a",
		`/\Qa.b\E`:                         "/a.b",
		`/[[:alpha:]]+/\pL`:                "/a/b",
	} {
		// Without this package the expression matches the path as it is read, so that the table is right.
		read, err := policy.ReadPath(path)
		if err != nil || !regexp.MustCompile("^(?:"+source+")$").MatchString(read) {
			t.Errorf("%s is not for %s, %v", source, read, err)
		}
		set, err := policy.Compile(policy.Config{Rules: []policy.Rule{{Name: "it", Match: policy.Match{PathRegex: source}}}})
		if err != nil {
			t.Errorf("%s: %v", source, err)
		} else if got := found(set, policy.Request{Path: path}); got != "it" {
			t.Errorf("%s: %s is decided by %q", source, path, got)
		}
	}
}

// FuzzARefusedExpressionMatchesNothing: whatever path there is, an expression that cannot begin with a slash, or needs what no
// path has, does not match it as it is read.
func FuzzARefusedExpressionMatchesNothing(f *testing.F) {
	for _, seed := range []struct{ source, path string }{
		{"(admin|internal)/.*", "/admin/"}, {"/caf%c3%a9/.*", "/caf%c3%a9/"}, {"/a//b", "/a/b"}, {"(?i)/a%2Db", "/a-b"},
		{`/a(\?.*)?`, "/a?"}, {"/a( |%20)b", "/a%20b"}, {"a|/b", "/b"}, {"(%4|1)1", "/A"},
		{"/(]?.*)?", "/a"}, {"/(]|a)", "/a"}, {"/]{0,2}a", "/a"}, {").(", "/"},
	} {
		f.Add(seed.source, seed.path)
	}
	f.Fuzz(func(t *testing.T, source, path string) {
		if _, err := regexp.Compile(source); err != nil {
			return // though it may be good within brackets, as ").(" is
		}
		re, err := regexp.Compile(`\A(?:` + source + `)\z`)
		if err != nil {
			return
		}
		_, err = policy.Compile(policy.Config{Rules: []policy.Rule{{Match: policy.Match{PathRegex: source}}}})
		if err == nil || strings.Contains(source, "|") || strings.ContainsAny(source, "?*{") && strings.Contains(err.Error(), "is read as") {
			return // an alternative, or an optional piece that is misspelt, is enough to be refused
		}
		if read, ambiguous := policy.ReadPath(path); ambiguous == nil && re.MatchString(read) {
			t.Fatalf("%q was refused (%v), and matches %q", source, err, read)
		}
	})
}
