// Package result holds what was measured. Servers are compared within a round, in which they ran one after the other on a machine
// in the same mood: the median of the rounds' ratios is steadier than the ratio of two medians.
package result

import (
	"cmp"
	"maps"
	"slices"
)

// Groups: what was done to a subject.
const (
	Micro     = "micro"      // go test -bench
	Wire      = "wire"       // over a Unix socket, one core for the server
	Envoy     = "envoy"      // through a real Envoy
	Mixes     = "mixes"      // the wire with other traffic
	Memory    = "memory"     // cached tokens
	ColdStart = "cold start" // exec to the first allowed Check
)

// Subjects: what was measured. Those of the micro group are called as their benchmarks are.
const (
	Warm         = "product, warm token"
	Removing     = "product, warm token, removing underscores"
	Cold         = "product, cold tokens"
	NoToken      = "product, no token"
	BadSignature = "product, bad signatures"

	Noop            = "stock no-op"
	JWX             = "jwx per request"
	JWXBadSignature = "jwx, bad signatures"
	RSA             = "crypto/rsa per request"
	Node            = "Node SDK server"
	Ceiling         = "raw framer (the load generator's ceiling)"

	Product = "product"

	NoFilter         = "no filter"
	JWTAuthn         = "jwt_authn, no cache"
	JWTAuthnCache    = "jwt_authn, JWT cache"
	NoopSocket       = "stock no-op, socket"
	ProductSocket    = "product, socket"
	ProductTCP       = "product, TCP"
	ProductRemoving  = "product, socket, removing underscores"
	KeysUp           = "key endpoint up"
	SavedKeys        = "key endpoint down, saved key set"
	HonestAlone      = "honest load alone"
	HonestInFlood    = "honest load in a forged flood"
	ManyWarm         = "100,000 warm tokens"
	TenthCold        = "10 % cold"
	TwentiethExpired = "5 % expired"
	MassExpiry       = "mass expiry"
)

// Values, with their units.
const (
	ChecksPerCoreSecond = "checks_per_core_second" // checks in a second of the server's CPU time, at saturation
	ChecksPerSecond     = "checks_per_second"      // at saturation
	CPUPerCheck         = "cpu_us_per_check"       // of the server, at saturation
	P50                 = "p50_us"                 // at the common rate, from when the request was due
	P99                 = "p99_us"
	Max                 = "max_us"
	AddedP50            = "added_p50_us" // beside no filter
	AddedP99            = "added_p99_us"
	RSS                 = "rss_mib"
	Rate                = "rate_per_second" // the rate at which p50 and p99 were taken
	LoadCPU             = "load_core_share" // CPU of the load generator as a share of its core, at saturation
	Requests            = "requests_per_second"
	EnvoyCPU            = "envoy_cpu_us_per_request"
	SidecarCPU          = "sidecar_cpu_us_per_request"
	Start               = "start_ms"
	NsPerOp             = "ns_per_op"
	BytesPerOp          = "bytes_per_op"
	VerifyToRSA         = "verify_to_rsa" // time of a verification by that of its one RSA operation
	AllocsPerOp         = "allocs_per_op"
	RSSEmpty            = "rss_mib_no_tokens"
	RSS10k              = "rss_mib_10k_tokens"
	RSS100k             = "rss_mib_100k_tokens"
	Exchanges           = "exchanges" // calls of the session API
	BytesPerToken       = "bytes_per_token"
)

// Result is what one round said of one subject.
type Result struct {
	Group   string             `json:"group"`
	Subject string             `json:"subject"`
	Round   int                `json:"round"`
	Values  map[string]float64 `json:"values"`
}

// Set is the results of a run.
type Set []Result

// values are what the rounds said, by round.
func (s Set) values(group, subject, key string) map[int]float64 {
	found := map[int]float64{}
	for _, r := range s {
		if v, ok := r.Values[key]; ok && r.Group == group && r.Subject == subject {
			found[r.Round] = v
		}
	}
	return found
}

// Median is over the rounds; false if none has the value.
func (s Set) Median(group, subject, key string) (float64, bool) {
	var all []float64
	for _, v := range s.values(group, subject, key) {
		all = append(all, v)
	}
	return median(all)
}

// Range is the least and the most of the rounds.
func (s Set) Range(group, subject, key string) (least, most float64, ok bool) {
	for _, v := range s.values(group, subject, key) {
		if !ok {
			least, most, ok = v, v, true
		}
		least, most = min(least, v), max(most, v)
	}
	return least, most, ok
}

// Ratio is the median over the rounds of the subject's value by the base's of the same round.
func (s Set) Ratio(group, subject, base, key string) (float64, bool) {
	bases, ratios := s.values(group, base, key), []float64(nil)
	for round, v := range s.values(group, subject, key) {
		if b, ok := bases[round]; ok && b != 0 {
			ratios = append(ratios, v/b)
		}
	}
	return median(ratios)
}

// Subjects are those of a group, in the order of their first result.
func (s Set) Subjects(group string) []string {
	var names []string
	for _, r := range s {
		if r.Group == group && !slices.Contains(names, r.Subject) {
			names = append(names, r.Subject)
		}
	}
	return names
}

// Keys are the values that results of a group have, in the order of the alphabet.
func (s Set) Keys(group string) []string {
	all := map[string]bool{}
	for _, r := range s {
		for key := range r.Values {
			all[key] = all[key] || r.Group == group
		}
	}
	maps.DeleteFunc(all, func(_ string, has bool) bool { return !has })
	return slices.Sorted(maps.Keys(all))
}

// median is the middle of the values, or the mean of the two in the middle.
func median(values []float64) (float64, bool) {
	n := len(values)
	if n == 0 {
		return 0, false
	}
	slices.SortFunc(values, cmp.Compare[float64])
	return (values[(n-1)/2] + values[n/2]) / 2, true
}
