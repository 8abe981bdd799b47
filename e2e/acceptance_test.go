package e2e

import (
	"context"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// together sends n requests, many at a time, and returns how many were answered with each status.
func together(t *testing.T, r *rig.Rig, n, workers int, header func(i int) http.Header) map[int]int {
	t.Helper()
	var next atomic.Int64
	var mu sync.Mutex
	statuses := map[int]int{}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				reply, err := r.Do(t.Context(), "GET", "/app", header(i))
				mu.Lock()
				if err != nil {
					t.Error(err)
				} else {
					statuses[reply.Status]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return statuses
}

func TestTenThousandValidRequestsCauseNoCall(t *testing.T) {
	r := start(t, rig.Options{})
	var jwts []string
	for range 20 {
		jwts = append(jwts, logIn(t, r, sessionapitest.LogIn{}).JWT)
	}
	statuses := together(t, r, 10_000, 16, func(i int) http.Header {
		if i%2 == 0 {
			return jwtCookie(jwts[i%len(jwts)])
		}
		return bearer(jwts[i%len(jwts)])
	})
	if statuses[200] != 10_000 {
		t.Errorf("%v", statuses)
	}
	if n := calls(t, r, sessionapitest.EndpointAuthenticate); n != 0 {
		t.Errorf("%d calls to the session API", n)
	}
	if n := calls(t, r, sessionapitest.EndpointKeySet); n != 1 {
		t.Errorf("%d key fetches, want the one at the start", n)
	}
	if n, err := r.Sidecar.Metric(t.Context(), "authz_decisions_total", `reason="verified"`); err != nil || n != 10_000 {
		t.Errorf("%v decisions counted, %v", n, err)
	}
}

func TestOneExpiredJWTCausesOneCall(t *testing.T) {
	r := start(t, rig.Options{})
	login := logIn(t, r, sessionapitest.LogIn{})
	old := expired(t, r, login.SessionID)
	if err := r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Latency: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"together", "late"} {
		if statuses := together(t, r, 100, 100, func(int) http.Header { return jwtCookie(old) }); statuses[200] != 100 {
			t.Errorf("%s: %v", when, statuses)
		}
	}
	if n := calls(t, r, sessionapitest.EndpointAuthenticate); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestHangingServiceNeverReachesEnvoysTimeout keeps Envoy's default time-out of 200 ms while everything behind the
// sidecar hangs: requests with good tokens are answered, the others are denied in time, and Envoy sees no error.
func TestHangingServiceNeverReachesEnvoysTimeout(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, envoy string) { hangingService(t, envoy) })
}

func hangingService(t *testing.T, envoy string) {
	t.Setenv("AUTHZ_SIDECAR", "") // what ships: the race detector's pauses are not what this is about
	r := start(t, rig.Options{EnvoyPath: envoy, EnvoyEdits: []rig.Edit{rig.FilterTimeout("")}})
	login := logIn(t, r, sessionapitest.LogIn{})
	old := expired(t, r, login.SessionID)
	unknown, err := r.Emulator.Control.Sign(t.Context(), "", map[string]any{"alg": "RS256", "kid": "jwk-test-nobody"}, map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []sessionapitest.Endpoint{sessionapitest.EndpointAuthenticate, sessionapitest.EndpointKeySet} {
		if err := r.Emulator.Control.SetFault(t.Context(), endpoint, sessionapitest.Fault{Hang: true}); err != nil {
			t.Fatal(err)
		}
	}
	counters := func() map[string]int {
		stats, err := r.Envoy.Stats(t.Context(), "cluster.app.ext_authz.authz_sidecar.")
		if err != nil {
			t.Fatal(err)
		}
		return stats // a counter is there from its first increase on
	}
	counter := func(name string) int { return counters()["cluster.app.ext_authz.authz_sidecar."+name] }
	// A machine that stands still for 50 ms makes Envoy give up whatever we do, and one round in a hundred is lost to it. A fault
	// of the sidecar's would be there in every round.
	clean := false
	for round := 1; round <= 3 && !clean; round++ {
		before := counters()
		statuses := together(t, r, 200, 4, func(i int) http.Header {
			switch i % 8 {
			case 0:
				return bearer(old)
			case 4:
				return bearer(unknown)
			}
			return bearer(login.JWT)
		})
		if statuses[200] != 150 || statuses[503] != 50 {
			t.Errorf("round %d: %v, want 150 × 200 and 50 × 503", round, statuses)
		}
		grown := map[string]int{}
		for name, n := range counters() {
			if n -= before[name]; n != 0 {
				grown[name[strings.LastIndexByte(name, '.')+1:]] = n
			}
		}
		clean = maps.Equal(grown, map[string]int{"ok": 150, "denied": 50})
		t.Logf("round %d: Envoy counted %v", round, grown)
	}
	if !clean {
		t.Error("Envoy counted errors or time-outs in every round")
	}
	errorsSeen := counter("error")
	// The counter that stayed at 0 is the one that would have told.
	if err := r.Sidecar.Stop(); err != nil {
		t.Error(err)
	}
	if reply := do(t, r, "GET", "/app", bearer(login.JWT)); reply.Status != 503 || counter("error") != errorsSeen+1 {
		t.Errorf("without a sidecar: %d, %d errors", reply.Status, counter("error"))
	}
}

func TestKeyRotationDeniesNobody(t *testing.T) {
	// A fetch of the key set may take more than the default of 100 ms on a busy machine.
	r := start(t, rig.Options{Project: "key_set: { unknown_key_wait: 1s }"})
	before := logIn(t, r, sessionapitest.LogIn{})
	if _, err := r.Emulator.Control.RotateKeys(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	after := logIn(t, r, sessionapitest.LogIn{})
	for range 10 {
		for _, jwt := range []string{before.JWT, after.JWT} {
			if reply := do(t, r, "GET", "/app", bearer(jwt)); reply.Status != 200 {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
		}
	}
	if n := calls(t, r, sessionapitest.EndpointKeySet); n != 2 {
		t.Errorf("%d key fetches, want one at the start and one for the new key", n)
	}
}

// TestSIGTERMAnswersWhatWasAccepted ends the sidecar while requests wait for the session API.
func TestSIGTERMAnswersWhatWasAccepted(t *testing.T) {
	r := start(t, rig.Options{})
	login := logIn(t, r, sessionapitest.LogIn{})
	old := expired(t, r, login.SessionID)
	if err := r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Latency: 700 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan map[int]int)
	go func() { answered <- together(t, r, 20, 20, func(int) http.Header { return bearer(old) }) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		waiting, err := r.Sidecar.Metric(t.Context(), "authz_session_api_waiters")
		if err != nil {
			t.Fatal(err)
		}
		if waiting == 20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v requests wait", waiting)
		}
	}
	if err := r.Sidecar.Stop(); err != nil {
		t.Errorf("the sidecar's end: %v", err)
	}
	if statuses := <-answered; statuses[200] != 20 {
		t.Errorf("%v", statuses)
	}
	if _, err := os.Stat(r.Sidecar.CheckAddress); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestTheSocketIsForItsGroupAloneAndAStaleOneIsReplaced(t *testing.T) {
	r := start(t, rig.Options{})
	info, err := os.Stat(r.Sidecar.CheckAddress)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o660 {
		t.Errorf("mode %o", mode)
	}
	config := filepath.Join(r.Dir, "config.yaml")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if second, err := rig.StartSidecar(ctx, config); err == nil {
		second.Stop()
		t.Error("a second sidecar took the socket of a living one")
	} else if !strings.Contains(err.Error(), "another process answers on") {
		t.Error(err)
	}
	login := logIn(t, r, sessionapitest.LogIn{})
	if reply := do(t, r, "GET", "/app", bearer(login.JWT)); reply.Status != 200 {
		t.Errorf("the first sidecar: %d", reply.Status)
	}

	r.Sidecar.Signal(syscall.SIGKILL)
	r.Sidecar.Wait(10 * time.Second) // killed: an error, of course
	if _, err := os.Stat(r.Sidecar.CheckAddress); err != nil {
		t.Fatalf("the killed one's socket: %v", err)
	}
	if r.Sidecar, err = rig.StartSidecar(ctx, config); err != nil {
		t.Fatal(err)
	}
	if reply := do(t, r, "GET", "/app", bearer(login.JWT)); reply.Status != 200 {
		t.Errorf("after the restart: %d", reply.Status)
	}
}

// TestMutualTLS calls the sidecar over TCP: the named client passes, the nearest others do not.
func TestMutualTLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	ca.issue(t, dir, "server", "localhost")
	ca.issue(t, dir, "envoy", "envoy.apps.svc")
	ca.issue(t, dir, "other", "other.apps.svc")
	stranger.issue(t, dir, "stranger", "envoy.apps.svc")
	ca.write(t, filepath.Join(dir, "ca.crt"))

	eachEnvoy(t, func(t *testing.T, envoy string) { mutualTLS(t, envoy, ca, dir) })
}

func mutualTLS(t *testing.T, envoy string, ca *authority, dir string) {
	r := start(t, rig.Options{
		EnvoyPath:    envoy,
		CheckAddress: "127.0.0.1:0",
		Listen: "tls: { cert_file: " + dir + "/server.crt, key_file: " + dir + "/server.key, client_ca_file: " + dir +
			"/ca.crt, client_names: [envoy.apps.svc] }",
		EnvoyEdits: []rig.Edit{rig.UpstreamTLS(dir+"/envoy.crt", dir+"/envoy.key", dir+"/ca.crt", "localhost")},
	})
	login := logIn(t, r, sessionapitest.LogIn{})
	if reply := do(t, r, "GET", "/app", bearer(login.JWT)); reply.Status != 200 {
		t.Errorf("through Envoy: %d %s", reply.Status, reply.Body)
	}
	for _, c := range []struct {
		client string
		passes bool
	}{{"envoy", true}, {"other", false}, {"stranger", false}, {"", false}} {
		err := ca.handshake(r.Sidecar.CheckAddress, dir, c.client)
		if c.passes && err != nil || !c.passes && (err == nil || !strings.Contains(err.Error(), "remote error: tls: ")) {
			t.Errorf("client %q: %v", c.client, err)
		}
	}
}
