package sessionapi

import (
	"errors"
	"log/slog"
	"sync"
	"time"
)

// alertInterval is the least time between two alerts of one kind: often enough to be seen, too seldom to fill a disk
// while every answer is wrong. The counters have them all.
const alertInterval = 10 * time.Second

// condition is how the API has been. It logs changes, and only those: the first failure of a kind until the API answers
// again, and that it does.
type condition struct {
	logger *slog.Logger

	// mu guards the rest; calls write when they end.
	mu               sync.Mutex
	last             Status
	failing, refused bool // logged, and no answer since
	alerted          map[outcome]time.Time
}

func newCondition(logger *slog.Logger) *condition {
	return &condition{logger: logger, alerted: make(map[outcome]time.Time)}
}

// note takes in how a call that was made ended.
func (c *condition) note(res result, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if res.err == nil || !errors.Is(res.err, ErrUnavailable) && !errors.Is(res.err, ErrMismatch) {
		if c.failing || c.refused {
			c.logger.Info("session API answers again")
		}
		c.failing, c.refused = false, false
		c.last.LastOKAt = now
		return
	}
	c.last.LastError, c.last.LastErrorAt = res.err.Error(), now
	switch {
	case res.outcome == mismatch || res.outcome == panicked: // alerts, logged where they are seen
	case res.outcome == secretRefused && !c.refused:
		c.refused = true
		c.logger.Error("session API refuses the project's secret", "error", res.err)
	case res.outcome != secretRefused && !c.failing:
		c.failing = true
		c.logger.Warn("session API is failing", "error", res.err)
	}
}

// alert says whether an alert of this kind is to be logged now.
func (c *condition) alert(o outcome, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.alerted[o]; ok && now.Sub(last) < alertInterval {
		return false
	}
	c.alerted[o] = now
	return true
}

func (c *condition) status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}
