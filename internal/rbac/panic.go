package rbac

import "authz-sidecar/internal/panics"

// survive is to be deferred where the state is right before anything is told of it, and telling may panic. That is said once, since
// whatever panicked will again; it may be the log.
func (c *Cache) survive() {
	if v := recover(); v != nil {
		c.survived.Do(func() { panics.Tell(c.cfg.Logger, "telling of the RBAC policy panicked", v) })
	}
}
