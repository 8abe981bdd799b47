package jwkscache

import (
	"context"
	"crypto/rsa"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"authz-sidecar/internal/panics"
)

// The delay after a failure doubles from retryFirst, soon enough for a server that restarts, to retryMost, rare enough
// for one that is overloaded.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// unknownHold is the longest that a server can hold back the fetch that an unknown key id causes: as seldom as an endpoint is asked
// that fails and says nothing. After a rotation, who brings a JWT under the new key waits for that fetch.
const unknownHold = retryMost

// outage is what Run remembers of failures in a row, so that each change is announced once.
type outage struct {
	failures int
	since    time.Time // of the first
	panicked bool      // a stack was logged
	stale    bool      // it was announced that the keys have become too old
}

// Run keeps the key set fresh until ctx is done, then returns nil. Keys serve on after that, until they are stale. It
// may be called once.
func (c *Cache) Run(ctx context.Context) error {
	if !c.started.CompareAndSwap(false, true) {
		return errors.New("key set: Run was called twice")
	}
	defer c.endSaves()
	defer c.end()
	var out outage
	c.mu.Lock()
	timer := time.NewTimer(time.Until(c.due()))
	c.mu.Unlock()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.kick:
		case <-timer.C:
			c.round(ctx, &out)
		}
		c.mu.Lock()
		timer.Reset(time.Until(c.due()))
		c.mu.Unlock()
	}
}

// due is when the next fetch is to begin. c.mu is held.
func (c *Cache) due() time.Time {
	if c.wanted && c.allowed.Before(c.next) {
		return c.allowed
	}
	return c.next
}

// round is one fetch and what follows from it. Whatever panics in it, the state is right before anything is told.
func (c *Cache) round(ctx context.Context, out *outage) {
	defer c.survive()
	number, started := c.beginRound()
	answer, err := c.fetch(ctx)
	if ctx.Err() != nil {
		return // a fetch that was called off says nothing
	}
	before, was := c.current.Load(), *out
	if err != nil {
		out.fail(err, before != nil && time.Since(before.started) > c.config.MaxStale)
		c.endRound(nil, err, jitter(min(retryFirst<<min(was.failures, 8), retryMost)))
		c.metrics.countFetch(answer, err)
		c.announceFailure(before, err, was, *out)
		return
	}
	after := &snapshot{keySet: answer.keySet, round: number, started: started, generation: nextGeneration(before, answer.keys)}
	*out = outage{}
	c.endRound(after, nil, jitter(min(answer.fresh, c.config.MaxStale/2)))
	c.metrics.countFetch(answer, err)
	c.announceSuccess(before, after, was)
	c.save(answer, after)
}

func (o *outage) fail(err error, stale bool) {
	if o.failures == 0 {
		o.since = time.Now()
	}
	o.failures++
	o.stale = o.stale || stale
	o.panicked = o.panicked || errors.Is(err, panics.ErrPanicked)
}

func nextGeneration(before *snapshot, keys map[string]*rsa.PublicKey) uint64 {
	switch {
	case before == nil:
		return 1
	case maps.EqualFunc(before.keys, keys, func(a, b *rsa.PublicKey) bool { return a.Equal(b) }):
		return before.generation
	}
	return before.generation + 1
}

func (c *Cache) beginRound() (number uint64, started time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	started = time.Now()
	if started.Before(c.next) { // it is not on the schedule: an unknown key id causes it
		c.allowed = started.Add(c.config.UnknownKeyInterval)
	}
	c.rounds++
	c.wanted, c.fetching = false, true
	return c.rounds, started
}

// endRound publishes what the fetch brought, if anything, and wakes who waited for it.
func (c *Cache) endRound(after *snapshot, err error, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after != nil {
		c.current.Store(after)
	}
	now := time.Now()
	c.fetching, c.lastError, c.next = false, err, now.Add(wait)
	if h, ok := errors.AsType[*heldBack](err); ok {
		// Not all replicas come back at once.
		c.held, c.allowed = now.Add(h.wait+rand.N(h.wait/10)), later(c.allowed, now.Add(min(h.wait, unknownHold)))
	}
	if err != nil {
		c.next = later(c.next, c.held)
	}
	close(c.roundEnd)
	c.roundEnd = make(chan struct{})
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// end wakes who waits for a fetch that will not come.
func (c *Cache) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetching, c.ended = false, true
	close(c.roundEnd)
}

// jitter keeps the replicas of a deployment from asking all at once: ±10 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// announceFailure tells what is new in an outage since it was as before.
func (c *Cache) announceFailure(current *snapshot, err error, before, now outage) {
	log := c.config.Logger.With("error", err)
	if before.failures == 0 {
		log.Warn("key set fetch failed; retrying, with the last good set if there is one", "loaded", current != nil)
	}
	if now.panicked && !before.panicked {
		log.Error("key set fetch panicked", panics.Stack(err)...)
	}
	if now.stale && !before.stale {
		log.Error("key set is stale: its keys are no longer used", "fetched", current.started)
	}
}

func (c *Cache) announceSuccess(before, after *snapshot, out outage) {
	log := c.config.Logger
	if out.failures > 0 {
		log.Info("key set fetch recovered", "failures", out.failures, "after_seconds", int(time.Since(out.since).Seconds()))
	}
	if before == nil || before.saved {
		log.Info("key set loaded", "keys", len(after.keys), "dropped", after.dropped)
	}
	if before == nil {
		return
	}
	added, removed := missing(after.keys, before.keys), missing(before.keys, after.keys)
	log = log.With("added", added, "removed", removed, "dropped", after.dropped)
	switch {
	case len(removed) == len(before.keys):
		c.metrics.changes.WithLabelValues(keysReplaced).Inc()
		log.Warn("key set replaced: no key is as before")
	case len(removed) > 0:
		c.metrics.changes.WithLabelValues(keysRemoved).Inc()
		log.Warn("key set has lost keys: no JWT under them passes any more")
	case len(added) > 0:
		c.metrics.changes.WithLabelValues(keysAdded).Inc()
		log.Info("key set changed")
	case !maps.Equal(before.dropped, after.dropped):
		log.Info("key set changed")
	}
}

// missing are the ids in a whose key is not in b, or is another one there. They are the key server's words, not a
// caller's.
func missing(a, b map[string]*rsa.PublicKey) []string {
	var ids []string
	for kid, key := range a {
		if other := b[kid]; other == nil || !key.Equal(other) {
			ids = append(ids, kid)
		}
	}
	slices.Sort(ids)
	return ids
}
