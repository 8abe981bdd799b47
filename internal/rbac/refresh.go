package rbac

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"authz-sidecar/internal/panics"
)

// The delay after a failure doubles from retryFirst, soon enough for a server that restarts, to retryMost, rare enough
// for one that is overloaded.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// outage is what Run remembers of failures in a row, so that each change is announced once.
type outage struct {
	failures       int
	since          time.Time // of the first
	refused, stale bool      // announced: the secret was refused, the policy has become too old
	panicked       bool      // a stack was logged
}

// Run keeps the policy fresh and fetches the roles of organizations that are asked for, until ctx is done; then it returns nil,
// with no fetch left behind. What has been learnt serves on after that, until it is stale. Run may be called once.
func (c *Cache) Run(ctx context.Context) error {
	if !c.started.CompareAndSwap(false, true) {
		return errors.New("RBAC policy: Run was called twice")
	}
	defer c.end()
	var fetches sync.WaitGroup
	defer fetches.Wait()
	fetches.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case o := <-c.asked:
				fetches.Go(func() { c.learn(ctx, o) })
			}
		}
	})
	var out outage
	for ctx.Err() == nil {
		for wait := c.round(ctx, &out); wait > 0; wait = c.heldFor() {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
	}
	return nil
}

// round is one fetch of the project's policy and what follows from it. It returns when the next is due, if nothing holds it back.
// Whatever panics in it, the state is right before anything is told.
func (c *Cache) round(ctx context.Context, out *outage) (wait time.Duration) {
	defer c.survive()
	started := time.Now()
	fetched, err := c.fetch(ctx, c.paths.policy, "policy", maxNames)
	if err == nil && len(fetched.roles) == 0 {
		err = errNoRole // every project has roles of the vendor's own
	}
	if ctx.Err() != nil {
		return 0 // a fetch that was called off says nothing
	}
	before, was := c.current.Load(), *out
	if err != nil {
		out.fail(err, before != nil && time.Since(before.started) > c.cfg.MaxStale)
		c.mu.Lock()
		c.noteError(err, time.Now())
		c.mu.Unlock()
		wait = jitter(min(retryFirst<<min(was.failures, 8), retryMost))
		c.metrics.fetches.WithLabelValues(outcome(err)).Inc()
		c.announceFailure(before, err, was, *out)
		return wait
	}
	after := &snapshot{fetched, started}
	*out = outage{}
	c.current.Store(after)
	wait = jitter(c.cfg.RefreshInterval)
	c.metrics.fetches.WithLabelValues(fetchOK).Inc()
	c.announceSuccess(before, after, was)
	return wait
}

func (o *outage) fail(err error, stale bool) {
	if o.failures == 0 {
		o.since = time.Now()
	}
	o.failures++
	o.refused = o.refused || errors.Is(err, errSecretRefused)
	o.panicked = o.panicked || errors.Is(err, panics.ErrPanicked)
	o.stale = o.stale || stale
}

// noteError remembers why a fetch failed, and until when it holds all others back. c.mu is held.
func (c *Cache) noteError(err error, now time.Time) {
	c.status.LastError, c.status.LastErrorAt = err.Error(), now
	if h, ok := errors.AsType[*heldBack](err); ok {
		c.held = now.Add(h.wait + rand.N(h.wait/10)) // not all replicas come back at once
	}
}

// heldFor is how long the session API wants no request yet; 0 or less if it does not say.
func (c *Cache) heldFor() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.held)
}

// end wakes who waits for a fetch that will not come.
func (c *Cache) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.ended)
}

// jitter keeps the replicas of a deployment from asking all at once: ±10 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// announceFailure tells what is new in an outage since it was as before.
func (c *Cache) announceFailure(current *snapshot, err error, before, now outage) {
	log := c.cfg.Logger.With("error", err)
	switch {
	case now.refused && !before.refused:
		log.Error("RBAC policy fetch failed: the project's secret is refused", "loaded", current != nil)
	case before.failures == 0:
		log.Warn("RBAC policy fetch failed; retrying, with the last good policy if there is one", "loaded", current != nil)
	}
	if now.panicked && !before.panicked {
		log.Error("RBAC policy fetch panicked", panics.Stack(err)...)
	}
	if now.stale && !before.stale {
		log.Error("RBAC policy is stale: it is no longer used", "fetched", current.started)
	}
}

func (c *Cache) announceSuccess(before, after *snapshot, out outage) {
	log := c.cfg.Logger
	if out.failures > 0 {
		log.Info("RBAC policy fetch recovered", "failures", out.failures, "after_seconds", int(time.Since(out.since).Seconds()))
	}
	switch {
	case before == nil:
		log.Info("RBAC policy loaded", "roles", len(after.roles))
	case !maps.EqualFunc(before.roles, after.roles, maps.Equal[permissions, permissions]):
		log.Info("RBAC policy changed", "roles", len(after.roles))
	}
}
