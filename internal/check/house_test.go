package check_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const project = sessionapitest.DefaultProjectID

// house is a check server on real parts: verifier, key set cache and session API client, with the emulator behind them.
type house struct {
	t        testing.TB
	emulator *sessionapitest.Server
	server   *check.Server
	log      *safeBuffer
	metrics  *prometheus.Registry
}

// newHouse builds one; edit may change the configuration.
func newHouse(t testing.TB, product session.Product, edit func(*check.Config)) *house {
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
	verifier, err := session.NewVerifier(session.Config{
		ProjectID: project, Product: product, Issuers: []string{"stytch.com/" + project}, Keys: keys, IssueLeeway: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := sessionapi.New(sessionapi.Config{
		Product: product, ProjectID: project, Secret: sessionapitest.DefaultSecret, BaseURL: api.URL,
		Verify: verifier.Verify, Timeout: 2 * time.Second, MaxCalls: 256, KeptExchanges: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Compile([]policy.Rule{
		{Name: "public", PathPrefix: "/public", Session: policy.None},
		{Name: "optional", PathPrefix: "/optional", Session: policy.Optional, Project: project, MaxTokenAge: session.NoMaxAge},
		{Name: "fresh", PathPrefix: "/fresh", Project: project, MaxTokenAge: 0},
		{Name: "half a minute", PathPrefix: "/30s", Project: project, MaxTokenAge: 30 * time.Second},
	}, policy.Rule{Name: "default", Project: project, MaxTokenAge: session.NoMaxAge})
	if err != nil {
		t.Fatal(err)
	}
	cfg := check.Config{
		Rules:       rules,
		Projects:    map[string]check.Project{project: {Verifier: verifier, API: client}},
		Credentials: session.Names{JWTCookie: "stytch_session_jwt", TokenCookie: "stytch_session", TokenHeader: "x-session-token"},
		JWTCookie:   check.CookieAttributes{Path: "/", SameSite: "Lax", Secure: true},
		IdentityHeaders: []check.IdentityHeader{
			{Name: "x-auth-subject", Value: "subject"}, {Name: "x-auth-session-id", Value: "session_id"},
			{Name: "x-auth-organization-id", Value: "organization_id"}, {Name: "x-auth-roles", Value: "roles"},
		},
		Logger:     slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: h.metrics,
	}
	if edit != nil {
		edit(&cfg)
	}
	if h.server, err = check.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.emulator.ClearFaults()
		client.Wait()
		stop()
		<-ended
		api.Close()
	})
	return h
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
	return answer{response, response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()}
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
	var body map[string]string
	json.Unmarshal([]byte(a.GetDeniedResponse().GetBody()), &body)
	return body
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
