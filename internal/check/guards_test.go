package check_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// Each test here holds one guard that no other test would miss.

// hollow says yes with an exchange that holds no session.
type hollow struct{ faulty }

func (hollow) Authenticate(context.Context, sessionapi.Request, time.Duration) (*sessionapi.Exchange, error) {
	return &sessionapi.Exchange{JWT: "x"}, nil
}

func TestAnExchangeWithoutASessionIsAFault(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.IdentityHeaders = nil
		c.Projects = map[string]check.Project{project: {API: hollow{}, Verifier: faulty{}}}
	})
	if a := h.check("/", "cookie", "stytch_session="+strings.Repeat("t", 44)); a.status() != 503 || a.reason != "internal" {
		t.Errorf("%d %s", a.status(), a.reason)
	}
	if n := h.metric("authz_check_panics_total"); n == 0 {
		t.Error("it was not counted")
	}
}

func TestAVerifierThatSaysExpiredWithoutASessionIsAFault(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Projects = map[string]check.Project{project: {API: faulty{}, Verifier: faulty{session.ErrExpired}}}
	})
	if a := h.check("/", "authorization", "Bearer a.b.c"); a.reason != "internal" || strings.Contains(h.log.String(), "check panicked") {
		t.Errorf("%s; %s", a.reason, h.log)
	}
}

func TestWhatCountsWhereJWTAndTokenStandSideBySide(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "fresh", Match: prefix("/fresh"), MaxTokenAge: 0, TokenReuse: time.Minute},
		policy.Rule{Name: "no grace", Match: prefix("/none"), MaxTokenAge: 0},
		policy.Rule{Name: "longer than a JWT lives", Match: prefix("/long"), MaxTokenAge: 10 * time.Minute, Grace: time.Minute}))
	login := h.logIn(sessionapitest.LogIn{UserID: "user-test-1"})
	for range 2 {
		if a := h.check("/fresh", "cookie", "stytch_session_jwt="+login.JWT+"; stytch_session="+login.Token); a.reason != "exchanged" {
			t.Fatal(a.reason)
		}
	}
	if h.apiCalls() != 2 {
		t.Errorf("%d calls: token_reuse is for a token alone", h.apiCalls())
	}
	other := h.logIn(sessionapitest.LogIn{UserID: "user-test-1"})
	if a := h.check("/", "authorization", "Bearer "+login.JWT, "cookie", "stytch_session_jwt="+other.JWT); a.reason != "ambiguous_credential" {
		t.Errorf("two sessions of one user: %s", a.reason)
	}
	claims, err := h.emulator.Claims(login.SessionID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	claims["sub"] = "user-test-2"
	changed, err := h.emulator.Sign(nil, claims)
	if err != nil {
		t.Fatal(err)
	}
	if a := h.check("/", "authorization", "Bearer "+login.JWT, "cookie", "stytch_session_jwt="+changed); a.reason != "ambiguous_credential" {
		t.Errorf("one session of two users: %s", a.reason)
	}
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if a := h.check("/none", "authorization", "Bearer "+h.mint(login, -3*time.Second)); a.reason != "api_unavailable" {
		t.Errorf("no grace for a JWT of a moment ahead: %s", a.reason)
	}
	if a := h.check("/long", "authorization", "Bearer "+h.mint(login, 7*time.Minute)); a.reason != "api_unavailable" {
		t.Errorf("grace counts from exp where that is earlier: %s", a.reason)
	}
}

func TestAnAnswerIsNotChangedByALaterOne(t *testing.T) {
	h := newHouse(t, session.B2B, func(c *check.Config) {
		c.RemoveCredential = true
		c.IdentityHeaders = append(c.IdentityHeaders[:2:2], c.IdentityHeaders[3])
	})
	none, some := h.logIn(sessionapitest.LogIn{Roles: []string{}}), h.logIn(sessionapitest.LogIn{Roles: []string{"a"}})
	first := h.check("/", "authorization", "Bearer "+none.JWT)
	public := h.check("/public", "cookie", "stytch_session_jwt=x")
	before, publicBefore := slices.Clone(first.removed()), slices.Clone(public.removed())
	h.check("/", "cookie", "stytch_session_jwt="+some.JWT)
	h.check("/public", "authorization", "Bearer a")
	if !slices.Equal(before, first.removed()) || !slices.Equal(publicBefore, public.removed()) {
		t.Errorf("%v became %v, %v became %v", before, first.removed(), publicBefore, public.removed())
	}
}

func TestWhatAGateInShadowStillDenies(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Shadow = true
		c.Projects = map[string]check.Project{project: {Verifier: faulty{errors.New("?")}}}
	})
	if a := h.check("/", "authorization", "Bearer a.b.c"); a.allowed() || a.reason != "internal" {
		t.Errorf("a fault: %s", a.reason)
	}
	if a := h.check("get /", "authorization", "Bearer a.b.c"); a.allowed() || a.status() != 400 || a.reason != "ambiguous_method" {
		t.Errorf("a method in lower case: %d %s", a.status(), a.reason)
	}
	in := request("/")
	in.Attributes.ContextExtensions = map[string]string{"rule": "nobody"}
	if a := h.checkContext(t.Context(), in); !a.allowed() || a.reason != "unknown_rule" {
		t.Errorf("an unknown rule: %s", a.reason)
	}
}

func TestWhoDoesNotLookLikeTheOwnSite(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "all", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, RefuseCrossSite: true, Preflight: true}))
	login := h.logIn(sessionapitest.LogIn{})
	for _, c := range []struct{ name, method, host, origin, want string }{
		{"a site above", "POST", "app.example.com", "https://example.com", "cross_site"},
		{"no host and no origin to speak of", "POST", "", "null", "cross_site"},
		{"an origin that is no URL", "POST", "app.example.com", "http://[", "cross_site"},
		{"the own one, with case and port", "POST", "APP.example.com:8443", "https://app.example.com", "verified"},
		{"the own one, an IPv6 address", "POST", "[::1]:8080", "http://[::1]:8080", "verified"},
		{"the own one, an IPv4 address", "POST", "127.0.0.1:8080", "http://127.0.0.1:8080", "verified"},
		{"a safe method", "OPTIONS", "app.example.com", "https://evil.example", "verified"},
	} {
		in := request(c.method+" /", "cookie", "stytch_session_jwt="+login.JWT, "origin", c.origin)
		in.Attributes.Request.Http.Host = c.host
		if a := h.checkContext(t.Context(), in); a.reason != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.want)
		}
	}
	if a := h.check("POST /", "origin", "https://example.com", "access-control-request-method", "POST"); a.reason != "no_credential" {
		t.Errorf("no preflight by its method: %s", a.reason)
	}
	if a := h.check("OPTIONS /", "access-control-request-method", "POST"); a.reason != "no_credential" {
		t.Errorf("no preflight without an origin: %s", a.reason)
	}
}

func TestAShadowRuleLeavesTheJWTsOfWhoWouldNotPass(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "app", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, Shadow: true,
		Require: require(t, requirement.Config{AnyRole: []string{"admin"}})}))
	login := h.logIn(sessionapitest.LogIn{})
	a := h.check("/", "authorization", "Bearer "+h.mint(login, time.Minute), "cookie", "stytch_session_jwt="+login.JWT)
	if a.metadata("verdict") != "would_deny" || len(a.upstream()) != 0 {
		t.Errorf("%s %v", a.metadata("verdict"), a.upstream())
	}
}

func TestTheHeadersThatAreRead(t *testing.T) {
	rules := compile(t, policy.Rule{Name: "canary", Match: policy.Match{PathPrefix: "/", Headers: []policy.HeaderMatch{{Name: "x-canary", Any: true}}}})
	got, all := check.HeadersRead(session.Names{TokenHeader: "x-session-token"}, rules)
	want := []string{"accept", "access-control-request-method", "authorization", "content-type", "cookie", "origin", "sec-fetch-mode",
		"sec-fetch-site", "upgrade", "x-canary", "x-request-id", "x-session-token"}
	if !slices.Equal(got, want) || all {
		t.Errorf("%v, all %v", got, all)
	}
}

func TestTheCookieHeaderThatGoesUpstream(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	old := h.mint(h.logIn(sessionapitest.LogIn{}), time.Hour)
	for _, c := range []struct{ lines, want []string }{
		{[]string{"theme=dark,stytch_session_jwt=" + old}, []string{"theme=dark"}},
		{[]string{"theme=dark;\tstytch_session_jwt=" + old}, []string{"theme=dark"}},
		{[]string{"theme=dark", "stytch_session_jwt=" + old}, []string{"theme=dark"}},
		{[]string{"a=\xff; stytch_session_jwt=" + old}, []string{"a=!"}},
		{[]string{"a=1,b=2; stytch_session_jwt=" + old}, []string{"a=1,b=2"}},
	} {
		in := request("/")
		in.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{}
		for _, line := range c.lines {
			in.Attributes.Request.Http.HeaderMap.Headers = append(in.Attributes.Request.Http.HeaderMap.Headers,
				&corev3.HeaderValue{Key: "cookie", RawValue: []byte(line)})
		}
		a := h.checkContext(t.Context(), in)
		others, jwt, _ := strings.Cut(a.upstream()["cookie"], "; stytch_session_jwt=")
		if a.reason != "exchanged" || others != c.want[0] || jwt == "" || strings.Contains(jwt, old) {
			t.Errorf("%q: %s, %q", c.lines, a.reason, a.upstream()["cookie"])
		}
		if _, err := proto.Marshal(a.CheckResponse); err != nil {
			t.Errorf("%q: %v", c.lines, err)
		}
	}
}

func TestWhatExpressionsSeeIsAsRulesReadIt(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "cel", Match: prefix("/"), MaxTokenAge: session.NoMaxAge,
		Require: require(t, requirement.Config{Expressions: []string{`request.path == "/a" && request.host == "app.example.com" && request.headers["x-a"] == "b"`}})}))
	in := request("/%61?x=1", "authorization", "Bearer "+h.logIn(sessionapitest.LogIn{}).JWT, "x-a", "b")
	in.Attributes.Request.Http.Host = "APP.example.com:443"
	if a := h.checkContext(t.Context(), in); a.reason != "verified" {
		t.Errorf("%s", a.reason)
	}
}

func TestHowLongAnIdentityHeaderMayBe(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.IdentityHeaders = []check.IdentityHeader{{Name: "x-a", Claim: "a"}, {Name: "x-b", Claim: "b", JSON: true}}
	})
	for _, c := range []struct {
		name   string
		claims map[string]any
		reason string
	}{
		{"4096 bytes", map[string]any{"a": strings.Repeat("a", 4096)}, "verified"},
		{"4097 bytes", map[string]any{"a": strings.Repeat("a", 4097)}, "claims_refused"},
		{"a control character", map[string]any{"a": "a\x7f"}, "claims_refused"},
		{"an object in a list", map[string]any{"a": []any{map[string]any{}}}, "claims_refused"},
		{"null in JSON", map[string]any{"b": map[string]any{"c": nil}}, "verified"},
	} {
		// The emulator bounds claims as the vendor does, so the JWT is signed here.
		login := h.logIn(sessionapitest.LogIn{})
		claims, err := h.emulator.Claims(login.SessionID, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(claims, c.claims)
		jwt, err := h.emulator.Sign(nil, claims)
		if err != nil {
			t.Fatal(err)
		}
		if a := h.check("/", "authorization", "Bearer "+jwt); a.reason != c.reason {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.reason)
		}
	}
}

func TestWhatNewRefuses(t *testing.T) {
	rule := policy.Rule{Name: "r", Match: prefix("/"), MaxTokenAge: session.NoMaxAge}
	redirects, optional := rule, rule
	redirects.RedirectToLogIn, optional.Session = true, policy.Optional
	projects := map[string]check.Project{project: {}}
	header := func(name string) check.Config {
		return check.Config{Rules: compile(t, rule), Projects: projects, IdentityHeaders: []check.IdentityHeader{{Name: name, Value: "subject"}}}
	}
	logIn := func(l check.LogIn) check.Config {
		return check.Config{Rules: compile(t, redirects), Projects: projects, LogIn: l}
	}
	for name, c := range map[string]check.Config{
		"an identity header without a name":   header(""),
		"one in capitals":                     header("X-A"),
		"one with seven hyphens":              header("x-a-b-c-d-e-f-g"),
		"a redirect without a page":           logIn(check.LogIn{}),
		"a page with a fragment":              logIn(check.LogIn{URL: "/login#x", ReturnParameter: "to"}),
		"a page that is no path":              logIn(check.LogIn{URL: "login", ReturnParameter: "to"}),
		"a page on another host by no scheme": logIn(check.LogIn{URL: "//evil.example/in", ReturnParameter: "to"}),
		"a page that is a script":             logIn(check.LogIn{URL: "javascript:alert(1)", ReturnParameter: "to"}),
		"a page without a parameter":          logIn(check.LogIn{URL: "/login"}),
		"an optional rule without a project":  {Rules: compile(t, optional)},
	} {
		if _, err := check.New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, c := range map[string]check.Config{
		"six hyphens": header("x-a-b-c-d-e-f"),
		"a page":      logIn(check.LogIn{URL: "https://login.example.com/in", ReturnParameter: "to"}),
	} {
		if _, err := check.New(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheCookiesAttributes(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.JWTCookie = check.CookieAttributes{Domain: "example.com", Path: "/app", SameSite: "Strict", Secure: true, HTTPOnly: true}
	})
	cookie := parseCookie(t, h.check("/", "cookie", "stytch_session_jwt="+h.mint(h.logIn(sessionapitest.LogIn{}), time.Hour)).client()["set-cookie"])
	if cookie.Domain != "example.com" || cookie.Path != "/app" || !cookie.Secure || !cookie.HttpOnly {
		t.Errorf("%+v", cookie)
	}
}

// TestATimeIsKeptBackForTheAnswer looks at the deadline that the parts get.
func TestATimeIsKeptBackForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left time.Duration
		server, err := check.New(check.Config{
			Rules:       compile(t),
			Projects:    map[string]check.Project{project: {Verifier: deadlines{&left}}},
			Credentials: session.Names{JWTCookie: "stytch_session_jwt"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for timeout, want := range map[time.Duration]time.Duration{
			200 * time.Millisecond: 150 * time.Millisecond, 10 * time.Second: 9900 * time.Millisecond,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			if _, err := server.Check(ctx, request("/", "authorization", "Bearer a.b.c")); err != nil {
				t.Fatal(err)
			}
			cancel()
			if left != want {
				t.Errorf("of %v the parts get %v, want %v", timeout, left, want)
			}
		}
	})
}

type deadlines struct{ left *time.Duration }

func (deadlines) Recall(*session.Session, string, time.Time) (known, proved bool, err error) { return }

func (d deadlines) VerifyInto(ctx context.Context, _ *session.Session, _ string, now time.Time) (bool, error) {
	deadline, _ := ctx.Deadline()
	*d.left = deadline.Sub(now)
	return false, session.ErrForged
}

// neither says of every JWT neither yes nor no.
type neither struct{ faulty }

func (neither) VerifyInto(context.Context, *session.Session, string, time.Time) (bool, error) {
	return false, nil
}

// TestAJWTOfWhichNothingIsSaidDoesNotStandAside has it beside a token that the session API says yes to.
func TestAJWTOfWhichNothingIsSaidDoesNotStandAside(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		p := c.Projects[project]
		p.Verifier = neither{}
		c.Projects = map[string]check.Project{project: p}
	})
	token := h.logIn(sessionapitest.LogIn{}).Token
	if a := h.check("/", "x-session-token", token); a.reason != "exchanged" {
		t.Errorf("the token alone: %s", a.reason)
	}
	if a := h.check("/", "x-session-token", token, "authorization", "Bearer a.b.c"); a.reason != "internal" {
		t.Errorf("beside the JWT: %s", a.reason)
	}
}

// TestATimeIsKeptBackFromARefreshAhead looks at the deadline that it gets: it may have to prove a kept exchange anew.
func TestATimeIsKeptBackFromARefreshAhead(t *testing.T) {
	api := &aheadOf{}
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Rules = compile(t, policy.Rule{Name: "ahead", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, RefreshAhead: 10 * time.Minute})
		p := c.Projects[project]
		p.API = api
		c.Projects = map[string]check.Project{project: p}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if a := h.checkContext(ctx, request("/", "cookie", "stytch_session_jwt="+h.logIn(sessionapitest.LogIn{}).JWT)); a.reason != "verified" {
		t.Error(a.reason)
	}
	if margin := deadline.Sub(api.deadline); margin != 100*time.Millisecond {
		t.Errorf("%v is kept back", margin)
	}
}

// aheadOf notes until when it may take.
type aheadOf struct {
	faulty
	deadline time.Time
}

func (a *aheadOf) Ahead(ctx context.Context, _ sessionapi.Request) *sessionapi.Exchange {
	a.deadline, _ = ctx.Deadline()
	return nil
}

// TestGraceIsJudgedInWhatIsLeftOfTheTime has the session API take its part of the time, and permissions that obey theirs.
func TestGraceIsJudgedInWhatIsLeftOfTheTime(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Rules = compile(t, policy.Rule{Name: "grace", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, Grace: time.Minute,
			Require: require(t, requirement.Config{Permission: &requirement.Permission{ResourceID: "documents", Action: "read"}})})
		p := c.Projects[project]
		p.Permissions = inTime{}
		c.Projects = map[string]check.Project{project: p}
	})
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	a := h.checkContext(ctx, request("/", "authorization", "Bearer "+h.mint(h.logIn(sessionapitest.LogIn{}), 5*time.Minute+time.Second)))
	if a.reason != "grace" || ctx.Err() != nil {
		t.Errorf("%s, %v", a.reason, ctx.Err())
	}
}

// inTime grants whoever asks with time left, and a deadline.
type inTime struct{}

func (inTime) Allowed(ctx context.Context, _ *session.Session, _, _ string) (bool, error) {
	if _, ok := ctx.Deadline(); !ok {
		return false, errors.New("no deadline")
	}
	return true, ctx.Err()
}

func TestALogLineHoldsNoMoreOfAStrangersTextThanItMay(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	long := strings.Repeat("a", 300)
	in := request(strings.ToUpper(long)+" /"+long, "x-request-id", long)
	in.Attributes.Request.Http.Host = long
	h.checkContext(t.Context(), in)
	if n := bytes.Count([]byte(h.log.String()), []byte(long)); n != 0 || strings.Count(h.log.String(), "…") != 4 {
		t.Errorf("%s", h.log)
	}
}

// withExpressions has a house require them.
func withExpressions(t testing.TB, expressions ...string) func(*check.Config) {
	return withRules(t, policy.Rule{
		Name: "expressions", Match: prefix("/x"), MaxTokenAge: session.NoMaxAge,
		Require: require(t, requirement.Config{Expressions: expressions}),
	})
}

// TestExpressionsEndBeforeTheDeadline has them loop over what a client sends for as long as they may.
func TestExpressionsEndBeforeTheDeadline(t *testing.T) {
	long := `request.headers["x-list"].split(",").all(a, request.headers["x-list"].split(",").all(b, a != b + "x"))`
	h := newHouse(t, session.Consumer, withExpressions(t, long, long, long, long, long, long, long, long))
	in := request("/x", "authorization", "Bearer "+h.logIn(sessionapitest.LogIn{}).JWT, "x-list", strings.Repeat("abc,", 52))
	h.checkContext(t.Context(), in) // verifies the JWT
	const timeout = 16 * time.Millisecond
	for try := range 10 { // the machine may be busy
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		a := h.checkContext(ctx, in)
		late := ctx.Err() != nil
		cancel()
		if a.allowed() && late {
			t.Fatalf("%s, after the deadline", a.reason)
		}
		if !late {
			return
		}
		if try == 9 {
			t.Errorf("%s, after the deadline, which is no verdict", a.reason)
		}
	}
}

// TestAHeaderWhoseNameIsMadeUpIsNotOverlooked has an expression put the name together.
func TestAHeaderWhoseNameIsMadeUpIsNotOverlooked(t *testing.T) {
	h := newHouse(t, session.Consumer, withExpressions(t, `!(("x-" + "blocked") in request.headers)`))
	jwt := "Bearer " + h.logIn(sessionapitest.LogIn{}).JWT
	if a := h.check("/x", "authorization", jwt); a.reason != "verified" {
		t.Errorf("without it: %s", a.reason)
	}
	for how, in := range map[string]*authv3.CheckRequest{
		"":                request("/x", "authorization", jwt, "x-blocked", "1"),
		", line by line":  asLines(request("/x", "authorization", jwt, "x-blocked", "1")),
		", without value": request("/x", "authorization", jwt, "x-blocked", ""),
	} {
		if a := h.checkContext(t.Context(), in); a.reason != "forbidden" {
			t.Errorf("with it%s: %s", how, a.reason)
		}
	}
	in := request("/x", "authorization", jwt)
	in.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-other", Value: "????"}, {Key: "x-blocked", Value: "1"}}}
	message := bytes.Replace(encoded(t, in), []byte("????"), []byte("??\xff?"), 1)
	if a := decoded(t, h.server.AppendCheck(t.Context(), nil, message)); a.reason != "ambiguous_path" {
		t.Errorf("behind a line that is no text: %s", a.reason)
	}
}

// TestHeadersWhoseNamesAreMadeUpAreReadOnce asks for several: to read the message for each would multiply what a stranger sends by what
// an expression makes of it.
func TestHeadersWhoseNamesAreMadeUpAreReadOnce(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	in := encoded(t, request("/x", "authorization", "x", "x-a", "1", "x-b", "2"))
	for want, names := range [][]string{
		{"authorization", "cookie"},
		{"x-a", "x-b", "x-c", "authorization", "x-a"},
	} {
		if got := h.server.MoreReadings(in, names...); got != want {
			t.Errorf("for %s the message is read %d times more, want %d", names, got, want)
		}
	}
}
