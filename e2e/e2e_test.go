// Package e2e runs the built sidecar behind real Envoy, with the emulator and an app, and looks at what a client, the
// app and an operator see.
package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// toxiproxy leaves these behind where a reader leaves in the middle of an answer.
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
	)
}

// start runs a rig for a test and ends it with the test.
func start(t *testing.T, o rig.Options) *rig.Rig {
	t.Helper()
	r, err := rig.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sidecar:\n%s\nenvoy:\n%s", r.Sidecar.Log().Tail(), r.Envoy.Log().Tail())
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// eachEnvoy runs a test for every Envoy that is installed.
func eachEnvoy(t *testing.T, test func(t *testing.T, path string)) {
	t.Helper()
	envoys, err := rig.Envoys()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range envoys {
		// .tools/envoy-1.40/envoy/_bin/envoy
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(path)))), func(t *testing.T) { test(t, path) })
	}
}

// logIn makes a session.
func logIn(t *testing.T, r *rig.Rig, who sessionapitest.LogIn) sessionapitest.Login {
	t.Helper()
	login, err := r.Emulator.Control.LogIn(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	return login
}

// expired is a genuine JWT of a session that has expired.
func expired(t *testing.T, r *rig.Rig, sessionID string) string {
	t.Helper()
	return mintAt(t, r, sessionID, time.Now().Add(-10*time.Minute))
}

// mintAt is a genuine JWT of a session as if issued then.
func mintAt(t *testing.T, r *rig.Rig, sessionID string, issuedAt time.Time) string {
	t.Helper()
	jwt, err := r.Emulator.Control.Mint(t.Context(), sessionID, issuedAt)
	if err != nil {
		t.Fatal(err)
	}
	return jwt
}

func calls(t *testing.T, r *rig.Rig, e sessionapitest.Endpoint) int {
	t.Helper()
	n, err := r.Emulator.Control.Calls(context.WithoutCancel(t.Context()), e)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func do(t *testing.T, r *rig.Rig, method, path string, header http.Header) *rig.Reply {
	t.Helper()
	reply, err := r.Do(t.Context(), method, path, header)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func metrics(t *testing.T, r *rig.Rig) string {
	t.Helper()
	status, text, err := r.Sidecar.Health(t.Context(), "/metrics")
	if err != nil || status != http.StatusOK {
		t.Fatalf("/metrics: %d %v", status, err)
	}
	return text
}

func bearer(jwt string) http.Header { return http.Header{"Authorization": {"Bearer " + jwt}} }

func jwtCookie(jwt string) http.Header { return http.Header{"Cookie": {"stytch_session_jwt=" + jwt}} }
