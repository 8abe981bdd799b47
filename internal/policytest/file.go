package policytest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
)

// maxFileSize bounds a policy test; a thousand tests have some 200 KB.
const maxFileSize = 1 << 20

// File is a policy test.
type File struct {
	// Policy is the configuration file, from this file's folder. Required.
	Policy string `yaml:"policy"`
	// Time is when all of it happens. Default 2026-01-02T15:04:05Z.
	Time time.Time `yaml:"time"`
	// RBAC is what the RBAC policy of the projects says. Default: no role grants anything.
	RBAC RBAC `yaml:"rbac"`
	// Sessions are who has logged in, by names of the file's own; "none" is no session.
	Sessions map[string]Session `yaml:"sessions"`
	// Tests are independent of each other. At least one.
	Tests []Test `yaml:"tests"`

	path   string
	config *config.Config
}

// RBAC is a project's RBAC policy, in the vendor's words (https://stytch.com/docs/b2b/guides/rbac/overview).
type RBAC struct {
	Roles []Role `yaml:"roles"`
	// Organizations are the roles that organizations add, by organization id.
	Organizations map[string][]Role `yaml:"organizations"`
}

// Role is a named list of permissions.
type Role struct {
	RoleID      string       `yaml:"role_id"`
	Permissions []Permission `yaml:"permissions"`
}

// Permission allows actions on one resource; "*" is all of them.
type Permission struct {
	ResourceID string   `yaml:"resource_id"`
	Actions    []string `yaml:"actions"`
}

// Session is somebody who has logged in.
type Session struct {
	// Project is the name of the project. Default: the first.
	Project string `yaml:"project"`
	// Subject is the user or member id. Default "user-test-NAME" or "member-test-NAME" after the session's name.
	Subject string `yaml:"subject"`
	// OrganizationID and OrganizationSlug are for B2B. Default "organization-test-acme" and "acme"; one alone stands for the
	// other: "organization-test-" and the slug, or what the id has behind that.
	OrganizationID   string `yaml:"organization_id"`
	OrganizationSlug string `yaml:"organization_slug"`
	// Roles default to the vendor's: [stytch_user] or [stytch_member].
	Roles []string `yaml:"roles"`
	// Factors are the authentication factors. Default: one code by e-mail, just now.
	Factors []Factor `yaml:"factors"`
	// Claims are the custom claims.
	Claims map[string]any `yaml:"claims"`
	// EndsIn is how long the session still lives unless it is extended; negative if it has ended. Default 1h.
	EndsIn *time.Duration `yaml:"ends_in"`

	name string
	line int
}

func (s *Session) setLine(line int) { s.line = line }

// testOrganization and liveOrganization are what the vendor's organization ids begin with.
const (
	testOrganization = "organization-test-"
	liveOrganization = "organization-live-"
)

// organization is the session's, complete. One that is named by its id or slug alone is no other's.
func (s *Session) organization() (id, slug string) {
	switch id, slug = s.OrganizationID, s.OrganizationSlug; {
	case id == "":
		slug = cmp.Or(slug, "acme")
		id = testOrganization + slug
	case slug == "":
		slug = strings.TrimPrefix(strings.TrimPrefix(id, testOrganization), liveOrganization)
	}
	return id, slug
}

// Factor is an authentication factor.
type Factor struct {
	// Type is required.
	Type string `yaml:"type"`
	// DeliveryMethod defaults to the type's usual one.
	DeliveryMethod string `yaml:"delivery_method"`
	// Age is how long ago it was used. Default 0s.
	Age time.Duration `yaml:"age"`

	line int
}

func (f *Factor) setLine(line int) { f.line = line }

// usualDeliveryMethods are those of the types of factor.
var usualDeliveryMethods = map[string]string{
	"magic_link":            "email",
	"oauth":                 "oauth_google",
	"otp":                   "email",
	"password":              "knowledge",
	"recovery_codes":        "recovery_codes",
	"sso":                   "sso_saml",
	"totp":                  "authenticator_app",
	"webauthn_registration": "webauthn_registration",
}

// complete fills in the delivery methods that were left out.
func (s *Session) complete(r *reader, path string) {
	for i := range s.Factors {
		f, field := &s.Factors[i], fmt.Sprintf("%s[%d].", child(path, "factors"), i)
		if f.DeliveryMethod == "" {
			f.DeliveryMethod = usualDeliveryMethods[f.Type]
		}
		switch {
		case f.Type == "":
			r.report(f.line, field+"type", `is missing: write the vendor's word, such as "otp" or "totp"`)
		case f.DeliveryMethod == "":
			r.report(f.line, field+"delivery_method", "is missing, and %q has no usual one: write it as the session JWT has it", f.Type)
		}
	}
}

// Test is one request and what must come of it.
type Test struct {
	// Name is what is printed. Required.
	Name string `yaml:"name"`
	// Request is "GET https://host/path". Required.
	Request string `yaml:"request"`
	// Headers are further ones.
	Headers map[string]string `yaml:"headers"`
	// ContextExtensions are those of the Envoy route; "rule" names a rule.
	ContextExtensions map[string]string `yaml:"context_extensions"`
	// Session is the name of the session whose credential is presented. Default "none".
	Session sessionName `yaml:"session"`
	// Presented says where: "authorization", "jwt_cookie", "token_cookie", "token_header", one or several. Default
	// "authorization".
	Presented oneOrMore `yaml:"presented"`
	// TokenAge is the age of the JWT, which lives 5m. Default 0s.
	TokenAge time.Duration `yaml:"token_age"`
	// Revoked says that the session has been revoked, which only the session API knows.
	Revoked bool `yaml:"revoked"`
	// SessionAPI is "up", "down" or "rate_limited". Default "up".
	SessionAPI string `yaml:"session_api"`

	Expect Expect `yaml:"expect"`

	line    int
	request *authv3.CheckRequest
}

// Expect is what must come of a request. What is left out is not looked at.
type Expect struct {
	// Verdict is "allow", "deny", "would_deny" or "left_to_envoy". Required.
	Verdict string `yaml:"verdict"`
	// Reason is why, as in logs and metadata.
	Reason string `yaml:"reason"`
	// Rule is the name of the rule that decided; "none" if none was found.
	Rule string `yaml:"rule"`
	// Status is what the client gets from the gate; 0 if the request passes.
	Status *int `yaml:"status"`
	// Requirement is the first that is not met, as in logs and metadata: "organization", "any_role", "claims[0]", "factors" and
	// so on.
	Requirement string `yaml:"requirement"`
	// SessionAPICalls is how often the session API was asked.
	SessionAPICalls *int `yaml:"session_api_calls"`
	// UpstreamHeaders are what the upstream gets, the client's own included, and ClientHeaders what the client gets from the
	// gate, by lower-case name; an empty text is nothing, "*" anything.
	UpstreamHeaders map[string]string `yaml:"upstream_headers"`
	ClientHeaders   map[string]string `yaml:"client_headers"`
}

func (t *Test) setLine(line int) { t.line = line }

// Words that a test may use.
const (
	none = "none"

	inAuthorization = "authorization"
	inJWTCookie     = "jwt_cookie"
	inTokenCookie   = "token_cookie"
	inTokenHeader   = "token_header"

	apiUp          = "up"
	apiDown        = "down"
	apiRateLimited = "rate_limited"

	anyValue = "*"

	wouldDeny = "would_deny"
)

var (
	// Places are where a credential may be presented.
	Places = []string{inAuthorization, inJWTCookie, inTokenCookie, inTokenHeader}
	// SessionAPIs are the states of the session API.
	SessionAPIs = []string{apiUp, apiDown, apiRateLimited}

	verdicts    = []string{"allow", "deny", wouldDeny, "left_to_envoy"}
	reasonNames = func() (names []string) {
		for r := check.Public; ; r++ {
			names = append(names, r.String())
			if r == check.Internal {
				return names
			}
		}
	}()
)

// defaultTime makes a test come out the same whenever it is run.
var defaultTime = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// Load reads a policy test and the policy that it names, without the files that the policy names. Its error lists all that is
// wrong; that of a wrong policy is a *config.Error.
func Load(path string) (*File, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var top struct{ Projects, Policy yaml.Node }
	if yaml.Unmarshal(data, &top) == nil && !top.Projects.IsZero() {
		return nil, fmt.Errorf("%s: this is a configuration, not a policy test: name the file that tests it, which begins with %q",
			path, "policy: "+filepath.Base(path))
	}
	f, r := &File{path: path, Time: defaultTime}, &reader{file: path}
	r.read(data, f)
	if f.Policy == "" && r.findings == nil {
		r.report(1, "policy", "is missing: name the configuration file, from this file's folder")
	}
	if len(f.Tests) == 0 && r.findings == nil {
		r.report(1, "tests", `is missing or empty: list "- name: …" with request and expect`)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	f.config, err = config.LoadWithoutFiles(filepath.Join(filepath.Dir(path), f.Policy))
	if _, wrong := errors.AsType[*config.Error](err); wrong {
		return nil, err
	}
	if err != nil {
		r.report(top.Policy.Line, "policy", "%v: name the configuration file, from this file's folder", err)
		return nil, r.err()
	}
	for name, s := range f.Sessions {
		s.name = name
		f.Sessions[name] = s
		f.checkSession(r, s)
	}
	names := map[string]int{}
	for i := range f.Tests {
		f.checkTest(r, &f.Tests[i], fmt.Sprintf("tests[%d]", i), names)
	}
	return f, r.err()
}

// ParseSession reads one session as policy tests have them. name is what findings call the text.
func ParseSession(name string, text []byte) (*Session, error) {
	s, r := &Session{name: "somebody"}, &reader{file: name}
	r.read(text, s)
	s.complete(r, "")
	return s, r.err()
}

// ParseRBAC reads an RBAC policy as policy tests have it.
func ParseRBAC(name string, text []byte) (rbac RBAC, _ error) {
	r := &reader{file: name}
	r.read(text, &rbac)
	return rbac, r.err()
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxFileSize)
	}
	return data, err
}

func (f *File) checkSession(r *reader, s Session) {
	path := child("sessions", s.name)
	if s.name == none {
		r.report(s.line, path, `"none" is no session: give it another name`)
	}
	named := func(p config.Project) bool { return p.Name == s.Project }
	if s.Project != "" && !slices.ContainsFunc(f.config.Projects, named) {
		r.report(s.line, path+".project", "there is no project %q in the policy", s.Project)
	}
	s.complete(r, path)
}

func (f *File) checkTest(r *reader, t *Test, path string, names map[string]int) {
	report := func(field, format string, args ...any) { r.report(t.line, path+"."+field, format, args...) }
	oneOf := func(field, value string, known []string) {
		if value != "" && !slices.Contains(known, value) {
			report(field, "unknown: %q: known: %s", value, strings.Join(known, ", "))
		}
	}
	if first, twice := names[t.Name]; twice {
		report("name", "the same as that of line %d: give each test a name of its own", first)
	}
	names[t.Name] = t.line
	var err error
	t.request, err = NewRequest(t.Request)
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		if err == nil {
			err = AddHeader(t.request, name, t.Headers[name])
		}
	}
	switch {
	case t.Name == "":
		report("name", "is missing: say in a sentence what is tested")
	case t.Request == "":
		report("request", `is missing: write "GET https://host/path"`)
	case err != nil:
		report("request", "%v", err)
	}
	oneOf("session", string(t.Session), append(slices.Sorted(maps.Keys(f.Sessions)), none))
	if _, ok := f.Sessions[string(t.Session)]; !ok && (t.Presented != nil || t.TokenAge != 0 || t.Revoked) {
		report("session", "is missing, and so presented, token_age and revoked are without effect")
	}
	for _, place := range t.Presented {
		oneOf("presented", place, Places)
	}
	if slices.Contains(t.Presented, inTokenHeader) && f.config.Gate.Credentials.TokenHeader == "" {
		report("presented", "the policy has no credentials.token_header")
	}
	oneOf("session_api", t.SessionAPI, SessionAPIs)
	oneOf("expect.verdict", t.Expect.Verdict, verdicts)
	oneOf("expect.reason", t.Expect.Reason, reasonNames)
	oneOf("expect.rule", t.Expect.Rule, append(f.rules(), none))
	for _, headers := range []map[string]string{t.Expect.UpstreamHeaders, t.Expect.ClientHeaders} {
		for _, name := range slices.Sorted(maps.Keys(headers)) {
			if name != strings.ToLower(name) {
				report("expect", "no header is named %q: write it in lower case", name)
			}
		}
	}
	if t.Expect.Verdict == "" {
		report("expect.verdict", "is missing: write %s", strings.Join(verdicts, " or "))
	}
}

// rules are the names of the policy's rules in order, the default one last.
func (f *File) rules() (names []string) {
	for _, rule := range f.config.Gate.Rules.All() {
		names = append(names, rule.Name)
	}
	return names
}
