// Package deploy_test compares the two sides of what ships: the request headers that the policies read, and those that the
// Envoy, Istio and Envoy Gateway files let through to the sidecar. A header that is held back is absent to the policy: a rule
// that matches by it never does, and the next one decides.
package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
)

// policies are the shipped configurations: the examples, and those of the Kubernetes manifests.
func policies(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"policies/*.yaml", "k8s/*/config.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		// A policy's test stands beside it.
		found = slices.DeleteFunc(found, func(file string) bool { return strings.HasSuffix(file, ".test.yaml") })
		if len(found) == 0 {
			t.Errorf("no policy is in %s", pattern)
		}
		files = append(files, found...)
	}
	return files
}

// read are the headers that the sidecar reads with a configuration; all is true if it may read any.
func read(t *testing.T, file string) (names []string, all bool) {
	t.Helper()
	cfg, err := config.LoadWithoutFiles(file)
	if err != nil {
		t.Fatal(err)
	}
	return check.HeadersRead(cfg.Gate.Credentials, cfg.Gate.Rules)
}

// passage is what a file lets through to the sidecar: the named headers, or all.
type passage struct {
	names []string
	all   bool
}

// missing are the headers of those read that do not pass.
func (p passage) missing(read []string, all bool) []string {
	if p.all {
		return nil
	}
	missing := slices.DeleteFunc(slices.Clone(read), func(name string) bool { return slices.Contains(p.names, name) })
	if all {
		missing = append(missing, "any other")
	}
	return missing
}

// shipped are the files by which Envoy is told to ask the sidecar, and how to read from one what it lets through.
var shipped = map[string]func(text []byte) (passage, error){
	"envoy/envoy.yaml":          envoyPassage,
	"istio/mesh.yaml":           istioPassage,
	"envoy-gateway/policy.yaml": gatewayPassage,
}

// envoyPassage reads a bootstrap: the filter sends every header, unless it has a list.
func envoyPassage(text []byte) (passage, error) {
	var bootstrap struct {
		StaticResources struct {
			Listeners []struct {
				FilterChains []struct {
					Filters []struct {
						TypedConfig struct {
							HTTPFilters []struct {
								Name        string         `yaml:"name"`
								TypedConfig map[string]any `yaml:"typed_config"`
							} `yaml:"http_filters"`
						} `yaml:"typed_config"`
					} `yaml:"filters"`
				} `yaml:"filter_chains"`
			} `yaml:"listeners"`
		} `yaml:"static_resources"`
	}
	if err := yaml.Unmarshal(text, &bootstrap); err != nil {
		return passage{}, err
	}
	for _, listener := range bootstrap.StaticResources.Listeners {
		for _, chain := range listener.FilterChains {
			for _, filter := range chain.Filters {
				for _, http := range filter.TypedConfig.HTTPFilters {
					if http.Name != "envoy.filters.http.ext_authz" {
						continue
					}
					for _, field := range []string{"allowed_headers", "disallowed_headers"} {
						if http.TypedConfig[field] != nil {
							return passage{}, fmt.Errorf("%s: this test does not read such lists", field)
						}
					}
					return passage{all: true}, nil
				}
			}
		}
	}
	return passage{}, errors.New("it has no ext_authz filter")
}

// istioPassage reads the mesh's configuration: a gRPC provider is sent every header, an HTTP provider is not.
func istioPassage(text []byte) (passage, error) {
	var values struct {
		MeshConfig struct {
			ExtensionProviders []map[string]any `yaml:"extensionProviders"`
		} `yaml:"meshConfig"`
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return passage{}, err
	}
	for _, provider := range values.MeshConfig.ExtensionProviders {
		if provider["envoyExtAuthzGrpc"] != nil {
			return passage{all: true}, nil
		}
	}
	return passage{}, errors.New("it has no gRPC provider")
}

// gatewayPassage reads a SecurityPolicy: the listed headers are sent, or every header where there is no list.
func gatewayPassage(text []byte) (passage, error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var object struct {
			Kind string `yaml:"kind"`
			Spec struct {
				ExtAuth *struct {
					GRPC             map[string]any `yaml:"grpc"`
					HeadersToExtAuth []string       `yaml:"headersToExtAuth"`
				} `yaml:"extAuth"`
			} `yaml:"spec"`
		}
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF):
			return passage{}, errors.New("it has no SecurityPolicy with a gRPC service")
		case err != nil:
			return passage{}, err
		}
		if a := object.Spec.ExtAuth; object.Kind == "SecurityPolicy" && a != nil && a.GRPC != nil {
			return passage{names: a.HeadersToExtAuth, all: len(a.HeadersToExtAuth) == 0}, nil
		}
	}
}

func TestWhatThePoliciesReadPassesEveryEnvoy(t *testing.T) {
	for file, parse := range shipped {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		passes, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for _, p := range policies(t) {
			names, all := read(t, p)
			if missing := passes.missing(names, all); len(missing) > 0 {
				t.Errorf("%s reads headers that %s holds back: %s", p, file, strings.Join(missing, ", "))
			}
		}
	}
}

// The policies are for every Envoy, and Istio's passes headers with underscores on.
func TestNoPolicyLeavesUnderscoresToEnvoy(t *testing.T) {
	for _, file := range policies(t) {
		cfg, err := config.LoadWithoutFiles(file)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Gate.EnvoyStopsUnderscores {
			t.Errorf("%s has envoy_stops_underscores", file)
		}
	}
}

// The comparison must be able to fail.
func TestAHeaderThatIsTakenOutIsMissed(t *testing.T) {
	const file = "envoy-gateway/policy.yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	names, all := read(t, "k8s/example/config.yaml")
	if len(names) < 9 || all {
		t.Fatalf("the example reads %v, all %v", names, all)
	}
	for _, name := range names {
		without := strings.Replace(string(text), "    - "+name+"\n", "", 1)
		if without == string(text) {
			t.Errorf("%s does not list %s on a line of its own", file, name)
			continue
		}
		passes, err := gatewayPassage([]byte(without))
		if err != nil {
			t.Fatal(err)
		}
		if missing := passes.missing(names, all); !slices.Equal(missing, []string{name}) {
			t.Errorf("without %s, missing is %v", name, missing)
		}
	}
}

func TestAPolicyThatReadsMoreIsNoticed(t *testing.T) {
	text, err := os.ReadFile("envoy-gateway/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	passes, err := gatewayPassage(text)
	if err != nil {
		t.Fatal(err)
	}
	const project = "projects: [{ project_id: project-test-1, secret_file: secret }]\n"
	for _, c := range []struct{ name, config, missing string }{
		{"nothing beside the usual", "", ""},
		{"the token header that the file lists", "credentials: { token_header: x-session-token }\n", ""},
		{"another token header", "credentials: { token_header: x-token }\n", "x-token"},
		{"a rule that matches by a header", "rules: [{ match: { headers: [{ name: x-api-version }] } }]\n", "x-api-version"},
		{"a rule that matches by a header that the file lists", "rules: [{ match: { headers: [{ name: origin }] } }]\n", ""},
		{"an expression", "default_rule: { require: { cel: ['request.headers[\"x-tenant\"] == \"a\"'] } }\n", "x-tenant"},
		{"an expression that may read any", "default_rule: { require: { cel: ['request.headers[request.method] == \"a\"'] } }\n", "any other"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(project+c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			names, all := read(t, file)
			if missing := strings.Join(passes.missing(names, all), ", "); missing != c.missing {
				t.Errorf("missing is %q, want %q", missing, c.missing)
			}
		})
	}
}
