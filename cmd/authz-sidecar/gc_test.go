package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestTheHeapMayGrowByAnAmount(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 1000, 1 << 20: 1000, 8 << 20: 400, 32 << 20: 100, 48 << 20: 66, 64 << 20: 50, 1 << 30: 50,
	} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes alive: %d%%, want %d%%", live, got, want)
		}
	}
}

func TestAnOperatorsGOGCStands(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(123))
	t.Setenv("GOGC", "123")
	tuneGC()
	runtime.GC()
	if got := debug.SetGCPercent(123); got != 123 {
		t.Errorf("%d%%", got)
	}
}

func TestTheCollectorIsTunedAfterEachCollection(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	percent := func() uint64 {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	becomes := func(fits func(percent uint64) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !fits(percent()); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%d%%", percent())
			}
			runtime.GC()
		}
	}
	t.Setenv("GOGC", "")
	tuneGC()
	becomes(func(percent uint64) bool { return percent > 200 })
	much := make([]byte, 100<<20)
	becomes(func(percent uint64) bool { return percent == minGCPercent })
	runtime.KeepAlive(much)
	becomes(func(percent uint64) bool { return percent > 200 })
}
