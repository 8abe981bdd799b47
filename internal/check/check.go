// Package check answers Envoy's question: may this request pass?
//
// A Check runs down one straight line, in authorize: rule, credential, local proof, and only if the proof is authentic
// but too old for the rule (or the credential is opaque) an exchange at the session API. authorize is the one place
// that says yes or no; the packages below it return errors, which are mapped once to a closed set of Reasons. Whatever
// goes wrong, a panic included, ends as a denial inside an OK RPC: a gRPC error is not a verdict, and an Envoy with
// failure_mode_allow would let the request in.
package check

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// Config is what a Server needs.
type Config struct {
	// Rules says what is required of which request.
	Rules *policy.Set
	// Projects holds, by name, every project that a rule names.
	Projects map[string]Project
	// Credentials says where a request carries its credential.
	Credentials session.Names
	// JWTCookie are the attributes of the cookie in which a refreshed JWT goes back to the client.
	JWTCookie CookieAttributes
	// IdentityHeaders tell the upstream who is calling, and are taken from every client that sends them.
	IdentityHeaders []IdentityHeader
	// Logger gets one line a decision: a denial at Info, an allowance at Debug. Default: none.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Project proves the sessions of one project.
type Project struct {
	Verifier Verifier
	API      SessionAPI
}

// Verifier proves a JWT locally; *session.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, jwt string, now time.Time) (*session.Session, error)
}

// SessionAPI trades a credential for a new JWT and its proof; *sessionapi.Client is one.
type SessionAPI interface {
	Authenticate(ctx context.Context, r sessionapi.Request, maxAge time.Duration) (*sessionapi.Exchange, error)
}

// Server is the ext_authz service.
type Server struct {
	authv3.UnimplementedAuthorizationServer

	rules       *policy.Set
	projects    map[string]Project
	credentials session.Names
	answers     *answers
	observer    *observer
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Rules == nil {
		return nil, errors.New("check: no rules")
	}
	for _, rule := range cfg.Rules.All() {
		if _, ok := cfg.Projects[rule.Project]; !ok && rule.Session != policy.None {
			return nil, fmt.Errorf("check: rule %s names project %q, which there is not", rule.Name, rule.Project)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	answers, err := newAnswers(cfg.Credentials.JWTCookie, cfg.JWTCookie, cfg.IdentityHeaders)
	if err != nil {
		return nil, err
	}
	return &Server{
		rules:       cfg.Rules,
		projects:    cfg.Projects,
		credentials: cfg.Credentials,
		answers:     answers,
		observer:    newObserver(cfg.Logger, cfg.Registerer),
	}, nil
}

// Check answers one request. Its error is always nil: see the package comment. What grpc does before and after is Codec's to
// keep from ending as an error.
func (s *Server) Check(ctx context.Context, in *authv3.CheckRequest) (response *authv3.CheckResponse, _ error) {
	start := time.Now()
	var req request
	var d decision
	defer func() {
		if p := recover(); p != nil {
			d = deny(Internal, nil)
			s.observer.panicked(p, debug.Stack())
			response = s.answers.denied(&req, &d)
		}
		s.observer.decided(ctx, &req, &d, time.Since(start))
	}()

	ctx, cancel := beforeDeadline(ctx)
	defer cancel()
	req = read(in, s.credentials.TokenHeader)
	d = s.authorize(ctx, &req)
	response = s.answers.answer(&req, &d)
	return response, nil
}

// The answer leaves this long before the caller's deadline, which is the time-out of Envoy's filter: a time-out there
// counts as an error, and with failure_mode_allow an error lets the request in. Envoy's clock runs from before the Check was
// sent, ours from when it came. A quarter of what there is, so that Envoy's default of 200 ms leaves time on a busy machine,
// and no more than maxAnswerMargin.
const (
	answerMarginShare = 4
	maxAnswerMargin   = 100 * time.Millisecond
)

func beforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	margin := min(time.Until(deadline)/answerMarginShare, maxAnswerMargin)
	return context.WithDeadline(ctx, deadline.Add(-margin))
}
