package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// authorize is the line that every request walks, and the one place that decides.
func (s *Server) authorize(ctx context.Context, req *request) decision {
	now := time.Now()
	rule, err := s.rules.Match(req.method, req.path)
	if err != nil {
		return deny(reasonFor(err), err)
	}
	d := decision{rule: rule}
	if rule.Session == policy.None {
		return d.as(Public)
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

	project := s.projects[rule.Project]
	proved, err := prove(ctx, project.Verifier, d.credential, now)
	if err != nil {
		return d.because(err)
	}
	d.session = proved.session
	if proved.fresh(now, rule.MaxTokenAge) {
		return s.pass(d, Verified)
	}

	exchange, err := trade(ctx, project.API, d.credential, proved, rule.MaxTokenAge)
	if err != nil {
		return d.because(err)
	}
	d.session, d.refreshed = exchange.Session, exchange.JWT
	return s.pass(d, Exchanged)
}

// pass lets a request through as who was proved, if the upstream can be told who that is.
func (s *Server) pass(d decision, reason Reason) decision {
	if err := s.answers.checkIdentity(d.session); err != nil {
		return d.because(err)
	}
	return d.as(reason)
}

func (d decision) as(reason Reason) decision {
	d.reason = reason
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
}

// fresh says whether the proof is enough for a rule that wants it younger than maxAge.
func (p proof) fresh(now time.Time, maxAge time.Duration) bool {
	return p.session != nil && !p.expired && !p.session.TooOld(now, maxAge)
}

// prove verifies every JWT that was presented: a good one never makes up for a bad one. Two must be of one session;
// the younger counts. That a JWT has expired is no error here: it is authentic, and may be traded.
func prove(ctx context.Context, v Verifier, c session.Credential, now time.Time) (proof, error) {
	header, err := proveOne(ctx, v, c.HeaderJWT, now)
	if err != nil {
		return proof{}, fmt.Errorf("authorization header: %w", err)
	}
	if c.CookieJWT == c.HeaderJWT {
		return header, nil
	}
	cookie, err := proveOne(ctx, v, c.CookieJWT, now)
	if err != nil {
		return proof{}, fmt.Errorf("cookie: %w", err)
	}
	switch {
	case cookie.session == nil:
		return header, nil
	case header.session == nil:
		return cookie, nil
	case !sameSession(header.session, cookie.session):
		return proof{}, fmt.Errorf("%w: the authorization header and the cookie hold JWTs of different sessions", session.ErrAmbiguous)
	case cookie.session.IssuedAt.After(header.session.IssuedAt):
		return cookie, nil
	}
	return header, nil
}

func proveOne(ctx context.Context, v Verifier, jwt string, now time.Time) (proof, error) {
	if jwt == "" {
		return proof{}, nil
	}
	s, err := v.Verify(ctx, jwt, now)
	if errors.Is(err, session.ErrExpired) && s != nil {
		return proof{jwt: jwt, session: s, expired: true}, nil
	}
	if err != nil {
		return proof{}, err
	}
	return proof{jwt: jwt, session: s}, nil
}

// trade asks the session API for a new JWT. Where both were presented, the opaque token is what is traded: it says
// which session the client means even when its JWT is old. An opaque token alone is asked about every time.
func trade(ctx context.Context, api SessionAPI, c session.Credential, proved proof, maxAge time.Duration) (*sessionapi.Exchange, error) {
	if c.Token == "" {
		return api.Authenticate(ctx, sessionapi.Request{JWT: proved.jwt, Session: proved.session}, maxAge)
	}
	if proved.session == nil {
		maxAge = 0
	}
	exchange, err := api.Authenticate(ctx, sessionapi.Request{Token: c.Token}, maxAge)
	if err != nil {
		return nil, err
	}
	if proved.session != nil && !sameSession(proved.session, exchange.Session) {
		return nil, fmt.Errorf("%w: the JWT and the opaque token are of different sessions", session.ErrAmbiguous)
	}
	return exchange, nil
}

func sameSession(a, b *session.Session) bool {
	return a.ID == b.ID && a.Subject == b.Subject && a.OrganizationID == b.OrganizationID
}
