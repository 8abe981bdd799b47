// Package pressure sheds work before memory runs out, and only then.
//
// Being near the limit is no shortage: the Go runtime lets garbage fill the heap up to it, and collects harder there. What counts is
// what a collection cannot free, as the runtime's pacer has it: the objects that the latest one found alive, goroutine stacks, the
// runtime's own structures, and the room between objects. That is close behind, since the runtime collects before the heap reaches
// the limit. Kept true:
//
//   - Beyond relieveAt of the limit, caches are given back, which costs calls and computing and loses nothing. At most once in
//     relieveInterval, unless it is that or shedding.
//   - Beyond shedAt after that, Short is true, until less than recoverAt is needed: new work is refused, so that work under way can
//     end and the process lives.
//   - Both are decided on the numbers of collections made for it. Those take about a tenth of the time at most, as long as they are
//     quick, and a shortage's end is noticed in seconds.
//
// What the kernel holds for a process, as buffers of its sockets, is not in the runtime's numbers; SetLimit leaves room for it.
package pressure

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"authz-sidecar/internal/panics"
)

const (
	// poll is how often the numbers are read, which takes a few microseconds. Live memory grows by what is allocated at most: at 1 GB/s,
	// which is more than a sidecar does, that is 100 MB.
	poll = 100 * time.Millisecond
	// Shares of the limit. What is left beyond relieveAt is how much garbage there may be before the next collection: with a seventh,
	// collections begin to take a notable part of the time, with a twentieth most of it.
	relieveAt = 0.85
	shedAt    = 0.95
	recoverAt = 0.90
	// relieveInterval is how long caches may fill again before they are given back once more.
	relieveInterval = time.Minute
	// collectShare times the time that they took passes from collections made here to the next, within these bounds: the upper one is how
	// long work may be shed for want of knowing better.
	collectShare       = 10
	minCollectInterval = time.Second
	maxCollectInterval = 5 * time.Second
	// collectTries is how many collections must find memory short before anything is done. One takes for alive what is allocated while
	// it runs, which on a crowded machine was seen to be twice the limit, now and then; three in a row were not.
	collectTries = 3
	// logInterval is the least time between two lines of one state, since a flood may come and go.
	logInterval = time.Minute
)

// Config is what a Monitor needs.
type Config struct {
	// Relieve gives memory back that can be done without: caches. Default: nothing does.
	Relieve func()
	// Logger hears when memory is short, and no longer. Default: none.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Monitor watches the memory that is needed against the limit that the Go runtime has been given (GOMEMLIMIT, SetLimit). Without one it
// does nothing.
type Monitor struct {
	relieve func()
	logger  *slog.Logger
	short   atomic.Bool
	// read and collect are the runtime's, but in tests.
	read    func() usage
	collect func()

	relieved, panicked prometheus.Counter

	// Of Run alone.
	relievedAt, nextCollection time.Time
	told                       state
	toldAt                     [states]time.Time
}

// usage is memory in bytes; a limit of 0 is none.
type usage struct{ needed, limit uint64 }

func (u usage) share() float64 {
	if u.limit == 0 {
		return 0
	}
	return float64(u.needed) / float64(u.limit)
}

// state is what the log has been told.
type state int

const (
	enough state = iota
	scarce       // caches are given back
	short        // work is shed
	states
)

// New makes a Monitor.
func New(cfg Config) *Monitor {
	m := &Monitor{relieve: cfg.Relieve, logger: cfg.Logger, read: readUsage, collect: runtime.GC}
	if m.relieve == nil {
		m.relieve = func() {}
	}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	auto := promauto.With(cfg.Registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_memory_limit_bytes",
		Help: "The Go runtime's memory limit (GOMEMLIMIT, or nine tenths of the container's); 0 if there is none, and nothing is shed for memory.",
	}, func() float64 { return float64(m.read().limit) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_memory_needed_bytes",
		Help: "Memory that the latest garbage collection could not free, and stacks and the runtime's own. Beyond 0.85 of the limit caches are " +
			"given back, beyond 0.95 work is shed.",
	}, func() float64 { return float64(m.read().needed) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_memory_short",
		Help: "1 while new work is refused (503) because memory is short.",
	}, func() float64 {
		if m.Short() {
			return 1
		}
		return 0
	})
	reliefs := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "authz_memory_relieved_total",
		Help: "Times that caches were given back because memory ran short, by outcome: ok, panic.",
	}, []string{"outcome"})
	m.relieved, m.panicked = reliefs.WithLabelValues("ok"), reliefs.WithLabelValues("panic")
	return m
}

// Run watches until ctx is done, then returns nil.
func (m *Monitor) Run(ctx context.Context) error {
	if m.read().limit == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			m.look(time.Now())
		}
	}
}

// Short says whether memory is so short that new work must be refused. It never waits.
func (m *Monitor) Short() bool { return m.short.Load() }

func (m *Monitor) look(now time.Time) {
	usage := m.read()
	if m.mayNeedWork(usage.share(), now) && !now.Before(m.nextCollection) {
		start := time.Now()
		usage = m.collected()
		if m.mayNeedWork(usage.share(), now) && usage.share() >= relieveAt {
			m.relievedAt = now
			m.giveBack()
			usage = m.collected()
		}
		m.short.Store(usage.share() >= shedAt || m.Short() && usage.share() >= recoverAt)
		m.nextCollection = time.Now().Add(min(max(minCollectInterval, collectShare*time.Since(start)), maxCollectInterval))
	}
	switch {
	case m.Short():
		m.tell(short, usage, now)
	case usage.share() >= relieveAt:
		m.tell(scarce, usage, now)
	default:
		m.tell(enough, usage, now)
	}
}

// mayNeedWork says whether there is anything to do or to undo, if the numbers are right.
func (m *Monitor) mayNeedWork(share float64, now time.Time) bool {
	lately := !m.relievedAt.IsZero() && now.Sub(m.relievedAt) < relieveInterval
	return m.Short() || share >= shedAt || share >= relieveAt && !lately
}

// collected is what is needed after a collection: the least of several, if that is much, and news.
func (m *Monitor) collected() usage {
	var least usage
	for try := range collectTries {
		m.collect()
		if now := m.read(); try == 0 || now.needed < least.needed {
			least = now
		}
		if least.share() < relieveAt || m.Short() {
			break
		}
	}
	return least
}

// giveBack calls relieve.
func (m *Monitor) giveBack() {
	defer func() {
		v := recover()
		if v == nil {
			m.relieved.Inc()
			return
		}
		m.panicked.Inc()
		panics.Tell(m.logger, "giving caches back panicked", v)
	}()
	m.relieve()
}

// tell logs a change.
func (m *Monitor) tell(now state, usage usage, at time.Time) {
	if now == m.told || !m.toldAt[now].IsZero() && at.Sub(m.toldAt[now]) < logInterval {
		return
	}
	m.told, m.toldAt[now] = now, at
	const remedy = "raise the container's memory, and GOMEMLIMIT where it is set, or lower verification.cache_bytes and session_api.kept_exchanges"
	attributes := []any{"needed_bytes", usage.needed, "limit_bytes", usage.limit}
	switch now {
	case enough:
		m.logger.Info("there is enough memory again", attributes...)
	case scarce:
		m.logger.Warn("memory runs short: caches are given back", append(attributes, "remedy", remedy)...)
	case short:
		m.logger.Error("memory is short: caches are given back, and checks that need the session API refused", append(attributes, "remedy", remedy)...)
	}
}

// readUsage asks the runtime.
func readUsage() usage {
	samples := [...]metrics.Sample{
		{Name: "/gc/gomemlimit:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, // dead ones, too
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/total:bytes"},
	}
	metrics.Read(samples[:])
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	u := usage{limit: value(0), needed: value(1) + value(5) - min(value(5), value(2)+value(3)+value(4))}
	if u.limit == noLimit {
		u.limit = 0
	}
	return u
}
