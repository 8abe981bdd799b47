package check

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// observer writes one log line and counts one decision for each Check.
type observer struct {
	logger    *slog.Logger
	decisions [lastReason + 1]prometheus.Counter
	seconds   prometheus.Observer
	panics    prometheus.Counter
}

func newObserver(logger *slog.Logger, registerer prometheus.Registerer) *observer {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "authz_decisions_total",
		Help: "Checks answered, by verdict (allow, deny) and reason.",
	}, []string{"verdict", "reason"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "authz_check_seconds",
		Help: "Time from the arrival of a Check to its answer.",
		// From a proof in memory to a call that takes the session API's whole time-out.
		Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	})
	panics := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "authz_check_panics_total",
		Help: "Checks that ended in a panic, each answered with a denial.",
	})
	if registerer != nil {
		registerer.MustRegister(decisions, seconds, panics)
	}
	o := &observer{logger: logger, seconds: seconds, panics: panics}
	for r := Public; r <= lastReason; r++ {
		o.decisions[r] = decisions.WithLabelValues(verdict(r), r.String())
	}
	return o
}

func verdict(r Reason) string {
	if r.Allowed() {
		return "allow"
	}
	return "deny"
}

// The longest method, host, path and request id that a log line holds; they come from strangers.
const maxLogged = 256

// decided logs a denial at Info and an allowance at Debug: Envoy's access log has a line for each request already. What
// only a fault of the session service or of ours explains is a warning.
func (o *observer) decided(ctx context.Context, req *request, d *decision, took time.Duration) {
	reason := d.reason.known()
	o.decisions[reason].Inc()
	o.seconds.Observe(took.Seconds())

	level := slog.LevelInfo
	switch reason {
	case Public, Anonymous, Verified, Exchanged:
		level = slog.LevelDebug
	case ExchangeMismatch, SecretRefused, Internal:
		level = slog.LevelWarn
	}
	if !o.logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("verdict", verdict(reason)),
		slog.String("reason", reason.String()),
		slog.String("method", clip(req.method)),
		slog.String("host", clip(req.host)),
		slog.String("path", clip(req.pathOnly())),
		slog.Float64("took_ms", float64(took.Microseconds())/1000),
	}
	if req.requestID != "" {
		attrs = append(attrs, slog.String("request_id", clip(req.requestID)))
	}
	if d.rule != nil {
		attrs = append(attrs, slog.String("rule", d.rule.Name), slog.String("project", d.rule.Project))
	}
	if d.session != nil {
		attrs = append(attrs, slog.String("subject", d.session.Subject), slog.String("session_id", d.session.ID))
	}
	if d.detail != nil {
		attrs = append(attrs, slog.String("detail", d.detail.Error()))
	}
	o.logger.LogAttrs(ctx, level, "check", attrs...)
}

func (o *observer) panicked(value any, stack []byte) {
	o.panics.Inc()
	o.logger.Error("check panicked", "panic", fmt.Sprint(value), "stack", string(stack))
}

func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}
