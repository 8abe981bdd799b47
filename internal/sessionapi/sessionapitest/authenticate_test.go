package sessionapitest_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

const (
	consumerPath = "/v1/sessions/authenticate"
	b2bPath      = "/v1/b2b/sessions/authenticate"
)

func TestConsumerAnswerHasTheVendorsShape(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{UserID: "user-test-ada", CustomClaims: map[string]any{"plan": "gold"}})
	e.clock.Advance(time.Minute)
	got := shape(t, e.expect(consumerPath, object{"session_token": login.Token}, 200, ""))
	const want = `{
 "request_id": "request-id-test-UUID",
 "session": {
  "attributes": {
   "ip_address": "",
   "user_agent": ""
  },
  "authentication_factors": [
   {
    "delivery_method": "email",
    "email_factor": {
     "email_address": "user-test-ada@example.com",
     "email_id": "email-test-UUID"
    },
    "last_authenticated_at": "2026-01-02T03:04:05.678Z",
    "type": "otp"
   }
  ],
  "custom_claims": {
   "plan": "gold"
  },
  "expires_at": "2026-01-02T04:04:05.678Z",
  "last_accessed_at": "2026-01-02T03:05:05.678Z",
  "roles": [
   "stytch_user"
  ],
  "session_id": "session-test-UUID",
  "started_at": "2026-01-02T03:04:05.678Z",
  "user_id": "user-test-ada"
 },
 "session_jwt": "JWT",
 "session_token": "TOKEN",
 "status_code": 200,
 "user": {
  "biometric_registrations": [],
  "crypto_wallets": [],
  "emails": [
   {
    "email": "user-test-ada@example.com",
    "email_id": "email-test-UUID",
    "verified": true
   }
  ],
  "is_locked": false,
  "phone_numbers": [],
  "providers": [],
  "roles": [
   "stytch_user"
  ],
  "status": "active",
  "totps": [],
  "user_id": "user-test-ada",
  "webauthn_registrations": []
 }
}`
	if got != want {
		t.Errorf("got %s", got)
	}
}

func TestB2BAnswerNamesMemberAndOrganization(t *testing.T) {
	e := start(t, sessionapitest.Config{Product: sessionapitest.B2B})
	login := e.logIn(sessionapitest.LogIn{MemberID: "member-test-ada", OrganizationID: "organization-test-1", OrganizationSlug: "acme"})
	o := e.expect(b2bPath, object{"session_token": login.Token}, 200, "")
	for path, want := range map[string]any{
		"member_session/member_session_id": login.SessionID,
		"member_session/member_id":         "member-test-ada",
		"member_session/organization_id":   "organization-test-1",
		"member_session/organization_slug": "acme",
		"member/member_id":                 "member-test-ada",
		"member/organization_id":           "organization-test-1",
		"organization/organization_id":     "organization-test-1",
		"organization/organization_slug":   "acme",
		"session_token":                    login.Token,
		"session":                          nil,
		"user":                             nil,
		"verdict":                          nil,
	} {
		if got := o.at(path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}

func TestEachAnswerHasANewJWTAndTheSameToken(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{})
	seen := map[any]bool{login.JWT: true}
	for range 3 { // the clock stands still
		o := e.expect(consumerPath, object{"session_jwt": login.JWT}, 200, "")
		if o["session_token"] != login.Token {
			t.Error("another token")
		}
		if seen[o["session_jwt"]] {
			t.Error("a JWT came twice")
		}
		seen[o["session_jwt"]] = true
	}
}

func TestAuthenticateTakesAnExpiredJWTWhileTheSessionLives(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{})
	e.clock.Advance(50 * time.Minute)
	o := e.expect(consumerPath, object{"session_jwt": login.JWT}, 200, "")
	fresh := claims(t, o["session_jwt"].(string))
	if got, want := fresh["iat"], float64(e.clock.Now().Unix()); got != want {
		t.Errorf("the new JWT's iat is %v, want %v", got, want)
	}
	e.clock.Advance(10 * time.Minute)
	e.expect(consumerPath, object{"session_jwt": o["session_jwt"]}, 404, "session_not_found")
	e.expect(consumerPath, object{"session_token": login.Token}, 404, "session_not_found")
}

func TestARevokedSessionIsNotFound(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login, other := e.logIn(sessionapitest.LogIn{}), e.logIn(sessionapitest.LogIn{})
	if err := e.Revoke(login.SessionID); err != nil {
		t.Fatal(err)
	}
	o := e.expect(consumerPath, object{"session_jwt": login.JWT}, 404, "session_not_found")
	if got := shape(t, o); got != `{
 "error_message": "Session could not be found.",
 "error_type": "session_not_found",
 "error_url": "https://stytch.com/docs/api/errors/404#session_not_found",
 "request_id": "request-id-test-UUID",
 "status_code": 404
}` {
		t.Errorf("got %s", got)
	}
	e.expect(consumerPath, object{"session_token": login.Token}, 404, "session_not_found")
	e.expect(consumerPath, object{"session_jwt": other.JWT}, 200, "")
}

func TestAuthenticateRefuses(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	stranger := start(t, sessionapitest.Config{ProjectID: "project-test-other"})
	login := e.logIn(sessionapitest.LogIn{})
	own, err := e.Claims(login.SessionID, e.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	sign := func(header, claims any) string {
		jwt, err := e.Sign(header, claims)
		if err != nil {
			t.Fatal(err)
		}
		return jwt
	}
	with := func(name string, value any) map[string]any {
		spoilt := map[string]any{}
		for k, v := range own {
			spoilt[k] = v
		}
		spoilt[name] = value
		return spoilt
	}
	tampered := login.JWT[:len(login.JWT)-8] + "AAAAAAAA"
	e.expect(consumerPath, object{"session_jwt": sign(nil, own)}, 200, "") // what the rows below spoil
	e.expect(consumerPath, object{"session_jwt": sign(nil, with("aud", sessionapitest.DefaultProjectID))}, 200, "")

	for name, c := range map[string]struct {
		body   any
		status int
		kind   string
	}{
		"no credential":                         {object{}, 400, "no_session_arguments"},
		"two credentials":                       {object{"session_token": login.Token, "session_jwt": login.JWT}, 400, "too_many_session_arguments"},
		"an unknown token":                      {object{"session_token": "mZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFhhT8ds245v7Q"}, 404, "session_not_found"},
		"garbage for a JWT":                     {object{"session_jwt": "garbage"}, 400, "unable_to_parse_session_jwt"},
		"a JWT with a bad signature":            {object{"session_jwt": tampered}, 400, "unable_to_parse_session_jwt"},
		"a JWT of another project":              {object{"session_jwt": stranger.logIn(sessionapitest.LogIn{}).JWT}, 400, "unable_to_parse_session_jwt"},
		"a JWT that says alg none":              {object{"session_jwt": sign(map[string]string{"alg": "none"}, own)}, 400, "unable_to_parse_session_jwt"},
		"a JWT for another audience":            {object{"session_jwt": sign(nil, with("aud", "project-test-other"))}, 400, "unable_to_parse_session_jwt"},
		"a JWT of another issuer":               {object{"session_jwt": sign(nil, with("iss", "stytch.com/project-test-other"))}, 400, "unable_to_parse_session_jwt"},
		"a JWT without a session":               {object{"session_jwt": sign(nil, with("https://stytch.com/session", nil))}, 400, "unable_to_parse_session_jwt"},
		"a JWT of a session that never was":     {object{"session_jwt": sign(nil, with("https://stytch.com/session", object{"id": "session-test-0"}))}, 404, "session_not_found"},
		"a body that is no JSON":                {`{"session_token":`, 400, "bad_request"},
		"a body with something after it":        {`{"session_token":"x"} {}`, 400, "bad_request"},
		"an empty body":                         {``, 400, "bad_request"},
		"a token that is a number":              {`{"session_token":5}`, 400, "bad_request"},
		"a body beyond the cap":                 {object{"session_token": strings.Repeat("x", 64<<10)}, 413, "bad_request"},
		"an extension that is too short":        {object{"session_token": login.Token, "session_duration_minutes": 4}, 400, "invalid_session_duration_minutes"},
		"an extension that is too long":         {object{"session_token": login.Token, "session_duration_minutes": 527041}, 400, "invalid_session_duration_minutes"},
		"a reserved custom claim":               {object{"session_token": login.Token, "session_custom_claims": object{"sub": "x"}}, 400, "reserved_claims_in_custom_claims"},
		"a custom claim in the service's place": {object{"session_token": login.Token, "session_custom_claims": object{"https://stytch.com/session": 1}}, 400, "stytch_claims_in_custom_claims"},
		"custom claims beyond 4 KB":             {object{"session_token": login.Token, "session_custom_claims": object{"x": strings.Repeat("x", 4<<10)}}, 400, "custom_claims_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.expect(consumerPath, c.body, c.status, c.kind)
		})
	}
}

func TestAuthenticateAsksForTheProjectsCredentials(t *testing.T) {
	e := start(t, sessionapitest.Config{Secret: "right"})
	login := e.logIn(sessionapitest.LogIn{})
	for name, c := range map[string]struct {
		id, secret string
		status     int
	}{
		"the right ones":   {sessionapitest.DefaultProjectID, "right", 200},
		"a wrong secret":   {sessionapitest.DefaultProjectID, "wrong", 401},
		"a wrong project":  {"project-test-other", "right", 401},
		"an empty secret":  {sessionapitest.DefaultProjectID, "", 401},
		"nothing whatever": {"", "", 401},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := http.NewRequestWithContext(t.Context(), "POST", e.url+consumerPath, strings.NewReader(`{"session_token":"`+login.Token+`"}`))
			if c.id != "" {
				r.SetBasicAuth(c.id, c.secret)
			}
			status, text, err := e.do(r)
			if err != nil || status != c.status || strings.Contains(text, "unauthorized_credentials") != (c.status == 401) {
				t.Errorf("got %d %s %v, want %d", status, text, err, c.status)
			}
		})
	}
}

func TestExtensionAndCustomClaimsReachSessionAndJWT(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{CustomClaims: map[string]any{"plan": "gold", "old": true}})
	o := e.expect(consumerPath, object{"session_token": login.Token, "session_duration_minutes": 527040,
		"session_custom_claims": object{"seats": 3, "old": nil}}, 200, "")
	if got, want := o.at("session/expires_at"), "2027-01-03T03:04:05.678Z"; got != want {
		t.Errorf("expires_at: got %v, want %v", got, want)
	}
	c := claims(t, o["session_jwt"].(string))
	if c["plan"] != "gold" || c["seats"] != 3.0 || c["old"] != nil {
		t.Errorf("the JWT's custom claims are %v", c)
	}
	// A refused request leaves the session as it was.
	e.expect(consumerPath, object{"session_token": login.Token, "session_duration_minutes": 5, "session_custom_claims": object{"iss": "x"}}, 400, "reserved_claims_in_custom_claims")
	o = e.expect(consumerPath, object{"session_token": login.Token}, 200, "")
	if got, want := o.at("session/expires_at"), "2027-01-03T03:04:05.678Z"; got != want {
		t.Errorf("expires_at after a refusal: got %v, want %v", got, want)
	}
}

func TestAuthorizationCheck(t *testing.T) {
	consumer := start(t, sessionapitest.Config{})
	b2b := start(t, sessionapitest.Config{Product: sessionapitest.B2B, OrganizationRoles: map[string][]sessionapitest.Role{
		"organization-test-1": {{RoleID: "auditor", Permissions: []sessionapitest.Permission{{ResourceID: "audit", Actions: []string{"*"}}}}},
	}})
	editor := consumer.logIn(sessionapitest.LogIn{Roles: []string{"viewer", "editor"}}).Token
	nobody := consumer.logIn(sessionapitest.LogIn{Roles: []string{}}).Token
	auditor := b2b.logIn(sessionapitest.LogIn{OrganizationID: "organization-test-1", Roles: []string{"auditor"}}).Token
	elsewhere := b2b.logIn(sessionapitest.LogIn{OrganizationID: "organization-test-2", Roles: []string{"auditor"}}).Token

	for name, c := range map[string]struct {
		e        *emulator
		token    string
		check    object
		granting []string
		kind     string
	}{
		"a role that has the action passes":          {consumer, editor, object{"resource_id": "documents", "action": "write"}, []string{"editor"}, ""},
		"every role that grants is named":            {consumer, editor, object{"resource_id": "documents", "action": "read"}, []string{"viewer", "editor"}, ""},
		"an action that no role has fails":           {consumer, editor, object{"resource_id": "documents", "action": "delete"}, nil, "session_authorization_error"},
		"a resource that no role has fails":          {consumer, editor, object{"resource_id": "*", "action": "read"}, nil, "session_authorization_error"},
		"a session without roles fails":              {consumer, nobody, object{"resource_id": "documents", "action": "read"}, nil, "session_authorization_error"},
		"the organization's own role passes":         {b2b, auditor, object{"organization_id": "organization-test-1", "resource_id": "audit", "action": "any"}, []string{"auditor"}, ""},
		"it does not pass in another organization":   {b2b, elsewhere, object{"organization_id": "organization-test-2", "resource_id": "audit", "action": "any"}, nil, "session_authorization_error"},
		"another's organization is a tenancy error":  {b2b, auditor, object{"organization_id": "organization-test-2", "resource_id": "audit", "action": "any"}, nil, "session_authorization_tenancy_error"},
		"no organization is a tenancy error as well": {b2b, auditor, object{"resource_id": "audit", "action": "any"}, nil, "session_authorization_tenancy_error"},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.e.in(t)
			path, status := consumerPath, 200
			if c.e == b2b {
				path = b2bPath
			}
			if c.kind != "" {
				status = 403
			}
			o := e.expect(path, object{"session_token": c.token, "authorization_check": c.check}, status, c.kind)
			if status != 200 {
				return
			}
			if got, want := shape(t, o["verdict"]), shape(t, object{"authorized": true, "granting_roles": c.granting}); got != want {
				t.Errorf("verdict: got %s, want %s", got, want)
			}
		})
	}
}

// FuzzAuthenticate sends what a stranger could: without a session there is never a 200, nor an error of the
// emulator's own.
func FuzzAuthenticate(f *testing.F) {
	s, err := sessionapitest.New(sessionapitest.Config{NewKey: sessionapitest.SharedKeys()})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.KeyID(); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		`{}`, `{"session_token":"x"}`, `{"session_jwt":"a.b.c"}`, `{"session_jwt":"eyJhbGciOiJub25lIn0.e30."}`,
		`{"session_jwt":"{\"payload\":\"e30\",\"signatures\":[]}"}`, `{"session_token":null,"session_duration_minutes":1e99}`, `[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := newRecorder()
		r, _ := http.NewRequestWithContext(t.Context(), "POST", consumerPath, bytes.NewReader(body))
		r.SetBasicAuth(sessionapitest.DefaultProjectID, sessionapitest.DefaultSecret)
		s.ServeHTTP(w, r)
		if w.status < 400 || w.status >= 500 {
			t.Errorf("got %d", w.status)
		}
	})
}
