package config_test

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
)

const (
	testID = "project-test-c60c0abe-c25a-4472-a9ed-320c6667d317"
	longID = "project-live-7a1d1a52-3f0b-4a5e-9f43-0d4f3b1c2e11"
)

// rule is a policy.Rule with the defaults.
func rule(r policy.Rule) policy.Rule {
	if r.Session != policy.None && r.Session != policy.Refused && r.Project == "" {
		r.Project = testID
	}
	if r.MaxTokenAge == 0 {
		r.MaxTokenAge = session.NoMaxAge
	}
	return r
}

func TestRulesMeanWhatTheYAMLSays(t *testing.T) {
	always := func(r policy.Rule) policy.Rule { r.MaxTokenAge = 0; return r }
	for name, want := range map[string]policy.Config{
		"b2b": {
			Rules: []policy.Rule{
				rule(policy.Rule{Name: "billing", Project: "office", Match: policy.Match{
					PathTemplate: "/orgs/{org}/billing/{rest=**}", Methods: []string{"POST"}, Hosts: []string{"app.example.com", "*.example.org"},
					Headers: []policy.HeaderMatch{{Name: "x-api-version", Any: true}, {Name: "x-mode"}, {Name: "x-stage", Value: "1"}},
				}}),
				rule(policy.Rule{Name: "documents", Project: "office", Match: policy.Match{PathTemplate: "/{slug}/documents"}}),
				rule(policy.Rule{Name: "staff", Project: "office", Match: policy.Match{Hosts: []string{"[2001:db8::1]"}}}),
			},
			Default: rule(policy.Rule{Name: "default", Project: "shop"}),
		},
		"step-up": {
			Rules: []policy.Rule{
				rule(policy.Rule{Name: "log in", Match: policy.Match{Path: "/login"}, Session: policy.None}),
				always(rule(policy.Rule{Name: "transfers", Match: policy.Match{PathPrefix: "/transfers"}, RedirectToLogIn: true})),
			},
			Default: rule(policy.Rule{Name: "default", RedirectToLogIn: true}),
		},
		"hybrid": {
			Rules: []policy.Rule{rule(policy.Rule{Name: "strict", Match: policy.Match{PathPrefix: "/admin"}, DenyExpired: true})},
			Default: rule(policy.Rule{
				Name: "default", TokenReuse: 45 * time.Second, MaxTokenAge: 2 * time.Minute, RefreshAhead: 20 * time.Second, SessionDurationMinutes: 60,
			}),
		},
		"degradation": {
			Rules: []policy.Rule{
				rule(policy.Rule{Name: "reading", Match: policy.Match{Methods: []string{"GET"}}, Grace: 10 * time.Minute, GraceSafeMethodsOnly: true}),
				rule(policy.Rule{Name: "feed", Match: policy.Match{PathPrefix: "/feed"}, LeaveToEnvoy: true}),
				rule(policy.Rule{Name: "pilot", Match: policy.Match{PathPrefix: "/pilot"}, Grace: 30 * time.Second, Shadow: true}),
			},
			Default: rule(policy.Rule{Name: "default"}),
		},
		"browser": {
			Rules: []policy.Rule{rule(policy.Rule{
				Name: "api", Match: policy.Match{PathPrefix: "/api", Methods: []string{"GET", "POST"}}, Preflight: true, RefuseCrossSite: true,
			})},
			Default: rule(policy.Rule{Name: "default", RedirectToLogIn: true, RefuseCrossSite: true}),
		},
		"closed": {
			Rules: []policy.Rule{
				rule(policy.Rule{Name: "app", Project: "shop", Match: policy.Match{PathPrefix: "/app"}}),
				rule(policy.Rule{Name: "pilot", Match: policy.Match{PathPrefix: "/pilot"}, Session: policy.Refused, Shadow: true}),
			},
			Default: rule(policy.Rule{Name: "default", Session: policy.Refused}),
		},
		"by-name": {
			Rules: []policy.Rule{
				always(rule(policy.Rule{Name: "odd paths", Match: policy.Match{ByName: true}})),
				rule(policy.Rule{Name: "payments", Match: policy.Match{ByName: true, Methods: []string{"POST"}}}),
				rule(policy.Rule{Name: "versions", Match: policy.Match{PathRegex: "/v[0-9]+/users(/.*)?"}}),
				rule(policy.Rule{Name: "index", Match: policy.Match{Path: "/docs/", ExactTrailingSlash: true}, Session: policy.Optional}),
			},
			Default:           rule(policy.Rule{Name: "default"}),
			AmbiguousPathRule: "odd paths",
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := mustLoad(t, folder(t), testdata(t, "good/"+name+".yaml")).Gate.Rules
			got := set.All()
			for i := range got {
				got[i].Require = nil // see below
			}
			if len(got) != len(want.Rules)+1 {
				t.Fatalf("%d rules, want %d and the default", len(got), len(want.Rules))
			}
			for i, w := range append(want.Rules, want.Default) {
				if !reflect.DeepEqual(got[i], w) {
					t.Errorf("\n got %+v\nwant %+v", got[i], w)
				}
			}
			if set.AmbiguousPathRule() != want.AmbiguousPathRule {
				t.Errorf("rule for ambiguous paths: %q", set.AmbiguousPathRule())
			}
		})
	}
}

// TestRequirementsMeanWhatTheYAMLSays compares with what the same requirements, written in Go, say of themselves.
func TestRequirementsMeanWhatTheYAMLSays(t *testing.T) {
	for file, rules := range map[string]map[string]requirement.Config{
		"b2b": {
			"billing": {
				Organization: requirement.Organization{IDVariable: "org"},
				AllRoles:     []string{"member", "treasurer"},
				Claims:       []requirement.Claim{{Name: "email_verified"}, {Name: "plan", Values: []string{"pro", "7"}}},
				Expressions:  []string{`session.organization_id == path.org && path.rest != "x"`},
				Permission:   &requirement.Permission{ResourceID: "invoices", Action: "pay", AskAPI: true},
				Variables:    []string{"org", "rest"},
			},
			"documents": {
				Organization: requirement.Organization{SlugVariable: "slug"},
				AnyRole:      []string{"editor", "admin"},
				Permission:   &requirement.Permission{ResourceID: "documents", Action: "read"},
				Variables:    []string{"slug"},
			},
			"staff": {Organization: requirement.Organization{IDs: []string{"organization-live-1", "organization-live-2"}}},
		},
		"step-up": {
			"transfers": {Factors: []requirement.Factors{
				{MinCount: 1},
				{
					MinCount: 2, Types: []string{"totp", "webauthn_registration"}, DeliveryMethods: []string{"authenticator_app"},
					MaxAge: 15 * time.Minute,
				},
			}},
		},
		"hybrid": {},
	} {
		c := mustLoad(t, folder(t), testdata(t, "good/"+file+".yaml"))
		for _, r := range c.Gate.Rules.All() {
			cfg, ok := rules[r.Name]
			if !ok {
				if r.Require != nil {
					t.Errorf("%s, %s: requires %v", file, r.Name, said(r.Require))
				}
				continue
			}
			want, err := requirement.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(said(r.Require), said(want)) || !reflect.DeepEqual(r.Require.Permission(), want.Permission()) {
				t.Errorf("%s, %s:\n got %v\nwant %v", file, r.Name, said(r.Require), said(want))
			}
		}
	}
}

// said is each requirement in words.
func said(s *requirement.Set) (words []string) {
	for _, r := range s.Examine(context.Background(), requirement.Evidence{}) {
		words = append(words, r.Requirement+" wants "+r.Wants)
	}
	return words
}

func TestTheRestMeansWhatTheYAMLSays(t *testing.T) {
	configs := map[string]*config.Config{}
	for _, name := range []string{"b2b", "step-up", "hybrid", "degradation", "browser", "by-name"} {
		configs[name] = mustLoad(t, folder(t), testdata(t, "good/"+name+".yaml"))
	}
	office, shop := configs["b2b"].Projects[0], configs["b2b"].Projects[1]
	for _, row := range []struct {
		what      string
		got, want any
	}{
		{"identity headers", configs["b2b"].Gate.IdentityHeaders, []check.IdentityHeader{
			{Name: "x-user", Value: "subject"},
			{Name: "x-plan", Claim: "plan"},
			{Name: "x-factors", Value: "factors", JSON: true},
			{Name: "x-limits", Claim: "https://example.com/limits", JSON: true},
			{Name: "x-until", Value: "session_expires_at"},
		}},
		{"the RBAC of a project with local permissions", office.RBAC, &rbac.Config{
			Product: session.B2B, ProjectID: testID, Secret: office.Secret, BaseURL: "https://test.stytch.com", Transport: office.API.Transport,
		}},
		{"the RBAC of a project without", shop.RBAC, (*rbac.Config)(nil)},
		{"a log-in page on the same host", configs["step-up"].Gate.LogIn, check.LogIn{URL: "/login?from=gate", ReturnParameter: "next"}},
		{"a log-in page elsewhere", configs["browser"].Gate.LogIn, check.LogIn{URL: "https://login.example.com/start", ReturnParameter: "return_to"}},
		{"trusted origins", configs["browser"].Gate.TrustedOrigins,
			[]string{"https://app.example.com", "http://localhost:3000", "https://[2001:db8::1]:8443"}},
		{"the header of a refreshed JWT", configs["hybrid"].Gate.RefreshedJWTHeader, "x-session-jwt"},
		{"the credential is removed", configs["hybrid"].Gate.RemoveCredential, true},
		{"the credential is left", configs["browser"].Gate.RemoveCredential, false},
		{"the whole gate observes", configs["by-name"].Gate.Shadow, true},
		{"one rule observes", configs["degradation"].Gate.Shadow, false},
		{"lifetime, leeways and the longest grace", configs["degradation"].Denylist.Retention, 5*time.Minute + 2*time.Second + 3*time.Second + 10*time.Minute},
	} {
		if !reflect.DeepEqual(row.got, row.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", row.what, row.got, row.want)
		}
	}
}

func TestWarningsNameTheRules(t *testing.T) {
	const project = "projects:\n- {project_id: " + testID + ", secret_file: session-api}\n"
	var many strings.Builder
	for i := range 25 {
		fmt.Fprintf(&many, "- {match: {path: /%d}, on_unavailable: envoy}\n", i)
	}
	for name, row := range map[string]struct {
		yaml string
		want [][]string // what each warning says
	}{
		"nothing to warn of":                  {"rules:\n- {match: {path: /a}, grace: 5m, preflight: true}\n", nil},
		"a rule that observes":                {"rules:\n- {name: pilot, match: {path: /a}, shadow: true}\n", [][]string{{"shadow", `the rule "pilot": every request that matches passes, whatever the rules below say`}}},
		"the whole gate observes":             {"shadow: true\nrules:\n- {name: pilot, match: {path: /a}, shadow: true}\n", [][]string{{"shadow", "the whole gate"}}},
		"rules leave it to Envoy":             {"rules:\n- {match: {path: /a}, on_unavailable: envoy}\ndefault_rule: {on_unavailable: envoy}\n", [][]string{{"failure_mode_allow", `the rules "rules[0]", "default":`, "identity headers", "429"}}},
		"more rules than a sentence can bear": {"rules:\n" + many.String(), [][]string{{`"rules[19]" and 5 more:`}}},
		"a rule for ambiguous paths":          {"rules:\n- {name: odd, match: {by_name: true}}\nambiguous_path_rule: odd\n", [][]string{{`ambiguous_path_rule is "odd"`, "alone", "whatever other rules say"}}},
		"a rule by name that is not for them": {"rules:\n- {name: odd, match: {by_name: true}}\n", nil},
		"a refusal that observes":             {"default_rule: {session: refused, shadow: true}\n", [][]string{{"shadow", `the rule "default"`}}},
		"both":                                {"default_rule: {on_unavailable: envoy, shadow: true}\n", [][]string{{"shadow"}, {"failure_mode_allow"}}},
	} {
		got := mustLoad(t, folder(t), []byte(project+row.yaml)).Warnings()
		if len(got) != len(row.want) {
			t.Errorf("%s: got %q", name, got)
			continue
		}
		for i, words := range row.want {
			for _, word := range words {
				if !strings.Contains(got[i], word) {
					t.Errorf("%s: got %q, want %q in it", name, got[i], word)
				}
			}
		}
	}
}

func TestALogInPageIsAPathOrAnHTTPSURL(t *testing.T) {
	for url, want := range map[string]string{ // the address that it becomes, or what is wrong
		"/login":                          "",
		"/login/":                         "",
		"/%6Cogin?a=%20&b":                "/login?a=%20&b",
		"https://login.example.com":       "",
		"https://login.example.com/a?b=c": "",
		"http://127.0.0.1:8080/login":     "",
		"http://localhost/login":          "",

		"login":                               "neither a path nor a URL",
		"//evil.example/login":                "not a path of the same host: empty segment",
		"/a/../b":                             "not a path of the same host: dot segment",
		`/\evil.example`:                      "not a path of the same host: backslash",
		"/login#top":                          "user or fragment",
		"https://login.example.com/#":         "user or fragment",
		"https://user:CANARY@example.com":     "user or fragment",
		"http://login.example.com":            "not https",
		"http://login.example.com?key=CANARY": "not https",
		"javascript:alert(1)":                 "neither a path nor a URL",
		"https:login.example.com":             "neither a path nor a URL",
		"https://":                            "neither a path nor a URL",
		"/login?return_to=/x":                 "parameter \"return_to\" already",
		"/login?return%5Fto=CANARY":           "parameter \"return_to\" already",
		"https://e.example?return_to":         "parameter \"return_to\" already",
		"/login?a=b;c":                        "query cannot be read",
		"/log in":                             "not a URL",
		"/login?a=b c":                        "not a URL",
		"https://exämple.com":                 "not a URL",
		"/login\\r\\nset-cookie: a=b":         "not a URL",
	} {
		yaml := "projects:\n- {project_id: " + testID + ", secret_file: session-api}\nlog_in: {url: \"" + strings.ReplaceAll(url, `\e`, `\\e`) + "\"}\n"
		c, err := load(t, folder(t), []byte(yaml))
		switch {
		case err == nil && c.Gate.LogIn.URL == cmp.Or(want, url):
		case err == nil || want == "" || !strings.Contains(err.Error(), "log_in.url: ") || !strings.Contains(err.Error(), want):
			t.Errorf("%s: got %v, %v, want %s", url, c, err, want)
		case strings.Contains(err.Error(), "CANARY"):
			t.Errorf("%s: shown in %v", url, err)
		}
	}
}

func TestALogInPageIsOpen(t *testing.T) {
	const project = "projects:\n- {project_id: " + testID + ", secret_file: session-api}\nlog_in: {url: /login}\n"
	for name, row := range map[string]struct {
		yaml  string
		opens bool
	}{
		"nothing redirects there":        {"", true},
		"the default rule is for it":     {"default_rule: {redirect_to_log_in: true}\n", false},
		"a rule with none is for it":     {"default_rule: {redirect_to_log_in: true}\nrules:\n- {match: {path: /login}, session: none}\n", true},
		"a rule with optional":           {"default_rule: {redirect_to_log_in: true}\nrules:\n- {match: {path: /login}, session: optional}\n", true},
		"one that redirects itself":      {"default_rule: {redirect_to_log_in: true}\nrules:\n- {match: {path: /login}, session: optional, redirect_to_log_in: true}\n", false},
		"a rule that refuses":            {"default_rule: {redirect_to_log_in: true}\nrules:\n- {match: {path: /login}, session: refused}\n", false},
		"a default rule that refuses":    {"default_rule: {session: refused}\nrules:\n- {match: {path: /app}, redirect_to_log_in: true}\n", false},
		"a rule for POST alone":          {"default_rule: {redirect_to_log_in: true}\nrules:\n- {match: {path: /login, methods: [POST]}, session: none}\n", false},
		"a rule for another host":        {"rules:\n- {match: {path: /login, hosts: [a.example]}, session: none}\n- {match: {hosts: [b.example]}, redirect_to_log_in: true}\n", false},
		"a rule for the redirect's host": {"rules:\n- {match: {path: /login, hosts: [\"*.example\"]}, session: none}\n- {match: {hosts: [\"*.b.example\"]}, redirect_to_log_in: true}\n", true},
	} {
		_, err := load(t, folder(t), []byte(project+row.yaml))
		if row.opens != (err == nil) || err != nil && !strings.Contains(err.Error(), "log_in.url: the rule ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheRuleForAmbiguousPathsRequiresSomethingIfAnyRuleDoes(t *testing.T) {
	const file = "projects:\n- {project_id: " + testID + ", secret_file: session-api}\nambiguous_path_rule: odd\nrules:\n"
	const odd, strictOdd = "- {name: odd, match: {by_name: true}}\n", "- {name: odd, match: {by_name: true}, require: {any_role: [owner]}}\n"
	const admin, strictDefault = "- {match: {path: /admin}, require: {any_role: [admin]}}\n", "default_rule: {require: {any_role: [member]}}\n"
	for name, row := range map[string]struct{ rules, than string }{
		"no rule requires anything":           {odd + "- {match: {path: /a}}\n", ""},
		"it requires something alone":         {strictOdd, ""},
		"it and another require something":    {admin + strictOdd + strictDefault, ""},
		"another requires something":          {odd + admin, "rules[1]"},
		"one before it does":                  {admin + odd, "rules[0]"},
		"the default rule requires something": {odd + strictDefault, "default_rule"},
	} {
		_, err := load(t, folder(t), []byte(file+row.rules))
		want := ".require: the rule for ambiguous paths is laxer here than " + row.than + ", whose paths"
		if (err == nil) != (row.than == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoRuleLooksAtAnIdentityHeader(t *testing.T) {
	const project = "projects:\n- {project_id: " + testID + ", secret_file: session-api}\n"
	const looks = "rules:\n- {match: {headers: [{name: NAME}]}}\n"
	const reads = "default_rule: {require: {cel: ['request.headers[\"NAME\"] == \"admin\"']}}\n"
	for name, row := range map[string]struct{ yaml, header, at string }{
		"one of the default ones":        {looks, "x-auth-roles", "rules[0].match.headers[0].name: "},
		"in another spelling":            {looks, "x_auth-roles", "rules[0].match.headers[0].name: "},
		"in an expression":               {reads, "x-auth-roles", "default_rule.require.cel: "},
		"a similar name":                 {looks, "x-auth-role", ""},
		"a similar one in an expression": {reads, "x-auth-role", ""},
		"one of a list of our own":       {"identity_headers: [{name: x-user, value: subject}]\n" + looks, "x-user", "rules[0].match.headers[0].name: "},
		"one that such a list replaces":  {"identity_headers: []\n" + looks, "x-auth-roles", ""},
	} {
		_, err := load(t, folder(t), []byte(project+strings.ReplaceAll(row.yaml, "NAME", row.header)))
		if (err == nil) != (row.at == "") || err != nil && !strings.Contains(err.Error(), row.at) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTenThousandRulesLoadInTime would run for minutes if any rule were compared with all others, or compiled its own copy of
// what expressions need.
func TestTenThousandRulesLoadInTime(t *testing.T) {
	var yaml strings.Builder
	yaml.WriteString("projects:\n- {project_id: " + testID + ", secret_file: session-api}\nrules:\n")
	for i := range 10_000 {
		switch i % 10 {
		case 0, 1, 2, 3:
			fmt.Fprintf(&yaml, "- match: {path_prefix: /team%d, methods: [GET]}\n", i)
		case 4, 5, 6:
			fmt.Fprintf(&yaml, "- match: {path_template: \"/s%d/{a}/{b}\"}\n  require: {any_role: [admin]}\n", i)
		case 7, 8:
			fmt.Fprintf(&yaml, "- match: {path: /exact/%d, hosts: [a.example]}\n  grace: 5m\n", i)
		default:
			fmt.Fprintf(&yaml, "- match: {path_regex: \"/v%d/[a-z]+\"}\n  require: {cel: [\"'r%[1]d' in session.roles\"]}\n", i)
		}
	}
	start := cpuTime(t)
	c := mustLoad(t, folder(t), []byte(yaml.String()))
	took := cpuTime(t) - start
	t.Logf("%v", took)
	if rules := len(c.Gate.Rules.All()) - 1; rules != 10_000 || took > 20*time.Second {
		t.Errorf("%d rules in %v", rules, took)
	}
}

// TestANewcomersNamesAreUnderstood: what other products call a field is answered with its name here.
func TestANewcomersNamesAreUnderstood(t *testing.T) {
	for yaml, want := range map[string]string{
		"rules: [{require: {roles: [admin]}}]":           "did you mean any_role or all_roles? known here: ",
		"rules: [{require: {role: admin}}]":              "did you mean any_role or all_roles? known here: ",
		"rules: [{roles: [admin]}]":                      "did you mean any_role or all_roles? any_role belongs in rules[].require and default_rule.require",
		"rules: [{require: {organization_id: x}}]":       "did you mean organization? ",
		"rules: [{require: {factor: {}}}]":               "did you mean factors? ",
		"rules: [{require: {permissions: []}}]":          "did you mean permission? ",
		"rules: [{require: {condition: x}}]":             "did you mean cel? ",
		"rules: [{match: {host: x}}]":                    "did you mean hosts? ",
		"rules: [{match: {path_exact: x}}]":              "did you mean path? ",
		"rules: [{match: {prefix: x}}]":                  "did you mean path_prefix? ",
		"rules: [{match: {regex: x}}]":                   "did you mean path_regex? ",
		"rules: [{match: {template: x}}]":                "did you mean path_template? ",
		"rules: [{match: {paths: [x]}}]":                 "did you mean path or path_prefix? ",
		"rules: [{match: {pathPrefix: x}}]":              "did you mean path_prefix? ",
		"rules: [{grace_period: 5m}]":                    "did you mean grace? ",
		"rules: [{cors: true}]":                          "did you mean preflight? ",
		"rules: [{csrf: true}]":                          "did you mean refuse_cross_site? ",
		"rules: [{mode: shadow}]":                        "did you mean shadow? ",
		"mode: shadow":                                   "did you mean shadow? ",
		"rules: [{redirectToLogin: true}]":               "did you mean redirect_to_log_in? ",
		"rules: [{max_age: 5m}]":                         "did you mean max_token_age? ",
		"rules: [{require: {factors: [{maxage: 5m}]}}]":  "did you mean max_age? ",
		"rules: [{organization: {}}]":                    "organization belongs in rules[].require and default_rule.require",
		"roles: []":                                      "did you mean rules? ",
		"rules: [{require: {any_role: admin}}]":          "write [admin]",
		"rules: [{match: {path_prefix: '/orgs/{org}'}}]": `path_template: "/orgs/{org}" for variables`,
		"rules: [{match: {path: '/admin/*'}}]":           `path_prefix: "/admin" for all below /admin`,
		"rules: [{session_duration_minutes: 1h}]":        "not a whole number",
		"trusted_origins: ['https://app.example.com/']":  `"https://app.example.com"`,
	} {
		_, err := config.Parse("config.yaml", []byte(yaml+"\n"))
		if err == nil || !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("%s: got %v\nwant %s", yaml, err, want)
		}
	}
}
