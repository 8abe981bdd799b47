//go:build !race

package check_test

import (
	"testing"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestACheckFromMemoryAllocatesNothing counts from the request's bytes to the response's. (The race detector allocates on its own.)
func TestACheckFromMemoryAllocatesNothing(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Logger = nil
		c.IdentityHeaders = append(c.IdentityHeaders, check.IdentityHeader{Name: "x-auth-expires-at", Value: "session_expires_at"})
	})
	login := h.logIn(sessionapitest.LogIn{Roles: []string{"reader", "writer"}})
	for name, c := range map[string]struct {
		path    string
		headers []string
		reason  string
	}{
		"a JWT in a header":    {"/app", []string{"authorization", "Bearer " + login.JWT}, "verified"},
		"a JWT in a cookie":    {"/app?a=b", []string{"cookie", "theme=dark; stytch_session_jwt=" + login.JWT + "; a=b"}, "verified"},
		"a rule with an age":   {"/30s/x", []string{"authorization", "Bearer " + login.JWT}, "verified"},
		"an open path":         {"/public/logo.png", nil, "public"},
		"nobody, where he may": {"/optional", nil, "anonymous"},
		"nobody":               {"/app", []string{"cookie", "theme=dark"}, "no_credential"},
	} {
		in := request(c.path, c.headers...)
		for _, header := range []string{"accept", "user-agent", "x-forwarded-for", "x-forwarded-proto", ":path", ":method", "sec-ch-ua", "x-request-id"} {
			in.Attributes.Request.Http.Headers[header] = "something that a browser sends"
		}
		for how, in := range map[string][]byte{"": encoded(t, in), ", line by line": encoded(t, asLines(in))} {
			var out []byte
			ask := func() { out = h.server.AppendCheck(t.Context(), out[:0], in) }
			ask()
			if a := decoded(t, out); a.reason != c.reason {
				t.Errorf("%s%s: %s, want %s", name, how, a.reason, c.reason)
			}
			if n := testing.AllocsPerRun(100, ask); n != 0 {
				t.Errorf("%s%s: %v allocations", name, how, n)
			}
		}
	}
}
