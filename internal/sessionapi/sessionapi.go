// Package sessionapi asks a project's session API whether a session still lives.
//
// A credential that cannot be proved locally (an expired JWT, one too old for the rule, an opaque token) is traded at
// the API for a new JWT. What the package keeps true:
//
//   - An Exchange holds a JWT that the project's own verifier has accepted, of the session that was asked about.
//   - Equal requests share one call, and a call belongs to none of them: a caller that leaves, or whose deadline ends
//     first, takes nothing along. The call goes on within its own limit and its answer serves the next request.
//   - Requests are equal in all that is asked: credential, permission and extension. So an exchange never stands for a
//     permission that its call did not ask about, and none comes of an answer that does not grant what was asked.
//   - "No" and "could not ask" are never confused: only an answer that the vendor documents as being about the
//     credential denies, everything else is ErrUnavailable.
//   - What a stranger can make up, an opaque token, never gets at more than half of the calls, and a credential that the API
//     said no to is not asked about again for 10 s.
//   - Neither a credential nor the project's secret reaches a log, an error text or a map key.
//
// How: one mutex decides for each request between a kept exchange, a call under way and a new call. The call runs in a
// goroutine of its own: it posts, classifies the answer (outcome.go has the table), proves the JWT and keeps the result.
// Ahead makes the same calls before anybody must wait for one.
package sessionapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/session"
)

// Config says whose session API is asked, and how.
type Config struct {
	// Product and ProjectID say which project. Required.
	Product   session.Product
	ProjectID string
	// Secret is the project's secret. Required.
	Secret session.Secret
	// BaseURL is where the session API is: https, or http on loopback. Required.
	BaseURL string
	// Transport makes the calls and must obey a request's context. Its own limits on answer headers stand; redirects
	// are never followed. Default http.DefaultTransport.
	Transport http.RoundTripper
	// Verify proves the JWT that comes back; session.Verifier.Verify. Required.
	Verify func(ctx context.Context, jwt string, now time.Time) (*session.Session, error)
	// Timeout is how long one call may take, whoever waits for it. Required.
	Timeout time.Duration
	// MaxCalls is how many calls may be under way. Required.
	MaxCalls int
	// CallsPerSecond is how many calls may begin in a second, and at once after a pause. Default 0: any number. Of both limits an
	// opaque token may use half, unless an exchange of it is kept.
	CallsPerSecond int
	// KeptExchanges is how many exchanges are kept for requests that still carry the traded credential; one that grants a
	// permission counts twice, since it is kept for its own JWT too. Default 0: none, and Ahead does nothing.
	KeptExchanges int
	// OnEnded hears of a session that the API did not find: for certain one that was asked about by its JWT, or by a token of which
	// an exchange is kept; not for certain one whose JWT was beside a token that the API did not find. It is told before anybody
	// who waits gets the error, in the call's goroutine or the waiter's, under no lock, and must be quick. The session is shared, and may
	// be reused afterwards: read only, and not to be kept. Default: nobody hears.
	OnEnded func(s *session.Session, certain bool)
	// Logger gets alerts and changes of state. Default: discard.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Client asks the session API of one project.
type Client struct {
	endpoint  string
	cfg       Config
	hashKey   digest
	metrics   *metrics
	condition *condition

	// mu guards the rest and what the comments at call say, so that a request sees calls and kept at one instant and can
	// never miss both.
	mu     sync.Mutex
	calls  map[key]*call
	limits *limits
	kept   *kept
	// refused are the credentials that the API lately said no to, paused those that were traded ahead for nothing, forbidden what
	// it lately forbade.
	refused, paused *recent[digest]
	forbidden       *recent[key]
}

// Request is one credential to trade. It prints as "[redacted]". Whoever makes it may reuse all that it holds once Authenticate
// or Ahead has returned: what is kept, or goes on, has its own copy.
type Request struct {
	redacted
	// JWT or Token, exactly one. A JWT must be authentic (verified, or refused with session.ErrExpired alone), a token
	// within its alphabet and length: garbage must not cost a call.
	JWT, Token string
	// Session is what the JWT proved: the answer must be about the same. Beside a Token it is what the JWT that came with the
	// token proved, nil if there was none: the answer may be about another, which is for the caller to see.
	Session *session.Session
	// Check is a permission to ask about; nil for none. A session without it is refused: ErrForbidden.
	Check *AuthorizationCheck
	// DurationMinutes extends the session to so many minutes from now, 5 to 527040; 0 does not extend it.
	DurationMinutes int
}

// clone returns a copy that stays what it is, whatever the caller does to its own.
func (r Request) clone() Request {
	r.JWT, r.Token = strings.Clone(r.JWT), strings.Clone(r.Token)
	if r.Session != nil {
		r.Session = r.Session.Clone()
	}
	if r.Check != nil {
		r.Check = &AuthorizationCheck{
			strings.Clone(r.Check.OrganizationID), strings.Clone(r.Check.ResourceID), strings.Clone(r.Check.Action),
		}
	}
	return r
}

// AuthorizationCheck is a permission in the vendor's RBAC (https://stytch.com/docs/b2b/guides/rbac/overview).
type AuthorizationCheck struct {
	// OrganizationID is for B2B, and required there: the session's own, or the API refuses.
	OrganizationID string `json:"organization_id,omitempty"`
	// ResourceID and Action are required.
	ResourceID string `json:"resource_id"`
	Action     string `json:"action"`
}

// Exchange is the proof that came back. It is shared between callers: read only. It prints as "[redacted]".
type Exchange struct {
	redacted
	JWT     string
	Session *session.Session
	// AskedAt is when the call began that brought it, by our own clock.
	AskedAt time.Time
}

// call is one call under way. Its result may be read once done is closed.
type call struct {
	request  Request
	done     chan struct{}
	exchange *Exchange
	err      error

	ahead     bool             // begun by Ahead
	unknown   bool             // for an opaque token that may be made up
	presented *session.Session // by who began it: Request.Session, which request has for a JWT alone
	owner     digest           // of what a no would be about
	overtaken bool             // by such a no, so not to be kept; guarded by Client.mu
}

// New makes a Client. It calls nobody.
func New(cfg Config) (*Client, error) {
	endpoint, err := endpoint(cfg.BaseURL, cfg.Product)
	switch {
	case err != nil:
		return nil, fmt.Errorf("session API: %w", err)
	case cfg.ProjectID == "":
		return nil, errors.New("session API: no project id")
	case cfg.Secret == "":
		return nil, errors.New("session API: no secret")
	case cfg.Verify == nil:
		return nil, errors.New("session API: nothing verifies the answers")
	case cfg.Timeout <= 0:
		return nil, fmt.Errorf("session API: timeout %v is not positive", cfg.Timeout)
	case cfg.MaxCalls < 1:
		return nil, fmt.Errorf("session API: at most %d calls is none", cfg.MaxCalls)
	case cfg.CallsPerSecond < 0:
		return nil, fmt.Errorf("session API: %d calls per second is negative", cfg.CallsPerSecond)
	case cfg.KeptExchanges < 0:
		return nil, fmt.Errorf("session API: %d kept exchanges is negative", cfg.KeptExchanges)
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		endpoint:  endpoint,
		cfg:       cfg,
		metrics:   newMetrics(cfg.Registerer),
		condition: newCondition(cfg.Logger),
		calls:     make(map[key]*call),
		limits:    newLimits(cfg.MaxCalls, cfg.CallsPerSecond),
		kept:      newKept(cfg.KeptExchanges),
		refused:   newRecent[digest](),
		paused:    newRecent[digest](),
		forbidden: newRecent[key](),
	}
	rand.Read(c.hashKey[:]) // never fails, see its documentation
	return c, nil
}

// Authenticate trades a credential for a new JWT.
//
// A kept exchange of an equal request is returned if its JWT still verifies and is younger than maxAge. Else an
// equal call under way is joined, else one is started. So with a maxAge of 0 the answer always comes from a call that
// ended after the request arrived, but maybe from one that began before: a session revoked between the two passes
// once more, as it would have, had the request come that much earlier. The age of a JWT that a call has just brought
// is not compared with maxAge: there is no younger one.
//
// ErrSessionNotFound and ErrCredentialRefused are remembered for the credential: for 10 s they answer whatever is asked about it.
// A call beyond the limits is not made: ErrUnavailable.
//
// With Check the exchange is also kept for the JWT that it brought: presented next, with the same Check, that costs no call
// while the answer is young enough. Without Check a new JWT is proved locally and has no use for that.
//
// The error is one of ErrSessionNotFound, ErrCredentialRefused, ErrForbidden, ErrMismatch and ErrUnavailable, or says
// that the request itself is wrong. When ctx ends first it is ErrUnavailable, and the call goes on.
func (c *Client) Authenticate(ctx context.Context, r Request, maxAge time.Duration) (*Exchange, error) {
	if err := c.wrong(r); err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody waits for it, and the API has not been asked
		return nil, fmt.Errorf("%w: no time was left for it", ErrUnavailable)
	}
	k := c.key(r)
	exchange, call, err := c.find(ctx, k, r, maxAge)
	if exchange != nil && !c.stillProved(ctx, k, exchange) {
		exchange, call, err = c.find(ctx, k, r, maxAge)
	}
	if exchange != nil {
		c.metrics.reused.Inc()
	}
	if call == nil {
		c.doubt(r, err)
		return exchange, err
	}
	c.metrics.waiters.Inc()
	defer c.metrics.waiters.Dec()
	select {
	case <-call.done:
		c.doubt(r, call.err)
		return call.exchange, call.err
	case <-ctx.Done():
		return nil, callerLeft(ctx)
	}
}

// wrong says what cannot be asked.
func (c *Client) wrong(r Request) error {
	switch {
	case (r.JWT == "") == (r.Token == ""):
		return errors.New("session API: a request holds exactly one of JWT and token")
	case r.Check == nil:
		return nil
	case r.Check.ResourceID == "" || r.Check.Action == "":
		return errors.New("session API: an authorization check needs a resource and an action")
	case c.cfg.Product == session.B2B && r.Check.OrganizationID == "":
		return errors.New("session API: an authorization check in B2B needs the id of the session's organization")
	}
	return nil
}

// find returns the kept exchange, the remembered no or the call, begun earlier or now, that answers a request.
func (c *Client) find(ctx context.Context, k key, r Request, maxAge time.Duration) (*Exchange, *call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	n, found := c.refused.get(k.credential, now)
	if !found && maxAge > 0 { // it may have been granted since
		n, found = c.forbidden.get(k, now)
	}
	if found {
		c.metrics.remembered.Inc()
		return nil, nil, n.err
	}
	if e := c.kept.get(k, now, maxAge); e != nil {
		return e, nil, nil
	}
	if cl := c.calls[k]; cl != nil {
		c.metrics.joined.Inc()
		return nil, cl, nil
	}
	cl := &call{request: r}
	if o := c.start(ctx, k, cl, now); o != ok {
		c.metrics.calls.WithLabelValues(string(o)).Inc()
		return nil, nil, sheds[o]
	}
	return nil, cl, nil
}

// start begins a call if the limits let it: ok. The caller holds mu.
func (c *Client) start(ctx context.Context, k key, cl *call, now time.Time) outcome {
	r := &cl.request
	cl.unknown = r.Token != "" && !c.kept.knows(k.credential, now)
	if o := c.limits.begin(cl.unknown, now); o != ok {
		return o
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
	c.metrics.inFlight.Inc()
	go c.run(context.WithoutCancel(ctx), k, cl)
	return ok
}

// stillProved says whether a kept exchange's JWT verifies now: the project may have withdrawn its key since. One that
// does not is kept no longer.
func (c *Client) stillProved(ctx context.Context, k key, e *Exchange) bool {
	if _, err := c.cfg.Verify(ctx, e.JWT, time.Now()); err == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept.has(k, e) {
		c.kept.drop(k)
	}
	return false
}

// run makes the call and hands its result to whoever waits. Nothing that happens inside, not even a panic, leaves
// them waiting.
func (c *Client) run(ctx context.Context, k key, cl *call) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	start := time.Now()
	res := no(panicked, "the call panicked")
	defer func() {
		if v := recover(); v != nil {
			c.alertPanic(v)
		}
		c.finish(k, cl, res, start)
	}()
	res = c.ask(ctx, cl.request)
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

// doubt tells of the session whose JWT was beside a token that was not found: who joins a call, or meets a remembered no, may have
// another one there than who began.
func (c *Client) doubt(r Request, err error) {
	if r.Token != "" && errors.Is(err, ErrSessionNotFound) {
		c.ended(r.Session, false)
	}
}

func (c *Client) finish(k key, cl *call, res result, start time.Time) {
	now := time.Now()
	c.condition.note(res, now)
	c.metrics.calls.WithLabelValues(string(res.outcome)).Inc()
	c.metrics.seconds.Observe(now.Sub(start).Seconds())
	c.metrics.inFlight.Dec()

	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, k)
	c.limits.end(cl.unknown)
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
	if cl.ahead && (res.outcome != ok || !younger(res.exchange.Session, cl.presented, now)) {
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

// Wait returns when no call is under way. Each ends within Timeout, but new ones must have ceased to come.
func (c *Client) Wait() {
	for {
		cl := c.anyCall()
		if cl == nil {
			return
		}
		<-cl.done
	}
}

func (c *Client) anyCall() *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.calls {
		return cl
	}
	return nil
}

// Status is what the client is doing and how the API has been.
type Status struct {
	// InFlight is the number of calls under way, Kept that of the kept exchanges.
	InFlight, Kept int
	// LastError is why the last call that could not ask, or was answered wrongly, failed. Empty: none has.
	LastError   string
	LastErrorAt time.Time
	// LastOKAt is when the API last answered, be it with a no.
	LastOKAt time.Time
}

// Status returns the present state.
func (c *Client) Status() Status {
	s := c.condition.status()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.InFlight, s.Kept = len(c.calls), c.kept.len()
	return s
}

// alertPanic logs a panic's stack. Its value is shown only where the runtime made it: any other could quote a
// credential.
func (c *Client) alertPanic(v any) {
	if !c.condition.alert(panicked, time.Now()) {
		return
	}
	text := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		text = err.Error()
	}
	c.cfg.Logger.Error("session API call panicked", "panic", text, "stack", string(debug.Stack()))
}

func callerLeft(ctx context.Context) error {
	return fmt.Errorf("%w: caller's deadline: %w", ErrOutage, context.Cause(ctx))
}
