package check

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"authz-sidecar/internal/panics"
)

// Metrics count what Servers decide: one after the other may have the same.
type Metrics struct {
	decisions *prometheus.CounterVec
	// stood are the decisions that stood, by reason, left those that Envoy decides.
	stood              [lastReason + 1]prometheus.Counter
	left               prometheus.Counter
	wouldDeny          *prometheus.CounterVec
	shadowRules        prometheus.Gauge
	setAside           prometheus.Counter
	recalled, verified prometheus.Counter
	seconds            prometheus.Histogram
	panics             prometheus.Counter
	lastPanic          atomic.Int64 // when one was logged, in Unix nanoseconds
}

// NewMetrics registers nothing where the registerer is nil.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	auto := promauto.With(registerer)
	m := &Metrics{
		decisions: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_decisions_total",
			Help: "Checks answered, by verdict (allow, deny, would_deny where a rule only observes, left_to_envoy) and reason.",
		}, []string{"verdict", "reason"}),
		wouldDeny: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_would_deny_total",
			Help: "Checks that passed because a rule only observes, by rule and reason.",
		}, []string{"rule", "reason"}),
		shadowRules: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_shadow_rules",
			Help: "Rules that only observe, the default one included.",
		}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "authz_check_seconds",
			Help: "Time from the arrival of a Check to its answer.",
			// From a proof in memory to a call that takes the session API's whole time-out.
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
		setAside: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_credentials_set_aside_total",
			Help: "Checks in which a JWT under a key that the project has not was set aside for the opaque token beside it.",
		}),
		panics: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_check_panics_total",
			Help: "Checks that ended in a panic, each answered with a denial.",
		}),
	}
	proofs := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "authz_jwts_total",
		Help: "Session JWTs presented, by proof: recalled (verified before) or verified (anew, or refused).",
	}, []string{"proof"})
	m.recalled, m.verified = proofs.WithLabelValues("recalled"), proofs.WithLabelValues("verified")
	m.left = m.counter(decision{reason: APIUnavailable, leftToEnvoy: true})
	for r := Public; r <= lastReason; r++ {
		m.stood[r] = m.counter(decision{reason: r})
	}
	return m
}

func (m *Metrics) counter(d decision) prometheus.Counter {
	return m.decisions.WithLabelValues(d.verdict(), d.reason.String())
}

// observer writes one log line and counts one decision for each Check.
type observer struct {
	*Metrics
	logger *slog.Logger
	// observed are the decisions that a shadow let pass; shadows is how many rules can.
	observed [lastReason + 1]prometheus.Counter
	shadows  int
}

func newObserver(logger *slog.Logger, metrics *Metrics, shadowRules int) *observer {
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	o := &observer{Metrics: metrics, logger: logger, shadows: shadowRules}
	for r := Public; r <= lastReason; r++ {
		if shadowRules > 0 && canShadow(r) {
			o.observed[r] = o.counter(decision{reason: r, shadowed: true})
		}
	}
	return o
}

// inUse shows what is so of the configuration that counts from now on.
func (o *observer) inUse() { o.shadowRules.Set(float64(o.shadows)) }

// The longest method, host, path and request id that a log line holds; they come from strangers.
const maxLogged = 256

// maxAttrs is how many attributes a line has at most.
const maxAttrs = 14

// decided logs a denial at Info, and an allowance by grace; any other at Debug, since Envoy's access log has a line for each
// request already. Alarms are warnings; an outage is announced by the package that sees it, once.
func (o *observer) decided(ctx context.Context, w *work, took time.Duration) {
	req, d := w.request, &w.decision
	reason := d.reason.known()
	switch {
	case d.shadowed:
		o.observed[reason].Inc()
		o.wouldDeny.WithLabelValues(d.ruleName(), reason.String()).Inc()
	case d.leftToEnvoy:
		o.left.Inc()
	default:
		o.stood[reason].Inc()
	}
	if d.proved.setAside {
		o.setAside.Inc()
	}
	if w.recalled > 0 {
		o.recalled.Add(float64(w.recalled))
	}
	if w.verified > 0 {
		o.verified.Add(float64(w.verified))
	}
	o.seconds.Observe(took.Seconds())

	level := slog.LevelInfo
	switch reason {
	case Public, Preflight, Anonymous, Verified, Exchanged:
		level = slog.LevelDebug
	case ExchangeMismatch, UnknownRule, SecretRefused, Internal:
		level = slog.LevelWarn
	}
	if !o.logger.Enabled(ctx, level) {
		return
	}
	attrs := append(w.attrs[:0],
		slog.String("verdict", d.verdict()),
		slog.String("reason", reason.String()),
		slog.String("method", clip(req.method)),
		slog.String("host", clip(req.host)),
		slog.String("path", clip(req.pathOnly())),
		slog.Int64("took_us", took.Microseconds()),
	)
	if req.requestID != "" {
		attrs = append(attrs, slog.String("request_id", clip(req.requestID)))
	}
	if d.rule != nil {
		attrs = append(attrs, slog.String("rule", d.rule.Name), slog.String("project", d.rule.Project))
	}
	if unmet := d.unmet(); unmet != "" {
		attrs = append(attrs, slog.String("requirement", unmet))
	}
	if d.proved.setAside {
		attrs = append(attrs, slog.Bool("set_aside", true))
	}
	if d.session != nil {
		attrs = append(attrs, slog.String("subject", d.session.Subject), slog.String("session_id", d.session.ID))
	}
	if d.detail != nil {
		attrs = append(attrs, slog.String("detail", d.detail.Error()))
	}
	// As one group without a name, whose attributes stand for themselves: for so many of them a record would allocate.
	o.logger.LogAttrs(ctx, level, "check", slog.Attr{Value: slog.GroupValue(attrs...)})
	clear(attrs)
}

// panicInterval is the least time between two panics in the log: a request that is sent again and again must not fill a
// disk with stacks. The counter has them all.
const panicInterval = 10 * time.Second

// panicked counts a panic that was just recovered, and logs its stack.
func (o *observer) panicked(value any) {
	o.panics.Inc()
	now, last := time.Now().UnixNano(), o.lastPanic.Load()
	if now-last < int64(panicInterval) || !o.lastPanic.CompareAndSwap(last, now) {
		return
	}
	panics.Tell(o.logger, "check panicked", value)
}

func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}
