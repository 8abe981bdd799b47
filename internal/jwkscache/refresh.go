package jwkscache

import (
	"context"
	"crypto/rsa"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// The delay after a failure doubles from retryFirst, soon enough for a server that restarts, to retryMost, rare enough
// for one that is overloaded.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// outage is what Run remembers of failures in a row, so that each change is announced once.
type outage struct {
	failures int
	since    time.Time // of the first
	stale    bool      // it was announced that the keys have become too old
}

// Run keeps the key set fresh until ctx is done, then returns nil. Keys serve on after that, until they are stale. It
// may be called once.
func (c *Cache) Run(ctx context.Context) error {
	if !c.started.CompareAndSwap(false, true) {
		return errors.New("key set: Run was called twice")
	}
	defer c.end()
	var out outage
	timer := time.NewTimer(0)
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

// round is one fetch and what follows from it.
func (c *Cache) round(ctx context.Context, out *outage) {
	number, started := c.beginRound()
	answer, err := c.fetch(ctx)
	if ctx.Err() != nil {
		return // a fetch that was called off says nothing
	}
	defer c.metrics.countFetch(answer, err) // once what it brought can be seen

	before := c.current.Load()
	if err != nil {
		c.announceFailure(before, err, out)
		out.failures++
		c.endRound(nil, err, jitter(min(retryFirst<<min(out.failures-1, 8), retryMost)))
		return
	}
	after := &snapshot{answer.keySet, number, started, nextGeneration(before, answer.keys)}
	c.announceSuccess(before, after, out)
	*out = outage{}
	c.endRound(after, nil, jitter(min(answer.fresh, c.config.MaxStale/2)))
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
	c.fetching, c.lastError, c.next = false, err, time.Now().Add(wait)
	close(c.roundEnd)
	c.roundEnd = make(chan struct{})
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

func (c *Cache) announceFailure(current *snapshot, err error, out *outage) {
	if out.failures == 0 {
		out.since = time.Now()
		c.config.Logger.Warn("key set fetch failed; retrying, with the last good set if there is one",
			"error", err, "loaded", current != nil)
	}
	if current != nil && !out.stale && time.Since(current.started) > c.config.MaxStale {
		out.stale = true
		c.config.Logger.Error("key set is stale: its keys are no longer used", "error", err, "fetched", current.started)
	}
}

func (c *Cache) announceSuccess(before, after *snapshot, out *outage) {
	log := c.config.Logger
	if out.failures > 0 {
		log.Info("key set fetch recovered", "failures", out.failures, "after_seconds", int(time.Since(out.since).Seconds()))
	}
	if before == nil {
		log.Info("key set loaded", "keys", len(after.keys), "dropped", after.dropped)
		return
	}
	added, removed := missing(after.keys, before.keys), missing(before.keys, after.keys)
	switch {
	case len(removed) == len(before.keys):
		log.Warn("key set replaced: no key is as before", "added", added, "removed", removed, "dropped", after.dropped)
	case len(added)+len(removed) > 0 || !maps.Equal(before.dropped, after.dropped):
		log.Info("key set changed", "added", added, "removed", removed, "dropped", after.dropped)
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
