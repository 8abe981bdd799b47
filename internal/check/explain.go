package check

import (
	"context"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
)

// Explanation is how a Check came to its answer, for people. Credential prints redacted; Response may hold a new JWT.
type Explanation struct {
	// Verdict is "allow", "deny", "would_deny" or "left_to_envoy".
	Verdict string
	Reason  Reason
	// Detail is what the log says of a denial; nil for nothing.
	Detail error
	// Found is the rule and how the path was read; its Rule is nil if none was found.
	Found policy.Found
	// Credential is what was presented.
	Credential session.Credential
	// SetAside says that a JWT under an unknown key was, in favour of the opaque token beside it.
	SetAside bool
	// Presented is the session that the presented JWTs prove, nil for none, and Expired whether they have expired.
	Presented *session.Session
	Expired   bool
	// Asked says that the session API was asked, or a kept exchange used.
	Asked bool
	// Session is who the verdict is about, nil for nobody.
	Session *session.Session
	// Requirements are all of the rule's, met or not; nil if there was no session to judge.
	Requirements []requirement.Result
	// Now is the time of the Check; zero if no rule was found.
	Now      time.Time
	Response *authv3.CheckResponse
}

// Explain answers as Check does, by the same code, and says how. It logs and counts as Check does.
func (s *Server) Explain(ctx context.Context, in *authv3.CheckRequest) *Explanation {
	w := s.work.New().(*work) // the explanation keeps it
	message, _ := proto.Marshal(in)
	response := decoded(s.check(ctx, w, message, nil))
	d := &w.decision
	e := &Explanation{
		Verdict: d.verdict(), Reason: d.reason.known(), Detail: d.detail, Found: d.found, Credential: d.credential,
		SetAside: d.proved.setAside, Presented: d.proved.session, Expired: d.proved.expired, Asked: d.asked, Session: d.session,
		Now: d.now, Response: response,
	}
	if d.session != nil {
		e.Requirements = d.rule.Require.Examine(ctx, s.evidence(w.request, d))
	}
	return e
}
