package check_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const project = sessionapitest.DefaultProjectID

// house is a check server on real parts: verifier, key set cache and session API client, with the emulator behind them.
type house struct {
	t           testing.TB
	emulator    *sessionapitest.Server
	server      *check.Server
	service     *check.Service
	revocations *revocation.Denylist
	client      *client
	log         *safeBuffer
	metrics     *prometheus.Registry
}

// newHouse builds one; edit may change the configuration.
func newHouse(t testing.TB, product session.Product, edit func(*check.Config)) *house {
	t.Helper()
	return newHouseOf(t, product, edit, nil)
}

// newHouseOf may also change its parts.
func newHouseOf(t testing.TB, product session.Product, edit func(*check.Config), parts func(*session.Config, *sessionapi.Config)) *house {
	t.Helper()
	h := &house{t: t, log: new(safeBuffer), metrics: prometheus.NewRegistry()}
	var err error
	h.emulator, err = sessionapitest.New(sessionapitest.Config{Product: string(product), NewKey: sharedKeys})
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(h.emulator)
	path := map[session.Product]string{session.Consumer: "/v1/sessions/jwks/", session.B2B: "/v1/b2b/sessions/jwks/"}[product]
	keys, err := jwkscache.New(jwkscache.Config{URL: api.URL + path + project})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- keys.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); !keys.Ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no key set")
		}
	}
	verifierConfig := session.Config{
		ProjectID: project, Product: product, Issuers: []string{"stytch.com/" + project}, Keys: keys, IssueLeeway: 5 * time.Second,
		CacheBytes: 1 << 20,
	}
	clientConfig := sessionapi.Config{
		Product: product, ProjectID: project, Secret: session.Secret(sessionapitest.DefaultSecret), BaseURL: api.URL,
		Timeout: 2 * time.Second, MaxCalls: 256, KeptExchanges: 100,
		OnEnded: func(s *session.Session, certain bool) {
			if certain {
				h.revocations.Revoke(revocation.Revocation{ProjectID: s.ProjectID, SessionID: s.ID}, time.Now())
			} else {
				h.revocations.Doubt(revocation.Session{ProjectID: s.ProjectID, ID: s.ID}, time.Now())
			}
		},
	}
	if parts != nil {
		parts(&verifierConfig, &clientConfig)
	}
	verifier, err := session.NewVerifier(verifierConfig)
	if err != nil {
		t.Fatal(err)
	}
	clientConfig.Verify = verifier.Verify
	h.client = &client{cfg: clientConfig}
	h.client.renew(t)
	denylist, err := revocation.New(revocation.Config{Retention: time.Hour, Leeway: 5 * time.Second, Capacity: 1000})
	if err != nil {
		t.Fatal(err)
	}
	h.revocations = denylist
	cfg := check.Config{
		Rules: compile(t,
			policy.Rule{Name: "public", Match: prefix("/public"), Session: policy.None},
			policy.Rule{Name: "optional", Match: prefix("/optional"), Session: policy.Optional, MaxTokenAge: session.NoMaxAge},
			policy.Rule{Name: "fresh", Match: prefix("/fresh"), MaxTokenAge: 0},
			policy.Rule{Name: "half a minute", Match: prefix("/30s"), MaxTokenAge: 30 * time.Second},
		),
		Projects:    map[string]check.Project{project: {Product: product, Verifier: verifier, API: h.client}},
		Credentials: session.Names{JWTCookie: "stytch_session_jwt", TokenCookie: "stytch_session", TokenHeader: "x-session-token"},
		JWTCookie:   check.CookieAttributes{Path: "/", SameSite: "Lax", Secure: true},
		IdentityHeaders: []check.IdentityHeader{
			{Name: "x-auth-subject", Value: "subject"}, {Name: "x-auth-session-id", Value: "session_id"},
			{Name: "x-auth-organization-id", Value: "organization_id"}, {Name: "x-auth-roles", Value: "roles"},
		},
		Logger:  slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: check.NewMetrics(h.metrics),
	}
	cfg.Revocations = h.revocations
	if edit != nil {
		edit(&cfg)
	}
	if h.server, err = check.New(cfg); err != nil {
		t.Fatal(err)
	}
	h.service = check.NewService(h.server)
	t.Cleanup(func() {
		h.emulator.ClearFaults()
		h.client.Wait()
		verifier.Close()
		stop()
		<-ended
		api.Close()
	})
	return h
}

// client is a session API client that can be replaced by one that has seen nothing, in whose way no breaker stands.
type client struct {
	*sessionapi.Client
	cfg sessionapi.Config
}

func (c *client) renew(t testing.TB) {
	t.Helper()
	if c.Client != nil {
		c.Wait()
	}
	var err error
	if c.Client, err = sessionapi.New(c.cfg); err != nil {
		t.Fatal(err)
	}
}

// compile makes a set of rules for the house's project; the default one wants a session.
func compile(t testing.TB, rules ...policy.Rule) *policy.Set {
	t.Helper()
	for i := range rules {
		if rules[i].Session == policy.Required || rules[i].Session == policy.Optional {
			rules[i].Project = project
		}
	}
	set, err := policy.Compile(policy.Config{Rules: rules, Default: policy.Rule{Name: "default", Project: project, MaxTokenAge: session.NoMaxAge}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func prefix(path string) policy.Match { return policy.Match{PathPrefix: path} }

// withRules has a house go by other rules.
func withRules(t testing.TB, rules ...policy.Rule) func(*check.Config) {
	return func(c *check.Config) { c.Rules = compile(t, rules...) }
}

// require compiles a requirement.
func require(t testing.TB, cfg requirement.Config) *requirement.Set {
	t.Helper()
	set, err := requirement.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// sharedKeys spares a test the making of its own RSA keys.
var sharedKeys = sessionapitest.SharedKeys()

func (h *house) logIn(who sessionapitest.LogIn) sessionapitest.Login {
	h.t.Helper()
	login, err := h.emulator.LogIn(who)
	if err != nil {
		h.t.Fatal(err)
	}
	return login
}

// mint is a genuine JWT of a session, issued so long ago.
func (h *house) mint(login sessionapitest.Login, age time.Duration) string {
	h.t.Helper()
	jwt, err := h.emulator.Mint(login.SessionID, time.Now().Add(-age))
	if err != nil {
		h.t.Fatal(err)
	}
	return jwt
}

// fail has the session API answer otherwise.
func (h *house) fail(fault sessionapitest.Fault) {
	h.t.Helper()
	if err := h.emulator.SetFault(sessionapitest.EndpointAuthenticate, fault); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) apiCalls() int { return h.emulator.Calls("authenticate") }

// answer is a CheckResponse in words.
type answer struct {
	*authv3.CheckResponse
	reason string
}

// check asks; path may be preceded by a method. Headers are name, value pairs.
func (h *house) check(path string, headers ...string) answer {
	h.t.Helper()
	return h.checkContext(context.Background(), request(path, headers...))
}

func (h *house) checkContext(ctx context.Context, in *authv3.CheckRequest) answer {
	h.t.Helper()
	response, err := h.server.Check(ctx, in)
	if err != nil {
		h.t.Fatalf("a verdict is never a gRPC error: %v", err)
	}
	return newAnswer(response)
}

func newAnswer(response *authv3.CheckResponse) answer {
	return answer{response, response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()}
}

// decoded is an answer in wire form.
func decoded(t testing.TB, data []byte) answer {
	t.Helper()
	response := new(authv3.CheckResponse)
	if err := proto.Unmarshal(data, response); err != nil {
		t.Fatal(err)
	}
	return newAnswer(response)
}

// encoded is a message in wire form.
func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func request(path string, headers ...string) *authv3.CheckRequest {
	method, rest, ok := strings.Cut(path, " ")
	if !ok {
		method, rest = "GET", path
	}
	http := &authv3.AttributeContext_HttpRequest{Method: method, Path: rest, Host: "app.example.com", Headers: map[string]string{}}
	for i := 0; i < len(headers); i += 2 {
		http.Headers[headers[i]] = headers[i+1]
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}}
}

// allowed is what Envoy reads as an allowance: status OK, whatever the oneof holds.
func (a answer) allowed() bool { return a.GetStatus().GetCode() == 0 }

func (a answer) status() int {
	if a.allowed() {
		return 200
	}
	if a.GetErrorResponse() != nil {
		return int(a.GetErrorResponse().GetStatus().GetCode())
	}
	return int(a.GetDeniedResponse().GetStatus().GetCode())
}

func options(list []*corev3.HeaderValueOption) map[string]string {
	all := map[string]string{}
	for _, o := range list {
		all[o.GetHeader().GetKey()] = o.GetHeader().GetValue()
	}
	return all
}

// upstream are the headers that the app gets set, removed those that it never sees.
func (a answer) upstream() map[string]string { return options(a.GetOkResponse().GetHeaders()) }
func (a answer) removed() []string           { return a.GetOkResponse().GetHeadersToRemove() }

// client are the headers that the client gets.
func (a answer) client() map[string]string {
	all := options(a.GetDeniedResponse().GetHeaders())
	maps.Copy(all, options(a.GetOkResponse().GetResponseHeadersToAdd()))
	return all
}

func (a answer) body() map[string]string {
	var body struct{ Reason, Message string }
	json.Unmarshal([]byte(a.GetDeniedResponse().GetBody()), &body)
	return map[string]string{"reason": body.Reason, "message": body.Message}
}

// metadata is a text of the dynamic metadata.
func (a answer) metadata(name string) string {
	return a.GetDynamicMetadata().GetFields()[name].GetStringValue()
}

type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// metric is the value of a counter or gauge with these labels, given as name, value pairs.
func (h *house) metric(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.metrics.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		for _, m := range f.GetMetric() {
			fits := f.GetName() == name
			for i := 0; i < len(labels); i += 2 {
				fits = fits && slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
					return l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				})
			}
			if fits {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
