package check_test

import (
	"slices"
	"testing"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestIdentityHeadersSayClaims(t *testing.T) {
	h := newHouse(t, session.B2B, func(c *check.Config) {
		c.IdentityHeaders = []check.IdentityHeader{
			{Name: "x-plan", Claim: "plan"}, {Name: "x-plan-json", Claim: "plan", JSON: true},
			{Name: "x-roles-json", Value: "roles", JSON: true}, {Name: "x-factors", Value: "factors"},
			{Name: "x-session-ends", Value: "session_expires_at"}, {Name: "x-project", Value: "project"},
			{Name: "x-subject-json", Value: "subject", JSON: true},
		}
	})
	for _, c := range []struct {
		name     string
		plan     any
		roles    []string
		text     string
		inJSON   string
		rolesOut string
		denied   bool
	}{
		{"a text", "pro", []string{"editor"}, "pro", `"pro"`, `["editor"]`, false},
		{"a number", 42, []string{"editor"}, "42", "42", `["editor"]`, false},
		{"a boolean", false, []string{"editor"}, "false", "false", `["editor"]`, false},
		{"a list", []any{"a", 1, true}, []string{"editor"}, "a,1,true", `["a",1,true]`, `["editor"]`, false},
		{"a text for which a header has no letters", "plän\n", []string{"editor"}, "", "", "", true},
		{"a list whose member has a comma", []any{"a,admin"}, []string{"editor"}, "", "", "", true},
		{"an object", map[string]any{"a": 1}, []string{"editor"}, "", "", "", true},
		{"nothing", nil, []string{"editor"}, "", "", `["editor"]`, false},
		{"roles that a text could not hold", "pro", []string{"a,b", "ädmin", "😀"}, "pro", `"pro"`, `["a,b","\u00e4dmin","\ud83d\ude00"]`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			who := sessionapitest.LogIn{Roles: c.roles}
			if c.plan != nil {
				who.CustomClaims = map[string]any{"plan": c.plan}
			}
			login := h.logIn(who)
			a := h.check("/", "authorization", "Bearer "+login.JWT)
			if c.denied {
				if a.status() != 401 || a.reason != "claims_refused" {
					t.Errorf("%d %s", a.status(), a.reason)
				}
				return
			}
			for name, want := range map[string]string{
				"x-plan": c.text, "x-plan-json": c.inJSON, "x-roles-json": c.rolesOut, "x-factors": "otp", "x-project": project,
				"x-session-ends": login.ExpiresAt.UTC().Format("2006-01-02T15:04:05Z07:00"), "x-subject-json": `"` + login.Subject + `"`,
			} {
				if got := a.upstream()[name]; got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
				if slices.Contains(a.removed(), name) != (want == "") {
					t.Errorf("%s: set to %q, removed %v", name, want, a.removed())
				}
			}
		})
	}
	t.Run("an object in JSON", func(t *testing.T) {
		h := newHouse(t, session.Consumer, func(c *check.Config) {
			c.IdentityHeaders = []check.IdentityHeader{{Name: "x-org", Claim: "org", JSON: true}}
		})
		login := h.logIn(sessionapitest.LogIn{CustomClaims: map[string]any{"org": map[string]any{"name": "Ä\n"}}})
		if a := h.check("/", "authorization", "Bearer "+login.JWT); a.upstream()["x-org"] != `{"name":"\u00c4\n"}` {
			t.Errorf("%s %v", a.reason, a.upstream())
		}
	})
	for name, bad := range map[string]check.IdentityHeader{
		"neither value nor claim": {Name: "x-a"}, "both": {Name: "x-a", Value: "subject", Claim: "plan"}, "an unknown value": {Name: "x-a", Value: "shoe_size"},
	} {
		if _, err := check.New(check.Config{Rules: compile(t), Projects: map[string]check.Project{project: {}}, IdentityHeaders: []check.IdentityHeader{bad}}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
