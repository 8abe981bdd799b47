package check_test

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestGraceWhileTheSessionAPICannotBeAsked(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "grace", Match: prefix("/grace"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute},
		policy.Rule{Name: "safe", Match: prefix("/safe"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute, GraceSafeMethodsOnly: true},
		policy.Rule{Name: "young", Match: prefix("/young"), MaxTokenAge: 30 * time.Second, Grace: time.Minute},
		policy.Rule{Name: "role", Match: prefix("/role"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute,
			Require: require(t, requirement.Config{AnyRole: []string{"admin"}, Expressions: []string{`session.roles.exists(r, r == "admin")`}})},
		policy.Rule{Name: "none", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
	const life = 5 * time.Minute
	login, admin := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{Roles: []string{"admin"}})
	ending := h.logIn(sessionapitest.LogIn{})
	if err := h.emulator.Extend(ending.SessionID, time.Nanosecond); err != nil { // which ends it
		t.Fatal(err)
	}
	over := h.mint(ending, life+time.Second)

	dead, twice := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	for _, login := range []sessionapitest.Login{dead, twice} {
		if err := h.emulator.Revoke(login.SessionID); err != nil {
			t.Fatal(err)
		}
	}
	if a := h.check("/", "authorization", "Bearer "+h.mint(dead, life+time.Second)); a.reason != "session_not_found" {
		t.Fatal(a.reason)
	}
	if a := h.check("/", "cookie", "stytch_session_jwt="+h.mint(twice, life+time.Second)+"; stytch_session="+twice.Token); a.reason != "session_not_found" {
		t.Fatal(a.reason)
	}

	bearer := func(login sessionapitest.Login, age time.Duration) []string {
		return []string{"authorization", "Bearer " + h.mint(login, age)}
	}
	down := sessionapitest.Fault{Refuse: true}
	secret := sessionapitest.Fault{Status: 401, Body: h.emulator.ErrorBody(401, "unauthorized_credentials", "x")}
	limited := sessionapitest.Fault{Status: 429, Body: h.emulator.ErrorBody(429, "too_many_requests", "x")}
	gone := sessionapitest.Fault{Status: 404, Body: h.emulator.ErrorBody(404, "session_not_found", "x")}
	says := func(status int, errorType string) sessionapitest.Fault {
		return sessionapitest.Fault{Status: status, Body: h.emulator.ErrorBody(status, errorType, "x")}
	}
	odd, refused, forbidden := says(400, "a_type_of_tomorrow"), says(400, "unable_to_parse_session_jwt"), says(403, "organization_suspended")
	yes := func(jwt string) sessionapitest.Fault {
		return sessionapitest.Fault{Status: 200, Body: fmt.Sprintf(`{"status_code":200,"session_jwt":%q}`, jwt)}
	}
	another := yes(admin.JWT)
	claims, err := h.emulator.Claims(login.SessionID, time.Now().Add(-life-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	delete(claims["https://stytch.com/session"].(map[string]any), "expires_at")
	endless, err := h.emulator.Sign(nil, claims)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := h.emulator.Sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-nobody"}, claims)
	if err != nil {
		t.Fatal(err)
	}
	unprovable := yes(stranger)
	for _, c := range []struct {
		name    string
		fault   sessionapitest.Fault
		request string
		headers []string
		status  int
		reason  string
	}{
		{"a second past exp", down, "/grace", bearer(login, life+time.Second), 200, "grace"},
		{"close to the end of the grace", down, "/grace", bearer(login, life+110*time.Second), 200, "grace"},
		{"past the grace", down, "/grace", bearer(login, life+121*time.Second), 503, "api_unavailable"},
		{"a rule without", down, "/", bearer(login, life+time.Second), 503, "api_unavailable"},
		{"the rate is limited", limited, "/grace", bearer(login, life+time.Second), 200, "grace"},
		{"our own secret is refused", secret, "/grace", bearer(login, life+time.Second), 503, "secret_refused"},
		{"a safe method", down, "HEAD /safe", bearer(login, life+time.Second), 200, "grace"},
		{"an unsafe method", down, "POST /safe", bearer(login, life+time.Second), 503, "api_unavailable"},
		{"an unsafe method where the rule lets it", down, "POST /grace", bearer(login, life+time.Second), 200, "grace"},
		{"past iat + max_token_age", down, "/young", bearer(login, 80*time.Second), 200, "grace"},
		{"past iat + max_token_age + grace", down, "/young", bearer(login, 91*time.Second), 503, "api_unavailable"},
		{"young enough needs no grace", down, "/young", bearer(login, 20*time.Second), 200, "verified"},
		{"a session that has ended by its own JWT", down, "/grace", []string{"authorization", "Bearer " + over}, 503, "api_unavailable"},
		{"a session that is known to have ended", down, "/grace", bearer(dead, life+time.Second), 401, "revoked"},
		{"a session whose opaque token is", down, "/grace", bearer(twice, life+time.Second), 503, "api_unavailable"},
		{"an opaque token", down, "/grace", []string{"cookie", "stytch_session=" + login.Token}, 503, "api_unavailable"},
		{"an opaque token beside an old JWT", down, "/grace",
			[]string{"cookie", "stytch_session=" + login.Token + "; stytch_session_jwt=" + h.mint(login, life+time.Second)}, 200, "grace"},
		{"who has what the rule requires", down, "/role", bearer(admin, life+time.Second), 200, "grace"},
		{"who has not", down, "/role", bearer(login, life+time.Second), 403, "forbidden"},
		{"a JWT that does not say when its session ends", down, "/grace", []string{"authorization", "Bearer " + endless}, 503, "api_unavailable"},
		{"an answer about the request that nobody knows", odd, "/grace", bearer(login, life+time.Second), 503, "api_unavailable"},
		{"an answer about an opaque token beside it that nobody knows", odd, "/grace",
			[]string{"cookie", "stytch_session=" + strings.Repeat("x", 44) + "; stytch_session_jwt=" + h.mint(login, life+time.Second)}, 503, "api_unavailable"},
		{"the API refuses the credential", refused, "/grace", bearer(login, life+3*time.Second), 401, "credential_refused"},
		{"the API forbids", forbidden, "/grace", bearer(login, life+4*time.Second), 403, "forbidden"},
		{"the API answers with another session", another, "/grace", bearer(login, life+time.Second), 401, "exchange_mismatch"},
		{"the API's new JWT cannot be proved here", unprovable, "/grace", bearer(login, life+time.Second), 503, "api_unavailable"},
		{"the API answers nonsense", sessionapitest.Fault{Status: 500, Body: "<html>"}, "/grace", bearer(login, life+time.Second), 200, "grace"},
		{"the API says no", gone, "/grace", bearer(login, life+time.Second), 401, "session_not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.client.renew(t)
			if err := h.emulator.SetFault("authenticate", c.fault); err != nil {
				t.Fatal(err)
			}
			a := h.check(c.request, c.headers...)
			if a.status() != c.status || a.reason != c.reason {
				t.Errorf("%d %s, want %d %s", a.status(), a.reason, c.status, c.reason)
			}
			if c.reason == "grace" && a.upstream()["x-auth-subject"] == "" {
				t.Errorf("identity: %v", a.upstream())
			}
		})
	}
}

// TestGraceWhileTheAPIIsLeftAlone has it fail so often, or limit our rate, that it is not asked any more.
func TestGraceWhileTheAPIIsLeftAlone(t *testing.T) {
	for name, fault := range map[string]sessionapitest.Fault{
		"it fails":         {Status: 500, Body: "<html>"},
		"it limits us":     {Status: 429, Headers: map[string]string{"Retry-After": "60"}},
		"it is overloaded": {Status: 503, Headers: map[string]string{"Retry-After": "60"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, session.Consumer, withRules(t,
				policy.Rule{Name: "grace", Match: prefix("/grace"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute},
				policy.Rule{Name: "envoy", Match: prefix("/envoy"), MaxTokenAge: session.NoMaxAge, LeaveToEnvoy: true},
				policy.Rule{Name: "none", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
			login := h.logIn(sessionapitest.LogIn{})
			old := "Bearer " + h.mint(login, 6*time.Minute)
			others := make([]string, 5) // one session's failures count once
			for i := range others {
				others[i] = "Bearer " + h.mint(h.logIn(sessionapitest.LogIn{}), 6*time.Minute)
			}
			if err := h.emulator.SetFault("authenticate", fault); err != nil {
				t.Fatal(err)
			}
			for _, other := range others {
				h.check("/", "authorization", other)
			}
			before := h.apiCalls()
			a := h.check("/", "authorization", old)
			after, err := strconv.Atoi(a.client()["retry-after"])
			if a.status() != 503 || a.reason != "api_unavailable" || err != nil || after < 4 || after > 60 {
				t.Errorf("%d %s, retry after %d (%v)", a.status(), a.reason, after, err)
			}
			if a := h.check("/grace", "authorization", old); a.status() != 200 || a.reason != "grace" {
				t.Errorf("grace: %d %s", a.status(), a.reason)
			}
			if a := h.check("/envoy", "authorization", old); a.GetErrorResponse() == nil {
				t.Errorf("envoy: %v", a)
			}
			if a := h.check("/", "authorization", "Bearer "+login.JWT); a.reason != "verified" {
				t.Errorf("an unexpired JWT: %s", a.reason)
			}
			if n := h.apiCalls() - before; n != 0 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// TestTokensThatTheAPIFailsOnKeepNobodyFromARefresh has a stranger make up tokens that it fails on, or so many that it limits them: a
// JWT is traded in the place of the token beside it.
func TestTokensThatTheAPIFailsOnKeepNobodyFromARefresh(t *testing.T) {
	for name, fault := range map[string]sessionapitest.Fault{
		"it fails":     {Status: 500, Body: "<html>"},
		"it limits us": {Status: 429, Headers: map[string]string{"Retry-After": "60"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, session.Consumer, nil)
			login := h.logIn(sessionapitest.LogIn{})
			if err := h.emulator.SetFault("authenticate", fault); err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				h.check("/", "x-session-token", strings.Repeat(string(rune('a'+i)), 44))
			}
			h.emulator.ClearFaults()
			cookies := "stytch_session=" + login.Token + "; stytch_session_jwt=" + h.mint(login, 6*time.Minute)
			if a := h.check("/", "cookie", "stytch_session="+login.Token); a.status() != 503 || a.reason != "api_unavailable" {
				t.Errorf("the token alone: %d %s", a.status(), a.reason)
			}
			if a := h.check("/", "cookie", cookies); a.status() != 200 || a.reason != "exchanged" {
				t.Errorf("beside its JWT: %d %s", a.status(), a.reason)
			}
		})
	}
}

// TestGraceWhenTheAPITakesAllTheTime has the answer come, judged by expressions too, before the caller's deadline.
func TestGraceWhenTheAPITakesAllTheTime(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "grace", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute,
		Require: require(t, requirement.Config{Expressions: []string{`session.roles.all(r, r.size() > 0) && [1, 2, 3].exists(i, i == 3)`}})}))
	login := h.logIn(sessionapitest.LogIn{})
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	a := h.checkContext(ctx, request("/", "authorization", "Bearer "+h.mint(login, 6*time.Minute)))
	if a.reason != "grace" || ctx.Err() != nil {
		t.Errorf("%s, %v", a.reason, ctx.Err())
	}
}

// TestNobodyBringsAboutAnOutage has strangers use up our own limit of calls: no outage of the API's, so nothing that an outage
// softens.
func TestNobodyBringsAboutAnOutage(t *testing.T) {
	h := newHouseOf(t, session.Consumer, withRules(t,
		policy.Rule{Name: "grace", Match: prefix("/grace"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute},
		policy.Rule{Name: "envoy", Match: prefix("/envoy"), MaxTokenAge: session.NoMaxAge, LeaveToEnvoy: true},
	), func(_ *session.Config, c *sessionapi.Config) { c.MaxCalls = 1 })
	login := h.logIn(sessionapitest.LogIn{})
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	var stranger sync.WaitGroup
	stranger.Go(func() { h.server.Check(ctx, request("/", "x-session-token", strings.Repeat("t", 44))) })
	defer stranger.Wait()
	defer leave()
	for deadline := time.Now().Add(10 * time.Second); h.client.Status().InFlight == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no call is under way")
		}
	}
	if a := h.check("/grace", "authorization", "Bearer "+h.mint(login, 6*time.Minute)); a.status() != 503 || a.reason != "api_unavailable" {
		t.Errorf("grace: %d %s", a.status(), a.reason)
	}
	if a := h.check("/envoy", "authorization", "Bearer "+h.mint(login, 6*time.Minute)); a.GetDeniedResponse() == nil || a.status() != 503 {
		t.Errorf("envoy: %v", a)
	}
}

func TestErrorResponseHandsTheChoiceToEnvoy(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "envoy", Match: prefix("/envoy"), MaxTokenAge: session.NoMaxAge, LeaveToEnvoy: true},
		policy.Rule{Name: "deny", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
	login := h.logIn(sessionapitest.LogIn{})
	old := "Bearer " + h.mint(login, time.Hour)
	secret := sessionapitest.Fault{Status: 401, Body: h.emulator.ErrorBody(401, "unauthorized_credentials", "x")}
	gone := sessionapitest.Fault{Status: 404, Body: h.emulator.ErrorBody(404, "session_not_found", "x")}
	for _, c := range []struct {
		name   string
		fault  sessionapitest.Fault
		path   string
		reason string
		error  bool
	}{
		{"the API is down", sessionapitest.Fault{Refuse: true}, "/envoy", "api_unavailable", true},
		{"the API is down, another rule", sessionapitest.Fault{Refuse: true}, "/", "api_unavailable", false},
		{"our secret is refused", secret, "/envoy", "secret_refused", false},
		{"an answer that nobody knows", sessionapitest.Fault{Status: 400, Body: "{}"}, "/envoy", "api_unavailable", false},
		{"the session is gone", gone, "/envoy", "session_not_found", false},
	} {
		if err := h.emulator.SetFault("authenticate", c.fault); err != nil {
			t.Fatal(err)
		}
		a := h.check(c.path, "authorization", old)
		if a.allowed() || a.reason != c.reason || (a.GetErrorResponse() != nil) != c.error || (a.GetDeniedResponse() != nil) == c.error {
			t.Errorf("%s: %v", c.name, a)
		}
		if left := a.metadata("verdict") == "left_to_envoy"; left != c.error || !left && a.metadata("verdict") != "deny" {
			t.Errorf("%s: %s", c.name, a.metadata("verdict"))
		}
	}
	if n := h.metric("authz_decisions_total", "verdict", "left_to_envoy"); n != 1 {
		t.Errorf("%v were counted", n)
	}
	if !strings.Contains(h.log.String(), `"verdict":"left_to_envoy"`) {
		t.Error("the log does not say so")
	}

	t.Run("stale keys are no outage of the API's", func(t *testing.T) {
		h := newHouseOf(t, session.Consumer, withRules(t, policy.Rule{Name: "all", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, LeaveToEnvoy: true, Grace: time.Minute}),
			func(c *session.Config, _ *sessionapi.Config) { c.Keys = noKeys{} })
		if a := h.check("/", "authorization", "Bearer "+h.logIn(sessionapitest.LogIn{}).JWT); a.reason != "keys_unavailable" || a.GetDeniedResponse() == nil {
			t.Errorf("%v", a)
		}
	})
}

// noKeys is a key set that cannot be had.
type noKeys struct{}

func (noKeys) Key(context.Context, string) (*rsa.PublicKey, error) { return nil, errors.New("stale") }

func (noKeys) Generation() uint64 { return 0 }

// TestAMadeUpKeyBringsAboutNoOutage has a stranger's JWT under an unknown key take all the time that the session API could have had.
func TestAMadeUpKeyBringsAboutNoOutage(t *testing.T) {
	h := newHouseOf(t, session.Consumer, withRules(t,
		policy.Rule{Name: "grace", Match: prefix("/grace"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute},
		policy.Rule{Name: "envoy", Match: prefix("/envoy"), MaxTokenAge: session.NoMaxAge, LeaveToEnvoy: true},
	), func(c *session.Config, _ *sessionapi.Config) { c.Keys = slowWhereUnknown{c.Keys} })
	login := h.logIn(sessionapitest.LogIn{})
	madeUp, err := h.emulator.Sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-nobody"}, map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	for path, headers := range map[string][]string{
		"/envoy": {"authorization", "Bearer " + madeUp, "cookie", "stytch_session=" + strings.Repeat("x", 44)},
		"/grace": {"authorization", "Bearer " + madeUp, "cookie", "stytch_session=" + strings.Repeat("x", 44) + "; stytch_session_jwt=" + h.mint(login, 6*time.Minute)},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		a := h.checkContext(ctx, request(path, headers...))
		cancel()
		if a.reason != "api_unavailable" || a.GetDeniedResponse() == nil {
			t.Errorf("%s: %v", path, a)
		}
	}
}

// slowWhereUnknown is a key set that takes all the time that there is to say that it has no such key.
type slowWhereUnknown struct{ session.KeySet }

func (s slowWhereUnknown) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	if kid == "jwk-test-nobody" {
		<-ctx.Done()
		return nil, nil
	}
	return s.KeySet.Key(ctx, kid)
}
