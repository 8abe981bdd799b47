package check_test

import (
	"testing"
	"time"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestGraceWhileTheSessionAPICannotBeAsked(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "grace", Match: prefix("/grace"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute},
		policy.Rule{Name: "safe", Match: prefix("/safe"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute, GraceSafeMethodsOnly: true},
		policy.Rule{Name: "young", Match: prefix("/young"), MaxTokenAge: 30 * time.Second, Grace: time.Minute},
		policy.Rule{Name: "none", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}))
	const life = 5 * time.Minute
	login := h.logIn(sessionapitest.LogIn{})
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
		{"the API says no", gone, "/grace", bearer(login, life+time.Second), 401, "session_not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := h.emulator.SetFault("authenticate", c.fault); err != nil {
				t.Fatal(err)
			}
			a := h.check(c.request, c.headers...)
			if a.status() != c.status || a.reason != c.reason {
				t.Errorf("%d %s, want %d %s", a.status(), a.reason, c.status, c.reason)
			}
			if c.reason == "grace" && a.upstream()["x-auth-subject"] != login.Subject {
				t.Errorf("identity: %v", a.upstream())
			}
		})
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
		{"the session is gone", gone, "/envoy", "session_not_found", false},
	} {
		if err := h.emulator.SetFault("authenticate", c.fault); err != nil {
			t.Fatal(err)
		}
		a := h.check(c.path, "authorization", old)
		if a.allowed() || a.reason != c.reason || (a.GetErrorResponse() != nil) != c.error || (a.GetDeniedResponse() != nil) == c.error {
			t.Errorf("%s: %v", c.name, a)
		}
	}
}
