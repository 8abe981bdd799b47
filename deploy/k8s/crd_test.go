package k8s_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// published are the modules in which the makers of Istio, the Gateway API and Envoy Gateway publish their custom
// resource definitions. They are files to this test: as requirements in go.mod, two of them would bring hundreds of modules.
var published = []struct{ module, sum, files string }{
	{"istio.io/api@v1.31.1", "h1:5Yb5ihcz4YQsCkciusK7DnFpBMwRB6EFWeUKH1Atuyk=", "kubernetes/customresourcedefinitions.gen.yaml"},
	{"sigs.k8s.io/gateway-api@v1.6.3", "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=", "config/crd/standard/gateway.networking.k8s.io_*.yaml"},
	{"github.com/envoyproxy/gateway@v1.9.1", "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=", "charts/gateway-helm/charts/crds/crds/generated/*.yaml"},
}

// definitions are the published ones by API version and kind: "networking.istio.io/v1/ServiceEntry".
var definitions = sync.OnceValues(func() (map[string]*apiextensionsv1.CustomResourceDefinitionVersion, error) {
	args := []string{"mod", "download", "-json"}
	for _, p := range published {
		args = append(args, p.module)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	found := map[string]*apiextensionsv1.CustomResourceDefinitionVersion{}
	for decoder, i := json.NewDecoder(strings.NewReader(string(out))), 0; i < len(published); i++ {
		var module struct{ Path, Version, Sum, Dir string }
		if err := decoder.Decode(&module); err != nil {
			return nil, err
		}
		p := published[i]
		if module.Path+"@"+module.Version != p.module || module.Sum != p.sum {
			return nil, fmt.Errorf("%s@%s has the hash %s, not that of %s", module.Path, module.Version, module.Sum, p.module)
		}
		files, err := filepath.Glob(filepath.Join(module.Dir, p.files))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("%s has no %s (%v)", p.module, p.files, err)
		}
		for _, file := range files {
			if err := readDefinitions(file, found); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
})

func readDefinitions(file string, into map[string]*apiextensionsv1.CustomResourceDefinitionVersion) error {
	documents, err := documents(file)
	if err != nil {
		return err
	}
	for _, text := range documents {
		var definition apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(text, &definition); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for i, version := range definition.Spec.Versions {
			into[definition.Spec.Group+"/"+version.Name+"/"+definition.Spec.Names.Kind] = &definition.Spec.Versions[i]
		}
	}
	return nil
}

// documents are the parts of a file of YAML that "---" divides, but for those that are only comments.
func documents(file string) ([][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var parts [][]byte
	for part := range strings.SplitSeq("\n"+string(text), "\n---") {
		var content any
		if err := yaml.Unmarshal([]byte(part), &content); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if content != nil {
			parts = append(parts, []byte(part))
		}
	}
	return parts, nil
}

// decodeCustom is decode for custom resources, and as strict: what the API server would say of one (fields that it does not
// know, its schema, its CEL rules) is an error.
func decodeCustom(text []byte) (map[string]any, error) {
	var meta struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        json.RawMessage `json:"metadata"`
	}
	asJSON, err := yaml.YAMLToJSONStrict(text) // no key twice
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(asJSON, &meta); err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalStrict(meta.Metadata, new(metav1.ObjectMeta)); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	known, err := definitions()
	if err != nil {
		return nil, err
	}
	version := known[meta.APIVersion+"/"+meta.Kind]
	if version == nil || !version.Served {
		return nil, fmt.Errorf("unexpected object %s/%s", meta.APIVersion, meta.Kind)
	}
	var properties apiextensions.JSONSchemaProps
	err = apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, &properties, nil)
	if err != nil {
		return nil, err
	}
	structural, err := schema.NewStructural(&properties)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(&properties)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := utiljson.Unmarshal(asJSON, &object); err != nil { // integers stay integers, as the rules want them
		return nil, err
	}
	unknown := pruning.PruneWithOptions(object, structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		return nil, fmt.Errorf("unknown fields: %s", strings.Join(unknown, ", "))
	}
	defaulting.Default(object, structural)
	problems := validation.ValidateCustomResource(nil, object, validator)
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	broken, _ := rules.Validate(context.Background(), nil, structural, object, nil, celconfig.RuntimeCELCostBudget)
	return object, append(problems, broken...).ToAggregate()
}

// meshConfig is what Helm values for istiod say of the mesh, decoded strictly.
func meshConfig(text []byte) (*meshv1alpha1.MeshConfig, error) {
	var values struct {
		MeshConfig json.RawMessage `json:"meshConfig"`
	}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, err
	}
	mesh := new(meshv1alpha1.MeshConfig)
	return mesh, protojson.Unmarshal(values.MeshConfig, mesh)
}

func TestAFieldOrValueThatACustomResourceHasNotIsRefused(t *testing.T) {
	for _, c := range []struct{ name, file, from, to string }{
		{"a misspelt field of a ServiceEntry", "../istio/authz.yaml", "resolution:", "resolutions:"},
		{"a value that Istio does not know", "../istio/authz.yaml", "STATIC", "FIXED"},
		{"a rule of the schema, a socket with a relative path", "../istio/authz.yaml", "unix:///run", "unix://run"},
		{"a misspelt field of a DestinationRule", "../istio/authz.yaml", "tls:", "tsl:"},
		{"a misspelt field of an AuthorizationPolicy", "../istio/authz.yaml", "provider:", "providers:"},
		{"a misspelt field of the metadata", "../istio/authz.yaml", "  name: authz-sidecar", "  nmae: authz-sidecar"},
		{"a version that is not there", "../istio/authz.yaml", "networking.istio.io/v1", "networking.istio.io/v9"},
		{"a misspelt field of a Backend", "../envoy-gateway/policy.yaml", "endpoints:", "endpoint:"},
		{"a misspelt list of headers, so that all would be sent", "../envoy-gateway/policy.yaml", "headersToExtAuth:", "headerToExtAuth:"},
		{"a time-out with a fraction", "../envoy-gateway/policy.yaml", "2500ms", "2.5s"},
		{"a status that is no error's", "../envoy-gateway/policy.yaml", "statusOnError: 503", "statusOnError: 200"},
		{"a rule of the schema, a kind that nobody can ask", "../envoy-gateway/policy.yaml", "kind: Backend, name", "kind: Pod, name"},
		{"a misspelt field of an EnvoyProxy", "../envoy-gateway/envoy-proxy.yaml", "envoyDeployment:", "envoyDeploy:"},
		{"a misspelt field of a Gateway", "../envoy-gateway/app.yaml", "parametersRef:", "parameterRef:"},
		{"a misspelt field of an HTTPRoute", "../envoy-gateway/app.yaml", "hostnames:", "hosts:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts, err := documents(c.file)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range parts {
				if !strings.Contains(string(part), c.from) {
					continue
				}
				if _, err := decodeCustom(part); err != nil {
					t.Errorf("as it ships: %v", err)
				}
				if _, err := decodeCustom([]byte(strings.Replace(string(part), c.from, c.to, 1))); err == nil {
					t.Error("it passed")
				} else {
					t.Log(err)
				}
				return
			}
			t.Errorf("%s has no %q", c.file, c.from)
		})
	}
	t.Run("a misspelt field of the mesh configuration", func(t *testing.T) {
		text, err := os.ReadFile("../istio/mesh.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := meshConfig([]byte(strings.Replace(string(text), "failOpen:", "failsOpen:", 1))); err == nil {
			t.Error("it passed")
		}
	})
}
