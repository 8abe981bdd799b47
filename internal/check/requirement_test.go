package check_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestWhoHasWhatARuleRequires(t *testing.T) {
	rule := func(name string, match policy.Match, cfg requirement.Config) policy.Rule {
		if cfg.Organization.IDVariable != "" {
			cfg.Variables = []string{cfg.Organization.IDVariable}
		}
		return policy.Rule{Name: name, Match: match, MaxTokenAge: session.NoMaxAge, Require: require(t, cfg)}
	}
	h := newHouse(t, session.B2B, withRules(t,
		rule("organization", policy.Match{PathTemplate: "/orgs/{org}/{rest=**}"}, requirement.Config{Organization: requirement.Organization{IDVariable: "org"}}),
		rule("any role", prefix("/any"), requirement.Config{AnyRole: []string{"admin", "editor"}}),
		rule("all roles", prefix("/all"), requirement.Config{AllRoles: []string{"admin", "editor"}}),
		rule("claim", prefix("/claim"), requirement.Config{Claims: []requirement.Claim{{Name: "plan", Values: []string{"pro"}}}}),
		rule("cel", prefix("/cel"), requirement.Config{Expressions: []string{`session.claims.seats > 3 && request.method == "GET"`}}),
		rule("broken cel", prefix("/broken"), requirement.Config{Expressions: []string{`session.claims.absent > 3`}}),
		rule("permission", prefix("/permission"), requirement.Config{Permission: &requirement.Permission{ResourceID: "documents", Action: "write", AskAPI: true}}),
	))
	editor := h.logIn(sessionapitest.LogIn{OrganizationID: "organization-test-1", Roles: []string{"editor"}, CustomClaims: map[string]any{"plan": "pro", "seats": 5}})
	viewer := h.logIn(sessionapitest.LogIn{OrganizationID: "organization-test-2", Roles: []string{"viewer"}, CustomClaims: map[string]any{"plan": "free", "seats": 2}})

	for _, c := range []struct {
		name        string
		request     string
		who         sessionapitest.Login
		reason      string
		requirement string
	}{
		{"a member of the path's organization", "/orgs/organization-test-1/docs", editor, "verified", ""},
		{"of another", "/orgs/organization-test-1/docs", viewer, "forbidden", "organization"},
		{"of another, by an encoded spelling", "/orgs/organization%2Dtest-1/docs", viewer, "forbidden", "organization"},
		{"one of the roles", "/any", editor, "verified", ""},
		{"none of the roles", "/any", viewer, "forbidden", "any_role"},
		{"not all of the roles", "/all", editor, "forbidden", "all_roles"},
		{"the claim", "/claim", editor, "verified", ""},
		{"another claim", "/claim", viewer, "forbidden", "claims[0]"},
		{"an expression that is true", "/cel", editor, "verified", ""},
		{"one that is false", "/cel", viewer, "forbidden", "cel[0]"},
		{"one that looks at the method", "POST /cel", editor, "forbidden", "cel[0]"},
		{"one that fails", "/broken", editor, "forbidden", "cel[0]"},
		{"a permission that the API grants", "/permission", editor, "exchanged", ""},
		{"one that it does not", "/permission", viewer, "forbidden", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.check(c.request, "authorization", "Bearer "+c.who.JWT)
			if a.reason != c.reason || a.metadata("requirement") != c.requirement {
				t.Errorf("%s (%s), want %s (%s)", a.reason, a.metadata("requirement"), c.reason, c.requirement)
			}
			if want := 200; c.reason == "forbidden" {
				if want = 403; a.status() != want || a.body()["reason"] != "forbidden" {
					t.Errorf("%d %v", a.status(), a.body())
				}
			}
		})
	}
	if log := h.log.String(); !strings.Contains(log, `"requirement":"organization"`) {
		t.Error("the log does not name the requirement")
	}
}

// permissions grants or fails as it is told.
type permissions struct {
	granted bool
	err     error
}

func (p permissions) Allowed(context.Context, *session.Session, string, string) (bool, error) {
	return p.granted, p.err
}

func TestALocalPermission(t *testing.T) {
	for _, c := range []struct {
		name        string
		permissions requirement.Permissions
		status      int
		reason      string
	}{
		{"granted", permissions{granted: true}, 200, "verified"},
		{"not granted", permissions{}, 403, "forbidden"},
		{"not to be learnt", permissions{err: errors.New("no policy")}, 503, "permissions_unavailable"},
		{"granted and not to be learnt", permissions{granted: true, err: errors.New("no policy")}, 503, "permissions_unavailable"},
		{"nobody to ask", nil, 503, "permissions_unavailable"},
	} {
		h := newHouse(t, session.Consumer, func(cfg *check.Config) {
			cfg.Rules = compile(t, policy.Rule{Name: "docs", Match: prefix("/docs"), MaxTokenAge: session.NoMaxAge,
				Require: require(t, requirement.Config{Permission: &requirement.Permission{ResourceID: "documents", Action: "read"}})})
			p := cfg.Projects[project]
			p.Permissions = c.permissions
			cfg.Projects = map[string]check.Project{project: p}
		})
		if a := h.check("/docs", "authorization", "Bearer "+h.logIn(sessionapitest.LogIn{}).JWT); a.status() != c.status || a.reason != c.reason {
			t.Errorf("%s: %d %s, want %d %s", c.name, a.status(), a.reason, c.status, c.reason)
		}
		if h.apiCalls() != 0 {
			t.Errorf("%s: the session API was asked", c.name)
		}
	}
}

func TestAPermissionAskedOfTheAPI(t *testing.T) {
	permission := func(action string) *requirement.Set {
		return require(t, requirement.Config{Permission: &requirement.Permission{ResourceID: "documents", Action: action, AskAPI: true}})
	}
	h := newHouse(t, session.B2B, withRules(t,
		policy.Rule{Name: "read", Match: prefix("/read"), MaxTokenAge: session.NoMaxAge, Grace: time.Minute, Require: permission("read")},
		policy.Rule{Name: "write", Match: prefix("/write"), MaxTokenAge: session.NoMaxAge, Require: permission("write")},
	))
	viewer := h.logIn(sessionapitest.LogIn{Roles: []string{"viewer"}})
	calls := func(want int, a answer) answer {
		t.Helper()
		if got := h.apiCalls(); got != want {
			t.Errorf("%d calls, want %d", got, want)
		}
		h.emulator.ResetCalls()
		return a
	}
	first := calls(1, h.check("/read", "cookie", "stytch_session_jwt="+viewer.JWT))
	if first.reason != "exchanged" {
		t.Fatal(first.reason)
	}
	if a := calls(0, h.check("/read", "cookie", "stytch_session_jwt="+viewer.JWT)); a.reason != "exchanged" {
		t.Errorf("the same once more: %s", a.reason)
	}
	cookie, _, _ := strings.Cut(first.client()["set-cookie"], ";")
	if a := calls(0, h.check("/read", "cookie", cookie)); a.reason != "exchanged" {
		t.Errorf("the new JWT: %s", a.reason)
	}
	if a := calls(1, h.check("/write", "cookie", cookie)); a.reason != "forbidden" {
		t.Errorf("another permission is not what was granted: %s", a.reason)
	}
	if a := calls(2, h.check("/read", "cookie", "stytch_session="+viewer.Token)); a.reason != "exchanged" {
		t.Errorf("a token, whose organization must be learnt first: %s", a.reason)
	}
	stranger := h.logIn(sessionapitest.LogIn{Roles: []string{"editor"}})
	a := calls(1, h.check("/write", "cookie", "stytch_session_jwt="+viewer.JWT+"; stytch_session="+stranger.Token))
	if a.status() != 400 || a.reason != "ambiguous_credential" {
		t.Errorf("a token of another session, which may: %d %s", a.status(), a.reason)
	}
	a = calls(2, h.check("/write", "cookie", "stytch_session="+viewer.Token))
	if a.status() != 403 || a.client()["set-cookie"] == "" {
		t.Errorf("what was learnt of a token before the permission was refused: %d %v", a.status(), a.client())
	}
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if a := h.check("/read", "authorization", "Bearer "+h.mint(viewer, 5*time.Minute+time.Second)); a.reason != "api_unavailable" {
		t.Errorf("no grace without the permission: %s", a.reason)
	}
}

// TestNoJWTOfAnEndedSessionIsHandedOut has the exchange of a token kept from before its session was revoked.
func TestNoJWTOfAnEndedSessionIsHandedOut(t *testing.T) {
	h := newHouse(t, session.B2B, withRules(t,
		policy.Rule{Name: "permission", Match: prefix("/permission"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute,
			Require: require(t, requirement.Config{Permission: &requirement.Permission{ResourceID: "documents", Action: "read", AskAPI: true}})},
		policy.Rule{Name: "hybrid", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute}))
	login := h.logIn(sessionapitest.LogIn{Roles: []string{"viewer"}})
	if a := h.check("/", "cookie", "stytch_session="+login.Token); a.reason != "exchanged" {
		t.Fatal(a.reason)
	}
	if err := h.emulator.Revoke(login.SessionID); err != nil {
		t.Fatal(err)
	}
	a := h.check("/permission", "cookie", "stytch_session="+login.Token)
	if a.status() != 401 || a.reason != "session_not_found" || a.client()["set-cookie"] != "" {
		t.Errorf("%d %s %v", a.status(), a.reason, a.client())
	}
}

func TestTheStepUpChallenge(t *testing.T) {
	factors := []requirement.Factors{{MinCount: 2}, {MinCount: 1, Types: []string{"webauthn_registration"}, MaxAge: 5 * time.Minute}}
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "pay", Match: prefix("/pay"), MaxTokenAge: session.NoMaxAge, Require: require(t, requirement.Config{Factors: factors})},
		policy.Rule{Name: "admin", Match: prefix("/admin"), MaxTokenAge: session.NoMaxAge,
			Require: require(t, requirement.Config{Factors: factors, AnyRole: []string{"admin"}})},
	))
	ago := func(d time.Duration) string { return time.Now().Add(-d).UTC().Format(time.RFC3339) }
	password := sessionapitest.Factor{"type": "password", "delivery_method": "knowledge", "last_authenticated_at": ago(time.Hour)}
	key := func(age time.Duration) sessionapitest.Factor {
		return sessionapitest.Factor{"type": "webauthn_registration", "delivery_method": "webauthn_registration", "last_authenticated_at": ago(age)}
	}
	one := h.logIn(sessionapitest.LogIn{Factors: []sessionapitest.Factor{password}})
	stale := h.logIn(sessionapitest.LogIn{Factors: []sessionapitest.Factor{password, key(time.Hour)}})
	both := h.logIn(sessionapitest.LogIn{Factors: []sessionapitest.Factor{password, key(time.Minute)}})

	a := h.check("/pay", "authorization", "Bearer "+one.JWT)
	if a.status() != 401 || a.reason != "step_up" || a.metadata("requirement") != "factors" {
		t.Errorf("one factor: %d %s", a.status(), a.reason)
	}
	const challenge = `Bearer realm="session", error="insufficient_user_authentication", error_description="further authentication is required", max_age="300"`
	if a.client()["www-authenticate"] != challenge {
		t.Errorf("challenge: %s", a.client()["www-authenticate"])
	}
	var body struct {
		Reason  string
		Factors []map[string]any
	}
	if err := json.Unmarshal([]byte(a.GetDeniedResponse().GetBody()), &body); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{"min_count": 2.0}, {"min_count": 1.0, "types": []any{"webauthn_registration"}, "max_age": 300.0}}
	if body.Reason != "step_up" || !reflect.DeepEqual(body.Factors, want) {
		t.Errorf("body: %+v", body)
	}
	if a := h.check("/pay", "authorization", "Bearer "+stale.JWT); a.reason != "step_up" {
		t.Errorf("a factor too long ago: %s", a.reason)
	}
	if a := h.check("/pay", "authorization", "Bearer "+both.JWT); a.reason != "verified" {
		t.Errorf("both factors: %s", a.reason)
	}
	if a := h.check("/admin", "authorization", "Bearer "+one.JWT); a.reason != "forbidden" {
		t.Errorf("a step-up that would not help is not asked for: %s", a.reason)
	}
	if a := h.check("/pay", "authorization", "Bearer "+one.JWT, "content-type", "application/grpc"); a.client()["grpc-status"] != "16" {
		t.Errorf("gRPC: %v", a.client())
	}

	t.Run("what was traded on the way goes to the client all the same", func(t *testing.T) {
		before := h.apiCalls()
		a := h.check("/pay", "cookie", "stytch_session_jwt="+h.mint(one, time.Hour))
		cookie, _, _ := strings.Cut(a.client()["set-cookie"], ";")
		if a.reason != "step_up" || cookie == "" {
			t.Fatalf("%s %v", a.reason, a.client())
		}
		if a := h.check("/pay", "cookie", cookie); a.reason != "step_up" || h.apiCalls()-before != 1 {
			t.Errorf("again: %s, %d calls", a.reason, h.apiCalls()-before)
		}
		a = h.check("/admin", "cookie", "stytch_session_jwt="+h.mint(both, time.Hour))
		if a.status() != 403 || a.client()["set-cookie"] == "" {
			t.Errorf("a 403: %d %v", a.status(), a.client())
		}
	})
}
