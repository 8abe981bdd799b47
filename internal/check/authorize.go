package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// authorize is the line that every request walks, and the one place that decides.
func (s *Server) authorize(ctx context.Context, w *work) decision {
	now, req := w.arrived, w.request
	if s.now != nil {
		now = s.now()
	}
	found, err := s.rules.Match(req.forRules())
	if err != nil {
		return deny(reasonFor(err), err)
	}
	rule := found.Rule
	d := decision{now: now, arrived: now, found: found, rule: rule}
	switch rule.Session {
	case policy.None:
		return d.as(Public)
	case policy.Refused:
		return d.as(Refused)
	}
	if rule.Preflight && req.isPreflight() {
		return d.as(Preflight)
	}

	d.credential, err = s.credentials.Extract(req.authorization, req.cookie, req.token)
	if err != nil {
		return d.because(err)
	}
	if d.credential.Empty() {
		if rule.Session == policy.Optional {
			return d.as(Anonymous)
		}
		return d.as(NoCredential)
	}
	if rule.RefuseCrossSite && cameByCookie(d.credential) && s.crossSite(req, found.Host) {
		return d.as(CrossSite)
	}

	project := s.projects[rule.Project]
	d.now = project.Clock.Now(d.arrived)
	d.proved, err = w.prove(ctx, project.Verifier, d.credential, d.now)
	if err != nil {
		return d.because(err)
	}
	d.session = d.proved.session
	standing := s.standing(d.session, time.Time{}, d.arrived)
	if standing == revocation.Revoked {
		return d.as(Revoked)
	}
	d.onlyAPI = asksAPI(rule) || standing == revocation.Ask
	if d.proved.fresh(d.now, rule.MaxTokenAge) && !d.onlyAPI {
		return s.judge(ctx, w, s.refreshAhead(ctx, w, d), Verified)
	}
	if rule.DenyExpired && d.proved.session != nil {
		return d.as(Expired).detailed("issued %v ago, good for %v", d.now.Sub(d.session.IssuedAt), d.session.Expires.Sub(d.session.IssuedAt))
	}

	if s.overloaded != nil && s.overloaded() {
		return d.as(Overloaded)
	}
	waiting, cancel := beforeDeadline(ctx, w.arrived)
	defer cancel()
	d.asked = true
	exchange, err := s.trade(waiting, &d)
	if exchange != nil {
		d.session, d.refreshed = exchange.Session, exchange.JWT
	}
	if err != nil {
		if !s.graced(req, d, err) {
			d.leftToEnvoy = rule.LeaveToEnvoy && d.isOutage(err)
			return d.because(err)
		}
		w.arrived = time.Now() // so that judging gets a part of what was kept back: the API may have taken all the rest
		return s.judge(ctx, w, d, Grace)
	}
	d.granted = asksAPI(rule)
	return s.judge(ctx, w, d, Exchanged)
}

// judge lets a session through that has what the rule requires, if the upstream can be told who it is.
func (s *Server) judge(ctx context.Context, w *work, d decision, reason Reason) decision {
	if d.rule.Require.TakesTime() {
		waiting, cancel := beforeDeadline(ctx, w.arrived)
		defer cancel()
		ctx = waiting
	}
	if err := d.rule.Require.Check(ctx, s.evidence(w.request, &d)); err != nil {
		return d.because(err)
	}
	if err := s.answers.identify(&w.identity, d.rule.Project, d.session); err != nil {
		return d.because(err)
	}
	d.identity = w.identity.b
	return d.as(reason)
}

func (s *Server) evidence(req *request, d *decision) requirement.Evidence {
	return requirement.Evidence{
		Session:     d.session,
		Request:     requirement.Request{Method: req.method, Host: d.found.Host, Path: d.found.Path, Header: req.lookup},
		Variables:   d.found.Variables,
		Permissions: s.projects[d.rule.Project].Permissions,
		Granted:     d.granted,
		Now:         d.now,
	}
}

func (d decision) as(reason Reason) decision {
	d.reason = reason
	return d
}

func (d decision) detailed(format string, args ...any) decision {
	d.detail = fmt.Errorf(format, args...)
	return d
}

func (d decision) because(err error) decision {
	d.reason, d.detail = reasonFor(err), err
	return d
}

// proof is what the presented JWTs prove on their own; its session is nil if there was none.
type proof struct {
	jwt     string
	session *session.Session
	expired bool
	// setAside says that there was a JWT under a key that the project has not, or no longer.
	setAside bool
}

// fresh says whether the proof is enough for a rule that wants it younger than maxAge.
func (p proof) fresh(now time.Time, maxAge time.Duration) bool {
	return p.session != nil && !p.expired && !p.session.TooOld(now, maxAge)
}

// prove verifies every JWT that was presented: a good one never makes up for a bad one. Two must be of one session;
// the younger counts. That a JWT has expired is no error here: it is authentic, and may be traded. One under a key that the
// project has retired is what a user brings who returns after months: where an opaque token can be asked about in its
// place, it is set aside.
func (w *work) prove(ctx context.Context, v Verifier, c session.Credential, now time.Time) (proof, error) {
	header, err := w.proveOne(ctx, v, &w.header, c.HeaderJWT, c.Token != "", now)
	if err != nil {
		return proof{}, fmt.Errorf("authorization header: %w", err)
	}
	if c.CookieJWT == c.HeaderJWT {
		return header, nil
	}
	cookie, err := w.proveOne(ctx, v, &w.cookie, c.CookieJWT, c.Token != "", now)
	if err != nil {
		return proof{}, fmt.Errorf("cookie: %w", err)
	}
	setAside := header.setAside || cookie.setAside
	younger := header
	switch {
	case cookie.session == nil:
	case header.session == nil:
		younger = cookie
	case !sameSession(header.session, cookie.session):
		return proof{}, fmt.Errorf("%w: the authorization header and the cookie hold JWTs of different sessions", session.ErrAmbiguous)
	case cookie.session.IssuedAt.After(header.session.IssuedAt):
		younger = cookie
	}
	younger.setAside = setAside
	return younger, nil
}

// proveOne has what a JWT proves written to into.
func (w *work) proveOne(ctx context.Context, v Verifier, into *session.Session, jwt string, mayBeSetAside bool, now time.Time) (proof, error) {
	if jwt == "" {
		return proof{}, nil
	}
	known, proved, err := v.Recall(into, jwt, now)
	if known {
		w.recalled++
	} else {
		w.verified++
		waiting, cancel := beforeDeadline(ctx, w.arrived)
		defer cancel()
		proved, err = v.VerifyInto(waiting, into, jwt, now)
	}
	switch {
	case proved:
		return proof{jwt: jwt, session: into, expired: err != nil}, nil
	case errors.Is(err, session.ErrUnknownKey) && mayBeSetAside:
		return proof{setAside: true}, nil
	case err == nil: // which no Verifier says
		return proof{}, errors.New("neither proved nor refused")
	}
	return proof{}, err
}

// asksAPI says whether the rule has the session API judge a permission, so that no local proof is enough.
func asksAPI(rule *policy.Rule) bool {
	p := rule.Require.Permission()
	return p != nil && p.AskAPI
}

// trade asks the session API for a new JWT, and about the rule's permission if it is the API's to judge. With ErrForbidden comes
// an exchange if one was made before the API said no to the permission.
func (s *Server) trade(ctx context.Context, d *decision) (*sessionapi.Exchange, error) {
	r, maxAge := ask(d.credential, d.proved, d.rule)
	if !asksAPI(d.rule) {
		return s.exchange(ctx, d, r, maxAge)
	}
	// A check names the organization, and is about the session of the JWT; which session an opaque token is of, an exchange
	// must tell first.
	var first *sessionapi.Exchange
	if r.Token != "" && (s.projects[d.rule.Project].Product == session.B2B || d.proved.session != nil) {
		var err error
		if first, err = s.exchange(ctx, d, r, maxAge); err != nil {
			return nil, err
		}
		r.Token, r.JWT, r.Session = "", first.JWT, first.Session
	}
	permission := d.rule.Require.Permission()
	r.Check = &sessionapi.AuthorizationCheck{ResourceID: permission.ResourceID, Action: permission.Action}
	if r.Session != nil {
		r.Check.OrganizationID = r.Session.OrganizationID
	}
	exchange, err := s.exchange(ctx, d, r, maxAge)
	if errors.Is(err, sessionapi.ErrForbidden) {
		return first, err
	}
	return exchange, err
}

// exchange asks, and holds what comes against the JWT that was presented and against what was revoked.
func (s *Server) exchange(ctx context.Context, d *decision, r sessionapi.Request, maxAge time.Duration) (*sessionapi.Exchange, error) {
	for range 2 {
		exchange, err := s.authenticate(ctx, d, r, maxAge)
		if err != nil {
			return nil, err
		}
		if d.proved.session != nil && !sameSession(d.proved.session, exchange.Session) {
			return nil, fmt.Errorf("%w: the JWT and the opaque token are of different sessions", session.ErrAmbiguous)
		}
		switch s.standing(exchange.Session, exchange.AskedAt, d.arrived) {
		case revocation.Clear:
			return exchange, nil
		case revocation.Revoked:
			d.session = exchange.Session
			return nil, errRevoked
		}
		if s.standing(d.proved.session, time.Time{}, d.arrived) == revocation.Revoked { // meanwhile
			return nil, errRevoked
		}
		maxAge = 0 // it was asked for before something was revoked, so once more
	}
	return nil, fmt.Errorf("%w: its answer may be from before a revocation", sessionapi.ErrUnavailable)
}

// authenticate has an opaque token that is shed stand aside for the JWT beside it: made-up tokens must not keep that from its
// refresh.
func (s *Server) authenticate(ctx context.Context, d *decision, r sessionapi.Request, maxAge time.Duration) (*sessionapi.Exchange, error) {
	api := s.projects[d.rule.Project].API
	exchange, err := api.Authenticate(ctx, r, maxAge)
	if errors.Is(err, sessionapi.ErrTokenShed) && d.proved.session != nil {
		r.Token, r.JWT = "", d.proved.jwt
		return api.Authenticate(ctx, r, maxAge)
	}
	return exchange, err
}

// errRevoked says that an exchange is of a session that was revoked.
var errRevoked = errors.New("the session was revoked")

// ask is what to ask the session API, and how old its answer may be. Where both were presented, the opaque token is what is
// traded: it says which session the client means even when its JWT is old. For one alone the rule says how long an answer
// serves.
func ask(c session.Credential, proved proof, rule *policy.Rule) (r sessionapi.Request, maxAge time.Duration) {
	r = sessionapi.Request{Session: proved.session, DurationMinutes: rule.SessionDurationMinutes}
	// Where an outage is worth something, what is asked about is what was proved: a token can be made up so that its call alone fails.
	if c.Token == "" || proved.session != nil && (rule.Grace > 0 || rule.LeaveToEnvoy) {
		r.JWT = proved.jwt
		return r, rule.MaxTokenAge
	}
	r.Token = c.Token
	if proved.session == nil {
		return r, rule.TokenReuse
	}
	return r, rule.MaxTokenAge
}

// refreshAhead trades a JWT that is close to its end, in the background, and puts the new one into the decision once it is
// there. It is the JWT that is traded, whatever stands beside it: nothing is known of that, and each garbled token would be a
// call of its own.
func (s *Server) refreshAhead(ctx context.Context, w *work, d decision) decision {
	ahead := d.rule.RefreshAhead
	if ahead == 0 || d.session.Expires.Sub(d.now) > ahead || !s.answers.canHandBack(d.credential) {
		return d
	}
	waiting, cancel := beforeDeadline(ctx, w.arrived)
	defer cancel()
	exchange := s.projects[d.rule.Project].API.Ahead(waiting, sessionapi.Request{
		JWT: d.proved.jwt, Session: d.session, DurationMinutes: d.rule.SessionDurationMinutes,
	})
	if exchange == nil || s.standing(exchange.Session, exchange.AskedAt, d.arrived) != revocation.Clear {
		return d
	}
	d.session, d.refreshed = exchange.Session, exchange.JWT
	return d
}

// graced says whether an old JWT passes although the session API could not be asked: because of an outage, not because of anything
// that is our fault or that a stranger can bring about here.
func (s *Server) graced(req *request, d decision, err error) bool {
	rule, old := d.rule, d.proved.session
	if rule.Grace == 0 || old == nil || d.onlyAPI || rule.GraceSafeMethodsOnly && !req.isSafe() {
		return false
	}
	if !d.isOutage(err) {
		return false
	}
	// A JWT that does not say when its session ends gets none: its EndsAt is long ago.
	if !d.now.Before(old.EndsAt) || s.standing(old, time.Time{}, d.arrived) != revocation.Clear ||
		s.revocations.Doubted(revocation.Session{ProjectID: old.ProjectID, ID: old.ID}, d.arrived) {
		return false
	}
	end := old.Expires
	if tooOld := old.IssuedAt.Add(rule.MaxTokenAge); tooOld.Before(end) {
		end = tooOld
	}
	return d.now.Before(end.Add(rule.Grace))
}

// isOutage says whether the session API is at fault. It is not held to be where a JWT was set aside: looking for its key may have
// taken the time, and anybody can make up a key.
func (d *decision) isOutage(err error) bool {
	return errors.Is(err, sessionapi.ErrOutage) && !d.proved.setAside
}

// standing is what the denylist says of a session, which may be nil. askedAt is when the session API was asked for its JWT, zero
// where the client presented it.
func (s *Server) standing(proved *session.Session, askedAt, now time.Time) revocation.Verdict {
	if proved == nil {
		return revocation.Clear
	}
	return s.revocations.Verdict(revocation.Token{
		ProjectID:      proved.ProjectID,
		SessionID:      proved.ID,
		Subject:        proved.Subject,
		OrganizationID: proved.OrganizationID,
		IssuedAt:       proved.IssuedAt,
		AskedAt:        askedAt,
	}, now)
}

func sameSession(a, b *session.Session) bool {
	return a.ID == b.ID && a.Subject == b.Subject && a.OrganizationID == b.OrganizationID
}
