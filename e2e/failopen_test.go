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
	r := start(t, rig.Options{EnvoyEdits: []rig.Edit{rig.FailOpen, rig.RawHeaders, rig.Unhardened}, RemovesUnderscores: true})
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

// TestOnUnavailableEnvoyObeysFailureModeAllow has the session API down under on_unavailable: envoy. Envoy 1.37 and newer know
// error_response and do what their filter says; older ones read a denial without a status, 403.
func TestOnUnavailableEnvoyObeysFailureModeAllow(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, path string) {
		for name, c := range map[string]struct {
			edits  []rig.Edit
			status int
		}{
			"fail closed": {nil, http.StatusServiceUnavailable},
			"fail open":   {[]rig.Edit{rig.FailOpen}, http.StatusOK},
		} {
			t.Run(name, func(t *testing.T) {
				r := start(t, rig.Options{EnvoyPath: path, EnvoyEdits: c.edits,
					Config: "rules: [{ name: soft, match: { path_prefix: /soft }, on_unavailable: envoy }]\n"})
				if !strings.Contains(r.Sidecar.Log().String(), "failure_mode_allow") {
					t.Error("nothing was said of it at the start")
				}
				knows, err := r.Envoy.KnowsErrorResponse(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !knows {
					c.status = http.StatusForbidden
				}
				login := logIn(t, r, sessionapitest.LogIn{})
				if err := r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Refuse: true}); err != nil {
					t.Fatal(err)
				}
				old := bearer(expired(t, r, login.SessionID))
				if reply := do(t, r, "GET", "/soft", old); reply.Status != c.status || (reply.Echo != nil) != (c.status == http.StatusOK) {
					t.Errorf("soft: %d, want %d", reply.Status, c.status)
				}
				if reply := do(t, r, "GET", "/hard", old); reply.Status != http.StatusServiceUnavailable || reply.Echo != nil {
					t.Errorf("another rule: %d", reply.Status)
				}
				if reply := do(t, r, "GET", "/soft", http.Header{}); reply.Status != http.StatusUnauthorized {
					t.Errorf("no credential: %d", reply.Status)
				}
			})
		}
	})
}
