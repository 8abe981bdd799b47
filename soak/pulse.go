package main

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	// beat is between two pulses.
	beat = 50 * time.Millisecond
	// stall is how much later than due a pulse is a machine's that stands still: ours is not the only work on it.
	stall = 300 * time.Millisecond
)

// pulse tells a machine that stands still from a sidecar that does: Envoy answers it by itself, so the sidecar has no part in it. What
// comes too late meanwhile is nobody's fault.
type pulse struct {
	house  *house
	oracle *oracle

	mu      sync.Mutex
	stalls  int
	stood   time.Duration
	longest time.Duration
}

func (p *pulse) run(ctx context.Context) error {
	for begun := time.Now(); wait(ctx, beat); begun = time.Now() {
		reply, err := p.house.rig.Do(context.WithoutCancel(ctx), http.MethodGet, "/envoy/healthz", nil)
		if err != nil || reply.Status != http.StatusOK {
			continue // the load will say so
		}
		now := time.Now()
		late := now.Sub(begun) - beat
		if late < stall {
			continue
		}
		p.oracle.was(span{begun, now}, apiTrouble, keysTrouble, standstill)
		p.mu.Lock()
		p.stalls, p.stood, p.longest = p.stalls+1, p.stood+late, max(p.longest, late)
		p.mu.Unlock()
	}
	return nil
}
