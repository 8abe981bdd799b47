package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// The collector's bounds, see docs/decisions/0011-what-makes-a-check-cheap.md.
const (
	// heapGrowth is by how much the heap may grow between two collections, whatever is alive: what a Check leaves behind is
	// garbage at once, and with little alive Go's own setting would collect it many times a second.
	heapGrowth = 32 << 20
	// minGCPercent keeps collections rare where much is alive.
	minGCPercent = 50
	// A new setting stops the world, so a small difference is not worth one.
	gcTolerance = 10 // percent
)

// tuneGC lets the heap grow by heapGrowth between two collections, or by minGCPercent of what is alive if that is more. A GOGC in the
// environment stands in its place; GOMEMLIMIT holds in any case.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	afterGC(0)
}

// afterGC runs after each collection, because a collection is what ends the object that it leaves behind.
func afterGC(set int) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	percent := gcPercent(sample[0].Value.Uint64())
	if difference := percent - set; difference*difference*100*100 > gcTolerance*gcTolerance*set*set {
		debug.SetGCPercent(percent)
		set = percent
	}
	runtime.AddCleanup(new([16]byte), afterGC, set)
}

// gcPercent is the GOGC for so many bytes alive.
func gcPercent(live uint64) int {
	const maxPercent = 1000
	return int(max(minGCPercent, min(maxPercent, heapGrowth*100/max(live, 1))))
}
