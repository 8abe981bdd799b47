// Package k8s_test keeps three things true of the kustomizations in this folder: they build into objects that the
// Kubernetes API knows, field by field; their pods are admitted where pod security is "restricted"; and what they say
// about the sidecar (arguments, paths, ports, probes) is what the built binary does. It holds ../istio and ../envoy-gateway
// against their published types, and against what is here. No cluster is asked.
package k8s_test

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// built is what one kustomization builds, by kind; the sidecar's part of it is picked out.
type built struct {
	deployment *appsv1.Deployment
	services   []*corev1.Service
	configs    map[string]*corev1.ConfigMap

	pod     *corev1.PodSpec
	sidecar *corev1.Container // among the pod's init containers or its containers
	config  config
}

// config is the part of the sidecar's configuration file that the manifests must agree with.
type config struct {
	text   string
	Listen struct {
		Check, Health string
		TLS           struct {
			CertFile     string `json:"cert_file"`
			KeyFile      string `json:"key_file"`
			ClientCAFile string `json:"client_ca_file"`
		}
	}
	Projects []struct {
		SecretFile string `json:"secret_file"`
	}
	StateDir string `json:"state_dir"`
}

// secretFiles are the files that the configuration names.
func (c *config) secretFiles() []string {
	files := []string{c.Listen.TLS.CertFile, c.Listen.TLS.KeyFile, c.Listen.TLS.ClientCAFile}
	for _, p := range c.Projects {
		files = append(files, p.SecretFile)
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "" })
}

const configFile = "config.yaml"

func build(t *testing.T, dir string) *built {
	t.Helper()
	objects, err := kustomize(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := &built{configs: map[string]*corev1.ConfigMap{}}
	for _, object := range objects {
		switch o := object.(type) {
		case *appsv1.Deployment:
			b.deployment, b.pod = o, &o.Spec.Template.Spec
		case *corev1.Service:
			b.services = append(b.services, o)
		case *corev1.ConfigMap:
			b.configs[o.Name] = o
		}
	}
	if b.deployment == nil {
		t.Fatalf("%s builds no Deployment", dir)
	}
	b.sidecar = container(append(b.pod.InitContainers, b.pod.Containers...), "authz-sidecar")
	if b.sidecar == nil {
		t.Fatalf("%s builds no container authz-sidecar", dir)
	}
	for _, v := range b.pod.Volumes {
		if v.ConfigMap != nil && b.configs[v.ConfigMap.Name] != nil {
			b.config.text = b.configs[v.ConfigMap.Name].Data[configFile]
		}
	}
	if b.config.text == "" {
		t.Fatalf("%s mounts no ConfigMap of its own with a %s", dir, configFile)
	}
	// Not strictly: that the fields are all known is for the binary to say, when it starts with them.
	if err := yaml.Unmarshal([]byte(b.config.text), &b.config); err != nil {
		t.Fatal(err)
	}
	return b
}

// kustomize is `kustomize build`, every object decoded strictly.
func kustomize(dir string) ([]any, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", dir, err)
	}
	var objects []any
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		object, err := decode(text)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", dir, resource.CurId(), err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// decode refuses fields that the object's type has not, or has already had, and types that are neither of these nor custom
// resources of the meshes.
func decode(text []byte) (any, error) {
	var kind struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(text, &kind); err != nil {
		return nil, err
	}
	var object any
	switch kind.APIVersion + "/" + kind.Kind {
	case "apps/v1/Deployment":
		object = new(appsv1.Deployment)
	case "v1/Service":
		object = new(corev1.Service)
	case "v1/ConfigMap":
		object = new(corev1.ConfigMap)
	default:
		return decodeCustom(text)
	}
	return object, yaml.UnmarshalStrict(text, object)
}

// find is the first of list for which is holds, or nil.
func find[T any](list []T, is func(T) bool) *T {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return &list[i]
	}
	return nil
}

func container(list []corev1.Container, name string) *corev1.Container {
	return find(list, func(c corev1.Container) bool { return c.Name == name })
}

func mountAt(c *corev1.Container, path string) *corev1.VolumeMount {
	return find(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == path })
}

func volume(pod *corev1.PodSpec, name string) *corev1.Volume {
	return find(pod.Volumes, func(v corev1.Volume) bool { return v.Name == name })
}

func port(c *corev1.Container, name string) *corev1.ContainerPort {
	return find(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
}
