package requirement_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
)

var now = time.Date(2025, 10, 1, 9, 41, 40, 0, time.UTC)

// evidence is of a member with everything. Tests change their copy.
func evidence(t testing.TB) requirement.Evidence {
	return requirement.Evidence{
		Session: &session.Session{
			ID: "session-1", Subject: "member-1",
			OrganizationID: "organization-1", OrganizationSlug: "acme",
			Roles: []string{"viewer", "editor"},
			Factors: []session.Factor{
				{Type: "otp", DeliveryMethod: "sms", AuthenticatedAt: now.Add(-time.Minute)},
				{Type: "password", AuthenticatedAt: now.Add(-time.Hour)},
				{Type: "totp", DeliveryMethod: "authenticator_app"},
			},
			Claims: claims(t, `{"plan":"pro","level":3,"share":0.5,"whole":2.0,"beta":true,"closed":false,"nothing":null,
				"groups":["a","b",7,true],"empty":[],"nested":[["a"],{"a":"a"},null],"object":{"a":"a","list":[1,2]},"big":1e21}`),
			IssuedAt: now.Add(-time.Minute), Expires: now.Add(4 * time.Minute),
		},
		Request: requirement.Request{Method: "GET", Host: "app.example.com", Path: "/orgs/acme/docs/7",
			Header: headers(map[string]string{"x-tier": "gold"})},
		Variables: requirement.Variables{{Name: "org", Value: "organization-1"}, {Name: "slug", Value: "acme"}},
		Now:       now,
	}
}

func claims(t testing.TB, text string) session.Claims {
	t.Helper()
	c, err := session.ParseClaims(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func headers(h map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := h[name]; return v, ok }
}

func newSet(t testing.TB, c requirement.Config) *requirement.Set {
	t.Helper()
	s, err := requirement.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type rbac func() (bool, error)

func (r rbac) Allowed(_ context.Context, s *session.Session, resourceID, action string) (bool, error) {
	if s == nil || resourceID != "documents" || action != "write" {
		return false, fmt.Errorf("asked about %s of %s", action, resourceID)
	}
	return r()
}

var errDown = errors.New("policy is down")

var (
	granting = rbac(func() (bool, error) { return true, nil })
	denying  = rbac(func() (bool, error) { return false, nil })
	failing  = rbac(func() (bool, error) { return true, errDown })
)

// config and set are what most cases are made of.
type (
	config = requirement.Config
	change = func(*requirement.Evidence)
)

func TestCheck(t *testing.T) {
	ids := func(ids ...string) config { return config{Organization: requirement.Organization{IDs: ids}} }
	variables := []string{"org", "slug"}
	byID := config{Organization: requirement.Organization{IDVariable: "org"}, Variables: variables}
	bySlug := config{Organization: requirement.Organization{SlugVariable: "slug"}, Variables: variables}
	claim := func(name string, values ...string) config {
		return config{Claims: []requirement.Claim{{Name: name, Values: values}}}
	}
	permission := func(askAPI bool) config {
		return config{Permission: &requirement.Permission{ResourceID: "documents", Action: "write", AskAPI: askAPI}}
	}
	by := func(p requirement.Permissions) change { return func(e *requirement.Evidence) { e.Permissions = p } }
	organization := func(id, slug string, variables ...requirement.Variable) change {
		return func(e *requirement.Evidence) {
			e.Session.OrganizationID, e.Session.OrganizationSlug, e.Variables = id, slug, variables
		}
	}
	const (
		pass        = ""
		unavailable = "unavailable"
	)
	for _, c := range []struct {
		name   string
		config config
		change change
		want   string // the unmet requirement
	}{
		{"nothing is required", config{}, nil, pass},
		{"nothing is required of nobody", config{}, func(e *requirement.Evidence) { e.Session = nil }, pass},
		{"a role is required of nobody", config{AnyRole: []string{"viewer"}}, func(e *requirement.Evidence) { e.Session = nil }, "any_role"},
		{"an expression that is always true is required of nobody", config{Expressions: []string{"true"}},
			func(e *requirement.Evidence) { e.Session = nil }, "cel[0]"},

		{"the organization is one of several", ids("organization-0", "organization-1"), nil, pass},
		{"the organization is none of them", ids("organization-0", "organization-2"), nil, "organization"},
		{"an id that begins like the organization's", ids("organization-11"), nil, "organization"},
		{"the slug where an id is wanted", ids("acme"), nil, "organization"},
		{"no organization where an empty id is allowed", ids(""), organization("", ""), "organization"},
		{"the organization's id in the path", byID, nil, pass},
		{"another's id in the path", byID, organization("organization-2", "acme", requirement.Variable{Name: "org", Value: "organization-1"}), "organization"},
		{"no id in the path", byID, organization("organization-1", "acme"), "organization"},
		{"an empty id in the path of nobody's organization", byID, organization("", "", requirement.Variable{Name: "org"}), "organization"},
		{"the organization's slug where its id must be", byID, organization("organization-1", "acme", requirement.Variable{Name: "org", Value: "acme"}), "organization"},
		{"a slug that is another organization's id", byID, organization("organization-2", "organization-1", requirement.Variable{Name: "org", Value: "organization-1"}), "organization"},
		{"the organization's slug in the path", bySlug, nil, pass},
		{"another's slug in the path", bySlug, organization("organization-1", "other", requirement.Variable{Name: "slug", Value: "acme"}), "organization"},
		{"the slug in another case", bySlug, organization("organization-1", "acme", requirement.Variable{Name: "slug", Value: "Acme"}), "organization"},
		{"no slug in the path", bySlug, organization("organization-1", "acme"), "organization"},
		{"an empty slug in the path of an organization without one", bySlug, organization("organization-1", "", requirement.Variable{Name: "slug"}), "organization"},
		{"the organization's id where its slug must be", bySlug, organization("organization-1", "acme", requirement.Variable{Name: "slug", Value: "organization-1"}), "organization"},

		{"one of the roles", config{AnyRole: []string{"admin", "editor"}}, nil, pass},
		{"none of the roles", config{AnyRole: []string{"admin", "owner"}}, nil, "any_role"},
		{"a role in another case", config{AnyRole: []string{"Editor"}}, nil, "any_role"},
		{"no roles at all", config{AnyRole: []string{"editor"}}, func(e *requirement.Evidence) { e.Session.Roles = nil }, "any_role"},
		{"all of the roles", config{AllRoles: []string{"editor", "viewer"}}, nil, pass},
		{"all of the roles but one", config{AllRoles: []string{"editor", "viewer", "admin"}}, nil, "all_roles"},

		{"a text claim", claim("plan", "free", "pro"), nil, pass},
		{"another text", claim("plan", "free", "Pro"), nil, "claims[0]"},
		{"an integer", claim("level", "3"), nil, pass},
		{"an integer written otherwise", claim("level", "3.0"), nil, "claims[0]"},
		{"a fraction", claim("share", "0.5"), nil, pass},
		{"another fraction", claim("share", "0.50"), nil, "claims[0]"},
		{"a fraction that is whole", claim("whole", "2"), nil, pass},
		{"a number beyond integers", claim("big", "1e+21"), nil, pass},
		{"a boolean", claim("beta", "true"), nil, pass},
		{"the other boolean", claim("beta", "false"), nil, "claims[0]"},
		{"false where false is wanted", claim("closed", "false"), nil, pass},
		{"a text in a list", claim("groups", "b"), nil, pass},
		{"a number in a list", claim("groups", "7"), nil, pass},
		{"not in the list", claim("groups", "c"), nil, "claims[0]"},
		{"an empty list", claim("empty", ""), nil, "claims[0]"},
		{"a list in a list, an object and null", claim("nested", "a", "", "null"), nil, "claims[0]"},
		{"an object", claim("object", "a", ""), nil, "claims[0]"},
		{"null", claim("nothing", "null", ""), nil, "claims[0]"},
		{"no such claim", claim("other", "", "null", "false"), nil, "claims[0]"},
		{"a claim in another case", claim("Plan", "pro"), nil, "claims[0]"},
		{"anything: a text", claim("plan"), nil, pass},
		{"anything: true", claim("beta"), nil, pass},
		{"anything: an object", claim("object"), nil, pass},
		{"anything: an empty list", claim("empty"), nil, pass},
		{"anything but false", claim("closed"), nil, "claims[0]"},
		{"anything but null", claim("nothing"), nil, "claims[0]"},
		{"anything, and it is not there", claim("other"), nil, "claims[0]"},
		{"the second of two claims", config{Claims: []requirement.Claim{{Name: "plan"}, {Name: "other"}}}, nil, "claims[1]"},

		{"a permission by the roles", permission(false), by(granting), pass},
		{"a permission that they do not grant", permission(false), by(denying), "permission"},
		{"a permission that could not be learnt", permission(false), by(failing), unavailable},
		{"a permission without a policy", permission(false), nil, unavailable},
		{"the API's grant where the roles must", permission(false), func(e *requirement.Evidence) { e.Granted, e.Permissions = true, denying }, "permission"},
		{"a permission by the API", permission(true), func(e *requirement.Evidence) { e.Granted = true }, pass},
		{"a permission that the API did not grant", permission(true), by(granting), "permission"},

		{"organization comes before roles", config{Organization: requirement.Organization{IDs: []string{"x"}}, AnyRole: []string{"x"}}, nil, "organization"},
		{"any_role comes before all_roles", config{AnyRole: []string{"x"}, AllRoles: []string{"x"}}, nil, "any_role"},
		{"all_roles comes before claims", config{AllRoles: []string{"x"}, Claims: []requirement.Claim{{Name: "x"}}}, nil, "all_roles"},
		{"claims come before cel", config{Claims: []requirement.Claim{{Name: "x"}}, Expressions: []string{"false"}}, nil, "claims[0]"},
		{"cel comes before the permission", config{Expressions: []string{"true", "false"},
			Permission: permission(false).Permission}, by(failing), "cel[1]"},
		{"the permission comes before factors", config{Permission: permission(true).Permission, Factors: []requirement.Factors{{MinCount: 9}}}, nil, "permission"},
		{"what could not be learnt comes before factors", config{Permission: permission(false).Permission,
			Factors: []requirement.Factors{{MinCount: 9}}}, nil, unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := evidence(t)
			if c.change != nil {
				c.change(&e)
			}
			s := newSet(t, c.config)
			err := s.Check(t.Context(), e)
			got := pass
			unmet, isUnmet := errors.AsType[*requirement.UnmetError](err)
			switch {
			case errors.Is(err, requirement.ErrUnavailable):
				got = unavailable
			case isUnmet && errors.Is(err, requirement.ErrForbidden) && unmet.Detail != "":
				got = unmet.Requirement
			case err != nil:
				t.Fatalf("error %v", err)
			}
			if got != c.want {
				t.Errorf("got %q, want %q: %v", got, c.want, err)
			}
			if met := !slices.ContainsFunc(s.Examine(t.Context(), e), func(r requirement.Result) bool { return !r.Met }); met != (err == nil) {
				t.Errorf("Examine says %v, Check %v", met, err)
			}
		})
	}
}

func TestUnavailableWrapsTheReason(t *testing.T) {
	s := newSet(t, config{Permission: &requirement.Permission{ResourceID: "documents", Action: "write"}})
	e := evidence(t)
	e.Permissions = failing
	if err := s.Check(t.Context(), e); !errors.Is(err, errDown) {
		t.Errorf("error %v", err)
	}
}

func TestFactors(t *testing.T) {
	otp := func(age time.Duration) []session.Factor {
		return []session.Factor{{Type: "otp", DeliveryMethod: "sms", AuthenticatedAt: now.Add(-age)}}
	}
	recent := requirement.Factors{MaxAge: 5 * time.Minute}
	for _, c := range []struct {
		name    string
		want    requirement.Factors
		factors []session.Factor // nil: those of evidence
		met     bool
	}{
		{"one of any kind", requirement.Factors{}, nil, true},
		{"one of any kind of none", requirement.Factors{}, []session.Factor{}, false},
		{"three of three", requirement.Factors{MinCount: 3}, nil, true},
		{"four of three", requirement.Factors{MinCount: 4}, nil, false},
		{"of one type", requirement.Factors{Types: []string{"otp"}}, nil, true},
		{"of one of two types", requirement.Factors{MinCount: 2, Types: []string{"otp", "totp"}}, nil, true},
		{"two of one type", requirement.Factors{MinCount: 2, Types: []string{"otp"}}, nil, false},
		{"of a type that there is not", requirement.Factors{Types: []string{"webauthn_registration"}}, nil, false},
		{"by one delivery method", requirement.Factors{DeliveryMethods: []string{"sms"}}, nil, true},
		{"by one that there is not", requirement.Factors{DeliveryMethods: []string{"email"}}, nil, false},
		{"a type and a method that are of different factors", requirement.Factors{Types: []string{"otp"}, DeliveryMethods: []string{"authenticator_app"}}, nil, false},
		{"recent enough", recent, otp(5 * time.Minute), true},
		{"a nanosecond too old", recent, otp(5*time.Minute + 1), false},
		{"old where age does not matter", requirement.Factors{}, otp(8760 * time.Hour), true},
		{"5 s in the future", recent, otp(-5 * time.Second), true},
		{"more than 5 s in the future", recent, otp(-5*time.Second - 1), false},
		{"the end of time", recent, []session.Factor{{Type: "otp", AuthenticatedAt: time.Unix(1<<55, 0)}}, false},
		{"at no known time where age does not matter", requirement.Factors{}, []session.Factor{{Type: "otp"}}, true},
		{"at no known time", requirement.Factors{MaxAge: 100000 * time.Hour}, []session.Factor{{Type: "otp"}}, false},
		{"two of which one is recent", requirement.Factors{MinCount: 2, MaxAge: 5 * time.Minute}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := evidence(t)
			if c.factors != nil {
				e.Session.Factors = c.factors
			}
			err := newSet(t, config{Factors: []requirement.Factors{c.want}}).Check(t.Context(), e)
			if met := err == nil; met != c.met || !met && !errors.Is(err, requirement.ErrStepUp) {
				t.Errorf("error %v, want met %v", err, c.met)
			}
		})
	}
}

func TestStepUpListsAllThatIsMissing(t *testing.T) {
	s := newSet(t, config{AnyRole: []string{"editor"}, Factors: []requirement.Factors{
		{Types: []string{"webauthn_registration"}}, {Types: []string{"otp"}}, {MinCount: 9},
	}})
	err := s.Check(t.Context(), evidence(t))
	missing, ok := errors.AsType[*requirement.StepUpError](err)
	if !ok || len(missing.Missing) != 2 || missing.Missing[0].Types[0] != "webauthn_registration" || missing.Missing[1].MinCount != 9 {
		t.Errorf("error %#v", err)
	}
	if errors.Is(err, requirement.ErrForbidden) {
		t.Error("a step-up is forbidden, too")
	}
	e := evidence(t)
	e.Session = nil
	if err := newSet(t, config{Factors: []requirement.Factors{{}}}).Check(t.Context(), e); !errors.Is(err, requirement.ErrStepUp) {
		t.Errorf("nobody: %v", err)
	}
}

func TestNilSetRequiresNothing(t *testing.T) {
	var s *requirement.Set
	names, all := s.Headers()
	if s.Check(t.Context(), requirement.Evidence{}) != nil || s.Examine(t.Context(), requirement.Evidence{}) != nil ||
		s.Permission() != nil || names != nil || all {
		t.Error("a nil Set requires something")
	}
}

func TestPermissionIsHandedOut(t *testing.T) {
	p := &requirement.Permission{ResourceID: "documents", Action: "write"}
	if newSet(t, config{Permission: p}).Permission() != p {
		t.Error("another permission")
	}
}

func TestExamine(t *testing.T) {
	s := newSet(t, config{
		Organization: requirement.Organization{IDVariable: "org"},
		AnyRole:      []string{"admin", "site owner"},
		AllRoles:     []string{"editor"},
		Claims:       []requirement.Claim{{Name: "plan", Values: []string{"free", "x\n"}}, {Name: "groups"}, {Name: "other"}},
		Expressions:  []string{`request.method == "POST"`, `session.claims.zip == "1"`},
		Permission:   &requirement.Permission{ResourceID: "documents", Action: "write", AskAPI: true},
		Factors:      []requirement.Factors{{MinCount: 2, Types: []string{"otp", "totp"}, DeliveryMethods: []string{"sms"}, MaxAge: time.Minute}},
		Variables:    []string{"org"},
	})
	var lines []string
	for _, r := range s.Examine(t.Context(), evidence(t)) {
		lines = append(lines, fmt.Sprintf("%s %v %v: %s | %s", r.Requirement, r.Met, r.Err != nil, r.Wants, r.Saw))
	}
	want := []string{
		"organization true false: the organization whose id is in the path as org | organization organization-1 (acme), in the path organization-1",
		`any_role false false: at least one of the roles admin, "site owner" | viewer, editor`,
		"all_roles true false: all of the roles editor | viewer, editor",
		`claims[0] false false: the claim plan to be one of "free", "x\n" | "pro"`,
		`claims[1] true false: the claim groups, neither null nor false | a list of "a", "b", 7, true`,
		"claims[2] false false: the claim other, neither null nor false | no such claim",
		`cel[0] false false: request.method == "POST" | false`,
		`cel[1] false true: session.claims.zip == "1" | something that it reads is not there`,
		"permission false false: the permission write on documents | not granted yet: the session API is asked",
		"factors[0] false false: 2 factors of the types otp, totp delivered by sms at most 1m0s old | " +
			"otp by sms 1m0s old, password 1h0m0s old, totp by authenticator_app at no time",
	}
	if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	nobody := evidence(t)
	nobody.Session = nil
	for _, r := range s.Examine(t.Context(), nobody) {
		if r.Met || r.Err == nil {
			t.Errorf("%s of nobody is %v, error %v", r.Requirement, r.Met, r.Err)
		}
	}
	local := newSet(t, config{Permission: &requirement.Permission{ResourceID: "documents", Action: "write"}})
	e := evidence(t)
	e.Permissions = failing
	if r := local.Examine(t.Context(), e)[0]; r.Met || !errors.Is(r.Err, errDown) {
		t.Errorf("a local permission is not asked: %+v", r)
	}
}

func TestDetailShowsLittle(t *testing.T) {
	const canary = "canary"
	e := evidence(t)
	e.Session.Claims = claims(t, `{"long":"`+strings.Repeat("ü", 40)+canary+`","object":{"a":"canary"},"sep":"a\u0000\u001b[31m"}`)
	for i := range 99 {
		e.Session.Roles = append(e.Session.Roles, fmt.Sprint("role-", i))
	}
	e.Session.Roles = append(e.Session.Roles, canary)
	e.Request.Header = headers(map[string]string{"x": canary})
	for _, c := range []config{
		{AnyRole: []string{"none"}},
		{Claims: []requirement.Claim{{Name: "long", Values: []string{"x"}}}},
		{Claims: []requirement.Claim{{Name: "object", Values: []string{"x"}}}},
		{Claims: []requirement.Claim{{Name: "sep", Values: []string{"x"}}}},
		{Expressions: []string{`request.headers["x"] == "canary-wanted"`}},
		{Expressions: []string{`{"a": 1}[request.headers["x"]] == 1`}},
		{Expressions: []string{`int(request.headers["x"]) == 1`}},
		{Expressions: []string{`duration(request.headers["x"]) == duration("1s")`}},
	} {
		err := newSet(t, c).Check(t.Context(), e)
		if !errors.Is(err, requirement.ErrForbidden) || strings.ContainsAny(err.Error(), "\x00\x1b\ufffd") ||
			strings.Contains(err.Error(), canary) || len(err.Error()) > 400 {
			t.Errorf("error %v", err)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		name                   string
		config                 config
		field, problem, remedy string
	}{
		{"an id by a variable that there is not", config{Organization: requirement.Organization{IDVariable: "org"}, Variables: []string{"doc", "team"}},
			"organization.id_in_path", "no path variable is named org", "doc, team"},
		{"a slug by a variable without a template", config{Organization: requirement.Organization{SlugVariable: "org"}},
			"organization.slug_in_path", "org", "path_template"},
		{"a claim without a name", config{Claims: []requirement.Claim{{Name: "a"}, {}}}, "claims[1].name", "empty", "custom claim"},
		{"a registered claim", config{Claims: []requirement.Claim{{Name: "exp"}}}, "claims[0].name", "reserved", "cel"},
		{"the vendor's claim", config{Claims: []requirement.Claim{{Name: "https://stytch.com/session"}}}, "claims[0].name", "reserved", "cel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := requirement.New(c.config)
			checkMistake(t, err, c.field, c.problem, c.remedy)
		})
	}
}

func checkMistake(t *testing.T, err error, field, problem, remedy string) {
	t.Helper()
	mistake, ok := err.(*requirement.FieldError)
	if !ok || mistake.Field != field || !strings.Contains(mistake.Problem, problem) || !strings.Contains(mistake.Remedy, remedy) {
		t.Errorf("got %#v, want %s: …%s… (…%s…)", err, field, problem, remedy)
	} else if len(mistake.Problem) > 400 || strings.Contains(mistake.Problem, "\n") {
		t.Errorf("problem is not one line: %s", mistake.Problem)
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, err := requirement.New(config{
		Organization: requirement.Organization{IDVariable: "org"},
		Claims:       []requirement.Claim{{Name: "iss"}},
		Expressions:  []string{"true", "1", "session.role == 'x'"},
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error %v", err)
	}
	var fields []string
	for _, err := range joined.Unwrap() {
		fields = append(fields, err.(*requirement.FieldError).Field)
	}
	if want := []string{"organization.id_in_path", "claims[0].name", "cel[1]", "cel[2]"}; !slices.Equal(fields, want) {
		t.Errorf("fields %v, want %v", fields, want)
	}
}
