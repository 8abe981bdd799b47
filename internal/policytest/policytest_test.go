package policytest_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"

	"authz-sidecar/internal/config"
	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/policytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs policy tests and returns what is printed, with the error.
func run(t *testing.T, verbose bool, paths ...string) (output string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = policytest.Run(t.Context(), &out, paths, verbose)
	for _, canary := range []string{"SECRET-CANARY", "emulator-for-development"} {
		if strings.Contains(out.String(), canary) {
			t.Errorf("%q is printed", canary)
		}
	}
	if jwt := regexp.MustCompile(`eyJ[\w-]+`).FindString(out.String()); jwt != "" {
		t.Errorf("a JWT is printed: %s", jwt)
	}
	return out.String(), err
}

// golden compares with testdata/NAME; UPDATE=1 writes that anew: read the difference before it is committed.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestShippedPolicies runs the policy test of every shipped policy. Each must have one, which reaches all of its rules.
func TestShippedPolicies(t *testing.T) {
	tests, err := filepath.Glob("../../deploy/policies/*.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(tests) < 5 {
		t.Fatalf("%d policy tests, want at least 5", len(tests))
	}
	all, err := filepath.Glob("../../deploy/policies/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2*len(tests) {
		t.Errorf("%d policies for %d tests", len(all)-len(tests), len(tests))
	}
	for _, test := range tests {
		name := strings.TrimSuffix(filepath.Base(test), ".test.yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(test)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(text), "policy: "+name+".yaml\n") {
				t.Errorf("does not test %s.yaml", name)
			}
			out, err := run(t, true, test)
			if err != nil || strings.Contains(out, "no test reaches") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestWhatIsSaidOfAFailure(t *testing.T) {
	out, err := run(t, false, "testdata/failing.test.yaml")
	if err == nil || err.Error() != "6 of 6 failed" {
		t.Errorf("got %v", err)
	}
	golden(t, "failing.want", out)
}

func TestWhatIsSaidOfAFileThatCannotBeRead(t *testing.T) {
	out, err := run(t, true, "testdata/broken.test.yaml", "testdata/unfit.test.yaml", "testdata/missing.test.yaml")
	if err == nil || err.Error() != "3 of 3 failed" {
		t.Errorf("got %v", err)
	}
	golden(t, "broken.want", out)
}

func TestMistakes(t *testing.T) {
	folder := t.TempDir()
	policy, err := os.ReadFile("testdata/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("policy.yaml", string(policy))
	write("wrong.yaml", "projects: []\n")
	const claims = "policy: policy.yaml\nsessions: {a: {claims: {%s}}}\n" +
		"tests: [{name: a, request: GET https://a/, session: a, expect: {verdict: allow}}]\n"
	for name, c := range map[string]struct{ text, want string }{
		"an empty file":        {"", "f.yaml:1: the file is empty"},
		"no mapping":           {"- a\n", "f.yaml:1: not a mapping: "},
		"no YAML":              {"a: [\n", "f.yaml: yaml: line 1: did not find"},
		"two documents":        {"policy: policy.yaml\n---\na: 1\n", "f.yaml:2: a second YAML document: "},
		"no policy":            {"tests: [{name: a}]\n", "f.yaml:1: policy: is missing: "},
		"no tests":             {"policy: policy.yaml\n", "f.yaml:1: tests: is missing or empty: "},
		"an empty list":        {"policy: policy.yaml\ntests: []\n", "f.yaml:1: tests: is missing or empty: "},
		"a policy that is not": {"tests: [{name: a}]\npolicy: none.yaml\n", "f.yaml:2: policy: configuration "},
		"a configuration": {string(policy),
			"f.yaml: this is a configuration, not a policy test: name the file that tests it, which begins with \"policy: f.yaml\"\n"},
		"a policy that is wrong": {"policy: wrong.yaml\ntests: [{name: a}]\n",
			"wrong.yaml:1:"},
		"a claim that is no JSON": {fmt.Sprintf(claims, "b: {1: 2}"), "f.yaml:3: FAIL: a\n    session a: "},
		"a reserved claim": {fmt.Sprintf(claims, "sub: b"),
			`f.yaml:3: FAIL: a` + "\n" + `    session a: session_custom_claims: "sub" is a reserved claim`},
	} {
		t.Run(name, func(t *testing.T) {
			write("f.yaml", c.text)
			out, err := run(t, false, filepath.Join(folder, "f.yaml"))
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("got %v\n%s\nwant %s", err, out, c.want)
			}
		})
	}
}

func TestADeliveryMethodIsTheUsualOneOfItsType(t *testing.T) {
	for kind, want := range map[string]string{
		"otp": "email", "magic_link": "email", "totp": "authenticator_app", "password": "knowledge", "oauth": "oauth_google",
		"sso": "sso_saml", "webauthn_registration": "webauthn_registration", "recovery_codes": "recovery_codes",
	} {
		s, err := policytest.ParseSession("s", []byte("factors: [{type: "+kind+"}, {type: "+kind+", delivery_method: sms}]"))
		if err != nil || s.Factors[0].DeliveryMethod != want || s.Factors[1].DeliveryMethod != "sms" {
			t.Errorf("%s: got %+v, %v, want %s", kind, s, err, want)
		}
	}
}

func TestAnOutageThatARuleLeavesToEnvoy(t *testing.T) {
	folder := t.TempDir()
	const denied = "session: a, token_age: 6m, session_api: down, expect: {verdict: %s, reason: api_unavailable, status: 503}"
	for name, text := range map[string]string{
		"app.yaml": "projects: [{project_id: project-test-1, secret_file: /none}]\n" +
			"rules: [{name: loose, match: {path_prefix: /loose}, on_unavailable: envoy}]\n",
		"app.test.yaml": "policy: app.yaml\nsessions: {a: {}}\ntests:\n" +
			"- {name: left, request: GET https://a/loose, " + fmt.Sprintf(denied, "left_to_envoy") + "}\n" +
			"- {name: not left, request: GET https://a/, " + fmt.Sprintf(denied, "deny") + "}\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := run(t, false, filepath.Join(folder, "app.test.yaml")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// FuzzTrace explains whatever a captured request may hold: nobody passes without a session but where the policy says so, no credential
// is printed, and nothing that a terminal obeys.
func FuzzTrace(f *testing.F) {
	cfg, err := config.LoadWithoutFiles("../../deploy/policies/consumer-spa.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "www.example.com", "/api/orders?a=b", "Bearer ", "stytch_session=", "; theirs=")
	f.Add("POST", "", "/\x1b[2J", "bearer eyJhbGciOiJSUzI1NiJ9.e30.", "stytch_session_jwt=eyJhbGciOiJSUzI1NiJ9.e30.", ", stytch_session=")
	f.Add("OPTIONS", "a\u202eb", "//x", "", "=", "\xff")
	f.Fuzz(func(t *testing.T, method, host, path, authorization, cookie, more string) {
		const canary = "CANARY_CANARY_CANARY"
		headers := map[string]string{"cookie": cookie + canary + more + canary}
		if authorization != "" {
			headers["authorization"] = authorization + canary
		}
		o, err := policytest.Play(t.Context(), cfg, policytest.Scene{
			Now: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
			Request: &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
				Http: &authv3.AttributeContext_HttpRequest{Method: method, Host: host, Path: path, Headers: headers},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := o.Found.Rule; o.Response.GetStatus().GetCode() == 0 && (r == nil || r.Session != policy.None) {
			t.Errorf("passes as %v", o.Reason)
		}
		var trace string
		fuzztest.Allocates(t, 1000, len(method+host+path+authorization+cookie+more), func() { trace = o.Trace() })
		if strings.Contains(trace, canary) {
			t.Errorf("a credential is printed:\n%s", trace)
		}
		if bad := strings.IndexFunc(trace, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); bad >= 0 {
			t.Errorf("byte %d is not printable:\n%q", bad, trace)
		}
	})
}

// signed is a JWT that somebody has signed, not one that a file makes up.
var signed = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]{342}`)

// closed is a policy by which nobody passes without a session.
const closed = `
projects: [{ project_id: project-test-1, product: b2b, secret_file: /none }]
credentials: { token_header: x-token }
rules:
- name: documents
  match: { path_template: "/orgs/{org}/documents" }
  max_token_age: 1m
  require:
    organization: { id_in_path: org }
    permission: { resource_id: documents, action: read }
    factors: [{ types: [totp], max_age: 10m }]
- { name: fresh, match: { path_prefix: /fresh }, max_token_age: 0s }
- { name: graced, match: { path_prefix: /graced, headers: [{ name: x-a }] }, grace: 5m, require: { cel: ['session.claims.n > 1'] } }
`

// FuzzFile runs whatever a policy test may hold: nothing panics, no credential is printed, and no test that wants somebody to pass
// without a living session comes out well.
func FuzzFile(f *testing.F) {
	const file = `policy: policy.yaml
sessions:
  a: { organization_id: organization-test-1, factors: [{ type: totp, age: 1m }], claims: { n: 2 }, ends_in: 1h }
rbac: { roles: [{ role_id: stytch_member, permissions: [{ resource_id: documents, actions: [read] }] }] }
tests: [{ name: a, request: '%s', %s }]
`
	for _, test := range [][2]string{
		{"GET https://a/orgs/organization-test-1/documents", "session: a, expect: { verdict: allow, rule: documents }"},
		{"GET https://a/orgs/organization-test-2/documents", "session: a, expect: { verdict: deny, requirement: organization }"},
		{"POST https://a/fresh", "session: a, presented: [jwt_cookie, token_cookie], expect: { verdict: allow, session_api_calls: 1 }"},
		{"PUT https://a/fresh", "session: a, presented: token_header, revoked: true, expect: { verdict: deny, status: 401 }"},
		{"GET https://a/graced", "session: a, token_age: 6m, session_api: down, headers: { X-A: b }, expect: { verdict: allow, reason: grace }"},
		{"GET https://a/..;/x?y", "expect: { verdict: deny, client_headers: { content-type: any } }"},
		{"GET https://a/", "headers: { authorization: Bearer eyJhbGciOiJub25lIn0.e30. }, expect: { verdict: deny, reason: malformed }"},
		{"GET https://a/a", "context_extensions: { rule: fresh }, expect: { verdict: deny, reason: unknown_rule }"},
		{"GET https://a/b", "session: a, token_age: 2562047h, expect: { verdict: deny }"},
	} {
		f.Add(fmt.Appendf(nil, file, test[0], test[1]))
	}
	f.Add([]byte("policy: policy.yaml\nsessions: { a: &a { claims: { a: &b [*b], ? [x] : y, 1: .nan, !!binary z: 2001-01-01 } } }\ntests: [*a]\n"))
	f.Add([]byte("policy: policy.yaml\ntime: 9999-12-31T23:59:59Z\nsessions: { a: { ends_in: -2562047h } }\n" +
		"tests: [{ name: a, request: GET https://a/, session: a, token_age: 1h, expect: { verdict: deny } }]\n"))
	for _, name := range []string{"testdata/failing.test.yaml", "testdata/broken.test.yaml", "testdata/unfit.test.yaml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	folder := f.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "policy.yaml"), []byte(closed), 0o644); err != nil {
		f.Fatal(err)
	}
	if _, err := config.LoadWithoutFiles(filepath.Join(folder, "policy.yaml")); err != nil { // the first one makes what all share
		f.Fatal(err)
	}
	path := filepath.Join(folder, "a.test.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte("/dev")) || bytes.Contains(text, []byte("/proc")) {
			return // a policy there may have no end
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		var file *policytest.File
		var err error
		fuzztest.Allocates(t, 5000, len(text), func() { file, err = policytest.Load(path) })
		var out bytes.Buffer
		failed := policytest.Run(t.Context(), &out, []string{path}, true)
		if signed.Match(out.Bytes()) {
			t.Fatalf("a JWT is printed:\n%s", &out)
		}
		if failed != nil {
			return
		}
		if err != nil {
			t.Fatalf("%v, and yet\n%s", err, &out)
		}
		for _, test := range file.Tests {
			if test.Expect.Verdict == "deny" || file.Policy != "policy.yaml" {
				continue
			}
			_, somebody := file.Sessions[string(test.Session)]
			if fresh := strings.Contains(test.Request, "://a/fresh"); !somebody || fresh && (test.Revoked || test.SessionAPI == "down") {
				t.Fatalf("passes: %+v", test)
			}
		}
	})
}

func TestNothingIsNoSuccess(t *testing.T) {
	if out, err := run(t, true); err == nil || err.Error() != "nothing was tested" {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestOneBadFileDoesNotHideAnother(t *testing.T) {
	out, err := run(t, false, "testdata/missing.test.yaml", "../../deploy/policies/webhooks.test.yaml")
	passed := regexp.MustCompile(`webhooks\.test\.yaml: \d\d of \d\d passed\n`)
	if err == nil || !strings.Contains(out, "missing.test.yaml") || !passed.MatchString(out) {
		t.Errorf("got %v\n%s", err, out)
	}
}
