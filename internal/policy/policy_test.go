package policy_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"authz-sidecar/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compile(t *testing.T, rules ...policy.Rule) *policy.Set {
	t.Helper()
	set, err := policy.Compile(rules, policy.Rule{Name: "default"})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestMatchTakesTheFirstRuleOfWhichAllHolds(t *testing.T) {
	set := compile(t,
		policy.Rule{Name: "webhooks", PathPrefix: "/hooks", Methods: []string{"POST"}},
		policy.Rule{Name: "read admin", PathPrefix: "/admin", Methods: []string{"GET"}},
		policy.Rule{Name: "admin", PathPrefix: "/admin/"},
		policy.Rule{Name: "app", PathPrefix: "/app/v1"},
		policy.Rule{Name: "spelt otherwise", PathPrefix: "/%63af%c3%a9"},
	)
	for _, c := range []struct{ method, path, rule string }{
		{"GET", "/admin", "read admin"},
		{"HEAD", "/admin", "read admin"},
		{"POST", "/admin", "admin"},
		{"POST", "/admin/", "admin"},
		{"POST", "/admin/users", "admin"},
		{"get", "/admin", "admin"}, // methods have case (RFC 9110, section 9.1)
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
	} {
		rule, err := set.Match(c.method, c.path)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
		} else if rule.Name != c.rule {
			t.Errorf("%s %s: rule %q, want %q", c.method, c.path, rule.Name, c.rule)
		}
	}
}

func TestARootPrefixMatchesEveryPath(t *testing.T) {
	set := compile(t, policy.Rule{Name: "all", PathPrefix: "/"})
	for _, path := range []string{"/", "/a", "/a/b/"} {
		if rule, err := set.Match("GET", path); err != nil || rule.Name != "all" {
			t.Errorf("%s: %v, %v", path, rule, err)
		}
	}
}

func TestCompileRefusesAPrefixThatNoRequestCanHave(t *testing.T) {
	for _, prefix := range []string{"", "admin", "/a//b", "/a/../b", "/a;b", "/a%2fb"} {
		if _, err := policy.Compile([]policy.Rule{{Name: "r", PathPrefix: prefix}}, policy.Rule{}); err == nil {
			t.Errorf("%q was compiled", prefix)
		}
	}
}

func TestReadPath(t *testing.T) {
	for _, c := range []struct{ raw, read string }{
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"/a?x=//../;#", "/a"},
		{"/a%7Eb%2Dc%5f", "/a~b-c_"},
		{"/caf%c3%a9", "/caf%C3%A9"},
		{"/a%20b", "/a%20b"},
		{"/a%3f", "/a%3F"},
		{"/100%25", "/100%25"},
		{"/%25zz", "/%25zz"},
		{"/...", "/..."},
		{"/.well-known/x", "/.well-known/x"},
		{"/a..b/c", "/a..b/c"},
		{"/a@b:c,d", "/a@b:c,d"},
		{"/a%40b%3Ac%2cd%24%21", "/a@b:c,d$!"},
	} {
		read, err := policy.ReadPath(c.raw)
		if err != nil || read != c.read {
			t.Errorf("%s: %q, %v, want %q", c.raw, read, err, c.read)
		}
	}
}

func TestReadPathRefusesWhatCanBeReadTwoWays(t *testing.T) {
	for _, raw := range []string{
		"", "*", "admin", "?x", "http://app/admin",
		"//", "//admin", "/a//b", "/a//",
		"/.", "/..", "/a/./b", "/a/../b", "/a/..", "/a/%2e%2e/b", "/a/.%2E", "/a/%2e",
		"/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", `/a\b`,
		"/a;x=1/b", "/a/..;/b", "/a%3bx", "/a%3Bx",
		"/a#b", "/a%00b", "/a\x00b", "/a%0ab", "/a\tb", "/a%7f",
		"/caf\xc3\xa9", "/caf\xe9", "/caf%e9", "/%c0%ae%c0%ae/admin", "/%ff",
		"/a%", "/a%2", "/a%zz", "/a%2g",
		"/a%252fb", "/a%25%32f", "/a%252e%252e/b", "/%2561dmin",
	} {
		if read, err := policy.ReadPath(raw); !errors.Is(err, policy.ErrAmbiguousPath) {
			t.Errorf("%q was read as %q, %v", raw, read, err)
		}
	}
}

func FuzzReadPath(f *testing.F) {
	for _, seed := range []string{"/a/b?c", "/%61dmin", "/a/%2e%2e/b", "/%252e", "//x", "/a;b", "/é%c3%a9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		read, err := policy.ReadPath(raw)
		if err != nil {
			return
		}
		again, err := policy.ReadPath(read)
		if err != nil || again != read {
			t.Fatalf("%q reads as %q, and that as %q, %v", raw, read, again, err)
		}
	})
}
