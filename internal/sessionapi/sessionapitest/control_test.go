package sessionapitest_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestControlDrivesTheEmulator(t *testing.T) {
	e := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	c := &sessionapitest.Control{BaseURL: e.url + "/", HTTP: e.client}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	login, err := c.LogIn(ctx, sessionapitest.LogIn{
		MemberID: "member-test-ada", OrganizationID: "organization-test-1", OrganizationSlug: "acme", Roles: []string{},
		CustomClaims: map[string]any{"plan": "gold"}, Duration: 90 * time.Minute,
	})
	must(err)
	if login.Subject != "member-test-ada" || login.OrganizationID != "organization-test-1" || !login.ExpiresAt.Equal(e.clock.Now().Add(90*time.Minute)) {
		t.Errorf("log in: got %+v", login)
	}
	if got := claims(t, login.JWT); got["plan"] != "gold" {
		t.Errorf("custom claims: got %v", got)
	}
	must(c.AttachFactor(ctx, login.SessionID, sessionapitest.Factor{"type": "totp", "delivery_method": "authenticator_app"}))
	must(c.MergeClaims(ctx, login.SessionID, map[string]any{"plan": nil, "seats": 3}))
	must(c.Extend(ctx, login.SessionID, 5*time.Minute))
	o := e.expect(b2bPath, object{"session_token": login.Token}, 200, "")
	if got := shape(t, o.at("member_session/custom_claims")); got != "{\n \"seats\": 3\n}" {
		t.Errorf("custom claims: got %s", got)
	}
	if got := len(o.at("member_session/authentication_factors").([]any)); got != 2 {
		t.Errorf("got %d factors, want 2", got)
	}
	if got := o.at("member_session/expires_at"); got != "2026-01-02T03:09:05.678Z" {
		t.Errorf("expires_at: got %v", got)
	}

	issued := e.clock.Now().Add(-time.Hour)
	jwt, err := c.Mint(ctx, login.SessionID, issued)
	must(err)
	if got := claims(t, jwt)["iat"]; got != float64(issued.Unix()) {
		t.Errorf("mint: iat is %v", got)
	}
	jwt, err = c.Sign(ctx, "", []byte(`{"alg":"RS256", "alg":"none"}`), map[string]string{"sub": "<x>"})
	must(err)
	if decodeHeader(t, jwt) != `{"alg":"RS256", "alg":"none"}` || claims(t, jwt)["sub"] != "<x>" {
		t.Errorf("sign: got %s", jwt)
	}
	kid, err := c.RotateKeys(ctx, false)
	must(err)
	if now, _ := e.KeyID(); now != kid {
		t.Errorf("rotate: got %s, the current key is %s", kid, now)
	}

	check := object{"session_token": login.Token, "authorization_check": object{
		"organization_id": "organization-test-1", "resource_id": "audit", "action": "read"}}
	e.expect(b2bPath, check, 403, "session_authorization_error")
	everyone := []sessionapitest.Role{{RoleID: "auditor", Permissions: []sessionapitest.Permission{{ResourceID: "audit", Actions: []string{"*"}}}}}
	must(c.SetPolicy(ctx, &sessionapitest.Policy{Roles: everyone}))
	must(c.SetOrganizationRoles(ctx, "organization-test-1", everyone))
	if own, _ := e.ask("/v1/b2b/rbac/organizations/organization-test-1", nil); own != 200 {
		t.Errorf("the organization's roles: status %d", own)
	}
	must(c.SetPolicy(ctx, nil))

	e.ResetCalls()
	must(c.SetFault(ctx, "authenticate", sessionapitest.Fault{Latency: time.Nanosecond, Status: 500, Body: "{}"}))
	e.expect(b2bPath, object{}, 500, "")
	must(c.ClearFaults(ctx))
	e.expect(b2bPath, object{}, 400, "no_session_arguments")
	calls, err := c.Calls(ctx, "authenticate")
	if must(err); calls != 2 {
		t.Errorf("got %d calls, want 2", calls)
	}
	must(c.ResetCalls(ctx))
	if calls, _ := c.Calls(ctx, "authenticate"); calls != 0 {
		t.Errorf("after a reset: got %d calls", calls)
	}
	if _, err := c.Calls(ctx, "authentificate"); err == nil {
		t.Error("counting the calls of an unknown endpoint: no error")
	}

	must(c.Revoke(ctx, login.SessionID))
	e.expect(b2bPath, object{"session_token": login.Token}, 404, "session_not_found")
	err = c.Revoke(ctx, "session-test-0")
	refused, ok := errors.AsType[*sessionapitest.ControlError](err)
	if !ok || !strings.HasPrefix(refused.Message, "session_id: ") {
		t.Errorf("revoking an unknown session: got %v", err)
	}
}

func TestControlErrorsNameTheField(t *testing.T) {
	consumer := start(t, sessionapitest.Config{})
	b2b := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	for name, c := range map[string]struct {
		e                *emulator
		path, body, word string
	}{
		"a misspelt field":               {consumer, "log_in", `{"usr_id":"x"}`, "usr_id"},
		"a misspelt field of a fault":    {consumer, "faults", `{"endpoint":"jwks","fault":{"stauts":5}}`, "stauts"},
		"a duration without a unit":      {consumer, "log_in", `{"session_duration":"5"}`, "duration"},
		"a member in a consumer project": {consumer, "log_in", `{"member_id":"x"}`, "member_id"},
		"a user in a B2B project":        {b2b, "log_in", `{"user_id":"x"}`, "user_id"},
		"a factor without a type":        {consumer, "log_in", `{"authentication_factors":[{"delivery_method":"email"}]}`, "authentication_factors[0]: type"},
		"a reserved claim":               {consumer, "log_in", `{"custom_claims":{"iss":"x"}}`, "iss"},
		"an unknown session":             {consumer, "mint", `{"session_id":"x"}`, "session_id"},
		"no session":                     {consumer, "revoke", ``, "session_id"},
		"two times at once":              {consumer, "mint", `{"session_id":"x","age":"1s","issued_at":"2026-01-01T00:00:00Z"}`, "age"},
		"two headers at once":            {consumer, "sign", `{"header":{},"raw_header":"e30="}`, "raw_header"},
		"two claim sets at once":         {consumer, "sign", `{"claims":{},"raw_claims":"e30="}`, "raw_claims"},
		"roles of no organization":       {b2b, "organization_roles", `{"roles":[]}`, "organization_id"},
		"a misspelt field of a policy":   {b2b, "policy", `{"policy":{"rolls":[]}}`, "rolls"},
		"no claims to sign":              {consumer, "sign", `{}`, "claims"},
		"an unknown endpoint":            {consumer, "faults", `{"endpoint":"x","fault":{"hang":true}}`, "endpoint"},
		"something after the object":     {consumer, "revoke", `{} {}`, "follows"},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.e.in(t)
			status, o := e.ask("/emulator/"+c.path, c.body)
			if message, _ := o["error"].(string); status != 400 || !strings.Contains(message, c.word) {
				t.Errorf("got %d %v, want 400 and %q", status, o, c.word)
			}
		})
	}
	if status, o := consumer.ask("/emulator/login", object{}); status != http.StatusNotFound || o["error"] == nil {
		t.Errorf("an unknown control endpoint: got %d %v", status, o)
	}
}

func TestManualListsEveryControlEndpointAndItsExamplesWork(t *testing.T) {
	for product, c := range map[string]struct {
		own      []string
		examples int
	}{
		sessionapitest.Consumer: {[]string{"user_id"}, 14},
		sessionapitest.B2B:      {[]string{"member_id", "organization_id", "organization_slug", "organization_roles"}, 15},
	} {
		t.Run(product, func(t *testing.T) { assertManual(t, product, c.own, c.examples) })
	}
}

// assertManual runs every example of one product's manual, which has words of its own.
func assertManual(t *testing.T, product string, own []string, examples int) {
	e := start(t, sessionapitest.Config{Product: product})
	login := e.logIn(sessionapitest.LogIn{})
	status, text, _, err := e.get(t.Context(), "/emulator/")
	if status != 200 || err != nil {
		t.Fatalf("got %d %v", status, err)
	}
	for _, word := range append(own, "development only", sessionapitest.DefaultProjectID, sessionapitest.DefaultSecret) {
		if !strings.Contains(text, word) {
			t.Errorf("the manual does not say %q", word)
		}
	}
	tried := 0
	for line := range strings.Lines(text) {
		line, isExample := strings.CutPrefix(strings.TrimSpace(line), "curl -s ")
		if !isExample {
			continue
		}
		tried++
		example, url, _ := strings.Cut(line, e.url)
		body := any(nil)
		if strings.HasPrefix(example, "-X POST") {
			_, quoted, _ := strings.Cut(example, "'")
			body = strings.ReplaceAll(strings.TrimRight(quoted, "' "), "session-test-…", login.SessionID)
		}
		r, _ := http.NewRequestWithContext(t.Context(), "GET", e.url+url, nil)
		if body != nil {
			r, _ = http.NewRequestWithContext(t.Context(), "POST", e.url+url, strings.NewReader(body.(string)))
		}
		if status, answer, err := e.do(r); status != 200 || err != nil || !json.Valid([]byte(answer)) {
			t.Errorf("%s: got %d %s %v", line, status, answer, err)
		}
	}
	if tried != examples {
		t.Errorf("the manual has %d examples, want %d", tried, examples)
	}
}

func TestSessionListTellsNoCredential(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{})
	status, text, _, err := e.get(t.Context(), "/emulator/sessions")
	if status != 200 || err != nil || !strings.Contains(text, login.SessionID) || strings.Contains(text, login.Token) || strings.Contains(text, "eyJ") {
		t.Errorf("got %d %s %v", status, text, err)
	}
}
