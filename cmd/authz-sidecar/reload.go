package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	dto "github.com/prometheus/client_model/go"

	"authz-sidecar/internal/admin"
	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/panics"
	"authz-sidecar/internal/watch"
)

// reloader puts what the configuration file says now in the place of what is in use, without a request noticing: when one of the files
// changes, or on SIGHUP. What cannot be used changes nothing.
type reloader struct {
	file string
	shared
	service  *check.Service
	operator *admin.Server // nil for none
	base     prometheus.Gatherer
	metrics  reloadMetrics
	watcher  *watch.Watcher
	// run is the errgroup's Go.
	run func(func() error)
	// hangup gets SIGHUP.
	hangup <-chan os.Signal

	// started is what the process was started with, which is where it listens for good.
	started *config.Config
	current atomic.Pointer[generation]
	// wasReady says whether nothing was missing once.
	wasReady atomic.Bool
	tls      atomic.Pointer[tls.Config]

	mu     sync.Mutex // guards what follows
	status reloadStatus
}

// reloadStatus is how reloading has been.
type reloadStatus struct {
	lastError string // of the last reload; "" if it went well
	failedAt  time.Time
	// needsRestart are the fields that the file has otherwise than the process was started with.
	needsRestart []string
}

type reloadMetrics struct {
	reloads      *prometheus.CounterVec
	successful   prometheus.Gauge
	loadedAt     prometheus.Gauge
	needsRestart prometheus.Gauge
}

const (
	reloadOK     = "ok"
	reloadFailed = "failed"
)

func newReloadMetrics(registerer prometheus.Registerer) reloadMetrics {
	auto := promauto.With(registerer)
	m := reloadMetrics{
		reloads: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_config_reloads_total",
			Help: "Reloads of the configuration by outcome: ok, failed (what was in use stays).",
		}, []string{"outcome"}),
		successful: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_config_last_reload_successful",
			Help: "1 if the files are what is in use; 0 after a reload that failed.",
		}),
		loadedAt: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_config_loaded_timestamp_seconds",
			Help: "When the configuration in use was loaded, in Unix seconds.",
		}),
		needsRestart: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_config_needs_restart",
			Help: "1 while the file says something that only a restart can take up; the log names the fields.",
		}),
	}
	m.reloads.WithLabelValues(reloadOK)
	m.reloads.WithLabelValues(reloadFailed)
	m.successful.Set(1)
	m.loadedAt.SetToCurrentTime()
	return m
}

// Gather implements prometheus.Gatherer: what the process counts, and what the projects in use do.
func (r *reloader) Gather() ([]*dto.MetricFamily, error) {
	all := prometheus.Gatherers{r.base}
	for _, p := range r.current.Load().projects {
		all = append(all, p.registry)
	}
	return all.Gather()
}

// missing says what readiness waits for; nothing any more once it was nothing. A project that is new since then has its own requests
// wait, and must not take the others' away.
func (r *reloader) missing() string {
	if r.wasReady.Load() {
		return ""
	}
	waiting := r.current.Load().projects.missing()
	if waiting == "" {
		r.wasReady.Store(true)
	}
	return waiting
}

// ready waits until nothing is missing; its error is that of ctx.
func (r *reloader) ready(ctx context.Context) error {
	for told := false; r.missing() != ""; told = true {
		if !told {
			r.logger.Info("waiting to be ready before the takeover", "missing", r.missing())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(firstKeysPoll):
		}
	}
	return ctx.Err()
}

// serverTLS is the server's as the configuration in use has it, nil for none.
func (r *reloader) serverTLS() *tls.Config {
	first := r.tls.Load()
	if first == nil {
		return nil
	}
	current := first.Clone()
	current.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.tls.Load(), nil }
	return current
}

// serviceTime is what the clock of a project's service shows, or now where that is not known.
func (r *reloader) serviceTime(projectID string, now time.Time) time.Time {
	for _, p := range r.current.Load().projects {
		if p.config.Verifier.ProjectID == projectID {
			return p.clock.Service(now)
		}
	}
	return now
}

// forget gives back the memory of what need not be remembered.
func (r *reloader) forget() { r.current.Load().projects.forget() }

// retryInterval is between two tries of a configuration that is good in itself, but the keys that it needs cannot be fetched.
const retryInterval = 30 * time.Second

// Run reloads until ctx is done, then returns nil.
func (r *reloader) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	r.run(func() error {
		return r.watcher.Run(ctx, func() {
			select {
			case changed <- struct{}{}:
			default: // it will be loaded, and as it is then
			}
		})
	})
	var retry <-chan time.Time
	for {
		cause := "a file has changed"
		select {
		case <-ctx.Done():
			return nil
		case <-r.hangup:
			cause = "SIGHUP"
		case <-changed:
		case <-retry:
			cause = "another try"
		}
		retry = nil
		if again := r.reload(ctx, cause); again {
			retry = time.After(retryInterval)
		}
	}
}

// reload does it once. It says whether it failed for a reason that may pass by itself.
func (r *reloader) reload(ctx context.Context, cause string) (again bool) {
	var next *generation
	defer func() {
		if v := recover(); v != nil {
			panics.Tell(r.logger, "reload panicked", v)
			r.failed(panics.ErrPanicked)
		}
		if next != nil && r.current.Load() != next {
			next.stopBegun()
		}
	}()
	r.missing() // for readiness not to be taken back by what is new
	cfg, err := config.Load(r.file)
	if err != nil {
		r.watcher.Watch(config.FilesOf(r.file, err))
		r.failed(err)
		return false
	}
	r.watcher.Watch(cfg.Files)
	before := r.current.Load()
	if next, err = newGeneration(cfg, before, r.shared); err != nil {
		r.failed(err)
		return false
	}
	next.start(ctx, r.run)
	if err := next.catchUp(ctx, before); err != nil {
		r.failed(err)
		return ctx.Err() == nil
	}
	r.use(next, before)
	r.succeeded(cause, next, before)
	return false
}

// use puts a generation in the place of the one before.
func (r *reloader) use(next, before *generation) {
	for i, p := range next.projects {
		p.config.Secret.Take(next.config.Projects[i].Secret)
	}
	r.denylist.Reconfigure(next.config.Denylist.Retention, next.config.Denylist.Leeway, time.Now())
	if r.operator != nil {
		r.operator.Reconfigure(admin.Config{Token: next.config.Listen.AdminToken, Projects: next.projects.revocable(), Leeway: next.config.Denylist.Leeway})
	}
	if r.started.Listen.TLS != nil && next.config.Listen.TLS != nil {
		r.tls.Store(next.config.Listen.TLS)
	}
	r.current.Store(next)
	r.service.Use(next.server)
	// Checks that began before may go on for as long as the last ones of a drain.
	left := next.left(before)
	time.AfterFunc(drainGrace, func() {
		for _, p := range left {
			p.stop()
		}
	})
}

func (r *reloader) succeeded(cause string, next, before *generation) {
	needsRestart := r.started.NeedsRestart(next.config)
	r.mu.Lock()
	r.status = reloadStatus{needsRestart: needsRestart}
	r.mu.Unlock()
	r.metrics.reloads.WithLabelValues(reloadOK).Inc()
	r.metrics.successful.Set(1)
	r.metrics.loadedAt.SetToCurrentTime()
	r.metrics.needsRestart.Set(float64(min(len(needsRestart), 1)))

	r.logger.Info("configuration reloaded", "cause", cause, "rules", ruleCount(next.config), "projects", len(next.projects),
		"projects_begun", len(next.begun), "projects_ended", len(next.left(before)))
	if len(needsRestart) > 0 {
		r.logger.Warn("the configuration says what only a restart can take up; all else is in use", "fields", strings.Join(needsRestart, ", "))
	}
	warn(r.logger, next.config)
}

// failed says why what is in use stays.
func (r *reloader) failed(err error) {
	r.logger.Error("configuration not reloaded: the one in use stays", "error", err)
	r.mu.Lock()
	r.status.lastError, r.status.failedAt = err.Error(), time.Now()
	r.mu.Unlock()
	r.metrics.reloads.WithLabelValues(reloadFailed).Inc()
	r.metrics.successful.Set(0)
}

// warn says what a configuration does that its operators should know of.
func warn(logger *slog.Logger, cfg *config.Config) {
	for _, warning := range cfg.Warnings() {
		logger.Warn(warning)
	}
}

// ruleCount is the number of rules, the default one apart.
func ruleCount(cfg *config.Config) int { return len(cfg.Gate.Rules.All()) - 1 }
