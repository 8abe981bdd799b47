package sessionapi

import (
	"context"
	"time"

	"authz-sidecar/internal/session"
)

// aheadShare is the part of MaxCalls, one in so many, that may be under way once Ahead has begun a call, and of CallsPerSecond that
// must be left before it does. The rest is for those that somebody waits for.
const aheadShare = 2

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
// It starts none while an equal one or half of MaxCalls are under way, nor while half of CallsPerSecond are used up or the API is
// failing or limits our rate, nor in the 10 s after one of its own that brought nothing for the credential or after a no to it, nor for a request that Authenticate
// would call wrong.
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
	if _, found := c.refused.get(k.credential, now); found {
		return nil, pausedAhead
	}
	if e := c.kept.get(k, now, session.NoMaxAge); e != nil && younger(e.Session, r.Session, c.cfg.Clock.Now(now)) {
		return e, handedOver
	}
	if c.calls[k] != nil {
		return nil, underWay
	}
	if _, found := c.paused.get(k.credential, now); found {
		return nil, pausedAhead
	}
	if !c.limits.spare(now) {
		return nil, shedAhead
	}
	if o, _ := c.start(ctx, k, &call{request: r, ahead: true}, now); o != ok {
		return nil, shedAhead
	}
	return nil, started
}

// younger says whether a session's JWT is worth handing over to who presented another.
func younger(s, presented *session.Session, now time.Time) bool {
	if presented == nil {
		return now.Sub(s.IssuedAt) < s.Expires.Sub(s.IssuedAt)/2
	}
	return s.ID == presented.ID && s.IssuedAt.After(presented.IssuedAt)
}
