package pressure

import (
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// noLimit is what the runtime has for none.
const noLimit = math.MaxInt64

// The runtime gets nine tenths of a container's memory: what the kernel holds for the process counts there, too, and the runtime may
// exceed its limit for a moment.
const runtimeTenths = 9

// SetLimit gives the Go runtime nine tenths of the memory that this process's cgroup may use, unless GOMEMLIMIT is set, "off" included. It
// returns the limit in force in bytes, 0 for none, and where that is from: "GOMEMLIMIT", "cgroup", or "".
func SetLimit() (limit int64, from string) {
	if os.Getenv("GOMEMLIMIT") != "" {
		from = "GOMEMLIMIT"
	} else if limit := cgroupLimit(os.DirFS("/")); limit != 0 {
		debug.SetMemoryLimit(limit / 10 * runtimeTenths)
		from = "cgroup"
	}
	if limit = debug.SetMemoryLimit(-1); limit == noLimit {
		return 0, ""
	}
	return limit, from
}

// cgroupLimit is the least that this process's cgroup or one above it may use, 0 for no limit (cgroups(7); memory.max of version 2,
// memory.limit_in_bytes of version 1). In a container the path is as the host has it, or as the container has: what there is not under
// the mount is skipped.
func cgroupLimit(root fs.FS) int64 {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(noLimit)
	for line := range bytes.Lines(groups) { // hierarchy-ID:controller-list:cgroup-path
		fields := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(fields) != 3 {
			continue
		}
		var mount, file string
		switch {
		case fields[0] == "0" && fields[1] == "":
			mount, file = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+fields[1]+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			text, err := fs.ReadFile(root, path.Join(mount, group, file))
			if limit, parseErr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && parseErr == nil && limit > 0 {
				least = min(least, limit)
			}
			if group == "/" {
				break
			}
		}
	}
	if least >= unlimited {
		return 0
	}
	return least
}

// unlimited is less than what version 1 has for no limit, 2⁶³ rounded down to a page, and more memory than there is anywhere.
const unlimited = 1 << 60
