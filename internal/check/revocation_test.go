package check_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// revocable are rules that come to sessions in every way.
func revocable(t testing.TB) func(*check.Config) {
	return withRules(t,
		policy.Rule{Name: "deny", Match: prefix("/deny"), MaxTokenAge: session.NoMaxAge, DenyExpired: true},
		policy.Rule{Name: "fresh", Match: prefix("/fresh"), MaxTokenAge: 0, Grace: 5 * time.Minute},
		policy.Rule{Name: "optional", Match: prefix("/optional"), Session: policy.Optional, MaxTokenAge: session.NoMaxAge},
		policy.Rule{Name: "app", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute, Grace: 5 * time.Minute},
	)
}

func TestWhatIsRevokedIsOutWithoutACall(t *testing.T) {
	now := time.Now()
	acme, other := "organization-test-acme", "organization-test-other"
	for _, c := range []struct {
		name    string
		revoke  revocation.Revocation
		revoked []string // of one, sibling (the member's other session), colleague, stranger
	}{
		{"a session", revocation.Revocation{SessionID: "one"}, []string{"one"}},
		{"a member", revocation.Revocation{Subject: "member-test-1", IssuedBefore: now}, []string{"one", "sibling"}},
		{"an organization", revocation.Revocation{OrganizationID: acme, IssuedBefore: now}, []string{"one", "sibling", "colleague"}},
		{"a project", revocation.Revocation{All: true, IssuedBefore: now}, []string{"one", "sibling", "colleague", "stranger"}},
		{"a project, but long ago", revocation.Revocation{All: true, IssuedBefore: now.Add(-time.Hour)}, nil},
		{"a member, but long ago", revocation.Revocation{Subject: "member-test-1", IssuedBefore: now.Add(-2 * time.Minute)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, session.B2B, revocable(t))
			logins := map[string]sessionapitest.Login{}
			for name, who := range map[string]sessionapitest.LogIn{
				"one":       {MemberID: "member-test-1", OrganizationID: acme},
				"sibling":   {MemberID: "member-test-1", OrganizationID: acme},
				"colleague": {MemberID: "member-test-2", OrganizationID: acme},
				"stranger":  {MemberID: "member-test-3", OrganizationID: other},
			} {
				logins[name] = h.logIn(who)
			}
			c.revoke.ProjectID = project
			if c.revoke.SessionID != "" {
				c.revoke.SessionID = logins[c.revoke.SessionID].SessionID
			}
			h.revocations.Revoke(c.revoke, now)
			for name, login := range logins {
				revoked := false
				for _, r := range c.revoked {
					revoked = revoked || r == name
				}
				for _, path := range []string{"/", "/deny", "/optional", "/fresh"} {
					calls := h.apiCalls()
					a := h.check(path, "authorization", "Bearer "+h.mint(login, time.Minute))
					switch {
					case revoked && (a.status() != 401 || a.reason != "revoked" || h.apiCalls() != calls):
						t.Errorf("%s %s: %d %s, %d calls", name, path, a.status(), a.reason, h.apiCalls()-calls)
					case !revoked && !a.allowed():
						t.Errorf("%s %s: %d %s", name, path, a.status(), a.reason)
					}
				}
			}
		})
	}
}

// A JWT from the moment of a revocation may be from before it, if the vendor's clock is ahead: the session API is asked.
func TestWhatMayBeRevokedIsAskedAbout(t *testing.T) {
	newCase := func(t *testing.T) (h *house, login sessionapitest.Login, jwt string) {
		h = newHouse(t, session.Consumer, revocable(t))
		login = h.logIn(sessionapitest.LogIn{})
		jwt = h.mint(login, time.Minute)
		h.revocations.Revoke(revocation.Revocation{ProjectID: project, Subject: login.Subject, IssuedBefore: time.Now().Add(-time.Minute - 3*time.Second)}, time.Now())
		return h, login, jwt
	}
	t.Run("it lives, and that is asked once", func(t *testing.T) {
		h, _, jwt := newCase(t)
		for range 3 {
			if a := h.check("/", "authorization", "Bearer "+jwt); a.reason != "exchanged" || h.apiCalls() != 1 {
				t.Errorf("%d %s, %d calls", a.status(), a.reason, h.apiCalls())
			}
		}
	})
	t.Run("what was kept from before does not tell", func(t *testing.T) {
		h := newHouse(t, session.Consumer, revocable(t))
		login := h.logIn(sessionapitest.LogIn{})
		ahead := []string{"authorization", "Bearer " + h.mint(login, -3*time.Second)} // by a clock ahead of ours
		if a := h.check("/fresh", ahead...); a.reason != "exchanged" {
			t.Fatal(a.reason)
		}
		h.revocations.Revoke(revocation.Revocation{ProjectID: project, Subject: login.Subject, IssuedBefore: time.Now()}, time.Now())
		if a := h.check("/", ahead...); a.reason != "exchanged" || h.apiCalls() != 2 {
			t.Errorf("%d %s, %d calls", a.status(), a.reason, h.apiCalls())
		}
	})
	t.Run("it has ended", func(t *testing.T) {
		h, login, jwt := newCase(t)
		if err := h.emulator.Revoke(login.SessionID); err != nil {
			t.Fatal(err)
		}
		if a := h.check("/", "authorization", "Bearer "+jwt); a.status() != 401 || a.reason != "session_not_found" {
			t.Errorf("%d %s", a.status(), a.reason)
		}
	})
	t.Run("there is no grace", func(t *testing.T) {
		h, _, jwt := newCase(t)
		h.fail(sessionapitest.Fault{Refuse: true})
		if a := h.check("/", "authorization", "Bearer "+jwt); a.status() != 503 || a.reason != "api_unavailable" {
			t.Errorf("%d %s", a.status(), a.reason)
		}
	})
	t.Run("where the client refreshes, it is told to", func(t *testing.T) {
		h, _, jwt := newCase(t)
		if a := h.check("/deny", "authorization", "Bearer "+jwt); a.status() != 401 || a.reason != "expired" || h.apiCalls() != 0 {
			t.Errorf("%d %s, %d calls", a.status(), a.reason, h.apiCalls())
		}
	})
	t.Run("one from after it passes", func(t *testing.T) {
		h, login, _ := newCase(t)
		if a := h.check("/", "authorization", "Bearer "+h.mint(login, 50*time.Second)); a.reason != "verified" || h.apiCalls() != 0 {
			t.Errorf("%d %s, %d calls", a.status(), a.reason, h.apiCalls())
		}
	})
}

// What was kept from before a revocation is asked for again; a session that was revoked is not even asked about.
func TestAKeptExchangeFromBeforeARevocationIsNotUsed(t *testing.T) {
	for _, c := range []struct {
		name   string
		revoke func(login sessionapitest.Login) revocation.Revocation
		ends   bool // the session ends at the vendor's, too
		status int
		reason string
		calls  int
	}{
		{"a session", func(l sessionapitest.Login) revocation.Revocation {
			return revocation.Revocation{SessionID: l.SessionID}
		}, false, 401, "revoked", 1},
		{"a user whose session lives", func(l sessionapitest.Login) revocation.Revocation { return revocation.Revocation{Subject: l.Subject} }, false, 200, "exchanged", 2},
		{"a user whose session has ended", func(l sessionapitest.Login) revocation.Revocation { return revocation.Revocation{Subject: l.Subject} }, true, 401, "session_not_found", 2},
		{"a project", func(sessionapitest.Login) revocation.Revocation { return revocation.Revocation{All: true} }, true, 401, "session_not_found", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, session.Consumer, revocable(t))
			login := h.logIn(sessionapitest.LogIn{})
			cookie := []string{"cookie", "stytch_session=" + login.Token}
			for range 2 {
				if a := h.check("/", cookie...); a.reason != "exchanged" || h.apiCalls() != 1 {
					t.Fatalf("%s, %d calls", a.reason, h.apiCalls())
				}
			}
			r := c.revoke(login)
			r.ProjectID = project
			h.revocations.Revoke(r, time.Now())
			if c.ends {
				if err := h.emulator.Revoke(login.SessionID); err != nil {
					t.Fatal(err)
				}
			}
			a := h.check("/", cookie...)
			if a.status() != c.status || a.reason != c.reason || h.apiCalls() != c.calls || (a.client()["set-cookie"] != "") != a.allowed() {
				t.Errorf("%d %s, %d calls, %v", a.status(), a.reason, h.apiCalls(), a.client())
			}
		})
	}
}

// held answers once it is let go, and says when a call has come.
type held struct {
	http.RoundTripper
	came chan struct{}
	gone chan struct{}
}

func (h held) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := h.RoundTripper.RoundTrip(r)
	h.came <- struct{}{}
	<-h.gone
	return response, err
}

func TestAnAnswerThatARevocationOvertookDoesNotCount(t *testing.T) {
	for _, c := range []struct {
		name   string
		revoke func(login sessionapitest.Login) revocation.Revocation
		status int
		reason string
		calls  int
	}{
		{"a session", func(l sessionapitest.Login) revocation.Revocation {
			return revocation.Revocation{SessionID: l.SessionID}
		}, 401, "revoked", 1},
		{"a user", func(l sessionapitest.Login) revocation.Revocation { return revocation.Revocation{Subject: l.Subject} }, 401, "session_not_found", 2},
		{"a user with a JWT", func(l sessionapitest.Login) revocation.Revocation { return revocation.Revocation{Subject: l.Subject} }, 401, "revoked", 1},
	} {
		for _, path := range []string{"/", "/fresh"} {
			t.Run(c.name+path, func(t *testing.T) {
				api := held{http.DefaultTransport, make(chan struct{}, 2), make(chan struct{})}
				h := newHouseOf(t, session.Consumer, revocable(t), func(_ *session.Config, client *sessionapi.Config) { client.Transport = api })
				login := h.logIn(sessionapitest.LogIn{})
				answers := make(chan answer)
				cookie := "stytch_session=" + login.Token
				if c.name == "a user with a JWT" {
					cookie = "stytch_session_jwt=" + h.mint(login, time.Hour)
				}
				go func() { answers <- h.check(path, "cookie", cookie) }()
				<-api.came
				r := c.revoke(login)
				r.ProjectID = project
				h.revocations.Revoke(r, time.Now())
				if err := h.emulator.Revoke(login.SessionID); err != nil {
					t.Fatal(err)
				}
				close(api.gone)
				a := <-answers
				if a.status() != c.status || a.reason != c.reason || a.client()["set-cookie"] != "" || h.apiCalls() != c.calls {
					t.Errorf("%d %s, %d calls, %v", a.status(), a.reason, h.apiCalls(), a.client())
				}
			})
		}
	}
}

func TestWhoWasRevokedMeanwhileHasNoGrace(t *testing.T) {
	for name, c := range map[string]struct {
		revoke bool
		status int
		reason string
	}{
		"revoked":     {true, 503, "api_unavailable"},
		"not revoked": {false, 200, "grace"},
	} {
		t.Run(name, func(t *testing.T) {
			api := held{http.DefaultTransport, make(chan struct{}, 2), make(chan struct{})}
			h := newHouseOf(t, session.Consumer, revocable(t), func(_ *session.Config, client *sessionapi.Config) { client.Transport = api })
			login := h.logIn(sessionapitest.LogIn{})
			h.fail(sessionapitest.Fault{Status: 500, Body: "{}"})
			answers := make(chan answer)
			go func() { answers <- h.check("/", "authorization", "Bearer "+h.mint(login, 6*time.Minute)) }()
			<-api.came
			if c.revoke {
				h.revocations.Revoke(revocation.Revocation{ProjectID: project, Subject: login.Subject}, time.Now())
			}
			close(api.gone)
			if a := <-answers; a.status() != c.status || a.reason != c.reason {
				t.Errorf("%d %s", a.status(), a.reason)
			}
		})
	}
}

// A session that was revoked gets nothing of the way to a permission: no call, and no JWT beside the 403.
func TestARevokedSessionIsNotAskedAboutAPermission(t *testing.T) {
	h := newHouse(t, session.B2B, withRules(t,
		policy.Rule{Name: "write", Match: prefix("/write"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute, Require: require(t, requirement.Config{
			Permission: &requirement.Permission{ResourceID: "documents", Action: "write", AskAPI: true}})},
		policy.Rule{Name: "app", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, TokenReuse: time.Minute},
	))
	login := h.logIn(sessionapitest.LogIn{MemberID: "member-test-1", OrganizationID: "organization-test-acme"})
	cookie := []string{"cookie", "stytch_session=" + login.Token}
	if a := h.check("/", cookie...); a.reason != "exchanged" {
		t.Fatal(a.reason)
	}
	h.revocations.Revoke(revocation.Revocation{ProjectID: project, SessionID: login.SessionID}, time.Now())
	if a := h.check("/write", cookie...); a.status() != 401 || a.reason != "revoked" || a.client()["set-cookie"] != "" || h.apiCalls() != 1 {
		t.Errorf("%d %s, %d calls, %v", a.status(), a.reason, h.apiCalls(), a.client())
	}
}

// A denylist that is full forgets nobody: what it had to drop is asked about.
func TestWhatHadToBeForgottenIsAskedAbout(t *testing.T) {
	small, err := revocation.New(revocation.Config{Retention: time.Hour, Leeway: 5 * time.Second, Capacity: 1})
	if err != nil {
		t.Fatal(err)
	}
	rules := revocable(t)
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		rules(c)
		c.Revocations = small
	})
	dead, alive, last := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	kept := []string{"cookie", "stytch_session=" + alive.Token}
	if a := h.check("/", kept...); a.reason != "exchanged" {
		t.Fatal(a.reason)
	}
	for _, login := range []sessionapitest.Login{dead, last} {
		if err := h.emulator.Revoke(login.SessionID); err != nil {
			t.Fatal(err)
		}
		small.Revoke(revocation.Revocation{ProjectID: project, SessionID: login.SessionID}, time.Now())
	}
	for _, c := range []struct {
		name    string
		headers []string
		reason  string
		calls   int
	}{
		{"the one that is remembered", []string{"authorization", "Bearer " + h.mint(last, time.Minute)}, "revoked", 0},
		{"the one that was forgotten", []string{"authorization", "Bearer " + h.mint(dead, time.Minute)}, "session_not_found", 1},
		{"another", []string{"authorization", "Bearer " + h.mint(alive, time.Minute)}, "exchanged", 1},
		{"a token whose answer was kept", kept, "exchanged", 1},
		{"and kept again", kept, "exchanged", 0},
	} {
		calls := h.apiCalls()
		a := h.checkContext(context.Background(), request("/", c.headers...))
		if a.reason != c.reason || h.apiCalls()-calls != c.calls {
			t.Errorf("%s: %s with %d calls, want %s with %d", c.name, a.reason, h.apiCalls()-calls, c.reason, c.calls)
		}
	}
}
