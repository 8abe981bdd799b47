package sessionapi

import (
	"context"
	"time"

	"authz-sidecar/internal/session"
)

const (
	// aheadShare is the part of MaxCalls, one in so many, that may be under way once Ahead has begun a call. The rest is for
	// those that somebody waits for.
	aheadShare = 2
	// aheadPause is how long a credential is not traded ahead again after that brought nothing: an outage must not cost one
	// call for each request. It is short beside a JWT's life of 5 minutes.
	aheadPause = 10 * time.Second
	// maxPauses bounds the credentials that are remembered for that. Beyond it nothing is traded ahead: a thousand a second is
	// more than one sidecar serves.
	maxPauses = 10_000
)

// What Ahead did: the metric's label.
const (
	handedOver  = "handed_over"
	started     = "started"
	underWay    = "under_way"
	pausedAhead = "paused"
	shedAhead   = "shed"
)

// Ahead is for a JWT that still serves but not for long. It returns the kept exchange of an equal request if its JWT still
// verifies and is younger than the one that r.Session is about; where that is not known, if it is in the first half of its
// life. Else it starts a call that nobody waits for and returns nil; the call's exchange is kept, for Ahead and Authenticate
// alike, and a session that it does not find is told to OnEnded.
//
// It starts none while an equal one or half of MaxCalls are under way, nor in the 10 s after one of its own that brought
// nothing for the credential, nor for a request that Authenticate would call wrong.
func (c *Client) Ahead(ctx context.Context, r Request) *Exchange {
	if c.cfg.KeptExchanges == 0 || ctx.Err() != nil || c.wrong(r) != nil {
		return nil
	}
	k := c.key(r)
	exchange, did := c.findAhead(ctx, k, r)
	if exchange != nil && !c.stillProved(ctx, k, exchange) {
		exchange, did = c.findAhead(ctx, k, r)
	}
	c.metrics.ahead.WithLabelValues(did).Inc()
	return exchange
}

// findAhead returns the kept exchange that Ahead hands over, or starts a call for the next one if it may.
func (c *Client) findAhead(ctx context.Context, k key, r Request) (*Exchange, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if e := c.kept.get(k, now, session.NoMaxAge); e != nil && younger(e.Session, r.Session, now) {
		return e, handedOver
	}
	switch {
	case c.calls[k] != nil:
		return nil, underWay
	case c.paused.has(k.credential, now):
		return nil, pausedAhead
	case len(c.calls) >= c.cfg.MaxCalls/aheadShare:
		return nil, shedAhead
	}
	c.start(ctx, k, &call{request: r, ahead: true})
	return nil, started
}

// younger says whether a session's JWT is worth handing over to who presented another.
func younger(s, presented *session.Session, now time.Time) bool {
	if presented == nil {
		return now.Sub(s.IssuedAt) < s.Expires.Sub(s.IssuedAt)/2
	}
	return s.ID == presented.ID && s.IssuedAt.After(presented.IssuedAt)
}

// pauses are the credentials that were traded ahead for nothing lately. It is not safe for concurrent use: the client's
// mutex guards it.
type pauses struct {
	since map[digest]time.Time
	order []digest // oldest first
}

func newPauses() *pauses { return &pauses{since: make(map[digest]time.Time)} }

func (p *pauses) add(credential digest, now time.Time) {
	if _, ok := p.since[credential]; ok || len(p.order) >= maxPauses {
		return
	}
	p.since[credential] = now
	p.order = append(p.order, credential)
}

// has says whether a credential is to be left alone.
func (p *pauses) has(credential digest, now time.Time) bool {
	for len(p.order) > 0 && now.Sub(p.since[p.order[0]]) >= aheadPause {
		delete(p.since, p.order[0])
		p.order = p.order[1:]
	}
	_, ok := p.since[credential]
	return ok || len(p.order) >= maxPauses
}
