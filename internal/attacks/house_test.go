package attacks

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// The projects, each with an emulator and keys of its own.
var projects = []struct {
	name, id string
	product  session.Product
	keys     []string // of testdata/keys.pem, in the order of rotation
}{
	{"test", sessionapitest.DefaultProjectID, session.Consumer, []string{"vendor", "next"}},
	{"live", "project-live-22222222-2222-4222-8222-222222222222", session.Consumer, []string{"live"}},
	{"b2b", "project-test-33333333-3333-4333-8333-333333333333", session.B2B, []string{"b2b"}},
}

// people are who has a session, and in which project.
var people = map[string]string{"ada": "test", "bob": "test", "liv": "live", "mia": "b2b"}

// house is a check server on real parts, with the emulators behind them in the same process. It stands in a synctest bubble.
type house struct {
	server   *check.Server
	projects map[string]*project
	logins   map[string]sessionapitest.Login
	log      *logBuffer
}

type project struct {
	id       string
	key      *rsa.PrivateKey // with which it signs
	emulator *sessionapitest.Server
	keys     *jwkscache.Cache
	client   *sessionapi.Client
}

// newHouse builds one whose keys are fresh until ctx is done; stopped then waits for its end. Only the wanted projects have keys.
func newHouse(t testing.TB, ctx context.Context, wanted map[string]bool) (h *house, stopped func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h = &house{projects: map[string]*project{}, logins: map[string]sessionapitest.Login{}, log: new(logBuffer)}
	logger := slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	denylist, err := revocation.New(revocation.Config{Retention: time.Hour, Leeway: 5 * time.Second, Capacity: 1000})
	must(err)
	gate := check.Config{
		Projects:    map[string]check.Project{},
		Credentials: session.Names{JWTCookie: "stytch_session_jwt", TokenCookie: "stytch_session", TokenHeader: "x-session-token"},
		JWTCookie:   check.CookieAttributes{Path: "/", SameSite: "Lax", Secure: true},
		IdentityHeaders: []check.IdentityHeader{
			{Name: "x-auth-subject", Value: "subject"}, {Name: "x-user-id", Value: "subject"},
			{Name: "x-auth-session-id", Value: "session_id"}, {Name: "x-auth-organization-id", Value: "organization_id"},
			{Name: "x-auth-roles", Value: "roles"},
		},
		Revocations: denylist,
		Logger:      logger,
	}
	var running sync.WaitGroup
	for _, p := range projects {
		emulator, err := sessionapitest.New(sessionapitest.Config{
			ProjectID: p.id, Product: string(p.product), SessionLifetime: 24 * time.Hour, NewKey: hands(p.keys...),
		})
		must(err)
		transport := onlyTheVendor{emulator.Transport()}
		path := map[session.Product]string{session.Consumer: "/v1/sessions/jwks/", session.B2B: "/v1/b2b/sessions/jwks/"}[p.product]
		keys, err := jwkscache.New(jwkscache.Config{URL: vendorURL + path + p.id, Transport: transport, Logger: logger})
		must(err)
		verifier, err := session.NewVerifier(session.Config{
			ProjectID: p.id, Product: p.product, Issuers: []string{"stytch.com/" + p.id}, Keys: keys, IssueLeeway: 5 * time.Second,
		})
		must(err)
		client, err := sessionapi.New(sessionapi.Config{
			Product: p.product, ProjectID: p.id, Secret: session.Secret(sessionapitest.DefaultSecret), BaseURL: vendorURL, Transport: transport,
			Verify: verifier.Verify, Timeout: 2 * time.Second, MaxCalls: 256, KeptExchanges: 100, Logger: logger,
			OnEnded: func(s *session.Session, certain bool) {
				if certain {
					denylist.Revoke(revocation.Revocation{ProjectID: s.ProjectID, SessionID: s.ID}, time.Now())
				} else {
					denylist.Doubt(revocation.Session{ProjectID: s.ProjectID, ID: s.ID}, time.Now())
				}
			},
		})
		must(err)
		key, err := privateKey(p.keys[0])
		must(err)
		h.projects[p.name] = &project{p.id, key, emulator, keys, client}
		gate.Projects[p.name] = check.Project{Product: p.product, Verifier: verifier, API: client}
		if !wanted[p.name] {
			continue
		}
		running.Go(func() {
			if err := keys.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	gate.Rules, err = policy.Compile(policy.Config{
		Rules: []policy.Rule{
			{Name: "public", Match: policy.Match{PathPrefix: "/public"}, Session: policy.None},
			{Name: "optional", Match: policy.Match{PathPrefix: "/optional"}, Session: policy.Optional, Project: "test", MaxTokenAge: session.NoMaxAge},
			{Name: "fresh", Match: policy.Match{PathPrefix: "/fresh"}, Project: "test", MaxTokenAge: 0},
			{Name: "half a minute", Match: policy.Match{PathPrefix: "/30s"}, Project: "test", MaxTokenAge: 30 * time.Second},
			{Name: "reuse", Match: policy.Match{PathPrefix: "/reuse"}, Project: "test", MaxTokenAge: session.NoMaxAge, TokenReuse: 5 * time.Minute},
			{Name: "strict", Match: policy.Match{PathPrefix: "/strict"}, Project: "test", MaxTokenAge: session.NoMaxAge, DenyExpired: true},
			{Name: "live", Match: policy.Match{PathPrefix: "/live"}, Project: "live", MaxTokenAge: session.NoMaxAge},
			{Name: "b2b", Match: policy.Match{PathPrefix: "/b2b"}, Project: "b2b", MaxTokenAge: session.NoMaxAge},
			{Name: "closed", Match: policy.Match{PathPrefix: "/closed"}, Session: policy.Refused},
		},
		Default: policy.Rule{Name: "default", Project: "test", MaxTokenAge: session.NoMaxAge},
	})
	must(err)
	h.server, err = check.New(gate)
	must(err)
	for name := range wanted {
		for !h.projects[name].keys.Ready() {
			time.Sleep(time.Second)
		}
	}
	return h, func() {
		for _, p := range h.projects {
			p.emulator.ClearFaults()
			p.client.Wait()
		}
		running.Wait()
	}
}

// login is somebody's session.
func (h *house) login(who string) (sessionapitest.Login, *project, error) {
	p := h.projects[people[who]]
	if p == nil {
		return sessionapitest.Login{}, nil, fmt.Errorf("there is nobody called %q", who)
	}
	if l, ok := h.logins[who]; ok {
		return l, p, nil
	}
	var in sessionapitest.LogIn
	if who == "mia" {
		in.MemberID = "member-test-mia"
	} else {
		in.UserID = "user-" + people[who] + "-" + who
	}
	l, err := p.emulator.LogIn(in)
	h.logins[who] = l
	return l, p, err
}

// newJWT is a genuine one of somebody's session, issued so long ago.
func (h *house) newJWT(who string, age time.Duration) (*jwt, error) {
	l, p, err := h.login(who)
	if err != nil {
		return nil, err
	}
	fields, err := p.emulator.Claims(l.SessionID, time.Now().Add(-age))
	if err != nil {
		return nil, err
	}
	kid, err := p.emulator.KeyID()
	if err != nil {
		return nil, err
	}
	j := &jwt{project: p, header: newObject(map[string]any{"alg": "RS256", "kid": kid, "typ": "JWT"})}
	key := p.key
	j.sign = func(signed string) ([]byte, error) { return sign("RS256", key, signed) }
	inner := func(name string) *object {
		o, _ := fields[name].(map[string]any)
		return newObject(o)
	}
	j.session, j.organization = inner(sessionClaim), inner(organizationClaim)
	j.claims = newObject(fields)
	j.claims.put(sessionClaim, j.session)
	if fields[organizationClaim] != nil {
		j.claims.put(organizationClaim, j.organization)
	}
	return j, nil
}

const (
	sessionClaim      = "https://stytch.com/session"
	organizationClaim = "https://stytch.com/organization"
)

// calls and fetches are how often the session API was asked, and for keys.
func (h *house) calls() int   { return h.sum(sessionapitest.EndpointAuthenticate) }
func (h *house) fetches() int { return h.sum(sessionapitest.EndpointKeySet) }

func (h *house) sum(e sessionapitest.Endpoint) (sum int) {
	for _, p := range h.projects {
		sum += p.emulator.Calls(e)
	}
	return sum
}

const vendorURL = "https://vendor.invalid"

// onlyTheVendor fails a request for anybody else: whoever makes one believed a token.
type onlyTheVendor struct{ http.RoundTripper }

func (o onlyTheVendor) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme+"://"+r.URL.Host != vendorURL {
		panic("a request for " + r.URL.Host)
	}
	return o.RoundTripper.RoundTrip(r)
}

// serve changes what a project's key set is, and waits until the sidecar knows.
func (p *project) serve(keySet string) error {
	if err := p.emulator.SetFault(sessionapitest.EndpointKeySet, sessionapitest.Fault{Body: keySet}); err != nil {
		return err
	}
	return p.refetch()
}

// served are the keys that a project's key set has.
func (p *project) served() ([]json.RawMessage, error) {
	path := "/v1/sessions/jwks/"
	r, err := http.NewRequest(http.MethodGet, vendorURL+path+p.id, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.emulator.Transport().RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var set struct{ Keys []json.RawMessage }
	return set.Keys, json.Unmarshal(body, &set)
}

// refetch lets time pass until the keys are fetched again by the schedule.
func (p *project) refetch() error {
	before := p.emulator.Calls(sessionapitest.EndpointKeySet)
	for range 100 {
		time.Sleep(30 * time.Second)
		if p.emulator.Calls(sessionapitest.EndpointKeySet) > before {
			time.Sleep(time.Second)
			return nil
		}
	}
	return errors.New("the keys are not fetched again")
}

// logBuffer is where the log goes.
type logBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

// take is what has been written since it was last asked.
func (b *logBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.buffer.Reset()
	return b.buffer.String()
}
