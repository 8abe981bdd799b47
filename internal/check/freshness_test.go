package check_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestTooOldIsAtTheBoundary(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Now = func() time.Time { return now }
		c.Rules = compile(t, policy.Rule{Name: "half a minute", Match: prefix("/30s"), MaxTokenAge: 30 * time.Second, DenyExpired: true},
			policy.Rule{Name: "fresh", Match: prefix("/fresh"), MaxTokenAge: 0},
			policy.Rule{Name: "expiry", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, DenyExpired: true})
	})
	login := h.logIn(sessionapitest.LogIn{})
	for _, c := range []struct {
		name string
		path string
		age  time.Duration
		want string
	}{
		{"a second before", "/30s", 29 * time.Second, "verified"},
		{"at max_token_age", "/30s", 30 * time.Second, "expired"},
		{"a second after", "/30s", 31 * time.Second, "expired"},
		{"from a clock ahead of ours", "/30s", -4 * time.Second, "verified"},
		{"from a clock too far ahead", "/30s", -6 * time.Second, "not_yet_valid"},
		{"0 asks even about one from a clock ahead", "/fresh", -4 * time.Second, "exchanged"},
		{"a second before exp", "/", 299 * time.Second, "verified"},
		{"at exp", "/", 300 * time.Second, "expired"},
	} {
		jwt, err := h.emulator.Mint(login.SessionID, now.Add(-c.age))
		if err != nil {
			t.Fatal(err)
		}
		if a := h.check(c.path, "authorization", "Bearer "+jwt); a.reason != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.want)
		}
	}
}

func TestOnExpiredDenyLeavesTheRefreshToTheClient(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "app", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, DenyExpired: true}))
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, time.Hour)
	a := h.check("/", "cookie", "stytch_session_jwt="+old+"; stytch_session="+login.Token)
	if a.status() != 401 || a.reason != "expired" || a.body()["reason"] != "expired" || h.apiCalls() != 0 {
		t.Errorf("%d %s %v, %d calls", a.status(), a.reason, a.body(), h.apiCalls())
	}
	if !strings.Contains(a.client()["www-authenticate"], "invalid_token") || a.client()["set-cookie"] != "" {
		t.Errorf("%v", a.client())
	}
	if a := h.check("/", "cookie", "stytch_session="+login.Token); a.reason != "exchanged" {
		t.Errorf("an opaque token alone: %s", a.reason)
	}
}

func TestAnOpaqueTokenServesAsLongAsTheRuleSays(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "hybrid", Match: prefix("/hybrid"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute},
		policy.Rule{Name: "always", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
	login := h.logIn(sessionapitest.LogIn{})
	for i, c := range []struct {
		path  string
		calls int
	}{{"/hybrid", 1}, {"/hybrid", 0}, {"/hybrid", 0}, {"/", 1}, {"/", 1}, {"/hybrid", 0}} {
		h.emulator.ResetCalls()
		if a := h.check(c.path, "cookie", "stytch_session="+login.Token); a.reason != "exchanged" || h.apiCalls() != c.calls {
			t.Errorf("%d: %s %s, %d calls, want %d", i, c.path, a.reason, h.apiCalls(), c.calls)
		}
	}
}

func TestAJWTUnderARetiredKeyIsSetAsideForTheToken(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login, other, dead := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	if err := h.emulator.Revoke(dead.SessionID); err != nil {
		t.Fatal(err)
	}
	retired, err := h.emulator.Sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-retired"}, map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	forged := other.JWT[:strings.LastIndex(other.JWT, ".")] + login.JWT[strings.LastIndex(login.JWT, "."):]
	cookies := func(jwt, token string) []string {
		return []string{"cookie", "stytch_session_jwt=" + jwt + "; stytch_session=" + token}
	}
	for _, c := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"with a good token", cookies(retired, login.Token), "exchanged"},
		{"with a token of an ended session", cookies(retired, dead.Token), "session_not_found"},
		{"alone", []string{"cookie", "stytch_session_jwt=" + retired}, "unknown_key"},
		{"with another JWT that is good", []string{"authorization", "Bearer " + login.JWT, "cookie", "stytch_session_jwt=" + retired}, "unknown_key"},
		{"with another JWT that is good, and a token", append(cookies(retired, login.Token), "authorization", "Bearer "+login.JWT), "verified"},
		{"a forged one is not", cookies(forged, login.Token), "forged"},
		{"a malformed one is not", cookies("a.b.c", login.Token), "malformed"},
		{"beside a forged one", append(cookies(retired, login.Token), "authorization", "Bearer "+forged), "forged"},
	} {
		if a := h.check("/", c.headers...); a.reason != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.want)
		}
	}
	if n := h.metric("authz_credentials_set_aside_total"); n != 3 {
		t.Errorf("%v were counted", n)
	}
	if !strings.Contains(h.log.String(), `"set_aside":true`) {
		t.Error("the log does not say so")
	}
}

func TestASessionThatHasEndedStaysOut(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login, other := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	if err := h.emulator.Revoke(login.SessionID); err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + login.JWT
	if a := h.check("/", "authorization", bearer); a.reason != "verified" {
		t.Errorf("nobody knows yet: %s", a.reason)
	}
	if a := h.check("/fresh", "authorization", bearer); a.reason != "session_not_found" {
		t.Errorf("a fresh check: %s", a.reason)
	}
	if a := h.check("/", "authorization", bearer); a.status() != 401 || a.reason != "revoked" || a.body()["reason"] != "invalid_credential" {
		t.Errorf("from then on: %d %s", a.status(), a.reason)
	}
	if a := h.check("/", "authorization", "Bearer "+h.mint(login, time.Minute)); a.reason != "revoked" {
		t.Errorf("another JWT of the session: %s", a.reason)
	}
	if a := h.check("/", "authorization", "Bearer "+other.JWT); a.reason != "verified" {
		t.Errorf("another session: %s", a.reason)
	}
}

func TestRefreshAhead(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "ahead", Match: prefix("/ahead"), MaxTokenAge: session.NoMaxAge, RefreshAhead: time.Minute},
		policy.Rule{Name: "off", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
	login := h.logIn(sessionapitest.LogIn{})
	soon, later := h.mint(login, 4*time.Minute+30*time.Second), h.mint(login, 2*time.Minute)

	for name, headers := range map[string][]string{
		"not close to its end":          {"/ahead", "cookie", "stytch_session_jwt=" + later},
		"off":                           {"/", "cookie", "stytch_session_jwt=" + soon},
		"a client that is told nothing": {"/ahead", "authorization", "Bearer " + soon},
	} {
		if a := h.check(headers[0], headers[1:]...); a.reason != "verified" || len(a.client()) != 0 {
			t.Errorf("%s: %s %v", name, a.reason, a.client())
		}
	}
	if h.apiCalls() != 0 {
		t.Fatalf("%d calls", h.apiCalls())
	}
	a := h.check("/ahead", "cookie", "stytch_session_jwt="+soon)
	if a.reason != "verified" {
		t.Fatal(a.reason)
	}
	for deadline := time.Now().Add(5 * time.Second); a.client()["set-cookie"] == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no new JWT was handed over")
		}
		if a = h.check("/ahead", "cookie", "stytch_session_jwt="+soon); a.reason != "verified" {
			t.Fatal(a.reason)
		}
	}
	if h.apiCalls() != 1 {
		t.Errorf("%d calls", h.apiCalls())
	}
	cookie, _, _ := strings.Cut(a.client()["set-cookie"], ";")
	if upstream := a.upstream()["cookie"]; upstream != cookie {
		t.Errorf("upstream: %s", upstream)
	}
	if a := h.check("/ahead", "cookie", cookie); a.reason != "verified" || len(a.client()) != 0 {
		t.Errorf("the new one: %s %v", a.reason, a.client())
	}
}

func TestAnExchangeMayExtendTheSession(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "extend", Match: prefix("/extend"), MaxTokenAge: session.NoMaxAge, SessionDurationMinutes: 120},
		policy.Rule{Name: "leave", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
	login := h.logIn(sessionapitest.LogIn{Duration: time.Hour})
	old := h.mint(login, time.Hour)
	expires := func(path string) time.Time {
		a := h.check(path, "cookie", "stytch_session_jwt="+old)
		cookie := parseCookie(t, a.client()["set-cookie"])
		return cookie.Expires
	}
	if got := expires("/"); got.Unix() != login.ExpiresAt.Unix() {
		t.Errorf("left alone: %v, want %v", got, login.ExpiresAt)
	}
	if got := time.Until(expires("/extend")); got < 119*time.Minute || got > 121*time.Minute {
		t.Errorf("extended by %v: a kept exchange without extension was reused", got)
	}
}

// TestNoUnprovedJWTReachesTheUpstream has an upstream that looks at either credential see none but the one that the decision rests on.
func TestNoUnprovedJWTReachesTheUpstream(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	own := login.JWT
	older := h.mint(login, time.Minute)
	claims, err := h.emulator.Claims(login.SessionID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	claims["sub"] = "user-test-victim"
	forged, err := h.emulator.Sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-nobody"}, claims)
	if err != nil {
		t.Fatal(err)
	}
	junk := "; stytch_session=" + strings.Repeat("x", 20)
	for _, c := range []struct{ name, authorization, cookie, wantAuthorization, wantCookie string }{
		{"one under an unknown key in the header", forged, own + junk, "Bearer " + own, ""},
		{"one under an unknown key in the cookie", own, forged + junk, "", strings.TrimPrefix(junk, "; ") + "; stytch_session_jwt=" + own},
		{"an older one in the header", older, own, "Bearer " + own, ""},
		{"an older one in the cookie", own, older, "", "stytch_session_jwt=" + own},
		{"twice the same", own, own, "", ""},
	} {
		a := h.check("/", "authorization", "Bearer "+c.authorization, "cookie", "stytch_session_jwt="+c.cookie)
		if a.reason != "verified" || a.upstream()["authorization"] != c.wantAuthorization || a.upstream()["cookie"] != c.wantCookie {
			t.Errorf("%s: %s, authorization %q, cookie %q", c.name, a.reason, a.upstream()["authorization"], a.upstream()["cookie"])
		}
		if len(a.client()) != 0 {
			t.Errorf("%s: the client gets %v", c.name, a.client())
		}
	}
}

func TestAKeptExchangeOfASessionThatHasEndedIsNotUsed(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "hybrid", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute}))
	login := h.logIn(sessionapitest.LogIn{})
	if a := h.check("/", "cookie", "stytch_session="+login.Token); a.reason != "exchanged" {
		t.Fatal(a.reason)
	}
	h.revocations.Revoke(revocation.Revocation{ProjectID: project, SessionID: login.SessionID}, time.Now())
	if a := h.check("/", "cookie", "stytch_session="+login.Token); a.status() != 401 || a.reason != "revoked" || a.client()["set-cookie"] != "" {
		t.Errorf("%d %s %v", a.status(), a.reason, a.client())
	}
}

func TestNothingIsRefreshedAheadWhereTheRuleDoesNotSaySo(t *testing.T) {
	h := newHouseOf(t, session.Consumer, withRules(t,
		policy.Rule{Name: "deny", Match: prefix("/deny"), MaxTokenAge: session.NoMaxAge, DenyExpired: true},
		policy.Rule{Name: "ahead", Match: prefix("/ahead"), MaxTokenAge: session.NoMaxAge, RefreshAhead: time.Minute},
		policy.Rule{Name: "off", Match: prefix("/"), MaxTokenAge: session.NoMaxAge},
	), func(c *session.Config, _ *sessionapi.Config) { c.ExpiryLeeway = time.Minute })
	login := h.logIn(sessionapitest.LogIn{})
	soon, leeway := h.mint(login, 290*time.Second), h.mint(login, 320*time.Second)
	for name, headers := range map[string][]string{
		"within the leeway":             {"/", "cookie", "stytch_session_jwt=" + leeway},
		"within the leeway, deny":       {"/deny", "cookie", "stytch_session_jwt=" + leeway},
		"a client that is told nothing": {"/ahead", "authorization", "Bearer " + soon},
	} {
		for range 3 {
			if a := h.check(headers[0], headers[1:]...); a.reason != "verified" || len(a.client()) != 0 {
				t.Errorf("%s: %s %v", name, a.reason, a.client())
			}
			h.client.Wait()
		}
	}
	if h.apiCalls() != 0 {
		t.Errorf("%d calls", h.apiCalls())
	}
}

// TestRefreshAheadIsOneCallWhateverStandsBesideTheJWT has a client bring another made-up token each time.
func TestRefreshAheadIsOneCallWhateverStandsBesideTheJWT(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "ahead", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, RefreshAhead: time.Minute}))
	soon := h.mint(h.logIn(sessionapitest.LogIn{}), 290*time.Second)
	for i := range 50 {
		if a := h.check("/", "cookie", fmt.Sprintf("stytch_session_jwt=%s; stytch_session=%040d", soon, i)); a.reason != "verified" {
			t.Fatal(a.reason)
		}
	}
	h.client.Wait()
	if h.apiCalls() != 1 {
		t.Errorf("%d calls", h.apiCalls())
	}
}
