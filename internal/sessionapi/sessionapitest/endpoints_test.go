package sessionapitest_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestKeySetIsPublicAndHasTheVendorsShape(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	r, _ := http.NewRequestWithContext(t.Context(), "GET", e.url+"/v1/sessions/jwks/"+sessionapitest.DefaultProjectID, nil)
	if status, text, err := e.do(r); status != 200 || err != nil {
		t.Fatalf("without credentials: %d %s %v", status, text, err)
	}
	o := e.expect("/v1/sessions/jwks/"+sessionapitest.DefaultProjectID, nil, 200, "")
	if o["status_code"] != 200.0 || !strings.HasPrefix(o["request_id"].(string), "request-id-test-") {
		t.Errorf("envelope: got %v %v", o["status_code"], o["request_id"])
	}
	key := object(o["keys"].([]any)[0].(map[string]any))
	want := map[string]any{"kty": "RSA", "alg": "RS256", "use": "sig", "e": "AQAB"}
	for name, value := range want {
		if key[name] != value {
			t.Errorf("%s: got %v, want %v", name, key[name], value)
		}
	}
	if ops := key["key_ops"].([]any); len(ops) != 1 || ops[0] != "verify" {
		t.Errorf("key_ops: got %v", ops)
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		if key[private] != nil {
			t.Errorf("the key set tells the private %s", private)
		}
	}
	der, err := base64.StdEncoding.DecodeString(key["x5c"].([]any)[0].(string))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		t.Errorf("x5c: %v", err)
	}
	if sum := sha256.Sum256(der); key["x5t#S256"] != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Errorf("x5t#S256 is not the certificate's: %v", key["x5t#S256"])
	}
	n, err := base64.RawURLEncoding.DecodeString(key["n"].(string))
	if err != nil || new(big.Int).SetBytes(n).BitLen() != 2048 {
		t.Errorf("n: not 2048 bits, %v", err)
	}
}

func TestUnknownRoutes(t *testing.T) {
	consumer := start(t, sessionapitest.Config{})
	b2b := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	for name, c := range map[string]struct {
		e    *emulator
		path string
		body any
		kind string
	}{
		"another project's key set":             {consumer, "/v1/sessions/jwks/project-test-other", nil, "project_not_found"},
		"a key set with a slash after it":       {consumer, "/v1/sessions/jwks/" + sessionapitest.DefaultProjectID + "/", nil, "route_not_found"},
		"the B2B key set of a consumer project": {consumer, "/v1/b2b/sessions/jwks/" + sessionapitest.DefaultProjectID, nil, "route_not_found"},
		"the consumer key set of B2B":           {b2b, "/v1/sessions/jwks/" + sessionapitest.DefaultProjectID, nil, "route_not_found"},
		"authenticate by GET":                   {consumer, consumerPath, nil, "route_not_found"},
		"a way to log in":                       {consumer, "/v1/magic_links/authenticate", object{}, "route_not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.e.in(t)
			e.expect(c.path, c.body, 404, c.kind)
		})
	}
}

func TestRevokeEndpoint(t *testing.T) {
	consumer := start(t, sessionapitest.Config{})
	b2b := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	type fields = func(sessionapitest.Login) object
	for name, c := range map[string]struct {
		e      *emulator
		body   fields
		status int
		kind   string
	}{
		"by id":                {consumer, func(l sessionapitest.Login) object { return object{"session_id": l.SessionID} }, 200, ""},
		"by token":             {consumer, func(l sessionapitest.Login) object { return object{"session_token": l.Token} }, 200, ""},
		"by JWT":               {consumer, func(l sessionapitest.Login) object { return object{"session_jwt": l.JWT} }, 200, ""},
		"by member session id": {b2b, func(l sessionapitest.Login) object { return object{"member_session_id": l.SessionID} }, 200, ""},
		"by member":            {b2b, func(l sessionapitest.Login) object { return object{"member_id": l.Subject} }, 200, ""},
		"not by nothing":       {consumer, func(sessionapitest.Login) object { return object{} }, 400, "no_session_revoke_arguments"},
		"not in two ways": {consumer, func(l sessionapitest.Login) object {
			return object{"session_id": l.SessionID, "session_token": l.Token}
		}, 400, "too_many_session_revoke_arguments"},
		"not by garbage":            {consumer, func(sessionapitest.Login) object { return object{"session_jwt": "garbage"} }, 400, "unable_to_parse_session_jwt"},
		"not an unknown session":    {consumer, func(sessionapitest.Login) object { return object{"session_id": "session-test-0"} }, 404, "session_not_found"},
		"not an unknown member's":   {b2b, func(sessionapitest.Login) object { return object{"member_id": "member-test-0"} }, 404, "member_not_found"},
		"not by the other's id":     {b2b, func(l sessionapitest.Login) object { return object{"session_id": l.SessionID} }, 400, "no_session_revoke_arguments"},
		"not by member in consumer": {consumer, func(l sessionapitest.Login) object { return object{"member_id": l.Subject} }, 400, "no_session_revoke_arguments"},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.e.in(t)
			base := "/v1/sessions/"
			if c.e == b2b {
				base = "/v1/b2b/sessions/"
			}
			login := e.logIn(sessionapitest.LogIn{})
			e.expect(base+"revoke", c.body(login), c.status, c.kind)
			if c.status == 200 {
				e.expect(base+"authenticate", object{"session_token": login.Token}, 404, "session_not_found")
			} else {
				e.expect(base+"authenticate", object{"session_token": login.Token}, 200, "")
			}
		})
	}
}

func TestSessionsOfAUserAreTheLivingOnes(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	dead, alive := e.logIn(sessionapitest.LogIn{UserID: "user-test-ada"}), e.logIn(sessionapitest.LogIn{UserID: "user-test-ada"})
	e.logIn(sessionapitest.LogIn{UserID: "user-test-bob"})
	if err := e.Revoke(dead.SessionID); err != nil {
		t.Fatal(err)
	}
	list := e.expect("/v1/sessions?user_id=user-test-ada", nil, 200, "")["sessions"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["session_id"] != alive.SessionID {
		t.Errorf("got %v, want only %s", list, alive.SessionID)
	}
	e.expect("/v1/sessions?user_id=user-test-eve", nil, 404, "user_not_found")

	b := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	member := b.logIn(sessionapitest.LogIn{MemberID: "member-test-ada", OrganizationID: "organization-test-1"})
	list = b.expect("/v1/b2b/sessions?member_id=member-test-ada&organization_id=organization-test-1", nil, 200, "")["member_sessions"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["member_session_id"] != member.SessionID {
		t.Errorf("got %v, want only %s", list, member.SessionID)
	}
	b.expect("/v1/b2b/sessions?member_id=member-test-ada&organization_id=organization-test-2", nil, 404, "member_not_found")
}

func TestPolicyEndpoints(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	o := e.expect("/v1/rbac/policy", nil, 200, "")
	if got, want := shape(t, o["policy"]), shape(t, sessionapitest.DefaultPolicy()); len(got) != len(want) {
		t.Errorf("got %s, want the words of %s", got, want)
	}
	b := start(t, sessionapitest.Config{Product: sessionapitest.B2B, OrganizationRoles: map[string][]sessionapitest.Role{
		"organization-test-1": {{RoleID: "auditor", Permissions: []sessionapitest.Permission{}}},
	}})
	b.expect("/v1/b2b/rbac/policy", nil, 200, "")
	roles := func(id string) int {
		o := b.expect("/v1/b2b/rbac/organizations/"+id, nil, 200, "")
		return len(o.at("org_policy/roles").([]any))
	}
	if roles("organization-test-1") != 1 {
		t.Error("the organization's own role is missing")
	}
	if login := b.logIn(sessionapitest.LogIn{}); roles(login.OrganizationID) != 0 {
		t.Error("an organization without roles has some")
	}
	b.expect("/v1/b2b/rbac/organizations/organization-test-0", nil, 404, "organization_not_found")
}

func TestPolicyCanBeReplacedWhileItRuns(t *testing.T) {
	e := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	roles := func(id, resource string) []sessionapitest.Role {
		return []sessionapitest.Role{{RoleID: id, Permissions: []sessionapitest.Permission{{ResourceID: resource, Actions: []string{"read"}}}}}
	}
	const organization = "organization-test-1"
	login := e.logIn(sessionapitest.LogIn{OrganizationID: organization, Roles: []string{"viewer", "auditor"}})
	expect := func(resource string, status int) {
		t.Helper()
		kind := ""
		if status == 403 {
			kind = "session_authorization_error"
		}
		check := object{"organization_id": organization, "resource_id": resource, "action": "read"}
		e.expect(b2bPath, object{"session_token": login.Token, "authorization_check": check}, status, kind)
	}
	expect("documents", 200)
	expect("audit", 403)

	changed := roles("viewer", "reports")
	e.SetPolicy(&sessionapitest.Policy{Roles: changed})
	changed[0].Permissions[0].Actions[0] = "spoilt" // the emulator has its own copy
	expect("documents", 403)
	expect("reports", 200)
	o := e.expect("/v1/b2b/rbac/policy", nil, 200, "")
	want := `{
 "resources": [],
 "roles": [
  {
   "description": "",
   "permissions": [
    {
     "actions": [
      "read"
     ],
     "resource_id": "reports"
    }
   ],
   "role_id": "viewer"
  }
 ],
 "scopes": []
}`
	if got := shape(t, o["policy"]); got != want {
		t.Errorf("policy: got %s", got)
	}

	if err := e.SetOrganizationRoles(organization, roles("auditor", "audit")); err != nil {
		t.Fatal(err)
	}
	expect("audit", 200)
	o = e.expect("/v1/b2b/rbac/organizations/"+organization, nil, 200, "")
	if got := o.at("org_policy/roles").([]any); len(got) != 1 || got[0].(map[string]any)["role_id"] != "auditor" {
		t.Errorf("the organization's roles: got %v", got)
	}
	if err := e.SetOrganizationRoles(organization, nil); err != nil {
		t.Fatal(err)
	}
	expect("audit", 403)
	if o := e.expect("/v1/b2b/rbac/organizations/"+organization, nil, 200, ""); o.at("org_policy/roles") == nil {
		t.Error("no roles are null and not a list")
	}

	e.SetPolicy(nil)
	expect("documents", 200)
	if n, m := e.Calls(sessionapitest.EndpointPolicy), e.Calls(sessionapitest.EndpointOrganizationPolicy); n != 1 || m != 2 {
		t.Errorf("%d calls of the policy and %d of the organization's, want 1 and 2", n, m)
	}
	consumer := start(t, sessionapitest.Config{})
	if err := consumer.SetOrganizationRoles(organization, nil); err == nil {
		t.Error("a consumer project takes an organization's roles")
	}
}
