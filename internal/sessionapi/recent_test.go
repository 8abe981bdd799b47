package sessionapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// remembered is how long a no is.
const remembered = 10 * time.Second

func TestANoIsFetchedOnceForEachCredential(t *testing.T) {
	const gone, bad = `{"error_type":"session_not_found"}`, `{"error_type":"invalid_session_token"}`
	byToken, extending := tokenRequest, jwtRequest
	extending.DurationMinutes = 5
	for _, c := range []struct {
		name          string
		status        int
		body          string
		first, second sessionapi.Request
		want          error // of both; nil for any
		later         time.Duration
		calls         int
	}{
		{"the session of a token is not found", 404, gone, byToken, byToken, sessionapi.ErrSessionNotFound, 0, 1},
		{"just before it is forgotten", 404, gone, byToken, byToken, sessionapi.ErrSessionNotFound, remembered - 1, 1},
		{"just when it is forgotten", 404, gone, byToken, byToken, sessionapi.ErrSessionNotFound, remembered, 2},
		{"the session of a JWT is not found", 404, gone, jwtRequest, jwtRequest, sessionapi.ErrSessionNotFound, 0, 1},
		{"asked about an extension", 404, gone, jwtRequest, extending, sessionapi.ErrSessionNotFound, 0, 1},
		{"asked about a permission", 404, gone, jwtRequest, checkRequest, sessionapi.ErrSessionNotFound, 0, 1},
		{"asked about a permission first", 404, gone, checkRequest, jwtRequest, sessionapi.ErrSessionNotFound, 0, 1},
		{"a token is refused", 400, bad, byToken, byToken, sessionapi.ErrCredentialRefused, 0, 1},
		{"another token", 404, gone, byToken, sessionapi.Request{Token: "another"}, sessionapi.ErrSessionNotFound, 0, 2},
		{"a token and a JWT of equal text", 404, gone, byToken, jwtRequest, sessionapi.ErrSessionNotFound, 0, 2},
		{"another JWT of the session", 404, gone, jwtRequest, sessionapi.Request{JWT: "another", Session: asked}, sessionapi.ErrSessionNotFound, 0, 2},
		{"the session is forbidden", 403, `{"error_type":"organization_suspended"}`, byToken, byToken, sessionapi.ErrForbidden, 0, 2},
		{"the permission is refused", 403, `{"error_type":"session_authorization_error"}`, checkRequest, checkRequest, sessionapi.ErrForbidden, 0, 2},
		{"not authorized", 200, yes("session-1", "user-1"), checkRequest, checkRequest, sessionapi.ErrForbidden, 0, 2},
		{"another session in the answer", 200, yes("session-2", "user-1"), jwtRequest, jwtRequest, sessionapi.ErrMismatch, 0, 2},
		{"our own secret is refused", 401, `{"error_type":"unauthorized_credentials"}`, byToken, byToken, sessionapi.ErrSecretRefused, 0, 2},
		{"our rate was limited", 429, `{}`, byToken, byToken, sessionapi.ErrUnavailable, time.Second, 2},
		{"a proxy's 404", 404, "<html>", byToken, byToken, sessionapi.ErrUnavailable, 0, 2},
		{"a 500 that says so", 500, gone, byToken, byToken, sessionapi.ErrUnavailable, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, always(c.status, c.body))
				defer b.done()
				_, first := b.ask(c.first)
				wantError(t, first, c.want)
				time.Sleep(c.later)
				_, second := b.askWithin(t.Context(), c.second, 0) // which wants no kept answer
				wantError(t, second, c.want)
				b.wantCalls(c.calls)
				if (first == second) != (c.calls == 1) {
					t.Errorf("%v, then %v", first, second)
				}
				if n := b.metric("remembered_total"); int(n) != 2-c.calls {
					t.Errorf("%v were counted", n)
				}
			})
		})
	}
}

// A permission that was refused is asked about again after a while, and at once for a rule that wants to know each time.
func TestWhatIsForbiddenIsFetchedOnceForEachQuestion(t *testing.T) {
	const suspended, denied = `{"error_type":"organization_suspended"}`, `{"error_type":"session_authorization_error"}`
	other := checkRequest
	other.Check = &sessionapi.AuthorizationCheck{OrganizationID: "organization-1", ResourceID: "documents", Action: "other"}
	for _, c := range []struct {
		name          string
		body          string
		first, second sessionapi.Request
		maxAge        time.Duration
		later         time.Duration
		calls         int
	}{
		{"the organization is suspended", suspended, jwtRequest, jwtRequest, time.Minute, 0, 1},
		{"just before it is forgotten", suspended, jwtRequest, jwtRequest, time.Minute, remembered - 1, 1},
		{"just when it is forgotten", suspended, jwtRequest, jwtRequest, time.Minute, remembered, 2},
		{"where it is asked each time", suspended, jwtRequest, jwtRequest, 0, 0, 2},
		{"a permission", denied, checkRequest, checkRequest, time.Minute, 0, 1},
		{"another permission", denied, checkRequest, other, time.Minute, 0, 2},
		{"a session without a permission, after one with", denied, checkRequest, jwtRequest, time.Minute, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, always(403, c.body))
				defer b.done()
				b.askWithin(t.Context(), c.first, c.maxAge)
				time.Sleep(c.later)
				_, err := b.askWithin(t.Context(), c.second, c.maxAge)
				wantError(t, err, sessionapi.ErrForbidden)
				b.wantCalls(c.calls)
			})
		})
	}
}

func TestAYesEndsWhatWasForbidden(t *testing.T) {
	n := 0
	b := newBench(t, api(func(*http.Request) (*http.Response, error) {
		if n++; n == 2 {
			return respond(200, yes("session-1", "user-1")), nil
		}
		return respond(403, `{"error_type":"organization_suspended"}`), nil
	}))
	defer b.done()
	for i, c := range []struct {
		maxAge time.Duration
		want   error
	}{{time.Minute, sessionapi.ErrForbidden}, {time.Minute, sessionapi.ErrForbidden}, {0, nil}, {time.Minute, nil}} {
		if _, err := b.askWithin(t.Context(), jwtRequest, c.maxAge); !errors.Is(err, c.want) {
			t.Errorf("the answer %d is %v", i+1, err)
		}
	}
	b.wantCalls(2)
}

// The token's session is known from what the API said of it before: its JWTs are out, whoever presents them.
func TestTheSessionOfATokenThatIsNotFoundHasEnded(t *testing.T) {
	for name, answers := range map[string][]string{
		"after a yes": {yes("session-1", "user-1"), "session-1 true"},
		"alone":       {},
	} {
		t.Run(name, func(t *testing.T) {
			var ended []string
			n := 0
			b := newBench(t, api(func(*http.Request) (*http.Response, error) {
				if n++; n == 1 && len(answers) > 0 {
					return respond(200, answers[0]), nil
				}
				return respond(404, `{"error_type":"session_not_found"}`), nil
			}), func(c *sessionapi.Config) {
				c.OnEnded = func(s *session.Session, certain bool) { ended = append(ended, fmt.Sprintf("%s %t", s.ID, certain)) }
			})
			defer b.done()
			if len(answers) > 0 {
				b.ask(tokenRequest)
			}
			_, err := b.askWithin(t.Context(), tokenRequest, 0)
			wantError(t, err, sessionapi.ErrSessionNotFound)
			b.Wait()
			if want := answers[min(1, len(answers)):]; !slices.Equal(ended, want) {
				t.Errorf("%v has ended, want %v", ended, want)
			}
		})
	}
}

func TestANoIsNotAskedAboutAheadEither(t *testing.T) {
	b := newBench(t, always(404, `{"error_type":"session_not_found"}`))
	defer b.done()
	b.ask(jwtRequest)
	b.Ahead(t.Context(), agedRequest(time.Minute))
	b.Wait()
	b.wantCalls(1)
	b.wantAhead(map[string]int{"paused": 1})
	b.Ahead(t.Context(), sessionapi.Request{JWT: "another", Session: asked})
	b.Wait()
	b.wantCalls(2)
}

// TestANoOvertakesAYesUnderWay: the yes may be from before, so it serves who asked then and nobody after.
func TestANoOvertakesAYesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := newBench(t, api(func(*http.Request) (*http.Response, error) {
			if n++; n == 1 {
				time.Sleep(time.Second)
				return respond(200, granting("session-1", "user-1")), nil
			}
			return respond(404, `{"error_type":"session_not_found"}`), nil
		}))
		defer b.done()
		go func() {
			if _, err := b.ask(jwtRequest); err != nil {
				t.Errorf("who asked before gets %v", err)
			}
		}()
		synctest.Wait()
		for _, r := range []sessionapi.Request{checkRequest, jwtRequest} { // the second does not join
			_, err := b.ask(r)
			wantOnly(t, err, sessionapi.ErrSessionNotFound)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		_, err := b.ask(jwtRequest)
		wantOnly(t, err, sessionapi.ErrSessionNotFound)
		b.wantCalls(2)
	})
}

// TestWhoMeetsARememberedNoHasHeardOfTheEnd: a JWT's session once, when it was asked about; one beside a token each time.
func TestWhoMeetsARememberedNoHasHeardOfTheEnd(t *testing.T) {
	beside := func(id string) sessionapi.Request {
		return sessionapi.Request{Token: credential, Session: &session.Session{ID: id}}
	}
	for _, c := range []struct {
		name, body    string
		status        int
		first, second sessionapi.Request
		want          string
	}{
		{"a JWT", `{"error_type":"session_not_found"}`, 404, jwtRequest, jwtRequest, "session-1 true,"},
		{"a token with a JWT beside it, after a token alone", `{"error_type":"session_not_found"}`, 404, tokenRequest, beside("b"), "b false,"},
		{"a token alone, after a token with a JWT", `{"error_type":"session_not_found"}`, 404, beside("a"), tokenRequest, "a false,a false,"}, // by the call and by who waits
		{"a token that is refused", `{"error_type":"invalid_session_token"}`, 400, tokenRequest, beside("b"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var heard string
			b := newBench(t, always(c.status, c.body), func(cfg *sessionapi.Config) {
				cfg.OnEnded = func(s *session.Session, certain bool) { heard += fmt.Sprint(s.ID, " ", certain, ",") }
			})
			defer b.done()
			b.ask(c.first)
			b.ask(c.second)
			b.wantCalls(1)
			if heard != c.want {
				t.Errorf("heard of %q, want %q", heard, c.want)
			}
		})
	}
}

// TestSoManyNosAreRememberedAndNoMore: the oldest gives way, and what was remembered leaves nothing behind.
func TestSoManyNosAreRememberedAndNoMore(t *testing.T) {
	const most = 10_000
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(404, `{"error_type":"session_not_found"}`))
		defer b.done()
		ask := func(from, to int) {
			for i := from; i < to; i++ {
				if _, err := b.Authenticate(t.Context(), sessionapi.Request{Token: fmt.Sprint(i)}, 0); !errors.Is(err, sessionapi.ErrSessionNotFound) {
					t.Fatal(err)
				}
			}
		}
		ask(0, most+1)
		ask(1, most+1)
		b.wantCalls(most + 1)
		ask(0, 1)
		b.wantCalls(most + 2)

		heap := func() int {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		full := heap()
		ask(most+1, most+4000)
		if grown := heap() - full; grown > 1<<20 {
			t.Errorf("%d bytes more for others", grown)
		}
		if full > 32<<20 {
			t.Errorf("%d bytes in all", full)
		}
	})
}
