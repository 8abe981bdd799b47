package sessionapitest_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestConsumerJWT(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{UserID: "user-test-ada", CustomClaims: map[string]any{"plan": "gold"}})
	const want = `{
 "aud": [
  "project-test-UUID"
 ],
 "exp": 1767323345,
 "https://stytch.com/session": {
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
  "expires_at": "2026-01-02T04:04:05.678Z",
  "id": "session-test-UUID",
  "last_accessed_at": "2026-01-02T03:04:05.678Z",
  "roles": [
   "stytch_user"
  ],
  "started_at": "2026-01-02T03:04:05.678Z"
 },
 "iat": 1767323045,
 "iss": "stytch.com/project-test-UUID",
 "nbf": 1767323045,
 "plan": "gold",
 "sub": "user-test-ada"
}`
	if got := shape(t, claims(t, login.JWT)); got != want {
		t.Errorf("got %s", got)
	}
}

func TestB2BJWTNamesTheOrganization(t *testing.T) {
	e := start(t, sessionapitest.Config{Product: sessionapitest.B2B, Issuer: "https://login.example.com", JWTLifetime: 7 * time.Second})
	c := claims(t, e.logIn(sessionapitest.LogIn{OrganizationID: "organization-test-1", OrganizationSlug: "acme"}).JWT)
	if got := c["https://stytch.com/organization"]; shape(t, got) != shape(t, object{"organization_id": "organization-test-1", "slug": "acme"}) {
		t.Errorf("organization: got %v", got)
	}
	if sub, _ := c["sub"].(string); !strings.HasPrefix(sub, "member-test-") {
		t.Errorf("sub: got %v", c["sub"])
	}
	if c["iss"] != "https://login.example.com" || c["exp"].(float64)-c["iat"].(float64) != 7 {
		t.Errorf("iss, iat, exp: got %v", c)
	}
}

func TestHeaderNamesAKeyOfTheKeySet(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	jwt := e.logIn(sessionapitest.LogIn{}).JWT
	header, _, _ := strings.Cut(jwt, ".")
	text, _ := base64.RawURLEncoding.DecodeString(header)
	var got map[string]string
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	kid, err := e.KeyID()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got["alg"] != "RS256" || got["typ"] != "JWT" || got["kid"] != kid || !strings.HasPrefix(kid, "jwk-test-") {
		t.Errorf("got %s", text)
	}
}

func TestMintIsGenuineAtAnyTimeForTheDeadAsWell(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{})
	expired, err := e.ExpiredJWT(login.SessionID)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := claims(t, expired)["exp"], float64(e.clock.Now().Unix()-1); got != want {
		t.Errorf("exp: got %v, want %v", got, want)
	}
	e.expect(consumerPath, object{"session_jwt": expired}, 200, "")
	if err := e.Revoke(login.SessionID); err != nil {
		t.Fatal(err)
	}
	jwt, err := e.Mint(login.SessionID, e.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	e.expect(consumerPath, object{"session_jwt": jwt}, 404, "session_not_found")
	if _, err := e.Mint("session-test-0", e.clock.Now()); !errors.Is(err, sessionapitest.ErrNoSession) {
		t.Errorf("a session that never was: got %v", err)
	}
}

func TestSignTakesBytesAsTheyAre(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	header, payload := []byte(`{"alg":"none", "alg":"RS256"}`), []byte("\x00 no JSON")
	jwt, err := e.Sign(header, payload)
	if err != nil {
		t.Fatal(err)
	}
	want := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	if !strings.HasPrefix(jwt, want) {
		t.Errorf("got %s, want it to begin %s", jwt, want)
	}
	for name, sign := range map[string]func() (string, error){
		"no claims":              func() (string, error) { return e.Sign(nil, nil) },
		"an unknown key":         func() (string, error) { return e.SignWith("jwk-test-0", nil, []byte("{}")) },
		"claims that no JSON is": func() (string, error) { return e.Sign(nil, func() {}) },
	} {
		if _, err := sign(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRotation(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	old := e.logIn(sessionapitest.LogIn{})
	first, _ := e.KeyID()
	rotate := func(overlap bool) string {
		kid, err := e.RotateKeys(overlap)
		if err != nil {
			t.Fatal(err)
		}
		return kid
	}

	second := rotate(true)
	if got := e.kids(); len(got) != 2 || got[0] != first || got[1] != second {
		t.Fatalf("with overlap: got %v, want %v", got, []string{first, second})
	}
	e.expect(consumerPath, object{"session_jwt": old.JWT}, 200, "")
	retained := e.logIn(sessionapitest.LogIn{})

	third := rotate(false)
	if got := e.kids(); len(got) != 1 || got[0] != third {
		t.Fatalf("without overlap: got %v, want %v", got, third)
	}
	for name, jwt := range map[string]string{"first": old.JWT, "second": retained.JWT} {
		t.Run("a JWT under the "+name+" key is worth nothing", func(t *testing.T) {
			e.expect(consumerPath, object{"session_jwt": jwt}, 400, "unable_to_parse_session_jwt")
		})
	}
	e.expect(consumerPath, object{"session_token": old.Token}, 200, "")
	e.expect(consumerPath, object{"session_jwt": e.logIn(sessionapitest.LogIn{}).JWT}, 200, "")

	gone, err := e.SignWith(second, nil, []byte("{}"))
	if err != nil || !strings.Contains(decodeHeader(t, gone), second) {
		t.Errorf("a key that is gone does not sign: %v", err)
	}
}

func (e *emulator) kids() (kids []string) {
	e.t.Helper()
	o := e.expect("/v1/sessions/jwks/"+sessionapitest.DefaultProjectID, nil, 200, "")
	for _, key := range o["keys"].([]any) {
		kids = append(kids, key.(map[string]any)["kid"].(string))
	}
	return kids
}

func decodeHeader(t *testing.T, jwt string) string {
	header, _, _ := strings.Cut(jwt, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
