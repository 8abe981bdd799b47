package jwkscache

import (
	"crypto/rsa"
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"authz-sidecar/internal/panics"
)

// labels name errors.
type labels []struct {
	label string
	err   error
}

// outcomes are the labels of what becomes of a fetch.
var outcomes = labels{
	{"timeout", errTimeout},
	{"status", errStatus},
	{"too_large", errTooLarge},
	{"malformed", errMalformed},
	{"no_usable_key", errNoKey},
	{"panic", panics.ErrPanicked},
}

// saveOutcomes are the labels of what becomes of an attempt to save the set.
var saveOutcomes = labels{
	{"unverified", errUnverified},
	{"busy", errSaveHangs},
	{"panic", panics.ErrPanicked},
}

const (
	fetchOK     = "ok"
	fetchFailed = "request_failed" // no answer, or none that could be read to its end

	saveFailed = "failed"

	// What a fetch has changed of the set: keys have come and none has gone; some have gone and some have stayed; all are others.
	keysAdded    = "added"
	keysRemoved  = "removed"
	keysReplaced = "replaced"

	answerFound       = "found"
	answerAbsent      = "absent"
	answerUnavailable = "unavailable"
)

type metrics struct {
	fetches *prometheus.CounterVec
	changes *prometheus.CounterVec
	saves   *prometheus.CounterVec
	dropped *prometheus.GaugeVec
	unknown *prometheus.CounterVec
}

// newMetrics registers nothing where the registerer is nil.
func newMetrics(registerer prometheus.Registerer, c *Cache) *metrics {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_key_set_age_seconds",
		Help: "Time since the last good fetch began, be it one before the start whose set was saved; +Inf before the first.",
	}, c.age)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_key_set_keys",
		Help: "Usable keys in the last good set.",
	}, c.count)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_key_set_loaded_from_disk",
		Help: "1 while the keys are those that were saved before the start, since none have been fetched; else 0.",
	}, c.fromFile)
	m := &metrics{
		fetches: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_key_set_fetches_total",
			Help: "Fetches of the key set by outcome: ok, timeout, request_failed, status, too_large, malformed, no_usable_key, panic.",
		}, []string{"outcome"}),
		changes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_key_set_changes_total",
			Help: "Fetches that brought other keys than there were, by change: added (none has gone), removed (some have gone, some have stayed), replaced (none is as before).",
		}, []string{"change"}),
		saves: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_key_set_saves_total",
			Help: "Attempts to save the set for the next start by outcome: ok, failed, unverified (not tried: it did not come over verified TLS), busy (not tried: the last write hangs), panic.",
		}, []string{"outcome"}),
		dropped: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "authz_key_set_dropped_keys",
			Help: "Keys that were not used in the last set that could be read, by reason: not_rsa, secret, alg, use, key_ops, modulus, exponent, kid, duplicate_kid, unparsable, too_many.",
		}, []string{"reason"}),
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
	for _, change := range []string{keysAdded, keysRemoved, keysReplaced} {
		m.changes.WithLabelValues(change)
	}
	m.saves.WithLabelValues(fetchOK)
	m.saves.WithLabelValues(saveFailed)
	for _, o := range saveOutcomes {
		m.saves.WithLabelValues(o.label)
	}
	m.setDropped(nil)
	for _, answer := range []string{answerFound, answerAbsent, answerUnavailable} {
		m.unknown.WithLabelValues(answer)
	}
	return m
}

func (m *metrics) countFetch(a answer, err error) {
	m.fetches.WithLabelValues(outcomes.of(err, fetchFailed)).Inc()
	if a.dropped != nil {
		m.setDropped(a.dropped)
	}
}

func (ls labels) of(err error, other string) string {
	if err == nil {
		return fetchOK
	}
	for _, l := range ls {
		if errors.Is(err, l.err) {
			return l.label
		}
	}
	return other
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

// age is the time since the last good fetch began, in seconds; infinite before the first.
func (c *Cache) age() float64 {
	current := c.current.Load()
	if current == nil {
		return math.Inf(1)
	}
	return time.Since(current.started).Seconds()
}

// count is the number of usable keys.
func (c *Cache) count() float64 {
	if current := c.current.Load(); current != nil {
		return float64(len(current.keys))
	}
	return 0
}

// fromFile is 1 while the keys are the saved ones.
func (c *Cache) fromFile() float64 {
	if current := c.current.Load(); current != nil && current.saved {
		return 1
	}
	return 0
}
