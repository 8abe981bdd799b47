package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestRefreshAhead has a JWT traded while it still serves: nobody waits, and a later answer brings the new one.
func TestRefreshAhead(t *testing.T) {
	r := start(t, rig.Options{Config: "default_rule: { refresh_ahead: 1m }\n"})
	login := logIn(t, r, sessionapitest.LogIn{})
	// Slow enough for the first answer to have left before the call ends.
	if err := r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Latency: 300 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	soon := jwtCookie(mintAt(t, r, login.SessionID, time.Now().Add(-270*time.Second)))
	if reply := do(t, r, "GET", "/app", soon); reply.Status != http.StatusOK || reply.Header.Get("Set-Cookie") != "" {
		t.Fatalf("%d %v", reply.Status, reply.Header)
	}
	var cookie string
	for deadline := time.Now().Add(10 * time.Second); cookie == ""; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no new JWT was handed over")
		}
		reply := do(t, r, "GET", "/app", soon)
		if reply.Status != http.StatusOK {
			t.Fatalf("%d", reply.Status)
		}
		cookie, _, _ = strings.Cut(reply.Header.Get("Set-Cookie"), ";")
	}
	if n := calls(t, r, sessionapitest.EndpointAuthenticate); n != 1 {
		t.Errorf("%d calls", n)
	}
	if reply := do(t, r, "GET", "/app", http.Header{"Cookie": {cookie}}); reply.Status != http.StatusOK || reply.Header.Get("Set-Cookie") != "" {
		t.Errorf("the new one: %d %v", reply.Status, reply.Header)
	}
	for _, d := range r.Sidecar.Decisions() {
		if d["reason"] != "verified" {
			t.Errorf("%v", d)
		}
	}
}

// TestAnExchangeExtendsTheSession compares what the client's cookie says with what the rule says.
func TestAnExchangeExtendsTheSession(t *testing.T) {
	r := start(t, rig.Options{Config: "rules: [{ name: extend, match: { path_prefix: /extend }, session_duration_minutes: 120 }]\n"})
	for path, want := range map[string]time.Duration{"/app": time.Hour, "/extend": 2 * time.Hour} {
		login := logIn(t, r, sessionapitest.LogIn{Duration: time.Hour})
		reply := do(t, r, "GET", path, jwtCookie(expired(t, r, login.SessionID)))
		cookie, err := http.ParseSetCookie(reply.Header.Get("Set-Cookie"))
		if err != nil {
			t.Fatalf("%s: %d, %v", path, reply.Status, err)
		}
		if left := time.Until(cookie.Expires); left < want-time.Minute || left > want+time.Minute {
			t.Errorf("%s: the cookie lives for %v", path, left)
		}
	}
}

// TestAMethodInLowerCaseIsNoWayAroundARule uses HTTP/2, which lets any method through to Envoy and the app.
func TestAMethodInLowerCaseIsNoWayAroundARule(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, path string) {
		r := start(t, rig.Options{EnvoyPath: path,
			Config: "rules: [{ name: delete, match: { path_prefix: /app, methods: [DELETE] }, require: { any_role: [admin] } }]\n"})
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		defer transport.CloseIdleConnections()
		r.Client = &http.Client{Transport: transport}
		login := logIn(t, r, sessionapitest.LogIn{})
		for method, want := range map[string]int{"DELETE": 403, "delete": 400, "DeLETE": 400, "GET": 200} {
			if reply := do(t, r, method, "/app", bearer(login.JWT)); reply.Status != want {
				t.Errorf("%s: %d, want %d; %s", method, reply.Status, want, reply.Body)
			}
		}
	})
}
