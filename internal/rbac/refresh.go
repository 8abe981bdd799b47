package rbac

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
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
	failures       int
	since          time.Time // of the first
	refused, stale bool      // announced: the secret was refused, the policy has become too old
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
	for {
		wait := c.round(ctx, &out)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// round is one fetch of the project's policy and what follows from it. It returns when the next is due.
func (c *Cache) round(ctx context.Context, out *outage) (wait time.Duration) {
	started := time.Now()
	fetched, err := c.fetch(ctx, c.paths.policy, "policy", maxNames)
	if err == nil && len(fetched.roles) == 0 {
		err = errNoRole // every project has roles of the vendor's own
	}
	if ctx.Err() != nil {
		return 0 // a fetch that was called off says nothing
	}
	defer c.metrics.fetches.WithLabelValues(outcome(err)).Inc() // once what it brought can be seen

	before := c.current.Load()
	if err != nil {
		c.noteError(err)
		c.announceFailure(before, err, out)
		out.failures++
		return jitter(min(retryFirst<<min(out.failures-1, 8), retryMost))
	}
	after := &snapshot{fetched, started}
	c.announceSuccess(before, after, out)
	*out = outage{}
	c.current.Store(after)
	return jitter(c.cfg.RefreshInterval)
}

func (c *Cache) noteError(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.LastError, c.status.LastErrorAt = err.Error(), time.Now()
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

func (c *Cache) announceFailure(current *snapshot, err error, out *outage) {
	log := c.cfg.Logger
	if out.failures == 0 {
		out.since = time.Now()
	}
	switch refused := errors.Is(err, errSecretRefused); {
	case refused && !out.refused:
		out.refused = true
		log.Error("RBAC policy fetch failed: the project's secret is refused", "error", err, "loaded", current != nil)
	case !refused && out.failures == 0:
		log.Warn("RBAC policy fetch failed; retrying, with the last good policy if there is one",
			"error", err, "loaded", current != nil)
	}
	if current != nil && !out.stale && time.Since(current.started) > c.cfg.MaxStale {
		out.stale = true
		log.Error("RBAC policy is stale: it is no longer used", "error", err, "fetched", current.started)
	}
}

func (c *Cache) announceSuccess(before, after *snapshot, out *outage) {
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
