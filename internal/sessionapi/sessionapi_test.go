package sessionapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	projectID = "project-test-11111111-1111-4111-8111-111111111111"
	// The canaries: neither may ever be seen in a log, an error or a metric.
	secret     = "SECRET-canary-9c1b"
	credential = "CREDENTIAL-canary-4f7a"

	timeout = 2 * time.Second
)

// asked is the session that the tests' JWTs prove.
var asked = &session.Session{ProjectID: projectID, Product: session.Consumer, ID: "session-1", Subject: "user-1"}

// jwtRequest and tokenRequest trade the canary.
var (
	jwtRequest   = sessionapi.Request{JWT: credential, Session: asked}
	tokenRequest = sessionapi.Request{Token: credential}
)

// api is a session API in memory.
type api func(*http.Request) (*http.Response, error)

func (f api) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// respond makes an answer of the API.
func respond(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// yes answers with a JWT that verify reads: "good" and the session's id, subject, organization and project.
func yes(id, subject string) string {
	return fmt.Sprintf(`{"status_code":200,"session_jwt":"good.%s.%s..%s"}`, id, subject, projectID)
}

// granting is yes with the permission that was asked about.
func granting(id, subject string) string {
	return `{"verdict":{"authorized":true,"granting_roles":["editor"]},` + yes(id, subject)[1:]
}

// always gives one answer to every call.
func always(status int, body string) api {
	return func(*http.Request) (*http.Response, error) { return respond(status, body), nil }
}

// after answers yes, after a while in which the call may be broken off.
func after(d time.Duration) api {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return respond(200, yes("session-1", "user-1")), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

const jwtLifetime = 5 * time.Minute

// verify stands in for session.Verifier.Verify.
func verify(_ context.Context, jwt string, now time.Time) (*session.Session, error) {
	f := strings.Split(jwt, ".")
	if len(f) != 5 {
		return nil, session.ErrMalformed
	}
	s := &session.Session{
		ProjectID: f[4], Product: session.Consumer, ID: f[1], Subject: f[2], OrganizationID: f[3],
		IssuedAt: now, Expires: now.Add(jwtLifetime),
	}
	switch f[0] {
	case "good":
		return s, nil
	case "ending":
		s.EndsAt = now.Add(time.Minute)
		return s, nil
	case "future":
		s.IssuedAt = now.Add(5 * time.Second)
		return s, nil
	case "past":
		s.IssuedAt = now.Add(-5 * time.Second)
		return s, nil
	case "expired":
		return s, session.ErrExpired
	case "unknown":
		return nil, session.ErrUnknownKey
	case "keyless":
		return nil, fmt.Errorf("%w: nothing loaded", session.ErrKeysUnavailable)
	case "issuer":
		return nil, session.ErrClaims
	case "panic":
		panic("with " + jwt + " and " + credential)
	}
	return nil, session.ErrForged
}

// bench is a client on a session API in memory.
type bench struct {
	*sessionapi.Client
	t        testing.TB
	calls    atomic.Int32
	log      *safeBuffer
	registry *prometheus.Registry
}

func newBench(t testing.TB, transport http.RoundTripper, change ...func(*sessionapi.Config)) *bench {
	t.Helper()
	b := &bench{t: t, log: &safeBuffer{}, registry: prometheus.NewRegistry()}
	cfg := sessionapi.Config{
		Product: session.Consumer, ProjectID: projectID, Secret: session.Secret(secret), BaseURL: "https://api.test",
		Transport: api(func(r *http.Request) (*http.Response, error) {
			b.calls.Add(1)
			return transport.RoundTrip(r)
		}),
		Verify: verify, Timeout: timeout, MaxCalls: 256, KeptExchanges: 100,
		Logger:     slog.New(slog.NewTextHandler(b.log, nil)),
		Registerer: b.registry,
	}
	for _, c := range change {
		c(&cfg)
	}
	client, err := sessionapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Client = client
	return b
}

// done waits for the calls and looks for canaries in all that was written.
func (b *bench) done() {
	b.t.Helper()
	b.Wait()
	noCanary(b.t, b.log.String())
	noCanary(b.t, b.Status().LastError)
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		noCanary(b.t, f.String())
	}
}

// ask authenticates with a maxAge of "until the JWT expires", and looks for canaries in the error.
func (b *bench) ask(r sessionapi.Request) (*sessionapi.Exchange, error) {
	b.t.Helper()
	return b.askWithin(b.t.Context(), r, session.NoMaxAge)
}

func (b *bench) askWithin(ctx context.Context, r sessionapi.Request, maxAge time.Duration) (*sessionapi.Exchange, error) {
	b.t.Helper()
	e, err := b.Authenticate(ctx, r, maxAge)
	if err != nil {
		noCanary(b.t, err.Error())
	}
	if (e == nil) == (err == nil) {
		b.t.Errorf("got exchange %v with error %v, want exactly one", e, err)
	}
	return e, err
}

func (b *bench) wantCalls(want int) {
	b.t.Helper()
	if got := int(b.calls.Load()); got != want {
		b.t.Errorf("%d calls, want %d", got, want)
	}
}

// metric reads a counter or gauge, of the one outcome if one is given.
func (b *bench) metric(name string, outcome ...string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "authz_session_api_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(outcome) == 0 || m.GetLabel()[0].GetValue() == outcome[0] {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	b.t.Fatalf("no metric %s %v", name, outcome)
	return 0
}

func noCanary(t testing.TB, text string) {
	t.Helper()
	for _, c := range []string{secret, credential} {
		if strings.Contains(text, c) {
			t.Errorf("%q is shown in %q", c, text)
		}
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestNewRefuses(t *testing.T) {
	good := sessionapi.Config{
		Product: session.B2B, ProjectID: projectID, Secret: session.Secret(secret), BaseURL: "https://api.test",
		Verify: verify, Timeout: timeout, MaxCalls: 1,
	}
	if _, err := sessionapi.New(good); err != nil {
		t.Fatalf("a good configuration is refused: %v", err)
	}
	for name, spoil := range map[string]func(*sessionapi.Config){
		"an unknown product":           func(c *sessionapi.Config) { c.Product = "enterprise" },
		"no project id":                func(c *sessionapi.Config) { c.ProjectID = "" },
		"no secret":                    func(c *sessionapi.Config) { c.Secret = session.Secret("") },
		"no verifier":                  func(c *sessionapi.Config) { c.Verify = nil },
		"no timeout":                   func(c *sessionapi.Config) { c.Timeout = 0 },
		"no calls":                     func(c *sessionapi.Config) { c.MaxCalls = 0 },
		"fewer than no calls a second": func(c *sessionapi.Config) { c.CallsPerSecond = -1 },
		"a queue of fewer than none":   func(c *sessionapi.Config) { c.MaxQueued = -1 },
		"fewer than no exchanges":      func(c *sessionapi.Config) { c.KeptExchanges = -1 },
		"no base URL":                  func(c *sessionapi.Config) { c.BaseURL = "" },
		"a base URL without a host":    func(c *sessionapi.Config) { c.BaseURL = "https:///x" },
		"plain http off loopback":      func(c *sessionapi.Config) { c.BaseURL = "http://api.test" },
		"plain http to a lookalike":    func(c *sessionapi.Config) { c.BaseURL = "http://localhost.test" },
		"another scheme":               func(c *sessionapi.Config) { c.BaseURL = "ftp://api.test" },
		"a base URL with a query":      func(c *sessionapi.Config) { c.BaseURL = "https://api.test?x=1" },
		"a base URL with a fragment":   func(c *sessionapi.Config) { c.BaseURL = "https://api.test#x" },
		"a base URL with a password":   func(c *sessionapi.Config) { c.BaseURL = "https://u:" + secret + "@api.test" },
		"a base URL that is no URL":    func(c *sessionapi.Config) { c.BaseURL = "https://u:" + secret + "@api.test:port" },
		"a base URL with a bad escape": func(c *sessionapi.Config) { c.BaseURL = "https://%zz" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			spoil(&cfg)
			_, err := sessionapi.New(cfg)
			if err == nil {
				t.Fatal("accepted")
			}
			noCanary(t, err.Error())
		})
	}
}

func TestRequestHoldsExactlyOneCredential(t *testing.T) {
	b := newBench(t, always(200, yes("session-1", "user-1")))
	defer b.done()
	for _, r := range []sessionapi.Request{{}, {Session: asked}, {JWT: credential, Token: credential}} {
		if _, err := b.ask(r); err == nil || errors.Is(err, sessionapi.ErrUnavailable) {
			t.Errorf("%d and %d bytes: got error %v, want one of its own", len(r.JWT), len(r.Token), err)
		}
	}
	b.wantCalls(0)
}

func TestCheckMustBeWhole(t *testing.T) {
	for _, c := range []struct {
		name    string
		product session.Product
		check   sessionapi.AuthorizationCheck
		says    string
	}{
		{"a consumer's with resource and action", session.Consumer, sessionapi.AuthorizationCheck{ResourceID: "r", Action: "a"}, ""},
		{"without a resource", session.Consumer, sessionapi.AuthorizationCheck{Action: "a"}, "resource"},
		{"without an action", session.Consumer, sessionapi.AuthorizationCheck{ResourceID: "r"}, "action"},
		{"empty", session.Consumer, sessionapi.AuthorizationCheck{}, "resource"},
		{"in B2B with an organization", session.B2B, sessionapi.AuthorizationCheck{OrganizationID: "o", ResourceID: "r", Action: "a"}, ""},
		{"in B2B without an organization", session.B2B, sessionapi.AuthorizationCheck{ResourceID: "r", Action: "a"}, "organization"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, always(200, granting("session-1", "user-1")), func(cfg *sessionapi.Config) { cfg.Product = c.product })
			defer b.done()
			r := sessionapi.Request{Token: credential, Check: &c.check}
			_, err := b.ask(r)
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error about the %s", err, c.says)
			}
			wantOnly(t, err, nil)
			if b.Ahead(t.Context(), r) != nil {
				t.Error("traded ahead")
			}
			b.Wait()
			b.wantCalls(0)
		})
	}
}

func TestStatusTellsWhatHappened(t *testing.T) {
	answer := respond(200, yes("session-1", "user-1"))
	b := newBench(t, api(func(*http.Request) (*http.Response, error) { return answer, nil }))
	defer b.done()
	if s := b.Status(); s != (sessionapi.Status{Breaker: "closed", TokenBreaker: "closed"}) {
		t.Errorf("before the first call: %+v", s)
	}
	if _, err := b.ask(jwtRequest); err != nil {
		t.Fatal(err)
	}
	s := b.Status()
	if s.Kept != 1 || s.InFlight != 0 || s.LastOKAt.IsZero() || s.LastError != "" {
		t.Errorf("after a yes: %+v", s)
	}
	answer = respond(500, "{}")
	if _, err := b.ask(tokenRequest); err == nil {
		t.Fatal("a 500 is a yes")
	}
	later := b.Status()
	if later.LastOKAt != s.LastOKAt || later.LastErrorAt.IsZero() || !strings.Contains(later.LastError, "500") {
		t.Errorf("after a 500: %+v", later)
	}
}
