package sessionapi

import "time"

const (
	// recentLife is how long a credential is remembered. An outage, or a client that does not take no for an answer, must not cost
	// one call for each request. And it is short: one just created that a lagging part of the API did not find is soon asked about
	// again.
	recentLife = 10 * time.Second
	// maxRecent bounds the credentials that are remembered, in a few MB. It is twice what the default of CallsPerSecond lets be
	// asked about in recentLife.
	maxRecent = 10_000
)

// recent remembers credentials, or requests, for recentLife, and why. When there are too many the oldest gives
// way, which costs a call at most. It is not safe for concurrent use: the client's mutex guards it.
type recent[K comparable] struct {
	notes map[K]note
	order []K // oldest first
}

type note struct {
	since time.Time
	err   error
}

func newRecent[K comparable]() *recent[K] { return &recent[K]{notes: make(map[K]note)} }

// add remembers one, from its first time on.
func (r *recent[K]) add(k K, err error, now time.Time) {
	if _, found := r.get(k, now); found {
		return
	}
	if len(r.order) >= maxRecent {
		r.dropOldest()
	}
	r.notes[k] = note{now, err}
	r.order = append(r.order, k)
}

// get says whether one is remembered, with what error.
func (r *recent[K]) get(k K, now time.Time) (n note, found bool) {
	for len(r.order) > 0 && now.Sub(r.notes[r.order[0]].since) >= recentLife {
		r.dropOldest()
	}
	n, found = r.notes[k]
	return n, found
}

// forget lets one be asked about again. If it is added once more before its first time is over, it is dropped with that.
func (r *recent[K]) forget(k K) { delete(r.notes, k) }

func (r *recent[K]) dropOldest() {
	delete(r.notes, r.order[0])
	r.order = r.order[1:]
}
