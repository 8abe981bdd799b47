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

// health is how the API has been. It logs changes, and only those: the first failure of a kind until the API answers
// again, and that it does.
type health struct {
	logger *slog.Logger

	// mu guards the rest; calls write when they end.
	mu               sync.Mutex
	last             Status
	failing, refused bool // logged, and no answer since
	alerted          map[outcome]time.Time
}

func newHealth(logger *slog.Logger) *health {
	return &health{logger: logger, alerted: make(map[outcome]time.Time)}
}

// note takes in how a call ended.
func (h *health) note(res result, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if res.err == nil || !errors.Is(res.err, ErrUnavailable) && !errors.Is(res.err, ErrMismatch) {
		if h.failing || h.refused {
			h.logger.Info("session API answers again")
		}
		h.failing, h.refused = false, false
		h.last.LastOKAt = now
		return
	}
	h.last.LastError, h.last.LastErrorAt = res.err.Error(), now
	switch {
	case res.outcome == mismatch || res.outcome == panicked: // alerts, logged where they are seen
	case res.outcome == secretRefused && !h.refused:
		h.refused = true
		h.logger.Error("session API refuses the project's secret", "error", res.err)
	case res.outcome != secretRefused && !h.failing:
		h.failing = true
		h.logger.Warn("session API could not be asked", "error", res.err)
	}
}

// alert says whether an alert of this kind is to be logged now.
func (h *health) alert(o outcome, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last, ok := h.alerted[o]; ok && now.Sub(last) < alertInterval {
		return false
	}
	h.alerted[o] = now
	return true
}

func (h *health) status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
