package pressure_test

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/pressure"
)

// room is what a test may fill, beside what the process needs already.
const room = 64 << 20

// watch has the process's own memory watched, with so much room, until the test ends.
func watch(t *testing.T, relieve func()) (*pressure.Monitor, *prometheus.Registry) {
	t.Helper()
	runtime.GC()
	debug.SetMemoryLimit(1 << 40)
	needed := int64(pressure.Share() * (1 << 40))
	debug.SetMemoryLimit(needed + room)
	registry := prometheus.NewRegistry()
	m := pressure.New(pressure.Config{Relieve: relieve, Registerer: registry})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		debug.SetMemoryLimit(noLimit)
	})
	return m, registry
}

const noLimit = 1<<63 - 1

// filled returns so much memory, in pieces as caches have them.
func filled(bytes int) *[][]byte {
	const piece = 1 << 10
	pieces := make([][]byte, bytes/piece)
	for i := range pieces {
		pieces[i] = make([]byte, piece)
	}
	return &pieces
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s; needed: %.2f of the limit", what, pressure.Share())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The runtime lets garbage fill the heap up to the limit, again and again.
func TestGarbageIsNoShortage(t *testing.T) {
	var reliefs atomic.Int32
	m, _ := watch(t, func() { reliefs.Add(1) })
	live := filled(room / 4)
	var last [16]atomic.Pointer[[]byte]
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			garbage := make([]byte, 16<<10)
			last[i%len(last)].Store(&garbage)
			if i%32 == 0 {
				time.Sleep(time.Millisecond) // half a gigabyte in a second, which is much more than checks allocate
			}
		}
	}()
	const cycles = 10
	var before, now debug.GCStats
	debug.ReadGCStats(&before)
	await(t, "10 collections", func() bool {
		debug.ReadGCStats(&now)
		if m.Short() {
			t.Fatal("garbage was taken for a shortage")
		}
		return now.NumGC-before.NumGC >= cycles
	})
	close(stop)
	<-stopped
	if got := reliefs.Load(); got != 0 {
		t.Errorf("caches were given back %d times for garbage", got)
	}
	runtime.KeepAlive(live)
}

func TestLiveMemoryIsGivenBackAndThenShed(t *testing.T) {
	var cache atomic.Pointer[[][]byte]
	var reliefs atomic.Int32
	m, registry := watch(t, func() {
		cache.Store(nil)
		reliefs.Add(1)
	})
	cache.Store(filled(room / 10 * 9))
	await(t, "the cache is given back", func() bool { return cache.Load() == nil })
	await(t, "enough again", func() bool { return pressure.Share() < 0.85 })
	if m.Short() || reliefs.Load() != 1 {
		t.Errorf("short: %v, after %d reliefs", m.Short(), reliefs.Load())
	}

	live := filled(room)
	await(t, "short", m.Short)
	if got := gather(t, registry)["authz_memory_short"]; got != 1 {
		t.Errorf("the metric says %v", got)
	}
	runtime.KeepAlive(live)
	await(t, "no longer short", func() bool { return !m.Short() })
}
