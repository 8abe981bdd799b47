package jwkscache

import (
	"crypto/rsa"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// outcomes are the labels of what becomes of a fetch.
var outcomes = []struct {
	label string
	err   error
}{
	{"timeout", errTimeout},
	{"status", errStatus},
	{"too_large", errTooLarge},
	{"malformed", errMalformed},
	{"no_usable_key", errNoKey},
}

const (
	fetchOK     = "ok"
	fetchFailed = "request_failed" // no answer, or none that could be read to its end

	answerFound       = "found"
	answerAbsent      = "absent"
	answerUnavailable = "unavailable"
)

type metrics struct {
	fetches *prometheus.CounterVec
	dropped *prometheus.GaugeVec
	keys    prometheus.Gauge
	unknown *prometheus.CounterVec
}

// newMetrics registers nothing where the registerer is nil.
func newMetrics(registerer prometheus.Registerer, age func() float64) *metrics {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_key_set_age_seconds",
		Help: "Time since the last good fetch began; +Inf before the first.",
	}, age)
	m := &metrics{
		fetches: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_key_set_fetches_total",
			Help: "Fetches of the key set by outcome: ok, timeout, request_failed, status, too_large, malformed, no_usable_key.",
		}, []string{"outcome"}),
		dropped: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "authz_key_set_dropped_keys",
			Help: "Keys that were not used in the last set that could be read, by reason: not_rsa, secret, alg, use, key_ops, modulus, exponent, kid, duplicate_kid, unparsable, too_many.",
		}, []string{"reason"}),
		keys: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_key_set_keys",
			Help: "Usable keys in the last good set.",
		}),
		unknown: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_key_set_unknown_keys_total",
			Help: "Questions for a key id that the set lacked, by answer: found (by a fetch that the caller waited for), absent, unavailable.",
		}, []string{"answer"}),
	}
	// Every label is there from the start, so that a first increase can be seen.
	m.fetches.WithLabelValues(fetchOK)
	m.fetches.WithLabelValues(fetchFailed)
	for _, o := range outcomes {
		m.fetches.WithLabelValues(o.label)
	}
	m.setDropped(nil)
	for _, answer := range []string{answerFound, answerAbsent, answerUnavailable} {
		m.unknown.WithLabelValues(answer)
	}
	return m
}

func (m *metrics) countFetch(a answer, err error) {
	m.fetches.WithLabelValues(outcome(err)).Inc()
	if a.dropped != nil {
		m.setDropped(a.dropped)
	}
	if err == nil {
		m.keys.Set(float64(len(a.keys)))
	}
}

func outcome(err error) string {
	if err == nil {
		return fetchOK
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.label
		}
	}
	return fetchFailed
}

func (m *metrics) setDropped(dropped map[dropReason]int) {
	for _, reason := range dropReasons {
		m.dropped.WithLabelValues(string(reason)).Set(float64(dropped[reason]))
	}
}

func (m *metrics) countUnknown(key *rsa.PublicKey, err error) {
	switch {
	case err != nil:
		m.unknown.WithLabelValues(answerUnavailable).Inc()
	case key == nil:
		m.unknown.WithLabelValues(answerAbsent).Inc()
	default:
		m.unknown.WithLabelValues(answerFound).Inc()
	}
}
