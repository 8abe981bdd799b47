package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"authz-sidecar/internal/config"
	"authz-sidecar/internal/envoylint"
)

// TestLintEnvoy compares what lint-envoy prints with testdata/lint-envoy/NAME.want. UPDATE=1 writes that anew: read the difference
// before it is committed. shipped.json and discovered.json are what Envoy 1.40's admin interface said of deploy/envoy/envoy.yaml
// and of a bootstrap whose listeners, routes, filters and clusters come by discovery.
func TestLintEnvoy(t *testing.T) {
	const dir = "testdata/lint-envoy/"
	for _, c := range []struct {
		name, args string
		ok         bool
	}{
		{"clean", "../../deploy/envoy/envoy.yaml", true},
		{"clean-by-config", "../../deploy/envoy/envoy.yaml --config " + dir + "relies.yaml", true},
		{"not-relied-on", "../../deploy/envoy/envoy.yaml --config ../../deploy/policies/b2b-multi-tenant.yaml", true},
		{"relied-on-in-vain", dir + "usual.yaml --listener ingress --config " + dir + "relies.yaml", false},
		{"shipped", dir + "shipped.json", true},
		{"usual", dir + "usual.yaml", false},
		{"usual-json", dir + "usual.yaml --format json", false},
		{"second", dir + "usual.yaml --listener second", false},
		{"discovered", dir + "discovered.json", false},
		{"discovered-by-config", dir + "discovered.json --config " + dir + "policy.yaml", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := command(t, "", append([]string{"lint-envoy"}, strings.Fields(c.args)...)...)
			if (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
			if strings.Contains(got, "canary") {
				t.Error("a secret of the file is printed")
			}
			want := filepath.Join(dir, c.name+".want")
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(text) {
				t.Errorf("printed\n%s\nwant\n%s", got, text)
			}
		})
	}
}

func TestLintEnvoyReadsStandardInputAndSaysWhatIsWrong(t *testing.T) {
	shipped, err := os.ReadFile("../../deploy/envoy/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := command(t, string(shipped), "lint-envoy", "-"); err != nil || got != "-: ok (HTTP connection managers: 1)\n" {
		t.Errorf("%v: %s", err, got)
	}
	got, err := command(t, string(shipped), "lint-envoy", "-", "--format", "json")
	var report struct{ Findings []envoylint.Finding }
	if err != nil || json.Unmarshal([]byte(got), &report) != nil || report.Findings == nil || len(report.Findings) != 0 {
		t.Errorf("%v: %s", err, got)
	}
	for args, problem := range map[string]string{
		"":                                    "name the file: authz-sidecar lint-envoy FILE",
		"missing.yaml":                        "open missing.yaml: no such file or directory",
		"lintenvoy.go":                        "lintenvoy.go: not valid YAML",
		"- --format xml":                      `--format "xml": use text or json`,
		"- --listener a":                      `no listener is called "a"`,
		"- --config testdata/lint-envoy/none": "none: no such file or directory",
	} {
		if got, err := command(t, string(shipped), append([]string{"lint-envoy"}, strings.Fields(args)...)...); err == nil || !strings.Contains(got, problem) {
			t.Errorf("%s: %v: %s", args, err, got)
		}
	}
	if got, err := command(t, "", "lint-envoy", "--help"); err != nil || !strings.Contains(got, "  error    failure-mode-allow        requests pass") {
		t.Errorf("%v: %s", err, got)
	}
}

// What is assumed without --config is what the sidecar does without settings: usual.yaml has findings that name the identity
// headers and the session API's time-out.
func TestLintEnvoyAssumesTheDefaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, config.Defaults(), 0o600); err != nil {
		t.Fatal(err)
	}
	const usual = "testdata/lint-envoy/usual.yaml"
	assumed, _ := command(t, "", "lint-envoy", usual)
	configured, _ := command(t, "", "lint-envoy", usual, "--config", file)
	if assumed != configured || !strings.Contains(assumed, "x-auth-roles") || !strings.Contains(assumed, "may take 2s") {
		t.Errorf("without --config\n%s\nwith the defaults\n%s", assumed, configured)
	}
}
