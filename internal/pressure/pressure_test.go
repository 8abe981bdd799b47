package pressure_test

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/pressure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 1000

// machine is memory as it may be. What is alive shows when it is collected.
type machine struct {
	monitor  *pressure.Monitor
	registry *prometheus.Registry
	log      *bytes.Buffer

	onCollect func() // set before the first need

	mu                    sync.Mutex // guards what follows
	limit                 uint64
	alive, caches, latest uint64
	collections, reliefs  int
	// refill is how much of what was given back is there again at once; relieving may panic.
	refill   uint64
	panicsBy any
}

// run has it watched while the test does its steps.
func run(t *testing.T, limit uint64, steps func(m *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{registry: prometheus.NewRegistry(), log: &bytes.Buffer{}, limit: limit}
		m.monitor = pressure.New(pressure.Config{
			Relieve: func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.reliefs++
				if m.panicsBy != nil {
					panic(m.panicsBy)
				}
				m.caches = m.refill
			},
			Logger: slog.New(slog.NewTextHandler(m.log, nil)), Registerer: m.registry,
		})
		m.monitor.Feed(m.read, m.collect)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.monitor.Run(ctx) }()
		time.Sleep(50 * time.Millisecond) // so that no step is made while it looks
		synctest.Wait()
		steps(m)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (m *machine) read() (needed, limit uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latest, m.limit
}

func (m *machine) collect() {
	if m.onCollect != nil {
		m.onCollect()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.collections++
	m.latest = m.alive + m.caches
}

// need has the runtime find so much alive, and waits until that has been looked at.
func (m *machine) need(alive, caches uint64) {
	m.be(func() {
		m.alive, m.caches = alive, caches
		m.latest = alive + caches
	})
}

// be changes the machine, and waits until that has been looked at once.
func (m *machine) be(change func()) {
	m.mu.Lock()
	change()
	m.mu.Unlock()
	time.Sleep(time.Second)
	synctest.Wait()
}

// lines returns what was logged since, by the message's first words.
func (m *machine) lines() string {
	defer m.log.Reset()
	var lines []string
	for line := range strings.Lines(m.log.String()) {
		_, message, _ := strings.Cut(line, "msg=\"")
		message, _, _ = strings.Cut(message, ":")
		message, _, _ = strings.Cut(message, "\"")
		lines = append(lines, message)
	}
	return strings.Join(lines, "; ")
}

func (m *machine) check(t *testing.T, short bool, reliefs int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if got := m.monitor.Short(); got != short {
		t.Errorf("short: %v", got)
	}
	if m.reliefs != reliefs {
		t.Errorf("%d reliefs, want %d", m.reliefs, reliefs)
	}
}

func TestCachesAreGivenBackBeforeAnythingIsShed(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.need(200, 640)
		m.check(t, false, 0)
		m.need(200, 650)
		m.check(t, false, 1)
		m.need(200, 0)
		m.check(t, false, 1)
	})
	run(t, limit, func(m *machine) { // at once from little to much
		m.need(200, 800)
		m.check(t, false, 1)
	})
}

func TestWhatCachesDoNotHoldIsShed(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.need(949, 0)
		m.check(t, false, 1)
		m.need(950, 0)
		m.check(t, true, 2)
		m.need(900, 0)
		if !m.monitor.Short() {
			t.Error("not short any more, though nearly")
		}
		m.need(899, 0)
		if m.monitor.Short() {
			t.Error("still short")
		}
		m.need(949, 0)
		if m.monitor.Short() {
			t.Error("short again, though not quite")
		}
		m.need(5000, 0)
		if !m.monitor.Short() {
			t.Error("not short again")
		}
	})
}

// Nothing else would collect where all work is refused, and nothing show that memory has become free.
func TestTheEndOfAShortageIsNoticedWithoutWork(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.need(960, 0)
		m.check(t, true, 1)
		m.be(func() { m.alive = 100 })
		if m.monitor.Short() {
			t.Error("still short")
		}
	})
}

// What the latest collection found may be long dead.
func TestOldNumbersDecideNothing(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.be(func() { m.alive, m.latest = 100, 990 })
		m.check(t, false, 0)
		if m.collections != 1 {
			t.Errorf("%d collections", m.collections)
		}
	})
}

// While a collection runs, what is allocated counts as alive.
func TestOneCollectionThatFindsMuchDecidesNothing(t *testing.T) {
	for floating, shed := range map[int]bool{1: false, 2: false, 3: true} {
		run(t, limit, func(m *machine) {
			m.onCollect = func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				if m.alive = 500; m.collections%4 < floating {
					m.alive = 2000
				}
			}
			m.need(2000, 0)
			m.mu.Lock()
			defer m.mu.Unlock()
			if got := m.reliefs > 0; got != shed {
				t.Errorf("%d of 4 collections find much: %d reliefs", floating, m.reliefs)
			}
		})
	}
}

func TestTheLeastOfSeveralCollectionsCounts(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.onCollect = func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.alive = 2000; m.collections%3 == 1 {
				m.alive = 940
			}
		}
		m.need(2000, 0)
		m.check(t, false, 1)
	})
}

func TestOldNumbersDoNotShortenTheMinute(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.need(870, 0)
		m.check(t, false, 1)
		m.be(func() { m.latest = 960 })
		m.check(t, false, 1)
		m.need(960, 0)
		m.check(t, true, 2)
	})
}

func TestCachesMayFillAgainForAMinute(t *testing.T) {
	run(t, limit, func(m *machine) {
		m.be(func() { m.refill = 700 })
		for range 4 {
			m.need(200, 700)
		}
		m.check(t, false, 1)
		time.Sleep(time.Minute)
		m.check(t, false, 2)
		m.be(func() { m.refill = 800 })
		m.need(200, 800) // which is shed, but they are given back once more before
		m.check(t, true, 3)
	})
}

func TestCollectingLeavesTimeForTheRest(t *testing.T) {
	for took, pause := range map[time.Duration]time.Duration{
		0:                      time.Second,
		time.Millisecond:       time.Second,
		200 * time.Millisecond: 4 * time.Second,
		3 * time.Second:        5 * time.Second,
	} {
		run(t, limit, func(m *machine) {
			m.onCollect = func() { time.Sleep(took) }
			start := time.Now()
			m.need(2000, 0)
			time.Sleep(10 * time.Minute)
			m.mu.Lock()
			defer m.mu.Unlock()
			// Six at first, then two in a row: relieving is between them.
			rounds := 3 + int(time.Since(start)/(pause+2*took))
			if m.collections > 2*rounds || m.collections < rounds {
				t.Errorf("of %v each: %d collections in %d rounds", took, m.collections, rounds)
			}
			if !m.monitor.Short() {
				t.Error("not short")
			}
		})
	}
}

func TestWithoutALimitNothingIsWatched(t *testing.T) {
	run(t, 0, func(m *machine) {
		m.need(1<<40, 0)
		m.check(t, false, 0)
		m.be(func() { m.limit = limit })
		m.need(1<<40, 0)
		m.check(t, false, 0)
	})
}

func TestOnlyChangesAreLogged(t *testing.T) {
	run(t, limit, func(m *machine) {
		want := func(lines string) {
			t.Helper()
			synctest.Wait()
			if got := m.lines(); got != lines {
				t.Errorf("logged %q, want %q", got, lines)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := m.lines(); got != "" {
				t.Errorf("then %q", got)
			}
		}
		m.need(800, 0)
		want("")
		m.need(860, 0)
		want("memory runs short")
		m.need(960, 0)
		want("memory is short")
		m.need(890, 0)
		want("memory runs short")
		m.need(100, 0)
		want("there is enough memory again")
		m.need(860, 0)
		m.need(960, 0)
		if got := m.lines(); got != "memory runs short; memory is short" {
			t.Errorf("logged %q as it grew worse", got)
		}
		for range 100 { // more often than once a minute
			m.need(990, 0)
			m.need(100, 0)
		}
		if got := strings.Count(m.lines(), ";") + 1; got > 2*4 {
			t.Errorf("%d lines in 200 s", got)
		}
	})
}

func TestAPanicWhileRelievingEndsNothing(t *testing.T) {
	const secret = "value-of-the-panic"
	run(t, limit, func(m *machine) {
		m.be(func() { m.panicsBy = secret })
		m.need(960, 0)
		m.check(t, true, 1)
		log := m.log.String()
		if !strings.Contains(log, "panicked") || !strings.Contains(log, "pressure_test.go") || strings.Contains(log, secret) {
			t.Errorf("logged %s", log)
		}
		m.be(func() { m.panicsBy, m.alive = nil, 100 })
		m.check(t, false, 1)
		time.Sleep(time.Minute)
		m.need(860, 100)
		m.check(t, false, 2)
		want := map[string]float64{
			"authz_memory_limit_bytes": limit, "authz_memory_needed_bytes": 860, "authz_memory_short": 0,
			"authz_memory_relieved_total ok": 1, "authz_memory_relieved_total panic": 1,
		}
		if got := gather(t, m.registry); !maps.Equal(got, want) {
			t.Errorf("metrics %v, want %v", got, want)
		}
	})
}

func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			name := f.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			all[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	return all
}

func TestWithoutAnyoneWhoHearsItWorksAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pressure.New(pressure.Config{})
		m.Feed(func() (uint64, uint64) { return 960, limit }, func() {})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Run(ctx); err != nil || !m.Short() {
			t.Errorf("short: %v, %v", m.Short(), err)
		}
	})
}

func TestTheRuntimeIsUnderstood(t *testing.T) {
	if share := pressure.Share(); share != 0 {
		t.Errorf("%v of no limit", share)
	}
	runtime.KeepAlive(nil)
}
