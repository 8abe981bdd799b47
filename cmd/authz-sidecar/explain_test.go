package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// command runs the program with arguments and returns what it prints, its error in main's words last.
func command(t *testing.T, stdin string, args ...string) (output string, err error) {
	t.Helper()
	var out bytes.Buffer
	r := root()
	r.SetArgs(args)
	r.SetIn(strings.NewReader(stdin))
	r.SetOut(&out)
	r.SetErr(&out)
	err = r.ExecuteContext(t.Context())
	if err != nil {
		fmt.Fprintln(&out, "authz-sidecar:", err)
	}
	return out.String(), err
}

const (
	shippedB2B = "../../deploy/policies/b2b-multi-tenant.yaml"
	noon       = "2026-01-02T12:00:00Z"
	reader     = "{roles: [{role_id: viewer, permissions: [{resource_id: documents, actions: [read]}]}]}"
)

// vendor is an emulator at a loopback address, at noon, and a policy that names it.
type vendor struct {
	*sessionapitest.Server
	config string
	url    string
}

func newVendor(t *testing.T) *vendor {
	t.Helper()
	now, err := time.Parse(time.RFC3339, noon)
	if err != nil {
		t.Fatal(err)
	}
	emulator, err := sessionapitest.New(sessionapitest.Config{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(emulator)
	t.Cleanup(server.Close)
	v := &vendor{Server: emulator, config: filepath.Join(t.TempDir(), "config.yaml"), url: server.URL}
	text := fmt.Sprintf("projects:\n- project_id: %s\n  secret_env: AUTHZ_TEST_NOT_SET\n  api_base_url: %s\n"+
		"credentials: {token_header: x-session-token}\n"+
		"rules:\n- {name: strict, match: {path_prefix: /strict}, max_token_age: 0s}\n- {name: plain, match: {path_prefix: /plain}}\n",
		sessionapitest.DefaultProjectID, server.URL)
	if err := os.WriteFile(v.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vendor) logIn(t *testing.T) sessionapitest.Login {
	t.Helper()
	claims := map[string]any{"plan": "pro", "big": json.Number("9007199254740993")} // no float64
	login, err := v.LogIn(sessionapitest.LogIn{UserID: "user-test-ada", CustomClaims: claims})
	if err != nil {
		t.Fatal(err)
	}
	return login
}

var (
	ids     = regexp.MustCompile(`\b([a-z]+-test-)[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	address = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	credits = regexp.MustCompile(`eyJ[\w-]+`)
)

// TestExplain compares what explain prints with testdata/explain/NAME.want. UPDATE=1 writes that anew: read the difference before
// it is committed.
func TestExplain(t *testing.T) {
	v := newVendor(t)
	login := v.logIn(t)
	signature := login.JWT[strings.LastIndexByte(login.JWT, '.')+1:]
	forged := strings.TrimSuffix(login.JWT, signature) + base64.RawURLEncoding.EncodeToString(make([]byte, 256))
	captured := capture(t, "/strict?a=SECRET-CANARY",
		"theirs=SECRET-CANARY", "stytch_session_jwt="+login.JWT, "stytch_session="+login.Token)
	explain := func(config string, more ...string) []string {
		return append([]string{"explain", "--config", config, "--time", noon}, more...)
	}
	b2b := func(request string, more ...string) []string {
		return explain(shippedB2B, append([]string{"--request", request}, more...)...)
	}
	live := func(path string, more ...string) []string {
		return explain(v.config, append([]string{"--request", "GET https://app.example.com" + path}, more...)...)
	}
	for name, args := range map[string][]string{
		"a member reads after an exchange": b2b("GET https://App.example.com:443/orgs/%6Frganization-test-acme/documents/1?x=SECRET-CANARY",
			"--session", "{roles: [viewer], claims: {plan: pro}}", "--token-age", "6m", "--presented", "jwt_cookie,token_cookie",
			"--rbac", reader, "-H", "cookie: theirs=SECRET-CANARY", "-H", "Accept: text/html"),
		"a second factor is missing": b2b("POST https://app.example.com/orgs/organization-test-acme/billing/invoices",
			"--session", "{roles: [billing]}"),
		"nobody knows the RBAC policy": b2b("GET https://app.example.com/orgs/organization-test-acme/documents/1",
			"--session", "{roles: [viewer]}"),
		"a path has two readings": b2b("GET https://app.example.com/orgs/a/..;/admin/x"),
		"a browser is sent to log in": b2b("GET https://app.example.com/orgs?a=SECRET-CANARY&b=%20c",
			"-H", "sec-fetch-mode: navigate"),
		"a real JWT":                      live("/plain", "--token", login.JWT),
		"a real JWT that is too old":      live("/strict", "--token", login.JWT),
		"a real JWT of a dead session":    live("/strict", "--token", login.JWT, "--revoked"),
		"a forged JWT":                    live("/plain", "--token", forged),
		"a JWT under an unknown key":      live("/plain", "--token", newVendor(t).logIn(t).JWT),
		"two authorization headers":       live("/plain", "--token", login.JWT, "-H", "authorization: Basic SECRET-CANARY"),
		"an opaque token of nobody":       live("/plain", "-H", "X-Session-Token: "+login.Token),
		"a rule that Envoy's route names": live("/plain", "--rule", "strickt"),
		"a captured request":              explain(v.config, "--check-request", captured),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command(t, "", args...)
			if err != nil {
				t.Error(err)
			}
			for _, secret := range []string{"SECRET-CANARY", signature, login.Token, "emulator-for-development"} {
				if strings.Contains(got, secret) {
					t.Errorf("a secret is printed: %.20s…", secret)
				}
			}
			if jwt := credits.FindString(got); jwt != "" {
				t.Errorf("a JWT is printed: %s", jwt)
			}
			golden(t, strings.ReplaceAll(name, " ", "-"), got)
		})
	}
	if n := v.Calls(sessionapitest.EndpointAuthenticate); n != 0 {
		t.Errorf("the session API was called %d times", n)
	}
}

// capture writes a CheckRequest as Envoy sends it with encode_raw_headers, and returns the file.
func capture(t *testing.T, path string, cookies ...string) (file string) {
	t.Helper()
	var lines corev3.HeaderMap
	for _, cookie := range cookies {
		lines.Headers = append(lines.Headers, &corev3.HeaderValue{Key: "cookie", RawValue: []byte(cookie)})
	}
	text, err := protojson.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Method: "POST", Host: "app.example.com", Path: path, HeaderMap: &lines},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "captured.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	got = address.ReplaceAllString(ids.ReplaceAllString(got, "$1…"), "127.0.0.1:…")
	file := filepath.Join("testdata", "explain", name+".want")
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

func TestExplainReadsACapturedRequestFromStandardInput(t *testing.T) {
	in := `{"attributes":{"request":{"http":{"method":"GET","host":"a","path":"/healthz","headers":{"accept":"*/*"}}}}}`
	got, err := command(t, in, "explain", "--config", shippedB2B, "--check-request", "-")
	if err != nil || !strings.Contains(got, "allow: public") || strings.Contains(got, "captured") {
		t.Errorf("got %v\n%s", err, got)
	}
}

// TestACapturedRequestIsJudgedWhenItWasCaptured has a JWT that has long expired now.
func TestACapturedRequestIsJudgedWhenItWasCaptured(t *testing.T) {
	v := newVendor(t)
	in := fmt.Sprintf(`{"attributes":{"request":{"time":"2026-01-02T12:04:00.9Z","http":{"method":"GET","host":"a","path":"/plain",`+
		`"headers":{"authorization":"Bearer %s"}}}}}`, v.logIn(t).JWT)
	explain := []string{"explain", "--config", v.config, "--check-request", "-"}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"time          2026-01-02T12:04:00Z, when the request was captured\n", "age           4m0s", "allow: verified"}},
		{[]string{"--time", "2026-01-02T12:06:00Z"},
			[]string{"time          2026-01-02T12:06:00Z; the request was captured at 2026-01-02T12:04:00Z\n", "age           6m0s", "allow: exchanged"}},
	} {
		got, err := command(t, in, append(explain, c.args...)...)
		for _, want := range c.want {
			if err != nil || !strings.Contains(got, want) {
				t.Errorf("%v: got %v\n%s\nwant %s", c.args, err, got, want)
			}
		}
	}
}

func TestASessionOfOneOrganizationIsOfNoOther(t *testing.T) {
	for session, want := range map[string]string{
		"{}":                        "organization-test-acme (acme)",
		"{organization_slug: evil}": "organization-test-evil (evil)",
		"{organization_id: organization-test-evil}":                            "organization-test-evil (evil)",
		"{organization_id: organization-live-1-2}":                             "organization-live-1-2 (1-2)",
		"{organization_id: organization-test-acme, organization_slug: globex}": "organization-test-acme (globex)",
	} {
		got, err := command(t, "", "explain", "--config", shippedB2B, "--request", "GET https://a/orgs/organization-test-acme/x", "--session", session)
		verdict := "deny: forbidden: organization"
		if strings.HasPrefix(want, "organization-test-acme") {
			verdict = "allow: verified"
		}
		if err != nil || !strings.Contains(got, " of "+want+"\n") || !strings.Contains(got, verdict) {
			t.Errorf("%s: got %v\n%s\nwant %s", session, err, got, want)
		}
	}
}

func TestAnswersThatSoftenADenialAreExplained(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	explain := func(text, path string) string {
		t.Helper()
		text = "projects: [{project_id: project-test-1, secret_file: /none}]\n" + text
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := command(t, "", "explain", "--config", config, "--request", "GET https://a"+path, "--session", "{roles: [a]}",
			"--token-age", "6m", "--session-api", "down")
		if err != nil {
			t.Errorf("%v\n%s", err, got)
		}
		return got
	}
	rules := "rules: [{name: trial, match: {path_prefix: /trial}, shadow: true}, {name: closed, match: {path_prefix: /closed}, session: refused}," +
		" {name: loose, match: {path_prefix: /loose}, on_unavailable: envoy}]\n"
	for path, want := range map[string]string{
		"/trial":  "rule          trial: path_prefix /trial\n              shadow: true\n",
		"/closed": "session       refused: nobody passes, and no credential is looked at\nverdict       deny: refused\nresponse      403\n",
		"/loose":  "verdict       left_to_envoy: api_unavailable: ",
		"/":       "verdict       deny: api_unavailable: ",
	} {
		if got := explain(rules, path); !strings.Contains(got, want) || path == "/" && strings.Contains(got, "shadow") {
			t.Errorf("%s: got\n%s\nwant %s", path, got, want)
		}
	}
	const whole = "rule          default: no other rule matches\n              the whole gate is in shadow (shadow: true)\n"
	if got := explain("shadow: true\n", "/"); !strings.Contains(got, whole) || !strings.Contains(got, "would_deny: api_unavailable") {
		t.Errorf("got\n%s\nwant %s", got, whole)
	}
}

func TestExplainReadsATokenFromStandardInput(t *testing.T) {
	v := newVendor(t)
	got, err := command(t, v.logIn(t).JWT+"\n", "explain", "--config", v.config, "--time", noon, "--request", "GET https://a/plain", "--token", "-")
	if err != nil || !strings.Contains(got, "allow: verified") {
		t.Errorf("got %v\n%s", err, got)
	}
}

func TestExplainWithoutKeysSaysSo(t *testing.T) {
	v := newVendor(t)
	login := v.logIn(t)
	if err := v.SetFault(sessionapitest.EndpointKeySet, sessionapitest.Fault{Status: 500}); err != nil {
		t.Fatal(err)
	}
	got, err := command(t, "", "explain", "--config", v.config, "--time", noon, "--request", "GET https://a/plain", "--token", login.JWT)
	for _, want := range []string{"deny: keys_unavailable", v.url, "note: the files"} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("got %v\n%s\nwant %s", err, got, want)
		}
	}
}

func TestWrongUseOfTheCommandLineIsNamed(t *testing.T) {
	request := []string{"explain", "--config", shippedB2B, "--request", "GET https://a/"}
	with := func(more ...string) []string { return append(request[:len(request):len(request)], more...) }
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(`{"authorization":"Bearer SECRET-CANARY"`), 0o600); err != nil {
		t.Fatal(err)
	}
	misspelt := filepath.Join(t.TempDir(), "misspelt.json")
	text := `{"attributes":{"request":{"http":{"method":"GET","path":"/","header":{"authorization":"Bearer SECRET-CANARY"}}}}}`
	if err := os.WriteFile(misspelt, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no policy test":         {[]string{"policy", "test"}, "name at least one policy test"},
		"no configuration":       {[]string{"explain", "--request", "GET https://a/"}, `"config" not set`},
		"no request":             {[]string{"explain", "--config", shippedB2B}, "no request: add --request "},
		"two requests":           {with("--check-request", "-"), "--request and --check-request are two requests"},
		"a header of a captured": {[]string{"explain", "--config", shippedB2B, "--check-request", "-", "-H", "a: SECRET-CANARY"}, "--header adds to --request"},
		"a missing file":         {[]string{"explain", "--config", "no.yaml", "--request", "GET https://a/"}, "no.yaml: no such file"},
		"a request without host": {[]string{"explain", "--config", shippedB2B, "--request", "GET /a"}, `--request: not a request: "GET /a": `},
		"a time in words":        {with("--time", "noon"), `--time "noon": write it as 2026-`},
		"a header without colon": {with("-H", "SECRET-CANARY"), "--header: number 1 has no colon: write "},
		"a header with a break":  {with("-H", "a: b\r\nSECRET-CANARY"), "--header: number 1: a header value with a line break"},
		"a place that is none":   {with("--session", "{}", "--presented", "cookie"), `--presented "cookie": use authorization, jwt_cookie`},
		"no header for a token":  {with("--session", "{}", "--presented", "token_header"), "presented: the policy has no credentials.token_header"},
		"a state that is none":   {with("--session-api", "slow"), `--session-api "slow": use up, down, rate_limited`},
		"an age of nothing":      {with("--token-age", "5m"), "--presented and --token-age are about the session of --session"},
		"an unknown field":       {with("--session", "{role: [a]}"), "--session:1: role: unknown field: known here: project, subject"},
		"an RBAC policy of none": {with("--rbac", "{roles: a}"), "--rbac:1: roles: not a list"},
		"a session file missing": {with("--session", "no.yaml"), "--session: neither a file"},
		"standard input for two": {[]string{"explain", "--config", shippedB2B, "--check-request", "-", "--token", "-"}, "cannot both be standard input"},
		"two credentials":        {with("--session", "{}", "--token", "SECRET-CANARY"), "--token and --session are two credentials"},
		"an organization of nobody": {[]string{"explain", "--config", "../../deploy/policies/webhooks.yaml", "--request", "GET https://a/",
			"--session", "{organization_slug: acme}"}, "organization_slug: a consumer project has users"},
		"a factor of no method": {with("--session", "{factors: [{type: biometric}]}"), "--session:1: factors[0].delivery_method: is missing, "},
		"no CheckRequest":       {[]string{"explain", "--config", shippedB2B, "--check-request", file}, "not a CheckRequest in JSON"},
		"a misspelt field":      {[]string{"explain", "--config", shippedB2B, "--check-request", misspelt}, `unknown field "header": correct its name, or take it out`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command(t, "", c.args...)
			if err == nil || !strings.Contains(got, c.want) {
				t.Errorf("got %v\n%s\nwant %s", err, got, c.want)
			}
			if strings.Contains(got, "SECRET-CANARY") {
				t.Errorf("a secret is printed: %s", got)
			}
		})
	}
}

// TestTheManualOfPolicyTestIsRight runs the example in its help as it is printed.
func TestTheManualOfPolicyTestIsRight(t *testing.T) {
	help, err := command(t, "", "policy", "test", "--help")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(help, "beside the policy:\n\n")
	text, _, _ = strings.Cut(text, "\n\n")
	folder := t.TempDir()
	for name, text := range map[string]string{
		"app.test.yaml": strings.ReplaceAll("\n"+text, "\n  ", "\n"),
		"app.yaml": `
projects: [{ name: main, project_id: project-test-1, product: b2b, secret_file: /none }]
rules:
- name: docs
  match: { path_template: "/orgs/{org}/docs/{doc}" }
  require: { permission: { resource_id: documents, action: write } }`,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := command(t, "", "policy", "test", filepath.Join(folder, "app.test.yaml"))
	if err != nil || !strings.Contains(got, "1 of 1 passed") {
		t.Errorf("got %v\n%s", err, got)
	}
}

func TestPolicyTestFailsWhenATestDoes(t *testing.T) {
	got, err := command(t, "", "policy", "test", "../../internal/policytest/testdata/failing.test.yaml")
	if err == nil || !strings.Contains(got, "6 of 6 failed") {
		t.Errorf("got %v\n%s", err, got)
	}
	got, err = command(t, "", "policy", "test", "-v", "../../deploy/policies/webhooks.test.yaml")
	if err != nil || !strings.Contains(got, ": ok: a user uses the app\n") {
		t.Errorf("got %v\n%s", err, got)
	}
}
