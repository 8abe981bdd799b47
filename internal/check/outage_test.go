package check_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// picky fails on calls about what has a mark; all others are the session API's own.
type picky struct {
	mark   string
	status int // 0: it hangs
}

func (p picky) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	switch {
	case !strings.Contains(string(body), p.mark):
		return http.DefaultTransport.RoundTrip(r)
	case p.status == 0:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: p.status, Header: http.Header{}, Body: http.NoBody, Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
}

// pickyHouse is one with rules for which an outage is worth something, and a session API that fails on made-up tokens.
func pickyHouse(t *testing.T, status int) *house {
	return newHouseOf(t, session.Consumer, withRules(t,
		policy.Rule{Name: "grace", Match: prefix("/grace"), MaxTokenAge: session.NoMaxAge, Grace: 2 * time.Minute},
		policy.Rule{Name: "envoy", Match: prefix("/envoy"), MaxTokenAge: session.NoMaxAge, LeaveToEnvoy: true},
	), func(_ *session.Config, c *sessionapi.Config) {
		c.Transport, c.Timeout = picky{madeUp, status}, 300*time.Millisecond
	})
}

const madeUp = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"

// TestATokenOnWhichTheSessionAPIFailsBuysNoGrace has one who was logged out put it beside his old JWT.
func TestATokenOnWhichTheSessionAPIFailsBuysNoGrace(t *testing.T) {
	for _, status := range []int{500, 429, 0} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			h := pickyHouse(t, status)
			gone, there := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
			if err := h.emulator.Revoke(gone.SessionID); err != nil {
				t.Fatal(err)
			}
			for name, c := range map[string]struct {
				login sessionapitest.Login
				want  string
			}{"who was logged out": {gone, "session_not_found"}, "who was not": {there, "exchanged"}} {
				cookie := "stytch_session_jwt=" + h.mint(c.login, 6*time.Minute) + "; stytch_session=" + madeUp
				if a := h.check("/grace", "cookie", cookie); a.reason != c.want {
					t.Errorf("%s: %s, want %s", name, a.reason, c.want)
				}
			}
		})
	}
}

// TestATokenOnWhichTheSessionAPIFailsLeavesNothingToEnvoy has a stranger try it while the API answers all others.
func TestATokenOnWhichTheSessionAPIFailsLeavesNothingToEnvoy(t *testing.T) {
	for _, status := range []int{500, 429, 0} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			h := pickyHouse(t, status)
			login := h.logIn(sessionapitest.LogIn{})
			for n := range 7 {
				if a := h.check("/", "authorization", "Bearer "+h.mint(login, time.Duration(360+n)*time.Second)); a.reason != "exchanged" {
					t.Fatalf("an honest JWT: %s", a.reason)
				}
				a := h.check("/envoy", "x-session-token", madeUp+string(rune('a'+n)))
				if a.GetErrorResponse() != nil || a.status() != http.StatusServiceUnavailable || a.reason != "api_unavailable" {
					t.Errorf("token %d: %d %s, left to Envoy: %v", n, a.status(), a.reason, a.GetErrorResponse() != nil)
				}
			}
		})
	}
}
