package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"authz-sidecar/internal/policy"
)

func TestTakesIsYesOnlyIfNoRequestIsLeft(t *testing.T) {
	type match = policy.Match
	headers := func(h ...policy.HeaderMatch) match { return match{Headers: h} }
	for _, c := range []struct {
		name        string
		ours, their match
		yes         bool
	}{
		{"all and all", match{}, match{}, true},
		{"all and a path", match{}, match{Path: "/a"}, true},
		{"all and an expression", match{PathPrefix: "/"}, match{PathRegex: ".*"}, true},
		{"a path and all", match{Path: "/a"}, match{}, false},
		{"a prefix and what is below", match{PathPrefix: "/a/"}, match{PathPrefix: "/a/b"}, true},
		{"a prefix and what is above", match{PathPrefix: "/a/b"}, match{PathPrefix: "/a"}, false},
		{"a prefix not at a border", match{PathPrefix: "/a"}, match{PathPrefix: "/ab"}, false},
		{"a prefix and its path", match{PathPrefix: "/a"}, match{Path: "/a/", ExactTrailingSlash: true}, true},
		{"a prefix and a template", match{PathPrefix: "/a"}, match{PathTemplate: "/a/{x}"}, true},
		{"a prefix and a variable in its place", match{PathPrefix: "/a"}, match{PathTemplate: "/{x}"}, false},
		{"a path and its prefix", match{Path: "/a"}, match{PathPrefix: "/a"}, false},
		{"a path in another spelling", match{Path: "/%61"}, match{Path: "/a/"}, true},
		{"a template and its path", match{PathTemplate: "/{x}/b"}, match{Path: "/a/b"}, true},
		{"a template and another path", match{PathTemplate: "/{x}/b"}, match{Path: "/a/c"}, false},
		{"a template and one with other names", match{PathTemplate: "/{x}/b"}, match{PathTemplate: "/{y}/b"}, true},
		{"a template and a narrower one", match{PathTemplate: "/{x}/{y}"}, match{PathTemplate: "/{y}/b"}, true},
		{"a template and a wider one", match{PathTemplate: "/{x}/b"}, match{PathTemplate: "/{x}/{y}"}, false},
		{"a template and a longer one", match{PathTemplate: "/{x}"}, match{PathTemplate: "/{x}/b"}, false},
		{"the rest and a prefix", match{PathTemplate: "/a/{x=**}"}, match{PathPrefix: "/a/b"}, true},
		{"one segment and the rest", match{PathTemplate: "/a/{x}"}, match{PathTemplate: "/a/{x=**}"}, false},
		{"the rest after a variable and a prefix", match{PathTemplate: "/{x}/{y=**}"}, match{PathPrefix: "/a"}, true},
		{"without a slash and either", match{Path: "/a", ExactTrailingSlash: true}, match{Path: "/a"}, false},
		{"without a slash and without", match{Path: "/a", ExactTrailingSlash: true}, match{Path: "/a", ExactTrailingSlash: true}, true},
		{"without a slash and with", match{Path: "/a", ExactTrailingSlash: true}, match{Path: "/a/", ExactTrailingSlash: true}, false},
		{"the rest without a slash and an expression", match{PathTemplate: "/{x=**}", ExactTrailingSlash: true},
			match{PathRegex: "/.*", ExactTrailingSlash: true}, false},
		{"a prefix and an expression that begins so", match{PathPrefix: "/a"}, match{PathRegex: "/a/[0-9]+"}, true},
		{"a prefix and one that may go on", match{PathPrefix: "/a"}, match{PathRegex: "/a[0-9]+"}, false},
		{"one expression", match{PathRegex: "/a.*"}, match{PathRegex: "/a.*"}, true},
		{"two expressions", match{PathRegex: "/a.*"}, match{PathRegex: "/ab"}, false},
		{"an expression as it is and with a slash", match{PathRegex: "/a", ExactTrailingSlash: true}, match{PathRegex: "/a"}, false},
		{"an expression and a path", match{PathRegex: "/a"}, match{Path: "/a"}, false},
		{"a host and the same", match{Hosts: []string{"A.test."}}, match{Hosts: []string{"a.test"}}, true},
		{"a host and all", match{Hosts: []string{"a.test"}}, match{}, false},
		{"a host and two", match{Hosts: []string{"a.test"}}, match{Hosts: []string{"a.test", "b.test"}}, false},
		{"hosts below and one", match{Hosts: []string{"*.test"}}, match{Hosts: []string{"a.b.test"}}, true},
		{"hosts below and further below", match{Hosts: []string{"*.test"}}, match{Hosts: []string{"*.b.test", "*.test"}}, true},
		{"hosts further below and below", match{Hosts: []string{"*.b.test"}}, match{Hosts: []string{"*.test"}}, false},
		{"hosts below and the suffix", match{Hosts: []string{"*.test"}}, match{Hosts: []string{"test"}}, false},
		{"methods and fewer", match{Methods: []string{"GET", "POST"}}, match{Methods: []string{"POST", "HEAD"}}, true},
		{"methods and more", match{Methods: []string{"GET"}}, match{Methods: []string{"GET", "POST"}}, false},
		{"methods and all", match{Methods: []string{"GET"}}, match{}, false},
		{"HEAD and GET", match{Methods: []string{"HEAD"}}, match{Methods: []string{"GET"}}, false},
		{"a header and none", headers(policy.HeaderMatch{Name: "a", Any: true}), match{}, false},
		{"no header and one", match{}, headers(policy.HeaderMatch{Name: "a", Any: true}), true},
		{"any value and one", headers(policy.HeaderMatch{Name: "a", Any: true}), headers(policy.HeaderMatch{Name: "a", Value: "1"}), true},
		{"one value and any", headers(policy.HeaderMatch{Name: "a"}), headers(policy.HeaderMatch{Name: "a", Any: true}), false},
		{"two values", headers(policy.HeaderMatch{Name: "a"}), headers(policy.HeaderMatch{Name: "a", Value: "1"}), false},
		{"by name", match{ByName: true}, match{Path: "/a"}, false},
		{"of one by name", match{}, match{ByName: true}, false},
		{"what does not compile", match{Path: "//"}, match{Path: "//"}, false},
	} {
		if got := policy.Takes(c.ours, c.their); got != c.yes {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestUnreachableConsidersPreflights(t *testing.T) {
	post := policy.Match{Methods: []string{"POST"}}
	for _, c := range []struct {
		name        string
		ours, their policy.Rule
		yes         bool
	}{
		{"neither", policy.Rule{Match: post}, policy.Rule{Match: post}, true},
		{"theirs alone", policy.Rule{Match: post}, policy.Rule{Match: post, Preflight: true}, false},
		{"both", policy.Rule{Match: post, Preflight: true}, policy.Rule{Match: post, Preflight: true}, true},
		{"theirs, and our OPTIONS", policy.Rule{Match: policy.Match{Methods: []string{"POST", "OPTIONS"}}},
			policy.Rule{Match: post, Preflight: true}, true},
		{"theirs, and our every method", policy.Rule{}, policy.Rule{Match: post, Preflight: true}, true},
	} {
		if got := len(policy.Unreachable([]policy.Rule{c.ours, c.their})) == 1; got != c.yes {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestUnreachablePassesOverWhatDoesNotCompile(t *testing.T) {
	rules := []policy.Rule{rule("a", policy.Match{PathTemplate: "/{"}), {}, rule("b", policy.Match{Path: "//"})}
	if found := policy.Unreachable(rules); found != nil {
		t.Errorf("%v", found)
	}
}

func FuzzUnreachableIsWhatTakesSaysAndNoRequestReaches(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		rules := m.rules(1 + m.IntN(16))
		for i := range rules {
			rules[i].Preflight = false // which Takes does not see
		}
		var want []policy.UnreachableRule
		unreachable := map[string]bool{}
		for i := range rules {
			if by := slices.IndexFunc(rules[:i], func(r policy.Rule) bool { return policy.Takes(r.Match, rules[i].Match) }); by >= 0 {
				want = append(want, policy.UnreachableRule{Index: i, By: by})
				unreachable[rules[i].Name] = true
			}
		}
		if got := policy.Unreachable(rules); !slices.Equal(got, want) {
			t.Fatalf("%v, want %v of\n%s", got, want, list(rules))
		}
		cfg := policy.Config{Rules: rules, Default: policy.Rule{Name: "default"}}
		for range 50 {
			r, host := m.request()
			r.Rule = ""
			if name, _ := reference(cfg, r, host); unreachable[name] {
				t.Fatalf("%s is reached by %+v of\n%s", name, r, list(rules))
			}
		}
	})
}

func BenchmarkUnreachable(b *testing.B) {
	different, _ := mixed(10000, "GET")
	var alike []policy.Rule
	for i := range 10000 {
		alike = append(alike, policy.Rule{Match: policy.Match{
			PathPrefix: "/a", Headers: []policy.HeaderMatch{{Name: "x-tenant", Value: fmt.Sprint(i)}},
		}})
	}
	for name, rules := range map[string][]policy.Rule{"different paths": different, "one path": alike} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if found := policy.Unreachable(rules); found != nil {
					b.Fatal(found)
				}
			}
		})
	}
}
