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
//   - What a stranger can make up, an opaque token, never gets at more than half of the calls, and never keeps the other half
//     from being made. A credential that the API said no to is not asked about again for 10 s.
//   - The API is left alone when it says so, and when it fails but for a probe; an outage is not made worse by asking twice.
//   - Nobody brings this about for others: what the API fails on, or limits, for one user or for tokens that anybody can make up, is no
//     outage to the rest, or for 10 s at most.
//   - So many calls are under way, so many wait for their turn and each for so long, whatever comes. What is shed is told at once.
//   - Neither a credential nor the project's secret reaches a log, an error text or a map key.
//
// How: one mutex decides for each request between a kept exchange, a call under way and a new call. The call runs in a
// goroutine of its own (call.go): it waits for its turn (limit.go), asks the breaker (breaker.go, hold.go), posts, maybe once more
// (retry.go), classifies the answer (outcome.go has the table), proves the JWT and keeps the result. Ahead makes the same
// calls before anybody must wait for one.
package sessionapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/session"
)

// Config says whose session API is asked, and how.
type Config struct {
	// Product and ProjectID say which project. Required.
	Product   session.Product
	ProjectID string
	// Secret is where the project's secret is got for each call, and read again when the API refuses it. Required.
	Secret session.SecretSource
	// BaseURL is where the session API is: https, or http on loopback. Required.
	BaseURL string
	// Transport makes the calls and must obey a request's context. Its own limits on answer headers stand; redirects
	// are never followed. Default http.DefaultTransport.
	Transport http.RoundTripper
	// Verify proves the JWT that comes back; session.Verifier.Verify. Required.
	Verify func(ctx context.Context, jwt string, now time.Time) (*session.Session, error)
	// Timeout is how long one call may take, whoever waits for it, once it has its turn. Required.
	Timeout time.Duration
	// MaxCalls is how many calls may be under way. Required. Further ones wait, see MaxQueued.
	MaxCalls int
	// CallsPerSecond is how many calls may begin in a second, and at once after a pause. Default 0: any number. Of both limits an
	// opaque token may use half, unless an exchange of it is kept.
	CallsPerSecond int
	// MaxQueued is how many calls may wait, in turn and for Timeout at most, for one of MaxCalls to end. Those of opaque tokens do not,
	// unless an exchange of the token is kept. Default 0: none.
	MaxQueued int
	// KeptExchanges is how many exchanges are kept for requests that still carry the traded credential; one that grants a
	// permission counts twice, since it is kept for its own JWT too. Default 0: none, and Ahead does nothing.
	KeptExchanges int
	// OnEnded hears of a session that the API did not find: for certain one that was asked about by its JWT, or by a token of which
	// an exchange is kept; not for certain one whose JWT was beside a token that the API did not find. It is told before anybody
	// who waits gets the error, in the call's goroutine or the waiter's, under no lock, and must be quick. The session is shared, and may
	// be reused afterwards: read only, and not to be kept. Default: nobody hears.
	OnEnded func(s *session.Session, certain bool)
	// Clock hears the Date of every answer that came over TLS, or from this machine, and says as of when a JWT is proved and how long an
	// exchange is kept. Default: this machine's clock alone.
	Clock *clock.Clock
	// Logger gets alerts and changes of state. Default: discard.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Client asks the session API of one project.
type Client struct {
	endpoint       string
	local          bool // the endpoint is on this machine
	cfg            Config
	hashKey        digest
	metrics        *metrics
	condition      *condition
	known, unknown *breaker
	answering      atomic.Bool // the last call of known's that counted was answered, or none has been made

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

// New makes a Client. It calls nobody.
func New(cfg Config) (*Client, error) {
	endpoint, local, err := endpoint(cfg.BaseURL, cfg.Product)
	switch {
	case err != nil:
		return nil, fmt.Errorf("session API: %w", err)
	case cfg.ProjectID == "":
		return nil, errors.New("session API: no project id")
	case cfg.Secret == nil || cfg.Secret.Secret() == "":
		return nil, errors.New("session API: no secret")
	case cfg.Verify == nil:
		return nil, errors.New("session API: nothing verifies the answers")
	case cfg.Timeout <= 0:
		return nil, fmt.Errorf("session API: timeout %v is not positive", cfg.Timeout)
	case cfg.MaxCalls < 1:
		return nil, fmt.Errorf("session API: at most %d calls is none", cfg.MaxCalls)
	case cfg.CallsPerSecond < 0:
		return nil, fmt.Errorf("session API: %d calls per second is negative", cfg.CallsPerSecond)
	case cfg.MaxQueued < 0:
		return nil, fmt.Errorf("session API: a queue of %d calls is negative", cfg.MaxQueued)
	case cfg.KeptExchanges < 0:
		return nil, fmt.Errorf("session API: %d kept exchanges is negative", cfg.KeptExchanges)
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	metrics := newMetrics(cfg.Registerer)
	c := &Client{
		endpoint:  endpoint,
		local:     local,
		cfg:       cfg,
		metrics:   metrics,
		condition: newCondition(cfg.Logger),
		known:     newBreaker(known, cfg.Logger, metrics),
		unknown:   newBreaker(unknown, cfg.Logger, metrics),
		calls:     make(map[key]*call),
		limits:    newLimits(cfg.MaxCalls, cfg.MaxQueued, cfg.CallsPerSecond),
		kept:      newKept(cfg.KeptExchanges, cfg.Clock),
		refused:   newRecent[digest](),
		paused:    newRecent[digest](),
		forbidden: newRecent[key](),
	}
	rand.Read(c.hashKey[:]) // never fails, see its documentation
	c.answering.Store(true)
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
// A call beyond the limits is not made: ErrUnavailable. Nor is one while the API fails or has said when to come back: then there is a
// RetryAfterError, and ErrOutage with the exception that it names.
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
		return nil, c.callerLeft(ctx, call)
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
	if o, err := c.start(ctx, k, cl, now); o != ok {
		c.metrics.calls.WithLabelValues(string(o)).Inc()
		return nil, nil, err
	}
	return nil, cl, nil
}

// stillProved says whether a kept exchange's JWT verifies now: the project may have withdrawn its key since. One that
// does not is kept no longer.
func (c *Client) stillProved(ctx context.Context, k key, e *Exchange) bool {
	if _, err := c.cfg.Verify(ctx, e.JWT, c.present()); err == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept.has(k, e) {
		c.kept.drop(k)
	}
	return false
}

// doubt tells of the session whose JWT was beside a token that was not found: who joins a call, or meets a remembered no, may have
// another one there than who began.
func (c *Client) doubt(r Request, err error) {
	if r.Token != "" && errors.Is(err, ErrSessionNotFound) {
		c.ended(r.Session, false)
	}
}

// present is the time by which JWTs are proved.
func (c *Client) present() time.Time { return c.cfg.Clock.Now(time.Now()) }

// Wait returns when no call is under way or waits for its turn. Each ends within Timeout, after a wait of Timeout at most, but new
// ones must have ceased to come.
func (c *Client) Wait() {
	for {
		cl := c.anyCall()
		if cl == nil {
			return
		}
		<-cl.done
	}
}

// Forget drops the kept exchanges, to give their memory back; requests that they would have answered cost calls. What is remembered
// of the API's no is small, soon over, and keeps calls from it, so that stays.
func (c *Client) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = newKept(c.cfg.KeptExchanges, c.cfg.Clock)
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
	// InFlight is the number of calls under way, Queued that of those that wait for one of them to end, Kept that of the kept
	// exchanges.
	InFlight int `json:"in_flight"`
	Queued   int `json:"queued"`
	Kept     int `json:"kept"`
	// Breaker says whether calls are made: closed (they are), open (too many have failed) or half_open (the probe is). TokenBreaker
	// says it of opaque tokens that the API has not just said yes to.
	Breaker      string `json:"breaker"`
	TokenBreaker string `json:"token_breaker"`
	// HeldBackUntil is when the API said to come back, TokensHeldBackUntil for the tokens of TokenBreaker. Zero: never. HeldBackUsers is
	// how many users (tokens, where theirs is not known) it said a later time to, which is not held against the others.
	HeldBackUntil       time.Time `json:"held_back_until,omitzero"`
	TokensHeldBackUntil time.Time `json:"tokens_held_back_until,omitzero"`
	HeldBackUsers       int       `json:"held_back_users"`
	// LastError is why the last call that could not ask, or was answered wrongly, failed. Empty: none has.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// LastOKAt is when the API last answered, be it with a no.
	LastOKAt time.Time `json:"last_ok_at,omitzero"`
}

// Status returns the present state.
func (c *Client) Status() Status {
	s := c.condition.status()
	now := time.Now()
	var users, tokens int
	s.Breaker, s.HeldBackUntil, users = c.known.status(now)
	s.TokenBreaker, s.TokensHeldBackUntil, tokens = c.unknown.status(now)
	s.HeldBackUsers = users + tokens
	c.mu.Lock()
	defer c.mu.Unlock()
	s.InFlight, s.Queued, s.Kept = c.limits.calls, c.limits.queue.Len(), c.kept.len()
	return s
}

// callerLeft says that the API was too slow for a caller, unless some of the time went by in our own queue.
func (c *Client) callerLeft(ctx context.Context, cl *call) error {
	cause := ErrOutage
	if cl.queued {
		cause = ErrUnavailable
	}
	return c.blameless(cl, fmt.Errorf("%w: caller's deadline: %w", cause, context.Cause(ctx)))
}
