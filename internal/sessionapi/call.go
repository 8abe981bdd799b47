package sessionapi

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"time"

	"authz-sidecar/internal/panics"
	"authz-sidecar/internal/retryafter"
	"authz-sidecar/internal/session"
)

// call is one call, waiting for its turn or under way. Its result may be read once done is closed.
type call struct {
	request  Request
	done     chan struct{}
	exchange *Exchange
	err      error

	turn   chan struct{}      // closed by limits when it may be made
	place  *list.Element      // in the queue, until then; guarded by Client.mu
	queued bool               // it had a place there
	end    func(outcome) bool // of the breaker, once it has let the call be made

	ahead     bool             // begun by Ahead
	unknown   bool             // for an opaque token that may be made up
	user      digest           // who alone answers for the call's failure, or for a 429
	presented *session.Session // by who began it: Request.Session, which request has for a JWT alone
	owner     digest           // of what a no would be about
	overtaken bool             // by such a no, so not to be kept; guarded by Client.mu
}

// start begins a call, which is ok, or says why not. The caller holds mu.
func (c *Client) start(ctx context.Context, k key, cl *call, now time.Time) (outcome, error) {
	r := &cl.request
	cl.unknown = r.Token != "" && !c.kept.knows(k.credential, now)
	cl.user = c.user(k, r)
	if o, err := c.shut(cl, now); o != ok {
		return o, err
	}
	cl.turn = make(chan struct{})
	if o := c.limits.enter(cl, now); o != ok {
		return o, sheds[o]
	}
	*r = r.clone()
	if r.Check != nil {
		k.check = *r.Check
	}
	cl.presented = r.Session
	if r.Token != "" {
		r.Session = nil // the client may have put two sessions side by side, which is no fault of the answer
	}
	cl.done, cl.owner = make(chan struct{}), c.owner(k, r.Session)
	c.calls[k] = cl
	c.count()
	go c.run(context.WithoutCancel(ctx), k, cl)
	return ok, nil
}

func (c *Client) breaker(ofUnknown bool) *breaker {
	if ofUnknown {
		return c.unknown
	}
	return c.known
}

// shut says why a call may not be made now; ok if it may.
func (c *Client) shut(cl *call, now time.Time) (outcome, error) {
	b := c.breaker(cl.unknown)
	o, after := b.shut(cl.user, now)
	if o == ok && cl.ahead && !b.closed() { // the probe is for somebody who waits
		o = breakerOpen
	}
	if o == ok {
		return ok, nil
	}
	return o, c.leftAlone(o, cl, after)
}

// leftAlone is the error of a call that is not made because the API limits our rate, or fails.
func (c *Client) leftAlone(o outcome, cl *call, after time.Duration) error {
	var cause error = ErrOutage
	if cl.unknown {
		cause = fmt.Errorf("%w: %w", cause, ErrTokenShed)
	}
	return c.blameless(cl, fmt.Errorf("%w: %s: %w", cause, leftAloneFor[o], &RetryAfterError{retryafter.Within(after)}))
}

// blameless takes ErrOutage from the error of a token that may be made up, while the others' calls are answered: strangers may have made
// it so that it fails, or so many that their rate is limited, and must not buy an outage with that.
func (c *Client) blameless(cl *call, err error) error {
	if cl.unknown && c.answering.Load() && errors.Is(err, ErrOutage) {
		return noOutage{err}
	}
	return err
}

var leftAloneFor = map[outcome]string{heldBack: "it has said when to come back", breakerOpen: "too many calls have failed"}

// hold has the API left alone for as long as it said. What it says to tokens that may be made up is for those alone: else strangers
// could keep everybody from a refresh.
func (c *Client) hold(cl *call, o outcome, after time.Duration) {
	now, b := time.Now(), c.breaker(cl.unknown)
	if o == rateLimited {
		after = b.limit(cl.user, after, now)
	} else {
		b.hold(after, now)
	}
	if !cl.unknown {
		c.unknown.hold(after, now)
	}
}

// count shows how many calls are under way, and how many wait. The caller holds mu.
func (c *Client) count() {
	c.metrics.inFlight.Set(float64(c.limits.calls))
	c.metrics.queued.Set(float64(c.limits.queue.Len()))
}

// run makes the call once it is its turn and hands its result to whoever waits. Nothing that happens inside, not even a panic,
// leaves them, or the breaker, waiting.
func (c *Client) run(ctx context.Context, k key, cl *call) {
	start, res := time.Now(), no(panicked, "the call panicked")
	defer func() {
		if v := recover(); v != nil {
			c.alertPanic(v)
		}
		c.finish(k, cl, res, start)
	}()
	if o, err := c.begin(cl); o != ok {
		res = result{o, nil, err}
		return
	}
	start = time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	res = c.ask(ctx, cl)
	if res.exchange != nil {
		res.exchange.AskedAt = start
	}
	if res.outcome == sessionNotFound {
		c.ended(cl.presented, cl.request.JWT != "")
		if cl.request.Token != "" {
			c.ended(c.sessionOf(k.credential), true)
		}
	}
}

// begin waits for a call's turn, at most as long as one under way may take; then it may be made if the API has not begun to fail,
// or to limit our rate, meanwhile.
func (c *Client) begin(cl *call) (outcome, error) {
	timer := time.NewTimer(c.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-cl.turn:
	case <-timer.C:
		return shed, sheds[shed]
	}
	if o, err := c.shut(cl, time.Now()); o != ok {
		return o, err
	}
	var may bool
	if cl.end, may = c.breaker(cl.unknown).begin(cl.user); !may { // the probe has begun just now
		return breakerOpen, c.leftAlone(breakerOpen, cl, 0)
	}
	return ok, nil
}

// ended tells that a session, which may be nil, was not found.
func (c *Client) ended(s *session.Session, certain bool) {
	if s != nil && c.cfg.OnEnded != nil {
		c.cfg.OnEnded(s, certain)
	}
}

// sessionOf is the session of which an exchange of this credential is kept; nil if there is none.
func (c *Client) sessionOf(credential digest) *session.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept.session(credential)
}

// finish keeps what a call brought, of a call that was not made nothing, and wakes who waits for it.
func (c *Client) finish(k key, cl *call, res result, start time.Time) {
	now := time.Now()
	c.metrics.calls.WithLabelValues(string(res.outcome)).Inc()
	if cl.end != nil {
		if counts := cl.end(res.outcome); counts && !cl.unknown {
			c.answering.Store(res.outcome.answered() && res.outcome != rateLimited)
		}
		res.err = c.blameless(cl, res.err)
		c.condition.note(res, now)
		c.metrics.seconds.Observe(now.Sub(start).Seconds())
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, k)
	c.limits.leave(cl)
	c.count()
	switch res.outcome {
	case ok:
		c.forbidden.forget(k)
	case sessionNotFound, credentialRefused: // no yes can follow, but of a call under way, which forget sees to
		c.refused.add(k.credential, res.err, now)
	case forbidden, notAuthorized:
		c.forbidden.add(k, res.err, now)
	}
	switch {
	case res.outcome == ok && !cl.overtaken:
		c.keep(k, res.exchange, start)
	case res.outcome != ok && !errors.Is(res.err, ErrUnavailable):
		// A refused permission says nothing about others.
		c.forget(cl.owner, k.question, errors.Is(res.err, ErrForbidden) && cl.request.Check != nil)
	}
	if cl.ahead && (res.outcome != ok || !younger(res.exchange.Session, cl.presented, c.cfg.Clock.Now(now))) {
		c.paused.add(k.credential, res.err, now)
	}
	cl.exchange, cl.err = res.exchange, res.err
	close(cl.done)
}

// keep keeps an exchange for the request that it answered, and one that grants a permission for its own JWT. The caller
// holds mu.
func (c *Client) keep(k key, e *Exchange, since time.Time) {
	owners := [2]digest{k.credential, c.owner(k, e.Session)}
	c.kept.put(k, e, since, owners)
	if k.check != (AuthorizationCheck{}) {
		c.kept.put(key{c.digest("jwt", e.JWT), k.question}, e, since, owners)
	}
}

// forget drops what was kept for the owner, by which it was good for an older rule but is now known to be bad, and sees to it
// that no call under way brings it back: its answer may be from before. If onlyThis, other questions are left alone. The
// caller holds mu.
func (c *Client) forget(owner digest, q question, onlyThis bool) {
	c.kept.dropOwned(owner, func(k key) bool { return !onlyThis || k.question == q })
	for k, cl := range c.calls {
		if cl.owner == owner && (!onlyThis || k.question == q) {
			cl.overtaken = true
		}
	}
}

// alertPanic logs a panic's stack.
func (c *Client) alertPanic(v any) {
	if c.condition.alert(panicked, time.Now()) {
		panics.Tell(c.cfg.Logger, "session API call panicked", v)
	}
}
