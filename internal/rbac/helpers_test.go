package rbac_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	projectID = "project-test-11111111-1111-4111-8111-111111111111"
	secret    = "secret-test-canary="

	policyPath        = "/v1/b2b/rbac/policy"
	organizationsPath = "/v1/b2b/rbac/organizations/"
)

// role writes a role: each permission is a resource and its actions, "documents: read write".
func role(id string, permissions ...string) string {
	list := []string{}
	for _, p := range permissions {
		resource, actions, _ := strings.Cut(p, ": ")
		list = append(list, fmt.Sprintf(`{"resource_id":%s,"actions":%s}`, quote(resource), quote(strings.Fields(actions))))
	}
	return fmt.Sprintf(`{"role_id":%s,"description":"","permissions":[%s]}`, quote(id), strings.Join(list, ","))
}

func quote(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// policy and organization are answers with these roles.
func policy(roles ...string) string {
	return `{"status_code":200,"request_id":"request-id-test-1","policy":{"roles":[` + strings.Join(roles, ",") + `],"resources":[{"resource_id":"documents","actions":["read"]}],"scopes":[]}}`
}

func organization(roles ...string) string {
	return `{"status_code":200,"org_policy":{"roles":[` + strings.Join(roles, ",") + `]}}`
}

// project is the policy that tests of organizations have.
var project = policy(role("stytch_member"), role("viewer", "documents: read"), role("admin", "documents: *"))

// service is the session API, in memory, so that time may be synctest's.
type service struct {
	mu             sync.Mutex
	answers        map[string]http.HandlerFunc // by path
	requests       map[string][]request        // by path
	busy, mostBusy int                         // requests under way
	open           int                         // bodies that were not closed
}

type request struct {
	at     time.Time
	url    string
	method string
	header http.Header
}

func newService() *service {
	return &service{answers: map[string]http.HandlerFunc{}, requests: map[string][]request{}}
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.requests[r.URL.Path] = append(s.requests[r.URL.Path], request{time.Now(), r.URL.String(), r.Method, r.Header})
	answer := s.answers[r.URL.Path]
	s.busy++
	s.mostBusy = max(s.mostBusy, s.busy)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
	}()
	recorder := httptest.NewRecorder()
	if answer == nil {
		answer = status(404, "route_not_found")
	}
	answer(recorder, r)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	if recorder.Code == 0 {
		// As net/http words what it cannot read, from a server that sends back what it got.
		return nil, fmt.Errorf("malformed HTTP response %q", secret)
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	response := recorder.Result()
	response.Body = &closeCounter{response.Body, s}
	return response, nil
}

type closeCounter struct {
	io.Reader
	s *service
}

func (c *closeCounter) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.open--
	return nil
}

func (s *service) serve(path string, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answer
}

// add serves an organization's answer.
func (s *service) add(id string, answer http.HandlerFunc) { s.serve(organizationsPath+id, answer) }

func (s *service) got(path string) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.requests[path]...)
}

func body(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}

func status(code int, errorType string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"status_code":%d,"error_type":%q,"error_message":"."}`, code, errorType)
	}
}

// refuse gives no valid HTTP answer.
func refuse(w http.ResponseWriter, _ *http.Request) { w.(*httptest.ResponseRecorder).Code = 0 }

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// after answers late, unless it is given up before.
func after(d time.Duration, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			answer(w, r)
		case <-r.Context().Done():
		}
	}
}

// log collects what was announced.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the lines since the last call, level and message only.
func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for line := range strings.Lines(l.buf.String()) {
		var record struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &record) == nil {
			lines = append(lines, record.Level+" "+record.Msg)
		}
	}
	l.buf.Reset()
	return lines
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// fixture is a cache in front of a service.
type fixture struct {
	*rbac.Cache
	*service
	t        testing.TB
	cfg      rbac.Config
	log      *log
	registry *prometheus.Registry
	stop     context.CancelFunc // ends Run and waits for it
}

// start runs a cache until the test ends. What the configuration lacks is that of a B2B project whose policy is first.
func start(t testing.TB, first http.HandlerFunc, cfg rbac.Config) *fixture {
	t.Helper()
	f := &fixture{service: newService(), t: t, log: &log{}, registry: prometheus.NewRegistry()}
	f.serve(policyPath, first)
	if cfg.Product == "" {
		cfg.Product = session.B2B
	}
	if cfg.BaseURL == "" {
		cfg.BaseURL = "https://api.test"
	}
	if cfg.Transport == nil {
		cfg.Transport = f.service
	}
	if cfg.Secret == nil {
		cfg.Secret = session.Secret(secret)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewJSONHandler(f.log, nil))
	}
	cfg.ProjectID, cfg.Registerer = projectID, f.registry
	cache, err := rbac.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Cache, f.cfg = cache, cfg
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cache.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		f.stop()
		if f.open != 0 || f.busy != 0 {
			t.Errorf("%d response bodies were not closed, %d fetches are left behind", f.open, f.busy)
		}
	})
	return f
}

// bubble starts a cache in a bubble, waits for its first fetch and tests.
func bubble(t *testing.T, first http.HandlerFunc, cfg rbac.Config, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := start(t, first, cfg)
		synctest.Wait()
		test(t, f)
	})
}

// pass lets time pass, and then what follows from it happen.
func (f *fixture) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// member is a session of an organization, or of a user where that is empty.
func (f *fixture) member(organizationID string, roles ...string) *session.Session {
	return &session.Session{ProjectID: projectID, Product: f.cfg.Product, OrganizationID: organizationID, Roles: roles}
}

// the three answers that there are.
type verdict string

const (
	granted     verdict = "granted"
	denied      verdict = "denied"
	unavailable verdict = "unavailable"
)

// may asks whether a session may do something to documents.
func (f *fixture) may(ctx context.Context, s *session.Session, resource, action string) verdict {
	f.t.Helper()
	ok, err := f.Allowed(ctx, s, resource, action)
	switch {
	case err != nil && ok:
		f.t.Errorf("granted with an error: %v", err)
	case err != nil && !errors.Is(err, rbac.ErrUnavailable):
		f.t.Errorf("error %v is not ErrUnavailable", err)
	case err != nil && strings.Contains(err.Error(), secret):
		f.t.Errorf("the secret is in the error: %v", err)
	}
	switch {
	case err != nil:
		return unavailable
	case ok:
		return granted
	}
	return denied
}

// want asks whether the session may read documents and wants this verdict after just this time.
func (f *fixture) want(s *session.Session, want verdict, wait time.Duration) {
	f.t.Helper()
	asked := time.Now()
	if got := f.may(f.t.Context(), s, "documents", "read"); got != want {
		f.t.Errorf("roles %q: %s, want %s", s.Roles, got, want)
	}
	if got := time.Since(asked); got != wait {
		f.t.Errorf("roles %q: took %v, want %v", s.Roles, got, wait)
	}
}

func (f *fixture) wantFetches(path string, want int) {
	f.t.Helper()
	if got := len(f.got(path)); got != want {
		f.t.Errorf("%d fetches of %s, want %d", got, path, want)
	}
}

func (f *fixture) wantLog(want ...string) {
	f.t.Helper()
	got := f.log.take()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		f.t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const (
	policyFetches       = "authz_rbac_policy_fetches_total"
	organizationFetches = "authz_rbac_organization_fetches_total"
)

// metric reads one value; label is the value of its only label, if it has one.
func (f *fixture) metric(name, label string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != name || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	f.t.Fatalf("no metric %s{%s}", name, label)
	return 0
}

func (f *fixture) wantMetric(name, label string, want float64) {
	f.t.Helper()
	if got := f.metric(name, label); got != want {
		f.t.Errorf("%s{%s} = %v, want %v", name, label, got, want)
	}
}
