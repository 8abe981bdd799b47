package requirement_test

import (
	"testing"
	"time"

	"authz-sidecar/internal/requirement"
)

var rolesAndFactors = config{
	Organization: requirement.Organization{IDVariable: "org"},
	AnyRole:      []string{"admin", "editor"},
	AllRoles:     []string{"viewer", "editor"},
	Factors:      []requirement.Factors{{Types: []string{"otp", "totp"}, MaxAge: 5 * time.Minute}},
	Variables:    []string{"org"},
}

func BenchmarkCheck(b *testing.B) {
	for _, c := range []struct {
		name string
		config
	}{
		{"roles and factors", rolesAndFactors},
		{"claims", config{Claims: []requirement.Claim{{Name: "plan", Values: []string{"free", "pro"}}}}},
		{"cel", config{Variables: []string{"org"}, Expressions: []string{
			`session.organization_id == path.org && (request.method == "GET" || "admin" in session.roles || session.claims.plan == "pro")`}}},
		{"cel over factors and headers", config{Expressions: []string{
			`session.factors.exists(f, f.type == "otp" && now - f.authenticated_at < duration("5m")) && request.headers["x-tier"] in ["gold", "silver"]`}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, e := newSet(b, c.config), evidence(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Check(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newSet(b, config{Variables: []string{"org"}, Expressions: []string{`session.organization_id == path.org && "admin" in session.roles`}})
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	e, ctx := evidence(t), t.Context()
	for name, s := range map[string]*requirement.Set{
		"no set":                               nil,
		"nothing":                              newSet(t, config{}),
		"a role":                               newSet(t, config{AnyRole: rolesAndFactors.AnyRole}),
		"a factor":                             newSet(t, config{Factors: rolesAndFactors.Factors}),
		"the organization, roles and a factor": newSet(t, rolesAndFactors),
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := s.Check(ctx, e); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
