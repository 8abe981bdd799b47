package k8s_test

import (
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// every runs a test on each kustomization that builds a pod.
func every(t *testing.T, test func(*testing.T, *built)) {
	for _, dir := range []string{"base", "example"} {
		t.Run(dir, func(t *testing.T) { test(t, build(t, dir)) })
	}
}

func TestAFieldThatTheAPIDoesNotKnowIsRefused(t *testing.T) {
	manifest := func(field string) []byte {
		return []byte("apiVersion: apps/v1\nkind: Deployment\nspec:\n  " + field + ": 2\n")
	}
	if _, err := decode(manifest("replicas")); err != nil {
		t.Error(err)
	}
	if _, err := decode(manifest("replica")); err == nil {
		t.Error("a misspelt field passed: the decoding of this test proves nothing")
	}
}

func TestPodSecurityRestrictedAdmitsThePod(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	every(t, func(t *testing.T, b *built) {
		evaluate := func() policy.AggregateCheckResult {
			meta := &b.deployment.Spec.Template.ObjectMeta
			return policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, meta, b.pod))
		}
		if r := evaluate(); !r.Allowed {
			t.Errorf("refused: %s", r.ForbiddenDetail())
		}
		// The nearest pod that must not pass.
		b.sidecar.SecurityContext.AllowPrivilegeEscalation = new(true)
		if r := evaluate(); r.Allowed || !strings.Contains(r.ForbiddenReason(), "allowPrivilegeEscalation") {
			t.Errorf("with privilege escalation: allowed %v, %s", r.Allowed, r.ForbiddenDetail())
		}
	})
}

// What "restricted" does not ask for.
func TestTheSidecarHasNoMoreThanItNeeds(t *testing.T) {
	every(t, func(t *testing.T, b *built) {
		s := b.sidecar.SecurityContext
		if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Error("the root file system is writable")
		}
		if s.RunAsUser == nil || *s.RunAsUser != 65532 || s.RunAsGroup == nil || *s.RunAsGroup != 65532 {
			t.Error("it does not run as 65532:65532")
		}
		if b.pod.AutomountServiceAccountToken == nil || *b.pod.AutomountServiceAccountToken {
			t.Error("a token for the Kubernetes API is mounted")
		}
		if limit := b.sidecar.Resources.Limits.Memory(); limit.Cmp(*b.sidecar.Resources.Requests.Memory()) <= 0 {
			t.Errorf("memory limit %s leaves no room above the request", limit)
		}
	})
}

func TestProbesAskWhatTheConfigurationServes(t *testing.T) {
	every(t, func(t *testing.T, b *built) {
		host, served, err := net.SplitHostPort(b.config.Listen.Health)
		if err != nil || host != "" {
			t.Fatalf("listen.health is %q: probes come to the pod's address", b.config.Listen.Health)
		}
		for service, probe := range map[string]*corev1.Probe{
			"startup":   b.sidecar.StartupProbe,
			"readiness": b.sidecar.ReadinessProbe,
			"liveness":  b.sidecar.LivenessProbe,
		} {
			if probe == nil || probe.GRPC == nil || probe.GRPC.Service == nil {
				t.Errorf("no gRPC %s probe", service)
				continue
			}
			if got := strconv.Itoa(int(probe.GRPC.Port)); got != served || *probe.GRPC.Service != service {
				t.Errorf("the %s probe asks port %s for %q, not port %s", service, got, *probe.GRPC.Service, served)
			}
		}
		if p := port(b.sidecar, "authz-health"); p == nil || strconv.Itoa(int(p.ContainerPort)) != served {
			t.Errorf("port authz-health is not %s", served)
		}
	})
}

func TestEveryFileThatTheConfigurationNamesIsMountedReadOnly(t *testing.T) {
	every(t, func(t *testing.T, b *built) {
		for _, file := range b.config.secretFiles() {
			mount := mountAt(b.sidecar, path.Dir(file))
			if mount == nil || !mount.ReadOnly || mount.SubPath != "" { // a subPath never sees a rotated secret
				t.Errorf("%s is on no read-only mount", file)
				continue
			}
			v := volume(b.pod, mount.Name)
			if v == nil || v.Secret == nil || v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o440 {
				t.Errorf("%s is in no Secret volume of mode 0440", file)
			}
		}
		if g := b.pod.SecurityContext.FSGroup; g == nil || *g != *b.sidecar.SecurityContext.RunAsGroup {
			t.Error("the volumes' group is not the sidecar's")
		}
	})
}

// The last good key sets outlive the container, and nothing else is writable but where the socket is. Only the sidecar writes there: what
// another could put in their place would be its keys.
func TestTheStateIsOnAVolumeOfTheSidecarsOwn(t *testing.T) {
	every(t, func(t *testing.T, b *built) {
		mount := mountAt(b.sidecar, b.config.StateDir)
		if mount == nil || mount.ReadOnly || mount.SubPath != "" {
			t.Fatalf("state_dir %q is on no writable mount", b.config.StateDir)
		}
		v := volume(b.pod, mount.Name)
		if v == nil || v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit.String() != "16Mi" {
			t.Errorf("its volume is not 16Mi of an emptyDir: %+v", v)
		}
		for _, other := range slices.Concat(b.pod.InitContainers, b.pod.Containers) {
			if other.Name != b.sidecar.Name && slices.ContainsFunc(other.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == mount.Name }) {
				t.Errorf("%s has it too", other.Name)
			}
		}
	})
}

func TestThePodWaitsUntilTheSidecarHasDrained(t *testing.T) {
	const drained = 11 // the pause, and the most that accepted Checks may take: see drain in cmd/authz-sidecar
	every(t, func(t *testing.T, b *built) {
		grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
		if given := b.pod.TerminationGracePeriodSeconds; given != nil {
			grace = *given
		}
		if hook := b.sidecar.Lifecycle; hook != nil {
			grace -= hook.PreStop.Sleep.Seconds
		}
		if grace < drained+5 {
			t.Errorf("%d s are left of the grace period, draining takes up to %d s", grace, drained)
		}
	})
}

// A generated name ends in a hash of the content: a changed configuration is a changed pod template, which rolls.
func TestAChangedConfigurationRollsThePods(t *testing.T) {
	every(t, func(t *testing.T, b *built) {
		mount := mountAt(b.sidecar, path.Dir(b.sidecar.Args[2]))
		if mount == nil || !mount.ReadOnly || path.Base(b.sidecar.Args[2]) != configFile {
			t.Fatalf("%q is not the mounted configuration", b.sidecar.Args)
		}
		name := volume(b.pod, mount.Name).ConfigMap.Name
		if b.configs[name] == nil || !strings.HasPrefix(name, "authz-sidecar-") {
			t.Errorf("the pod mounts ConfigMap %q; there is %v", name, slices.Collect(maps.Keys(b.configs)))
		}
	})
}

func TestTheComponentMakesANativeSidecarThatSharesItsSocketWithEnvoy(t *testing.T) {
	b := build(t, "example")
	first := b.pod.InitContainers[0]
	if first.Name != "authz-sidecar" || first.RestartPolicy == nil || *first.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("the first init container is %s with restart policy %v", first.Name, first.RestartPolicy)
	}

	socket, ok := strings.CutPrefix(b.config.Listen.Check, "unix://")
	if !ok {
		t.Fatalf("listen.check is %q", b.config.Listen.Check)
	}
	ours := mountAt(b.sidecar, path.Dir(socket))
	theirs := mountAt(container(b.pod.Containers, "envoy"), path.Dir(socket))
	if ours == nil || theirs == nil || ours.Name != theirs.Name {
		t.Fatalf("%s is not on one volume of both containers", socket)
	}
	if ours.ReadOnly || !theirs.ReadOnly {
		t.Error("the sidecar alone writes where the socket is")
	}
	v := volume(b.pod, ours.Name)
	if v == nil || v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumMemory || v.EmptyDir.SizeLimit.String() != "1Mi" {
		t.Errorf("the socket's volume is not 1Mi of memory: %+v", v)
	}
	if mountAt(container(b.pod.Containers, "app"), path.Dir(socket)) != nil {
		t.Error("the app has the socket too")
	}
}

func TestTheComponentLeavesTheRestOfTheDeploymentAsItWas(t *testing.T) {
	text, err := os.ReadFile("example/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	object, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	with := build(t, "example")
	for _, before := range object.(*appsv1.Deployment).Spec.Template.Spec.Containers {
		after := container(with.pod.Containers, before.Name)
		if after == nil || after.Image != before.Image || !slices.Equal(after.Args, before.Args) {
			t.Errorf("container %s changed", before.Name)
			continue
		}
		for _, m := range before.VolumeMounts {
			if !slices.Contains(after.VolumeMounts, m) {
				t.Errorf("container %s lost its mount %s", before.Name, m.Name)
			}
		}
	}
}

func TestTheComponentWithoutAConfigurationDoesNotBuild(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "example", "kustomization.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kustomize(filepath.Join(dir, "example")); err != nil {
		t.Fatalf("the copy: %v", err)
	}
	without := strings.Replace(string(text), "- name: authz-sidecar\n  files", "- name: other\n  files", 1)
	if err := os.WriteFile(file, []byte(without), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := kustomize(filepath.Join(dir, "example")); err == nil {
		t.Error("it builds: the pod would wait for its ConfigMap for ever")
	}
}

func TestTheServiceReachesTheCheckPort(t *testing.T) {
	b := build(t, "base")
	if len(b.services) != 1 {
		t.Fatalf("%d services", len(b.services))
	}
	service := b.services[0]
	if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(b.deployment.Spec.Template.Labels)) {
		t.Error("its selector matches none of the pods")
	}
	_, served, err := net.SplitHostPort(b.config.Listen.Check)
	if err != nil {
		t.Fatal(err)
	}
	target := port(b.sidecar, service.Spec.Ports[0].TargetPort.StrVal)
	if target == nil || strconv.Itoa(int(target.ContainerPort)) != served {
		t.Errorf("its target is %v, the sidecar listens on %s", target, b.config.Listen.Check)
	}
}
