package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestATakeoverLosesNoRequest replaces the sidecar twice under load, through both Envoys.
func TestATakeoverLosesNoRequest(t *testing.T) {
	t.Parallel()
	eachEnvoy(t, func(t *testing.T, envoy string) {
		r := start(t, rig.Options{EnvoyPath: envoy})
		login := logIn(t, r, sessionapitest.LogIn{})
		stop := underLoad(t, r, 8, "/app", bearer(login.JWT))
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			if err := r.Serve(ctx, true, "--takeover"); err != nil {
				t.Fatal(err)
			}
			if err := r.Former().Wait(20 * time.Second); err != nil {
				t.Errorf("the predecessor's end: %v", err)
			}
			for range 50 {
				if status := statusOf(t, r, "/app", bearer(login.JWT)); status != 200 {
					t.Errorf("after the takeover: %d", status)
				}
			}
		}
		if statuses := stop(); !only(statuses, 200) {
			t.Errorf("meanwhile: %v", statuses)
		}
	})
}

// TestATakeoverThatIsToldToEndTakesNothing gets its keys in the moment in which it is told to.
func TestATakeoverThatIsToldToEndTakesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	login := logIn(t, r, sessionapitest.LogIn{})
	if err := r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointKeySet, sessionapitest.Fault{Latency: 4 * time.Second}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	first := r.Sidecar
	if err := r.Serve(ctx, true, "--takeover"); err == nil {
		t.Error("it took over without keys")
	}
	eventually(t, "it waits", func() bool {
		return strings.Contains(r.Sidecar.Log().String(), "waiting to be ready before the takeover")
	})
	r.Sidecar.Signal(syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return strings.Contains(r.Sidecar.Log().String(), `"draining"`) })
	if err := r.Emulator.Control.ClearFaults(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Sidecar.Wait(10 * time.Second); err != nil {
		t.Error(err)
	}
	if log := r.Sidecar.Log().String(); !strings.Contains(log, "key set loaded") || strings.Contains(log, "took over") {
		t.Errorf("the keys should have come, and nothing more:\n%s", r.Sidecar.Log().Tail())
	}
	r.Sidecar = first
	if status := statusOf(t, r, "/app", bearer(login.JWT)); status != 200 {
		t.Errorf("the first one: %d", status)
	}
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type() == os.ModeSocket && e.Name() != "authz.sock" {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// TestASocketThatIsRemovedIsBoundAgain removes it under load.
func TestASocketThatIsRemovedIsBoundAgain(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	login := logIn(t, r, sessionapitest.LogIn{})
	stop := underLoad(t, r, 4, "/app", bearer(login.JWT))
	path := filepath.Join(r.Dir, "authz.sock")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the socket is back", func() bool {
		info, err := os.Lstat(path)
		return err == nil && info.Mode().Type() == os.ModeSocket && info.Mode().Perm() == 0o660
	})
	if statuses := stop(); !only(statuses, 200) {
		t.Errorf("meanwhile, on the connections that there were: %v", statuses)
	}
	if n := metric(t, r, "authz_socket_rebinds_total"); n != 1 {
		t.Errorf("%v rebinds", n)
	}
	// Another Envoy finds it.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if second, err := rig.StartSidecar(ctx, filepath.Join(r.Dir, "config.yaml")); err == nil {
		second.Stop()
		t.Error("nobody answered on the new socket")
	} else if !strings.Contains(err.Error(), "another process answers on") {
		t.Error(err)
	}
}

// TestADrainRefusesNobodyWhoCame ends the sidecar under load: each request gets an answer of the sidecar's until Envoy has been told,
// and Envoy's own 503 from then on.
func TestADrainTellsBeforeItCloses(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	login := logIn(t, r, sessionapitest.LogIn{})
	stop := underLoad(t, r, 8, "/app", bearer(login.JWT))
	time.Sleep(200 * time.Millisecond)
	r.Sidecar.Signal(syscall.SIGTERM)
	if err := r.Sidecar.Wait(20 * time.Second); err != nil {
		t.Error(err)
	}
	statuses := stop()
	if statuses[0] > 0 || statuses[200] == 0 {
		t.Errorf("%v", statuses)
	}
	log := r.Sidecar.Log().String()
	if told, closed := strings.Index(log, `"draining"`), strings.Index(log, `"stopped"`); told < 0 || closed < told {
		t.Errorf("draining at %d, stopped at %d", told, closed)
	}
}
