package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v3"

	envoyconfig "authz-sidecar/deploy/envoy"
	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestAnotherOriginsPagesCanReadThatTheSidecarIsDown(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, envoy string) {
		r := start(t, rig.Options{EnvoyPath: envoy})
		if err := r.Sidecar.Stop(); err != nil {
			t.Fatal(err)
		}
		for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://other.example.com": ""} {
			reply := do(t, r, http.MethodGet, "/app", http.Header{"Origin": {origin}})
			if got := reply.Header.Get("Access-Control-Allow-Origin"); reply.Status != http.StatusServiceUnavailable || got != want {
				t.Errorf("%s: %d, readable by %q, want 503 and %q", origin, reply.Status, got, want)
			}
		}
	})
}

// What Envoy answers by itself costs the sidecar nothing: testdata/cors.txt has what the client gets.
func TestEnvoyAnswersPreflightsAndHealthChecksByItself(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, envoy string) {
		r := start(t, rig.Options{EnvoyPath: envoy})
		preflight := func(origin string) http.Header {
			return http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"DELETE"}}
		}
		checked := func() int {
			t.Helper()
			n, err := r.Envoy.Stats(t.Context(), "ext_authz")
			if err != nil {
				t.Fatal(err)
			}
			sum := 0
			for _, outcome := range []string{"ok", "denied", "error"} {
				count, there := n["http.ingress.ext_authz.authz_sidecar."+outcome]
				if !there {
					t.Fatalf("Envoy does not count %s: %v", outcome, n)
				}
				sum += count
			}
			return sum
		}
		for _, c := range []struct {
			name, method, path string
			header             http.Header
			status, checks     int
		}{
			{"the preflight of the origin that the file names", http.MethodOptions, "/app", preflight("https://app.example.com"), 200, 0},
			{"another origin's preflight", http.MethodOptions, "/app", preflight("https://other.example.com"), 401, 1},
			{"a health check", http.MethodGet, "/envoy/healthz", nil, 200, 0},
			{"what is below it", http.MethodGet, "/envoy/healthz/app", nil, 401, 1},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := checked()
				reply := do(t, r, c.method, c.path, c.header)
				if reply.Status != c.status || reply.Echo != nil {
					t.Errorf("%d %q, want %d without the app", reply.Status, reply.Body, c.status)
				}
				if checks := checked() - before; checks != c.checks {
					t.Errorf("the sidecar was asked %d times, want %d", checks, c.checks)
				}
			})
		}
	})
}

// comment is the mark of a line of the example route: the text after it is configuration.
var comment = regexp.MustCompile(`(?m)^( +)# ((?:- match: \{ path_separated_prefix| ).*)$`)

// TestTheExampleRouteNamesItsRule takes the example in the shipped file out of its comment.
func TestTheExampleRouteNamesItsRule(t *testing.T) {
	var with map[string]any
	text := comment.ReplaceAll(envoyconfig.Config, []byte("$1$2"))
	if err := yaml.Unmarshal(text, &with); err != nil {
		t.Fatal(err)
	}
	eachEnvoy(t, func(t *testing.T, envoy string) {
		file := filepath.Join(t.TempDir(), "envoy.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "-c", file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		r := start(t, rig.Options{
			EnvoyPath:  envoy,
			EnvoyEdits: []rig.Edit{func(bootstrap map[string]any) { appHost(bootstrap)["routes"] = appHost(with)["routes"] }},
			Config:     "rules:\n- name: payments\n  match: { by_name: true }\n  require: { any_role: [payer] }\n",
		})
		session := bearer(logIn(t, r, sessionapitest.LogIn{}).JWT)
		for path, want := range map[string]int{"/payments": 403, "/payments/1": 403, "/paymentsystem": 200, "/app": 200} {
			if reply := do(t, r, http.MethodGet, path, session); reply.Status != want {
				t.Errorf("%s: %d %s, want %d", path, reply.Status, reply.Body, want)
			}
		}
	})
}

// appHost is the virtual host of the shipped file.
func appHost(bootstrap map[string]any) map[string]any {
	first := func(v any) map[string]any { return v.([]any)[0].(map[string]any) }
	listener := first(bootstrap["static_resources"].(map[string]any)["listeners"])
	manager := first(first(listener["filter_chains"])["filters"])["typed_config"].(map[string]any)
	return first(manager["route_config"].(map[string]any)["virtual_hosts"])
}
