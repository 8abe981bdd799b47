package rbac

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"authz-sidecar/internal/panics"
)

// outcomes are the labels of what becomes of a fetch.
var outcomes = []struct {
	label string
	err   error
}{
	{"timeout", errTimeout},
	{"status", errStatus},
	{"secret_refused", errSecretRefused},
	{"not_found", errNoOrganization},
	{"too_large", errTooLarge},
	{"malformed", errMalformed},
	{"no_role", errNoRole},
	{"panic", panics.ErrPanicked},
}

const (
	fetchOK       = "ok"
	fetchFailed   = "request_failed" // no answer, or none that could be read to its end
	fetchShed     = "shed"
	fetchHeldBack = "held_back"
)

type metrics struct {
	fetches             *prometheus.CounterVec
	organizationFetches *prometheus.CounterVec
}

// newMetrics registers nothing where the registerer is nil.
func newMetrics(registerer prometheus.Registerer, age, organizations func() float64) *metrics {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_rbac_policy_age_seconds",
		Help: "Time since the last good fetch of the project's RBAC policy began; +Inf before the first. " +
			"Past 6 minutes fetches are failing, and what was granted or taken away since is not known here: " +
			"a denial (forbidden) may be out of date. Past 24 hours nothing is judged (permissions_unavailable).",
	}, age)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_rbac_organizations",
		Help: "Organizations whose own roles are remembered.",
	}, organizations)
	m := &metrics{
		fetches: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_rbac_policy_fetches_total",
			Help: "Fetches of the project's RBAC policy by outcome: ok, timeout, request_failed, status, secret_refused, not_found, too_large, malformed, no_role, panic.",
		}, []string{"outcome"}),
		organizationFetches: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_rbac_organization_fetches_total",
			Help: "Fetches of an organization's own roles by outcome: ok, timeout, request_failed, status, secret_refused, not_found (counts as no roles), too_large, malformed, panic, shed (not made: too many under way), held_back (not made: the API wants no request yet).",
		}, []string{"outcome"}),
	}
	// Every label is there from the start, so that a first increase can be seen.
	for _, counter := range []*prometheus.CounterVec{m.fetches, m.organizationFetches} {
		counter.WithLabelValues(fetchOK)
		counter.WithLabelValues(fetchFailed)
		for _, o := range outcomes {
			counter.WithLabelValues(o.label)
		}
	}
	m.organizationFetches.WithLabelValues(fetchShed)
	m.organizationFetches.WithLabelValues(fetchHeldBack)
	return m
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
