package sessionapitest

import (
	"fmt"
	"net/http"
	"time"
)

// The vendor's bounds on session_duration_minutes: five minutes to 366 days.
const (
	minDurationMinutes = 5
	maxDurationMinutes = 527040
)

type authenticateRequest struct {
	SessionToken           string              `json:"session_token"`
	SessionJWT             string              `json:"session_jwt"`
	SessionDurationMinutes *int                `json:"session_duration_minutes"`
	SessionCustomClaims    map[string]any      `json:"session_custom_claims"`
	AuthorizationCheck     *authorizationCheck `json:"authorization_check"`
}

// authenticateAnswer has the fields of one product; those of the other are left out.
type authenticateAnswer struct {
	envelope
	SessionToken  string         `json:"session_token"`
	SessionJWT    string         `json:"session_jwt"`
	Session       *userSession   `json:"session,omitempty"`
	User          *user          `json:"user,omitempty"`
	MemberSession *memberSession `json:"member_session,omitempty"`
	Member        *member        `json:"member,omitempty"`
	Organization  *organization  `json:"organization,omitempty"`
	Verdict       *verdict       `json:"verdict,omitempty"`
}

// authenticate trades a token, or a JWT however expired, for a new JWT: it proves that the session lives, extends it
// if asked to, and notes the access.
func (s *Server) authenticate(r *http.Request) (answer, *apiError) {
	var req authenticateRequest
	if refusal := readBody(r, &req); refusal != nil {
		return nil, refusal
	}
	ref, refusal := s.credential(req.SessionToken, req.SessionJWT)
	if refusal != nil {
		return nil, refusal
	}
	if m := req.SessionDurationMinutes; m != nil && (*m < minDurationMinutes || *m > maxDurationMinutes) {
		return nil, &apiError{http.StatusBadRequest, "invalid_session_duration_minutes",
			fmt.Sprintf("session_duration_minutes must be from %d to %d.", minDurationMinutes, maxDurationMinutes)}
	}
	now := s.now()
	var granted *verdict
	sess, refusal := s.store.use(ref, now, func(sess *session) (refusal *apiError) {
		if req.AuthorizationCheck != nil {
			if granted, refusal = s.judge(sess, *req.AuthorizationCheck); refusal != nil {
				return refusal
			}
		}
		if refusal := sess.mergeClaims(req.SessionCustomClaims); refusal != nil {
			return refusal
		}
		if m := req.SessionDurationMinutes; m != nil {
			sess.expiresAt = now.Add(time.Duration(*m) * time.Minute)
		}
		sess.touch(now)
		return nil
	})
	if refusal != nil {
		return nil, refusal
	}
	jwt, err := s.mint(&sess, now)
	if err != nil {
		return nil, errInternal
	}
	a := &authenticateAnswer{SessionToken: sess.token, SessionJWT: jwt, Verdict: granted}
	if s.isB2B() {
		a.MemberSession, a.Member, a.Organization = wireMemberSession(&sess), wireMember(&sess), wireOrganization(&sess)
	} else {
		a.Session, a.User = wireUserSession(&sess), wireUser(&sess)
	}
	return a, nil
}

// credential is the session that exactly one of a token and a JWT names.
func (s *Server) credential(token, jwt string) (reference, *apiError) {
	switch {
	case token != "" && jwt != "":
		return reference{}, errTooManySessions
	case token != "":
		return reference{token: token}, nil
	case jwt == "":
		return reference{}, errNoSession
	}
	id, refusal := s.openJWT(jwt)
	return reference{id: id}, refusal
}
