// Package check answers Envoy's question: may this request pass?
//
// A Check runs down one straight line, in authorize: rule, credential, local proof, and only if the proof is authentic
// but too old for the rule (or the credential is opaque) an exchange at the session API. authorize is the one place
// that says yes or no; the packages below it return errors, which are mapped once to a closed set of Reasons. Whatever
// goes wrong, a panic included, ends as a denial inside an OK RPC: a gRPC error is not a verdict, and an Envoy with
// failure_mode_allow would let the request in. Two things soften a denial, each because a rule says so: shadow, which lets the
// request pass as nobody, and on_unavailable: envoy, which leaves an outage of the session API to that flag.
//
// A CheckRequest is read where it lies, in wire form, and a CheckResponse is written in wire form, so that a Check that is answered from
// memory allocates nothing. What a request says is borrowed from its message, and what a Check needs is used again by the next: who
// keeps a part of either for longer clones it.
package check

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/revocation"
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
	// RefreshedJWTHeader is the response header, in lower case, in which it goes back to a client whose credential came by
	// header. Default: none.
	RefreshedJWTHeader string
	// RemoveCredential takes the credential from a request before it goes upstream.
	RemoveCredential bool
	// IdentityHeaders tell the upstream who is calling, and are taken from every client that sends them.
	IdentityHeaders []IdentityHeader
	// EnvoyStopsUnderscores says that no header with "_" in its name reaches the upstream, so that the spellings of IdentityHeaders
	// with one are not removed.
	EnvoyStopsUnderscores bool
	// LogIn is where rules with RedirectToLogIn send browsers.
	LogIn LogIn
	// TrustedOrigins are no other sites for rules with RefuseCrossSite.
	TrustedOrigins []string
	// Shadow observes only, whatever the rules say.
	Shadow bool
	// Revocations remembers what was revoked, and the sessions that the session API did not find. Default: nothing.
	Revocations *revocation.Denylist
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Overloaded says whether nothing may be begun that holds on to memory: a request that the session API would have to be asked about
	// is denied. It must not wait. Default: never.
	Overloaded func() bool
	// Logger gets one line a decision: a denial at Info, an allowance at Debug. Default: none.
	Logger *slog.Logger
	// Metrics count what is decided. Default: some that nobody sees.
	Metrics *Metrics
}

// Project proves the sessions of one project.
type Project struct {
	Product  session.Product
	Verifier Verifier
	API      SessionAPI
	// Clock says by what time JWTs are judged. Default: this machine's alone.
	Clock *clock.Clock
	// Permissions is nil where no rule needs it.
	Permissions requirement.Permissions
}

// LogIn is the log-in page.
type LogIn struct {
	// URL is a path of the same host, or an https URL.
	URL string
	// ReturnParameter is the query parameter that gets the path to return to.
	ReturnParameter string
}

// Verifier proves a JWT locally; *session.Verifier is one.
type Verifier interface {
	// Recall is VerifyInto for a JWT that was proved before; known is false, and nothing else said, if it was not.
	Recall(into *session.Session, jwt string, now time.Time) (known, proved bool, err error)
	VerifyInto(ctx context.Context, into *session.Session, jwt string, now time.Time) (proved bool, err error)
}

// SessionAPI trades a credential for a new JWT and its proof; *sessionapi.Client is one.
type SessionAPI interface {
	Authenticate(ctx context.Context, r sessionapi.Request, maxAge time.Duration) (*sessionapi.Exchange, error)
	Ahead(ctx context.Context, r sessionapi.Request) *sessionapi.Exchange
}

// Server answers Checks by one configuration. A Service is what takes them from grpc.
type Server struct {
	rules          *policy.Set
	projects       map[string]Project
	credentials    session.Names
	trustedOrigins map[string]bool
	shadow         bool
	revocations    *revocation.Denylist
	now            func() time.Time // nil: that is when a Check arrives
	overloaded     func() bool      // nil: never
	answers        *answers
	observer       *observer

	headerNames *headerNames
	work        sync.Pool // of *work
	// fault is the answer of last resort, in wire form.
	fault []byte
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Rules == nil {
		return nil, errors.New("check: no rules")
	}
	shadowRules := 0
	for _, rule := range cfg.Rules.All() {
		looks := rule.Session == policy.Required || rule.Session == policy.Optional
		if _, ok := cfg.Projects[rule.Project]; !ok && looks {
			return nil, fmt.Errorf("check: rule %s names project %q, which there is not", rule.Name, rule.Project)
		}
		if rule.RedirectToLogIn && cfg.LogIn.URL == "" {
			return nil, fmt.Errorf("check: rule %s sends browsers to a log-in page, and there is none", rule.Name)
		}
		if cfg.Shadow || rule.Shadow {
			shadowRules++
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	answers, err := newAnswers(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{
		rules:          cfg.Rules,
		projects:       cfg.Projects,
		credentials:    cfg.Credentials,
		trustedOrigins: make(map[string]bool, len(cfg.TrustedOrigins)),
		shadow:         cfg.Shadow,
		revocations:    cfg.Revocations,
		now:            cfg.Now,
		overloaded:     cfg.Overloaded,
		answers:        answers,
		observer:       newObserver(cfg.Logger, cfg.Metrics, shadowRules),
	}
	for _, origin := range cfg.TrustedOrigins {
		s.trustedOrigins[origin] = true
	}
	names, anyOther := HeadersRead(cfg.Credentials, cfg.Rules)
	s.headerNames = newHeaderNames(names, anyOther, cfg.Credentials.TokenHeader)
	s.work.New = func() any { return &work{request: newRequest(s.headerNames), attrs: make([]slog.Attr, maxAttrs)} }
	var fault message
	internal := deny(Internal, nil)
	answers.denied(&fault, newRequest(s.headerNames), &internal)
	s.fault = fault.b
	return s, nil
}

// Check answers one request as over gRPC, by way of the wire form. Its error is always nil: see the package comment.
func (s *Server) Check(ctx context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	message, _ := proto.Marshal(in) // what cannot be sent is nothing
	answer := s.AppendCheck(ctx, nil, message)
	clear(message) // as grpc uses it again: whoever has kept a part shall notice
	return decoded(answer), nil
}

// decoded is an answer of ours, of which a test sees to it that it is a CheckResponse.
func decoded(answer []byte) *authv3.CheckResponse {
	response := new(authv3.CheckResponse)
	if err := proto.Unmarshal(answer, response); err != nil {
		panic(fmt.Sprintf("check: %v", err))
	}
	return response
}

// AppendCheck answers the CheckRequest in message by appending a CheckResponse to response, both in wire form. It keeps nothing of
// message.
func (s *Server) AppendCheck(ctx context.Context, response, message []byte) []byte {
	w := s.work.Get().(*work)
	defer s.release(w)
	return s.check(ctx, w, message, response)
}

// check appends the answer to out. A panic is a denial.
func (s *Server) check(ctx context.Context, w *work, in, out []byte) []byte {
	w.arrived = time.Now()
	m := message{b: out}
	s.walk(ctx, w, in, &m)
	s.observer.decided(ctx, w, time.Since(w.arrived))
	return m.b
}

func (s *Server) walk(ctx context.Context, w *work, in []byte, m *message) {
	out := m.b
	defer func() {
		if p := recover(); p != nil {
			s.observer.panicked(p)
			w.decision = deny(Internal, nil)
			*m = message{b: out}
			s.answers.denied(m, w.request, &w.decision)
		}
	}()
	w.request.read(in)
	w.decision = s.authorize(ctx, w)
	w.decision.shadowed = s.observes(&w.decision)
	s.answers.answer(m, w.request, &w.decision)
}

// observes says whether the request passes though it is denied, because its rule or the whole gate only observes.
func (s *Server) observes(d *decision) bool {
	return canShadow(d.reason) && (s.shadow || d.rule != nil && d.rule.Shadow)
}

// canShadow says of a denial whether a shadow lets it pass: not of a request that can be read in two ways, nor of a fault of ours.
func canShadow(r Reason) bool {
	return !r.Allowed() && r != AmbiguousPath && r != AmbiguousHost && r != AmbiguousMethod && r != Internal
}

// The answer leaves this long before the caller's deadline, which is the time-out of Envoy's filter: a time-out there
// counts as an error, and with failure_mode_allow an error lets the request in. Envoy's clock runs from before the Check was
// sent, ours from when it came. A quarter of what there is, so that Envoy's default of 200 ms leaves time on a busy machine,
// and no more than maxAnswerMargin.
const (
	answerMarginShare = 4
	maxAnswerMargin   = 100 * time.Millisecond
)

func beforeDeadline(ctx context.Context, arrived time.Time) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	margin := min(deadline.Sub(arrived)/answerMarginShare, maxAnswerMargin)
	return context.WithDeadline(ctx, deadline.Add(-margin))
}
