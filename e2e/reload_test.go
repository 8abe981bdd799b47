package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// underLoad has clients send a request again and again until stop, which returns how often each status came. A request without an
// answer is status 0. Each has had an answer when underLoad returns, so that its connections are there.
func underLoad(t *testing.T, r *rig.Rig, clients int, path string, header http.Header) (stop func() map[int]int) {
	t.Helper()
	var mu sync.Mutex
	statuses := map[int]int{}
	ctx, cancel := context.WithCancel(t.Context())
	var group, begun sync.WaitGroup
	begun.Add(clients)
	for range clients {
		group.Go(func() {
			first := sync.OnceFunc(begun.Done)
			for ; ctx.Err() == nil; first() {
				status := 0
				if reply, err := r.Do(t.Context(), "GET", path, header); err == nil {
					status = reply.Status
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	begun.Wait()
	return func() map[int]int {
		cancel()
		group.Wait()
		return statuses
	}
}

// only says whether no other status came, and this one did.
func only(statuses map[int]int, status int) bool { return len(statuses) == 1 && statuses[status] > 0 }

// eventually waits for something that takes the sidecar a moment.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func metric(t *testing.T, r *rig.Rig, name string, labels ...string) float64 {
	t.Helper()
	value, err := r.Sidecar.Metric(t.Context(), name, labels...)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func statusOf(t *testing.T, r *rig.Rig, path string, header http.Header) int {
	t.Helper()
	return do(t, r, "GET", path, header).Status
}

// edit changes the configuration file in place.
func edit(t *testing.T, r *rig.Rig, old, new string) {
	t.Helper()
	file := filepath.Join(r.Dir, "config.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", text, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// told is some of what GET /v1/status tells.
type told struct {
	Configuration struct {
		LastError string `json:"last_error"`
	}
	Projects []struct {
		SessionAPI struct{ Breaker string } `json:"session_api"`
	}
}

func operatorStatus(t *testing.T, r *rig.Rig) (s told) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", r.Sidecar.AdminURL+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil || response.StatusCode != 200 {
		t.Fatalf("%d %v", response.StatusCode, err)
	}
	return s
}

// TestRulesChangeWithoutARequestNoticing edits, breaks and mends the configuration under load.
func TestRulesChangeWithoutARequestNoticing(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "admin-token")
	if err := os.WriteFile(token, []byte(adminToken), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, rig.Options{
		Listen: "admin: 127.0.0.1:0\nadmin_token_file: " + token,
		Config: "rules:\n- { name: door, match: { path_prefix: /door }, session: none }\n",
	})
	login := logIn(t, r, sessionapitest.LogIn{})
	stop := underLoad(t, r, 4, "/app", bearer(login.JWT))
	if status := statusOf(t, r, "/door", nil); status != 200 {
		t.Fatalf("before: %d", status)
	}

	edit(t, r, "session: none", "session: refused")
	eventually(t, "the door is closed", func() bool { return statusOf(t, r, "/door", nil) == 403 })
	if n := metric(t, r, "authz_config_reloads_total", `outcome="ok"`); n != 1 {
		t.Errorf("%v reloads", n)
	}

	edit(t, r, "session: refused", "session: open")
	eventually(t, "the failure shows", func() bool { return metric(t, r, "authz_config_last_reload_successful") == 0 })
	eventually(t, "the log says which line", func() bool {
		return regexp.MustCompile(`config\.yaml:[1-9][0-9]*:[0-9]+: rules\[0\]\.session: `).MatchString(r.Sidecar.Log().String())
	})
	if told := operatorStatus(t, r); !strings.Contains(told.Configuration.LastError, "rules[0].session") || told.Projects[0].SessionAPI.Breaker != "closed" {
		t.Errorf("the status tells %+v", told)
	}
	if status := statusOf(t, r, "/door", nil); status != 403 {
		t.Errorf("with a bad file: %d, want what was in use", status)
	}

	edit(t, r, "session: open", "session: none")
	r.Sidecar.Signal(syscall.SIGHUP) // at once
	eventually(t, "the door is open again", func() bool { return statusOf(t, r, "/door", nil) == 200 })
	if n := metric(t, r, "authz_config_last_reload_successful"); n != 1 || operatorStatus(t, r).Configuration.LastError != "" {
		t.Errorf("last reload successful: %v", n)
	}

	if statuses := stop(); !only(statuses, 200) {
		t.Errorf("meanwhile: %v", statuses)
	}
	if n := calls(t, r, sessionapitest.EndpointKeySet); n != 1 {
		t.Errorf("%d key fetches: a project of which nothing new is said stays as it is", n)
	}
}

// TestAProjectThatChangesKeepsItsKeys changes how the API is called, and then its name, while the key endpoint is down.
func TestAProjectThatChangesKeepsItsKeys(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{Project: "session_api: { timeout: 2s }"})
	login := logIn(t, r, sessionapitest.LogIn{})
	stop := underLoad(t, r, 2, "/app", bearer(login.JWT))
	if err := r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointKeySet, sessionapitest.Fault{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	edit(t, r, "timeout: 2s", "timeout: 1s")
	eventually(t, "it is reloaded", func() bool { return metric(t, r, "authz_config_reloads_total", `outcome="ok"`) == 1 })
	if status := statusOf(t, r, "/app", bearer(login.JWT)); status != 200 {
		t.Errorf("after the reload: %d", status)
	}
	edit(t, r, "- project_id:", "- name: app\n  project_id:")
	eventually(t, "it is reloaded again", func() bool { return metric(t, r, "authz_config_reloads_total", `outcome="ok"`) == 2 })
	if status := statusOf(t, r, "/app", bearer(login.JWT)); status != 200 {
		t.Errorf("under another name: %d", status)
	}
	if status, text, err := r.Sidecar.Health(t.Context(), "/readyz"); status != 200 {
		t.Errorf("ready: %d %s %v", status, text, err)
	}
	if statuses := stop(); !only(statuses, 200) {
		t.Errorf("meanwhile: %v", statuses)
	}
}

// TestAProjectThatCouldProveNothingIsNotPutToUse gives it a place of keys where nobody answers.
func TestAProjectThatCouldProveNothingIsNotPutToUse(t *testing.T) {
	t.Parallel() // it waits for keys that do not come
	r := start(t, rig.Options{Config: "rules:\n- { name: door, match: { path_prefix: /door }, session: none }\n"})
	login := logIn(t, r, sessionapitest.LogIn{})
	edit(t, r, "- project_id:", "- key_set_url: http://127.0.0.1:1/keys\n  project_id:")
	edit(t, r, "session: none", "session: refused")
	eventually(t, "the failure shows", func() bool { return metric(t, r, "authz_config_last_reload_successful") == 0 })
	if status := statusOf(t, r, "/app", bearer(login.JWT)); status != 200 {
		t.Errorf("a session: %d", status)
	}
	if status := statusOf(t, r, "/door", nil); status != 200 {
		t.Errorf("a rule of the configuration that is not in use: %d", status)
	}
	eventually(t, "the log says why", func() bool {
		return strings.Contains(r.Sidecar.Log().String(), "has not been loaded") && strings.Contains(r.Sidecar.Log().String(), "the configuration in use has it")
	})
}

// TestWhatNeedsARestartSaysSo changes an address and a rule: the rule counts, the address does not.
func TestWhatNeedsARestartSaysSo(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	edit(t, r, "health: 127.0.0.1:0", "health: none")
	edit(t, r, "envoy_stops_underscores: true\n", "envoy_stops_underscores: true\nrules:\n- { match: { path: /new }, session: none }\n")
	eventually(t, "the new rule counts", func() bool { return statusOf(t, r, "/new", nil) == 200 })
	if n := metric(t, r, "authz_config_needs_restart"); n != 1 {
		t.Errorf("needs restart: %v", n)
	}
	eventually(t, "the log names the field", func() bool { return strings.Contains(r.Sidecar.Log().String(), "listen.health") })
	edit(t, r, "health: none", "health: 127.0.0.1:0")
	eventually(t, "it needs none", func() bool { return metric(t, r, "authz_config_needs_restart") == 0 })
}

// TestCertificatesAreReplacedWithoutARequestNoticing has the authority of the clients replaced, too.
func TestCertificatesAreReplacedWithoutARequestNoticing(t *testing.T) {
	t.Parallel()
	before, after := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	before.issue(t, dir, "server", "localhost")
	before.issue(t, dir, "envoy", "envoy.apps.svc")
	before.write(t, filepath.Join(dir, "ca.crt"))
	r := start(t, rig.Options{
		CheckAddress: "127.0.0.1:0",
		Listen: "tls: { cert_file: " + dir + "/server.crt, key_file: " + dir + "/server.key, client_ca_file: " + dir +
			"/ca.crt, client_names: [envoy.apps.svc] }",
		EnvoyEdits: []rig.Edit{rig.UpstreamTLS(dir+"/envoy.crt", dir+"/envoy.key", dir+"/ca.crt", "localhost")},
	})
	login := logIn(t, r, sessionapitest.LogIn{})
	stop := underLoad(t, r, 2, "/app", bearer(login.JWT))
	if err := before.handshake(r.Sidecar.CheckAddress, dir, "envoy"); err != nil {
		t.Fatal(err)
	}
	next := t.TempDir()
	after.issue(t, next, "server", "localhost")
	after.issue(t, next, "new-envoy", "envoy.apps.svc")
	after.write(t, filepath.Join(next, "ca.crt"))
	for _, name := range []string{"server.crt", "server.key", "ca.crt"} {
		if err := os.Rename(filepath.Join(next, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the new certificates serve", func() bool { return after.handshake(r.Sidecar.CheckAddress, next, "new-envoy") == nil })
	if err := after.handshake(r.Sidecar.CheckAddress, dir, "envoy"); err == nil {
		t.Error("a client of the old authority is let in")
	}
	if statuses := stop(); !only(statuses, 200) {
		t.Errorf("meanwhile, on Envoy's connections: %v", statuses)
	}
}
