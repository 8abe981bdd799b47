//go:build !race

package clock_test

import (
	"testing"
	"time"

	"authz-sidecar/internal/clock"
)

func TestThePresentIsToldWithoutAllocating(t *testing.T) {
	c := clock.New(clock.Config{})
	hear(c, start, start)
	for _, by := range []time.Duration{0, -time.Hour} {
		wall := stepped(start.Add(time.Second), by)
		if got := testing.AllocsPerRun(100, func() { c.Now(wall) }); got != 0 {
			t.Errorf("stepped by %v: %v allocations", by, got)
		}
	}
}
