package e2e

import (
	"net/http"
	"strings"
	"testing"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestNothingThatAClientSendsIsPassageWhereEnvoyFailsOpen keeps verdicts off the error path: with failure_mode_allow, whatever
// ends as a gRPC error lets the request in, with the client's own identity headers.
func TestNothingThatAClientSendsIsPassageWhereEnvoyFailsOpen(t *testing.T) {
	r := start(t, rig.Options{EnvoyEdits: []rig.Edit{rig.FailOpen, rig.RawHeaders, rig.Unhardened}})
	login := logIn(t, r, sessionapitest.LogIn{})
	spoofed := func(h http.Header) http.Header {
		h.Set("X-Auth-Subject", "user-test-admin")
		return h
	}

	t.Run("a message far larger than any headers", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), "POST", r.Envoy.URL+"/app", strings.NewReader(strings.Repeat("x", 3<<19)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = spoofed(http.Header{})
		response, err := r.Client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%d", response.StatusCode)
		}
	})
	t.Run("an answer that holds a byte of the client's that is not UTF-8", func(t *testing.T) {
		reply := do(t, r, "GET", "/app", spoofed(jwtCookie(expired(t, r, login.SessionID)+"; caf=\xe9")))
		if reply.Status != http.StatusOK || reply.Echo.Headers.Get("X-Auth-Subject") != login.Subject {
			t.Errorf("%d as %q", reply.Status, reply.Echo.Headers.Get("X-Auth-Subject"))
		}
	})
	t.Run("no credential", func(t *testing.T) {
		if reply := do(t, r, "GET", "/app", spoofed(http.Header{})); reply.Status != http.StatusUnauthorized {
			t.Errorf("%d", reply.Status)
		}
	})
	stats, err := r.Envoy.Stats(t.Context(), "ext_authz")
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range stats {
		if strings.HasSuffix(name, ".error") && n != 0 || strings.HasSuffix(name, ".failure_mode_allowed") && n != 0 {
			t.Errorf("%s: %d", name, n)
		}
	}
}
