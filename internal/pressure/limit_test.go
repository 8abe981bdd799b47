package pressure_test

import (
	"testing"
	"testing/fstest"

	"authz-sidecar/internal/pressure"
)

func TestTheLeastLimitOfTheCgroupsAboveCounts(t *testing.T) {
	const (
		memoryMax   = "sys/fs/cgroup/memory.max"
		v1          = "sys/fs/cgroup/memory/memory.limit_in_bytes"
		v1Unlimited = "9223372036854771712\n"
	)
	for _, test := range []struct {
		name   string
		groups string
		files  map[string]string
		want   int64
	}{
		{"version 2, in a container", "0::/\n", map[string]string{memoryMax: "134217728\n"}, 134217728},
		{"version 2, in a container that sees the host's path", "0::/kubepods.slice/pod1/c1\n", map[string]string{memoryMax: "134217728\n"}, 134217728},
		{"version 2, a service of the host", "0::/system.slice/a.service\n",
			map[string]string{"sys/fs/cgroup/system.slice/a.service/memory.max": "1000\n"}, 1000},
		{"version 2, a pod's limit", "0::/pod/a\n", map[string]string{
			"sys/fs/cgroup/pod/a/memory.max": "max\n", "sys/fs/cgroup/pod/memory.max": "1000\n",
		}, 1000},
		{"version 2, the container's is less than the pod's", "0::/pod/a\n", map[string]string{
			"sys/fs/cgroup/pod/a/memory.max": "500\n", "sys/fs/cgroup/pod/memory.max": "1000\n",
		}, 500},
		{"version 2, the container's is more than the pod's", "0::/pod/a\n", map[string]string{
			"sys/fs/cgroup/pod/a/memory.max": "2000\n", "sys/fs/cgroup/pod/memory.max": "1000\n",
		}, 1000},
		{"version 2, without a limit", "0::/\n", map[string]string{memoryMax: "max\n"}, 0},
		{"version 2, the root, which has no such file", "0::/\n", nil, 0},
		{"version 2, a path that leads out", "0::/../../a\n", map[string]string{memoryMax: "1000\n", "memory.max": "1\n"}, 1000},
		{"version 2, of a neighbour", "0::/a\n", map[string]string{"sys/fs/cgroup/b/memory.max": "1000\n"}, 0},
		{"version 1", "3:cpu,cpuacct:/\n4:memory:/docker/c1\n", map[string]string{v1: "1000\n"}, 1000},
		{"version 1, with another controller", "4:cpu,memory:/\n", map[string]string{v1: "1000\n"}, 1000},
		{"version 1, without a limit", "4:memory:/\n", map[string]string{v1: v1Unlimited}, 0},
		{"version 1, a controller of a like name", "4:memory2:/\n", map[string]string{v1: "1000\n"}, 0},
		{"both versions", "4:memory:/a\n0::/\n", map[string]string{"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000\n"}, 1000},
		{"no cgroups", "", map[string]string{memoryMax: "1000\n"}, 0},
		{"garbage", "0\n::\n0:\nxyz", map[string]string{memoryMax: "1000\n"}, 0},
		{"a limit that is no number", "0::/\n", map[string]string{memoryMax: "1000k\n"}, 0},
		{"an empty limit", "0::/\n", map[string]string{memoryMax: ""}, 0},
		{"a limit of nothing", "0::/\n", map[string]string{memoryMax: "0\n"}, 0},
		{"a negative limit", "0::/\n", map[string]string{memoryMax: "-1\n"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(test.groups)}}
			for name, text := range test.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := pressure.CgroupLimit(root); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
	if got := pressure.CgroupLimit(fstest.MapFS{}); got != 0 {
		t.Errorf("%d where there is nothing", got)
	}
}

func TestALimitThatIsGivenIsHonoured(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off") // which the runtime has not seen, since it reads that at the start
	if limit, from := pressure.SetLimit(); limit != 0 || from != "" {
		t.Errorf("%d from %q", limit, from)
	}
}
