package k8s_test

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// checkTimeout is the filter's: an exchange takes up to 2 s.
const checkTimeout = 2500 * time.Millisecond

// istioApp builds example/deployment.yaml as it stands in a mesh, where Envoy is not its own, with the Istio component.
func istioApp(t *testing.T) []any {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{"k8s/component", "istio"} {
		if err := os.CopyFS(filepath.Join(dir, from), os.DirFS(filepath.Join("..", from))); err != nil {
			t.Fatal(err)
		}
	}
	app := filepath.Join(dir, "app")
	if err := os.CopyFS(app, os.DirFS("example")); err != nil {
		t.Fatal(err)
	}
	edit := func(file string, change func(text string) string) {
		text, err := os.ReadFile(filepath.Join(app, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(app, file), []byte(change(string(text))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	edit("kustomization.yaml", func(text string) string { return strings.Replace(text, "../component", "../istio", 1) })
	edit("deployment.yaml", func(text string) string {
		var deployment appsv1.Deployment
		if err := yaml.Unmarshal([]byte(text), &deployment); err != nil {
			t.Fatal(err)
		}
		pod := &deployment.Spec.Template.Spec
		pod.Containers = slices.DeleteFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == "envoy" })
		pod.Volumes = nil
		changed, err := yaml.Marshal(deployment)
		if err != nil {
			t.Fatal(err)
		}
		return string(changed)
	})
	objects, err := kustomize(app)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// custom are the custom resources among objects, by kind.
func custom(objects []any) map[string]map[string]any {
	found := map[string]map[string]any{}
	for _, o := range objects {
		if object, ok := o.(map[string]any); ok {
			found[object["kind"].(string)] = object
		}
	}
	return found
}

// resources are the custom resources in a file, by kind.
func resources(t *testing.T, file string) map[string]map[string]any {
	t.Helper()
	parts, err := documents(file)
	if err != nil {
		t.Fatal(err)
	}
	var objects []any
	for _, part := range parts {
		object, err := decodeCustom(part)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		objects = append(objects, object)
	}
	return custom(objects)
}

// in walks down a decoded object; nil where there is nothing.
func in(object any, path ...any) any {
	for _, step := range path {
		switch o := object.(type) {
		case map[string]any:
			object = o[step.(string)]
		case []any:
			if object = nil; step.(int) < len(o) {
				object = o[step.(int)]
			}
		default:
			return nil
		}
	}
	return object
}

func checkSocket(t *testing.T) string {
	t.Helper()
	return strings.TrimPrefix(build(t, "example").config.Listen.Check, "unix://")
}

func TestTheIstioComponentGivesTheInjectedProxyTheSocket(t *testing.T) {
	example := build(t, "example")
	var pod *corev1.PodTemplateSpec
	for _, o := range istioApp(t) {
		if d, ok := o.(*appsv1.Deployment); ok {
			pod = &d.Spec.Template
		}
	}
	sidecar := container(pod.Spec.InitContainers, "authz-sidecar")
	if sidecar == nil || !reflect.DeepEqual(sidecar, example.sidecar) {
		t.Error("the sidecar is not as the component has it")
	}
	if len(pod.Spec.Containers) != 1 || pod.Spec.Containers[0].Name != "app" {
		t.Errorf("the containers are %v, want the app alone: Istio injects its own", pod.Spec.Containers)
	}

	var mounts map[string]corev1.VolumeMount // as Istio's injection template reads it
	if err := json.Unmarshal([]byte(pod.Annotations["sidecar.istio.io/userVolumeMount"]), &mounts); err != nil {
		t.Fatal(err)
	}
	own := mountAt(sidecar, path.Dir(checkSocket(t)))
	if mount, ok := mounts[own.Name]; len(mounts) != 1 || !ok || mount.MountPath != own.MountPath || !mount.ReadOnly {
		t.Errorf("the proxy's mounts are %+v, want %s read-only", mounts, own.Name)
	}
	// Of its ports, the proxy must leave alone the one that probes ask.
	excluded := pod.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"]
	if asked := strings.TrimPrefix(example.config.Listen.Health, ":"); excluded != asked {
		t.Errorf("excluded is port %q, the probes ask %s", excluded, asked)
	}
}

func TestIstioAsksTheSidecar(t *testing.T) {
	objects := istioApp(t)
	found := custom(objects)
	entry, rule, policy := found["ServiceEntry"], found["DestinationRule"], found["AuthorizationPolicy"]
	if got, want := in(entry, "spec", "endpoints", 0, "address"), "unix://"+checkSocket(t); got != want {
		t.Errorf("the endpoint is %v, the sidecar listens on %s", got, want)
	}
	host := in(entry, "spec", "hosts", 0)
	if in(rule, "spec", "host") != host || in(rule, "spec", "trafficPolicy", "tls", "mode") != "DISABLE" {
		t.Errorf("no rule disables TLS for %v", host)
	}

	text, err := os.ReadFile("../istio/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := meshConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(mesh.ExtensionProviders) != 1 {
		t.Fatalf("%d providers", len(mesh.ExtensionProviders))
	}
	provider := mesh.ExtensionProviders[0]
	grpc, ok := provider.Provider.(*meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc)
	if !ok {
		t.Fatalf("the provider is a %T", provider.Provider)
	}
	p := grpc.EnvoyExtAuthzGrpc
	if _, got, _ := strings.Cut(p.Service, "/"); got != host {
		t.Errorf("the provider is at %s, the entry is for %v", p.Service, host)
	}
	if in(entry, "spec", "ports", 0, "number") != int64(p.Port) {
		t.Errorf("the provider is at port %d, the entry has %v", p.Port, in(entry, "spec", "ports"))
	}
	if p.Timeout.AsDuration() != checkTimeout || p.FailOpen || p.StatusOnError != "503" {
		t.Errorf("no answer must be a 503 after %s: %v", checkTimeout, p)
	}

	if in(policy, "spec", "action") != "CUSTOM" || in(policy, "spec", "provider", "name") != provider.Name {
		t.Errorf("the policy asks %v, the provider is %s", in(policy, "spec", "provider"), provider.Name)
	}
	for _, o := range objects {
		if d, ok := o.(*appsv1.Deployment); ok {
			for label, value := range in(policy, "spec", "selector", "matchLabels").(map[string]any) {
				if d.Spec.Template.Labels[label] != value {
					t.Errorf("the policy is for %s=%v, the pods have %v", label, value, d.Spec.Template.Labels)
				}
			}
		}
	}
}

func TestTheGatewaysPodsHaveTheSidecarOfTheComponent(t *testing.T) {
	proxy := resources(t, "../envoy-gateway/envoy-proxy.yaml")["EnvoyProxy"]
	patch := in(proxy, "spec", "provider", "kubernetes", "envoyDeployment", "patch")
	if in(patch, "type") != "StrategicMerge" {
		t.Errorf("the patch is %v", in(patch, "type"))
	}
	text, err := json.Marshal(in(patch, "value"))
	if err != nil {
		t.Fatal(err)
	}
	var patched appsv1.Deployment
	if err := yaml.UnmarshalStrict(text, &patched); err != nil {
		t.Fatal(err)
	}
	var component appsv1.Deployment
	componentText, err := os.ReadFile("component/sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(componentText, &component); err != nil {
		t.Fatal(err)
	}
	patched.Spec.Template.Spec.InitContainers[0].Image = component.Spec.Template.Spec.InitContainers[0].Image
	if !reflect.DeepEqual(patched.Spec, component.Spec) {
		t.Error("the patch is not component/sidecar.yaml")
	}

	// Envoy Gateway calls Envoy's container "envoy".
	const made = `{"spec":{"template":{"spec":{"containers":[{"name":"envoy","image":"envoy"},{"name":"shutdown-manager"}]}}}}`
	merged, err := strategicpatch.StrategicMergePatch([]byte(made), text, appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	var gateway appsv1.Deployment
	if err := json.Unmarshal(merged, &gateway); err != nil {
		t.Fatal(err)
	}
	pod := &gateway.Spec.Template.Spec
	if len(pod.Containers) != 2 || container(pod.Containers, "envoy").Image != "envoy" ||
		mountAt(container(pod.Containers, "envoy"), path.Dir(checkSocket(t))) == nil {
		t.Errorf("the gateway's containers are %+v", pod.Containers)
	}
}

func TestEnvoyGatewayAsksTheSidecar(t *testing.T) {
	policies, app := resources(t, "../envoy-gateway/policy.yaml"), resources(t, "../envoy-gateway/app.yaml")
	proxy := resources(t, "../envoy-gateway/envoy-proxy.yaml")["EnvoyProxy"]
	backend, policy, gateway, route := policies["Backend"], policies["SecurityPolicy"], app["Gateway"], app["HTTPRoute"]
	name := func(object map[string]any) any { return in(object, "metadata", "name") }
	if got, want := in(backend, "spec", "endpoints", 0, "unix", "path"), checkSocket(t); got != want {
		t.Errorf("the backend is %v, the sidecar listens on %s", got, want)
	}
	extAuth := in(policy, "spec", "extAuth")
	if asked := in(extAuth, "grpc", "backendRefs", 0); in(asked, "kind") != "Backend" || in(asked, "name") != name(backend) {
		t.Errorf("the policy asks %v", asked)
	}
	if in(extAuth, "timeout") != strconv.FormatInt(checkTimeout.Milliseconds(), 10)+"ms" ||
		in(extAuth, "failOpen") != false || in(extAuth, "statusOnError") != int64(503) {
		t.Errorf("no answer must be a 503 after %s: %v", checkTimeout, extAuth)
	}
	if in(policy, "spec", "targetRefs", 0, "kind") != "Gateway" || in(policy, "spec", "targetRefs", 0, "name") != name(gateway) {
		t.Errorf("the policy is for %v", in(policy, "spec", "targetRefs"))
	}
	if in(gateway, "spec", "infrastructure", "parametersRef", "name") != name(proxy) {
		t.Error("the gateway's pods have no sidecar")
	}
	if in(route, "spec", "parentRefs", 0, "name") != name(gateway) {
		t.Error("the route is not the gateway's")
	}
}

func TestTheRouteThatNamesItsRuleIsOfItsType(t *testing.T) {
	text, err := os.ReadFile("../envoy-gateway/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(text), "# contextExtensions:", "contextExtensions:", 1)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	extension := in(resources(t, file)["SecurityPolicy"], "spec", "extAuth", "contextExtensions", 0)
	if in(extension, "name") != "rule" || in(extension, "value") != "payments" {
		t.Errorf("it says %v", extension)
	}
}

// The three ship one example.
func TestTheSameOriginMayReadWhateverEnvoyItIs(t *testing.T) {
	var bootstrap map[string]any
	text, err := os.ReadFile("../envoy/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &bootstrap); err != nil {
		t.Fatal(err)
	}
	envoy := in(bootstrap, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config", "route_config",
		"virtual_hosts", 0, "typed_per_filter_config", "envoy.filters.http.cors")
	gateway := in(resources(t, "../envoy-gateway/policy.yaml")["SecurityPolicy"], "spec", "cors")
	if got, want := in(gateway, "allowOrigins", 0), in(envoy, "allow_origin_string_match", 0, "exact"); got != want || got == nil {
		t.Errorf("origin %v, Envoy's file has %v", got, want)
	}
	for field, of := range map[string]string{
		"allowMethods": "allow_methods", "allowHeaders": "allow_headers", "exposeHeaders": "expose_headers",
	} {
		var list []string
		for _, item := range in(gateway, field).([]any) {
			list = append(list, item.(string))
		}
		if got, want := strings.Join(list, ", "), in(envoy, of); got != want {
			t.Errorf("%s: %v, Envoy's file has %v", field, got, want)
		}
	}
	age, err := time.ParseDuration(in(gateway, "maxAge").(string))
	if want := in(envoy, "max_age"); err != nil || strconv.Itoa(int(age.Seconds())) != want {
		t.Errorf("max age %s, Envoy's file has %v", age, want)
	}
	if in(gateway, "allowCredentials") != true || in(envoy, "allow_credentials") != true {
		t.Error("no credentials")
	}
}
