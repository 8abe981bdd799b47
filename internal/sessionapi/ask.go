package sessionapi

import (
	"context"
	"errors"
	"slices"
	"time"

	"authz-sidecar/internal/session"
)

// ask asks, and proves the answer.
func (c *Client) ask(ctx context.Context, cl *call) result {
	r := cl.request
	a, err := c.answer(ctx, cl)
	if err != nil {
		return no(unavailable, "%v", err)
	}
	o := classify(a.status, a.ErrorType)
	if a.retryAfter > 0 {
		c.hold(cl, o, a.retryAfter)
	}
	if r.Check != nil && a.isYes() && !a.authorized() {
		return no(notAuthorized, "%s", a)
	}
	if a.status == 200 && a.SessionJWT != "" {
		return c.prove(ctx, r, a)
	}
	if a.retryAfter > 0 {
		return no(o, "%w: %s", &RetryAfterError{a.retryAfter}, a)
	}
	return no(o, "%s", a)
}

// prove lets an answer through only if its JWT verifies now, as any other must, and is of the session that was asked
// about. A token says nothing about its session, so there only the answer's own words are compared with the JWT.
func (c *Client) prove(ctx context.Context, r Request, a *answer) result {
	s, err := c.cfg.Verify(ctx, a.SessionJWT, c.present())
	if err != nil && (ctx.Err() != nil || slices.ContainsFunc(notTheAnswersFault, func(e error) bool { return errors.Is(err, e) })) {
		return no(unproved, "the new JWT cannot be proved here: %v", err)
	}
	if err != nil {
		// Not wrapped: the caller's own JWT is not what this error is about.
		c.alertMismatch(r, nil, "JWT")
		return no(mismatch, "the new JWT: %v", err)
	}
	if what := c.disagreement(r, a, s); what != "" {
		c.alertMismatch(r, s, what)
		return no(mismatch, "the new JWT has another %s", what)
	}
	return result{ok, &Exchange{JWT: a.SessionJWT, Session: s}, nil}
}

// notTheAnswersFault is what a good answer may fail on: our clock is wrong, or our keys are behind. Nobody is logged out for
// that.
var notTheAnswersFault = []error{session.ErrKeysUnavailable, session.ErrUnknownKey, session.ErrNotYetValid, session.ErrExpired}

// disagreement names what the new session and the request, or the answer around it, disagree about; "" is nothing.
func (c *Client) disagreement(r Request, a *answer, s *session.Session) string {
	said := a.Session.SessionID + a.MemberSession.MemberSessionID // an answer has one of them
	asked := r.Session
	switch {
	case s.ProjectID != c.cfg.ProjectID:
		return "project"
	case said != "" && said != s.ID:
		return "session than the answer"
	case asked == nil:
		return ""
	case asked.ID != s.ID:
		return "session"
	case asked.Subject != s.Subject:
		return "subject"
	case asked.OrganizationID != s.OrganizationID:
		return "organization"
	}
	return ""
}

// alertMismatch logs the ids, which the error that the caller gets does not hold.
func (c *Client) alertMismatch(r Request, got *session.Session, what string) {
	if !c.condition.alert(mismatch, time.Now()) {
		return
	}
	args := []any{"differs", what}
	if r.Session != nil {
		args = append(args, "asked_session", r.Session.ID)
	}
	if got != nil {
		args = append(args, "answered_session", got.ID)
	}
	c.cfg.Logger.Error("session API's answer does not fit the request", args...)
}
