//go:build profile

package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// startProfile writes a CPU profile into the folder that AUTHZ_SIDECAR_PROFILES names, for make pgo. It is in no binary that is
// shipped.
func startProfile() (stop func()) {
	file, err := os.CreateTemp(os.Getenv("AUTHZ_SIDECAR_PROFILES"), "*.pprof")
	if err == nil {
		err = pprof.StartCPUProfile(file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
	return func() {
		pprof.StopCPUProfile()
		file.Close()
	}
}
