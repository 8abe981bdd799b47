package sessionapitest

import (
	"encoding/json"
	"net/http"
)

type revokeRequest struct {
	SessionID       string `json:"session_id"`
	MemberSessionID string `json:"member_session_id"`
	MemberID        string `json:"member_id"`
	SessionToken    string `json:"session_token"`
	SessionJWT      string `json:"session_jwt"`
}

// revoke ends one session, or in B2B all sessions of a member.
func (s *Server) revoke(r *http.Request) (answer, *apiError) {
	var req revokeRequest
	if refusal := readBody(r, &req); refusal != nil {
		return nil, refusal
	}
	id, member := req.SessionID, ""
	if s.isB2B() {
		id, member = req.MemberSessionID, req.MemberID
	}
	given := 0
	for _, value := range []string{id, member, req.SessionToken, req.SessionJWT} {
		if value != "" {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, &apiError{http.StatusBadRequest, "no_session_revoke_arguments", "Name the session to revoke."}
	case given > 1:
		return nil, &apiError{http.StatusBadRequest, "too_many_session_revoke_arguments", "Name the session to revoke in one way only."}
	case member != "":
		return s.revokeMember(member)
	}
	ref := reference{id: id, token: req.SessionToken}
	if req.SessionJWT != "" {
		var refusal *apiError
		if ref.id, refusal = s.openJWT(req.SessionJWT); refusal != nil {
			return nil, refusal
		}
	}
	_, refusal := s.store.use(ref, s.now(), func(sess *session) *apiError { sess.revoked = true; return nil })
	return &envelope{}, refusal
}

func (s *Server) revokeMember(id string) (answer, *apiError) {
	found := s.store.find(func(sess *session) bool {
		if sess.subject != id {
			return false
		}
		sess.revoked = true
		return true
	})
	if len(found) == 0 {
		return nil, errMemberNotFound
	}
	return &envelope{}, nil
}

type sessionsAnswer struct {
	envelope
	Sessions       []*userSession   `json:"sessions,omitzero"`
	MemberSessions []*memberSession `json:"member_sessions,omitzero"`
}

// getSessions lists the living sessions of a user or member.
func (s *Server) getSessions(r *http.Request) (answer, *apiError) {
	subject, organizationID, missing := r.FormValue("user_id"), "", errUserNotFound
	if s.isB2B() {
		subject, organizationID, missing = r.FormValue("member_id"), r.FormValue("organization_id"), errMemberNotFound
	}
	found := s.store.find(func(sess *session) bool { return sess.subject == subject && sess.organizationID == organizationID })
	if len(found) == 0 {
		return nil, missing
	}
	now, a := s.now(), &sessionsAnswer{}
	if s.isB2B() {
		a.MemberSessions = []*memberSession{}
	} else {
		a.Sessions = []*userSession{}
	}
	for _, sess := range found {
		switch {
		case !sess.lives(now):
		case s.isB2B():
			a.MemberSessions = append(a.MemberSessions, wireMemberSession(&sess))
		default:
			a.Sessions = append(a.Sessions, wireUserSession(&sess))
		}
	}
	return a, nil
}

type keySetAnswer struct {
	envelope
	Keys json.RawMessage `json:"keys"`
}

// getKeySet is public: whoever has the project's id may verify its JWTs.
func (s *Server) getKeySet(r *http.Request) (answer, *apiError) {
	if r.PathValue("project_id") != s.config.ProjectID {
		return nil, errProjectNotFound
	}
	keys, err := s.keys.publicKeys()
	if err != nil {
		return nil, errInternal
	}
	return &keySetAnswer{Keys: keys}, nil
}
