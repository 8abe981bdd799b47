package sessionapi

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	calls, ahead, retries     *prometheus.CounterVec
	breaker                   *prometheus.GaugeVec
	breakerChanges            *prometheus.CounterVec
	seconds                   prometheus.Histogram
	waiters, inFlight, queued prometheus.Gauge
	reused, joined            prometheus.Counter
	remembered                prometheus.Counter
}

// newMetrics registers nothing where the registerer is nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	m := &metrics{
		calls: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_session_api_calls_total",
			Help: "Calls to the session API by outcome: ok, session_not_found, credential_refused, forbidden, not_authorized (a yes that does not grant the permission asked about), mismatch, secret_refused, rate_limited, unavailable, unexpected (a 4xx that says nothing about the credential), unproved (a yes whose JWT cannot be proved here), panic; or not made: shed (too many under way and waiting, or waited too long), rate_shed (too many in this second), token_shed (opaque tokens that may be made up have used up their half of either, or would have to wait), held_back (the API has said when to come back: a 503 to all, a 429 to one user and for 10 s at most to the others, unless several got it) or breaker_open (it has failed for too many users). One that was made twice, see authz_session_api_retries_total, is one.",
		}, []string{"outcome"}),
		ahead: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_session_api_ahead_total",
			Help: "Requests whose JWT was to be traded ahead of its expiry, by result: started (a call), handed_over (the new JWT of an earlier one), under_way (an equal call), paused (traded for nothing, or refused, less than 10 s ago) or shed (half of all calls are under way, or of a second's have begun, or the API is failing or limits our rate).",
		}, []string{"result"}),
		retries: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_session_api_retries_total",
			Help: "Calls to the session API that were made a second time, by cause: connection (it broke, or there was none), gateway (a 502, 503 or 504 without Retry-After) or secret (it was refused, and there was a newer one).",
		}, []string{"cause"}),
		breaker: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "authz_session_api_breaker_state",
			Help: "Whether calls to the session API are made: 0 closed (yes), 1 half-open (a probe), 2 open (no; once its time is over, the next is the probe). By calls: known (for JWTs, and for opaque tokens that the API has just said yes to) or unknown (for other opaque tokens).",
		}, []string{"calls"}),
		breakerChanges: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_session_api_breaker_changes_total",
			Help: "Changes of authz_session_api_breaker_state, by calls, as there, and by the new state: closed, half_open or open.",
		}, []string{"calls", "state"}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "authz_session_api_call_seconds",
			Help: "How long calls to the session API took, a second one and the proof of the answer included, but not the wait for the first.",
			// Around what a call over the internet takes, and the default limit of 2 s.
			Buckets: []float64{.005, .01, .025, .05, .1, .2, .4, .8, 1.6, 2.5, 5, 10},
		}),
		waiters: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_session_api_waiters",
			Help: "Requests that are waiting for a call to the session API.",
		}),
		inFlight: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_session_api_calls_in_flight",
			Help: "Calls to the session API that are under way.",
		}),
		queued: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_session_api_calls_queued",
			Help: "Calls to the session API that wait for one under way to end.",
		}),
		reused: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_session_api_reused_total",
			Help: "Requests that a kept exchange answered without a call.",
		}),
		remembered: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_session_api_remembered_total",
			Help: "Requests that were answered without a call by the session API's no to their credential less than 10 s ago.",
		}),
		joined: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_session_api_joined_total",
			Help: "Requests that joined an equal call under way.",
		}),
	}
	for _, o := range outcomes {
		m.calls.WithLabelValues(string(o))
	}
	for _, r := range []string{started, handedOver, underWay, pausedAhead, shedAhead} {
		m.ahead.WithLabelValues(r)
	}
	for _, cause := range []string{byConnection, byGateway, bySecret} {
		m.retries.WithLabelValues(cause)
	}
	for _, k := range kinds {
		m.breaker.WithLabelValues(string(k))
		for _, state := range breakerStates {
			m.breakerChanges.WithLabelValues(string(k), state)
		}
	}
	return m
}
