package check_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestWhoPassesAndWhoDoesNot(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login, other := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	dead, gone := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	for _, login := range []sessionapitest.Login{dead, gone} {
		if err := h.emulator.Revoke(login.SessionID); err != nil {
			t.Fatal(err)
		}
	}
	unknownKey, err := h.emulator.Sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-nobody"}, map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	machine, err := h.emulator.Sign(nil, map[string]any{"iss": "stytch.com/" + project, "aud": project, "sub": "m2m-client-test-1",
		"iat": time.Now().Unix(), "exp": time.Now().Unix() + 300, "scope": "read"})
	if err != nil {
		t.Fatal(err)
	}
	jwt, old := login.JWT, h.mint(login, time.Hour)
	forged := jwt[:strings.LastIndex(jwt, ".")] + other.JWT[strings.LastIndex(other.JWT, "."):]
	bearer := func(jwt string) []string { return []string{"authorization", "Bearer " + jwt} }
	cookie := func(jwt string) []string { return []string{"cookie", "theme=dark; stytch_session_jwt=" + jwt} }
	token := func(token string) []string { return []string{"cookie", "stytch_session=" + token} }

	for _, c := range []struct {
		name    string
		path    string
		headers []string
		status  int
		reason  string
		calls   int
	}{
		{"a session in the authorization header passes", "/", bearer(jwt), 200, "verified", 0},
		{"the scheme has no case", "/", []string{"authorization", "bEARER " + jwt}, 200, "verified", 0},
		{"a session in the cookie passes", "/", cookie(jwt), 200, "verified", 0},
		{"nothing presented", "/", nil, 401, "no_credential", 0},
		{"another scheme is no credential", "/", []string{"authorization", "Basic dTpw"}, 401, "no_credential", 0},
		{"an empty bearer", "/", []string{"authorization", "Bearer "}, 401, "malformed", 0},
		{"an empty cookie is what a log-out leaves", "/", cookie(""), 401, "no_credential", 0},
		{"garbage", "/", bearer("a.b.c"), 401, "malformed", 0},
		{"a signature of another token", "/", bearer(forged), 401, "forged", 0},
		{"a forged JWT is not rescued by a good token", "/", []string{"cookie", "stytch_session=" + login.Token + "; stytch_session_jwt=" + forged}, 401, "forged", 0},
		{"a key that the set lacks", "/", bearer(unknownKey), 401, "unknown_key", 0},
		{"a machine's token is no session", "/", bearer(machine), 401, "claims_refused", 0},
		{"two authorization headers", "/", []string{"authorization", "Bearer " + jwt + ",Bearer " + jwt}, 400, "ambiguous_credential", 0},
		{"two JWT cookies that differ", "/", []string{"cookie", "stytch_session_jwt=" + jwt + "; stytch_session_jwt=" + other.JWT}, 400, "ambiguous_credential", 0},
		{"two JWT cookies that are equal", "/", []string{"cookie", "stytch_session_jwt=" + jwt + "; stytch_session_jwt=" + jwt}, 200, "verified", 0},
		{"header and cookie of different sessions", "/", append(bearer(jwt), cookie(other.JWT)...), 400, "ambiguous_credential", 0},
		{"header and cookie of one session, the younger counts", "/", append(bearer(old), cookie(jwt)...), 200, "verified", 0},
		{"header and cookie of one session, in the other order", "/", append(bearer(jwt), cookie(old)...), 200, "verified", 0},
		{"header and cookie of one session, one forged", "/", append(bearer(jwt), cookie(forged)...), 401, "forged", 0},

		{"an expired session JWT is traded", "/", bearer(old), 200, "exchanged", 1},
		{"an expired JWT of a revoked session", "/", bearer(h.mint(dead, time.Hour)), 401, "session_not_found", 1},
		{"whose unexpired one is then known, too", "/", bearer(dead.JWT), 401, "revoked", 0},
		{"an unexpired JWT of a revoked session passes until somebody asks", "/", bearer(gone.JWT), 200, "verified", 0},
		{"as where it must be fresh", "/fresh", bearer(gone.JWT), 401, "session_not_found", 1},
		{"a living one passes there", "/fresh", bearer(jwt), 200, "exchanged", 1},
		{"every time anew", "/fresh", bearer(jwt), 200, "exchanged", 1},
		{"young enough for the rule", "/30s", bearer(h.mint(login, 25*time.Second)), 200, "verified", 0},
		{"too old for the rule", "/30s", bearer(h.mint(login, 30*time.Second)), 200, "exchanged", 1},

		{"an opaque token is asked about", "/", token(login.Token), 200, "exchanged", 1},
		{"every time", "/", token(login.Token), 200, "exchanged", 1},
		{"in the configured header too", "/", []string{"x-session-token", login.Token}, 200, "exchanged", 1},
		{"an opaque token of a revoked session", "/", token(dead.Token), 401, "session_not_found", 1},
		{"a token of the wrong form costs no call", "/", token("short"), 401, "malformed", 0},
		{"beside a good JWT nobody asks about it", "/", []string{"cookie", "stytch_session=" + login.Token + "; stytch_session_jwt=" + jwt}, 200, "verified", 0},
		{"JWT and token of different sessions", "/", []string{"cookie", "stytch_session=" + other.Token + "; stytch_session_jwt=" + old}, 400, "ambiguous_credential", 1},

		{"a public path", "/public", nil, 200, "public", 0},
		{"a public path looks at no credential", "/public", bearer(forged), 200, "public", 0},
		{"optional without a credential", "/optional", nil, 200, "anonymous", 0},
		{"optional with a good one", "/optional", bearer(jwt), 200, "verified", 0},
		{"optional with a bad one", "/optional", bearer(forged), 401, "forged", 0},
		{"optional with an empty bearer", "/optional", []string{"authorization", "Bearer"}, 401, "malformed", 0},

		{"a path that walks out of the public one", "/public/../", bearer(jwt), 400, "ambiguous_path", 0},
		{"no path at all", "CONNECT ", bearer(jwt), 400, "ambiguous_path", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := h.apiCalls()
			a := h.check(c.path, c.headers...)
			if a.status() != c.status || a.reason != c.reason {
				t.Errorf("%d %s, want %d %s", a.status(), a.reason, c.status, c.reason)
			}
			if calls := h.apiCalls() - before; calls != c.calls {
				t.Errorf("%d API calls, want %d", calls, c.calls)
			}
			if !a.allowed() && a.GetOkResponse() != nil {
				t.Error("a denial with an OK response")
			}
		})
	}
	for _, secret := range []string{jwt, old, forged, login.Token, sessionapitest.DefaultSecret, strings.Split(jwt, ".")[2]} {
		if strings.Contains(h.log.String(), secret) {
			t.Error("a credential is in the log")
		}
	}
}

func TestWhatCouldNotBeAskedIs503(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	body := h.emulator.ErrorBody
	for i, c := range []struct {
		name   string
		fault  sessionapitest.Fault
		status int
		reason string
	}{
		{"down", sessionapitest.Fault{Refuse: true}, 503, "api_unavailable"},
		{"broken", sessionapitest.Fault{Status: 500, Body: "<html>"}, 503, "api_unavailable"},
		{"garbage", sessionapitest.Fault{Body: "{"}, 503, "api_unavailable"},
		{"too many requests", sessionapitest.Fault{Status: 429, Body: body(429, "too_many_requests", "x")}, 503, "api_unavailable"},
		{"404 without a type", sessionapitest.Fault{Status: 404, Body: "{}"}, 503, "api_unavailable"},
		{"our own secret", sessionapitest.Fault{Status: 401, Body: body(401, "unauthorized_credentials", "x")}, 503, "secret_refused"},
		{"the credential is refused", sessionapitest.Fault{Status: 400, Body: body(400, "unable_to_parse_session_jwt", "x")}, 401, "credential_refused"},
		{"the organization is suspended", sessionapitest.Fault{Status: 403, Body: body(403, "organization_suspended", "x")}, 403, "forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.client.renew(t)
			if err := h.emulator.SetFault("authenticate", c.fault); err != nil {
				t.Fatal(err)
			}
			another := h.mint(login, time.Hour+time.Duration(i)*time.Second) // what was refused stays so for some time
			if a := h.check("/", "authorization", "Bearer "+another); a.status() != c.status || a.reason != c.reason {
				t.Errorf("%d %s, want %d %s", a.status(), a.reason, c.status, c.reason)
			}
			if a := h.check("/", "authorization", "Bearer "+login.JWT); a.reason != "verified" {
				t.Errorf("an unexpired JWT: %s", a.reason)
			}
		})
	}
	h.emulator.ClearFaults()
	if a := h.check("/", "authorization", "Bearer "+h.mint(login, 2*time.Hour)); a.reason != "exchanged" {
		t.Errorf("afterwards: %s", a.reason)
	}
	gone := sessionapitest.Fault{Status: 404, Body: body(404, "session_not_found", "x")}
	if err := h.emulator.SetFault("authenticate", gone); err != nil {
		t.Fatal(err)
	}
	if a := h.check("/fresh", "authorization", "Bearer "+login.JWT); a.status() != 401 || a.reason != "session_not_found" {
		t.Errorf("the session is gone: %d %s", a.status(), a.reason)
	}
}

func TestAnExchangeThatIsAnotherSessionsIsDenied(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	victim, attacker := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	reply := fmt.Sprintf(`{"status_code":200,"session_jwt":%q,"session_token":"x"}`, victim.JWT)
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Status: 200, Body: reply}); err != nil {
		t.Fatal(err)
	}
	a := h.check("/", "authorization", "Bearer "+h.mint(attacker, time.Hour))
	if a.status() != 401 || a.reason != "exchange_mismatch" {
		t.Errorf("%d %s", a.status(), a.reason)
	}
	if a.client()["set-cookie"] != "" {
		t.Error("another session's JWT was handed out")
	}
	if a := h.check("/", "authorization", "Bearer "+h.mint(victim, time.Hour)); a.reason != "exchanged" {
		t.Errorf("the session's own: %s", a.reason)
	}
}

func TestIdentityIsSetOrRemovedNeverLeft(t *testing.T) {
	h := newHouse(t, session.B2B, nil)
	login := h.logIn(sessionapitest.LogIn{OrganizationID: "organization-test-1", Roles: []string{"admin", "editor"}})

	a := h.check("/", "authorization", "Bearer "+login.JWT)
	want := map[string]string{"x-auth-subject": login.Subject, "x-auth-session-id": login.SessionID,
		"x-auth-organization-id": "organization-test-1", "x-auth-roles": "admin,editor"}
	for name, value := range want {
		if a.upstream()[name] != value {
			t.Errorf("%s: %q, want %q", name, a.upstream()[name], value)
		}
		if slices.Contains(a.removed(), name) {
			t.Errorf("%s is set and removed: Envoy would remove it", name)
		}
	}
	for _, o := range a.GetOkResponse().GetHeaders() {
		if o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || o.GetHeader().GetValue() == "" {
			t.Errorf("a client's own %s would survive", o.GetHeader().GetKey())
		}
	}
	for _, name := range []string{"x_auth_subject", "x-auth_subject", "x_auth-organization_id", "x_auth_organization_id"} {
		if !slices.Contains(a.removed(), name) {
			t.Errorf("%s is not removed", name)
		}
	}

	none := h.logIn(sessionapitest.LogIn{Roles: []string{}})
	if a := h.check("/", "authorization", "Bearer "+none.JWT); a.upstream()["x-auth-roles"] != "" || !slices.Contains(a.removed(), "x-auth-roles") {
		t.Error("a header with no value is not removed")
	}
	for _, path := range []string{"/public", "/optional"} {
		a := h.check(path, "x-auth-subject", "admin")
		if !a.allowed() || len(a.upstream()) != 0 {
			t.Errorf("%s: %v", path, a.upstream())
		}
		for name := range want {
			if !slices.Contains(a.removed(), name) || !slices.Contains(a.removed(), strings.ReplaceAll(name, "-", "_")) {
				t.Errorf("%s: %s is not removed", path, name)
			}
		}
	}
}

func TestAClaimThatIsNoHeaderValueDenies(t *testing.T) {
	h := newHouse(t, session.B2B, nil)
	for _, role := range []string{"a,admin", "ädmin", "a\r\nx-auth-subject: root", " a", ""} {
		login := h.logIn(sessionapitest.LogIn{Roles: []string{role}})
		if a := h.check("/", "authorization", "Bearer "+login.JWT); a.status() != 401 || a.reason != "claims_refused" {
			t.Errorf("role %q: %d %s", role, a.status(), a.reason)
		}
	}
	login := h.logIn(sessionapitest.LogIn{Roles: []string{"a admin"}})
	if a := h.check("/", "authorization", "Bearer "+login.JWT); !a.allowed() {
		t.Errorf("a role with a space: %s", a.reason)
	}
}

func TestARefreshedJWTGoesWhereItsCredentialCameFrom(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, time.Hour)

	t.Run("by cookie: back as Set-Cookie, and upstream in the cookie's place", func(t *testing.T) {
		a := h.check("/", "cookie", "theme=dark; stytch_session_jwt="+old+"; lang=en")
		cookies, err := http.ParseSetCookie(a.client()["set-cookie"])
		if err != nil {
			t.Fatal(err)
		}
		if cookies.Name != "stytch_session_jwt" || cookies.Value == old || !cookies.Secure || cookies.HttpOnly ||
			cookies.SameSite != http.SameSiteLaxMode || cookies.Path != "/" || cookies.Domain != "" {
			t.Errorf("%+v", cookies)
		}
		if cookies.Expires.Unix() != login.ExpiresAt.Unix() {
			t.Errorf("the cookie expires at %v, the session at %v", cookies.Expires, login.ExpiresAt)
		}
		if want := "theme=dark; lang=en; stytch_session_jwt=" + cookies.Value; a.upstream()["cookie"] != want {
			t.Errorf("upstream cookie: %q", a.upstream()["cookie"])
		}
		if a.client()["cache-control"] != "no-store" {
			t.Errorf("cache-control: %q", a.client()["cache-control"])
		}
		if again := h.check("/", "cookie", "stytch_session_jwt="+cookies.Value); again.reason != "verified" {
			t.Errorf("the new cookie: %s", again.reason)
		}
	})
	t.Run("by opaque cookie: the same", func(t *testing.T) {
		a := h.check("/", "cookie", "stytch_session="+login.Token)
		if a.client()["set-cookie"] == "" || !strings.HasPrefix(a.upstream()["cookie"], "stytch_session="+login.Token+"; stytch_session_jwt=") {
			t.Errorf("%v %v", a.client(), a.upstream())
		}
	})
	t.Run("by authorization: upstream alone", func(t *testing.T) {
		a := h.check("/", "authorization", "Bearer "+old)
		if len(a.client()) != 0 {
			t.Errorf("the client gets %v", a.client())
		}
		if jwt, ok := strings.CutPrefix(a.upstream()["authorization"], "Bearer "); !ok || jwt == old {
			t.Errorf("authorization: %q", a.upstream()["authorization"])
		}
		if a.upstream()["cookie"] != "" {
			t.Error("a cookie that the client did not send")
		}
	})
	t.Run("by both: to both", func(t *testing.T) {
		a := h.check("/", "authorization", "Bearer "+old, "cookie", "stytch_session_jwt="+old)
		if a.client()["set-cookie"] == "" || a.upstream()["authorization"] == "" || a.upstream()["cookie"] == "" {
			t.Errorf("%v %v", a.client(), a.upstream())
		}
	})
	t.Run("by token header: to nobody", func(t *testing.T) {
		a := h.check("/", "x-session-token", login.Token)
		if !a.allowed() || len(a.client()) != 0 || a.upstream()["cookie"] != "" || a.upstream()["authorization"] != "" {
			t.Errorf("%v %v", a.client(), a.upstream())
		}
	})
	t.Run("a proof that was good enough changes nothing", func(t *testing.T) {
		a := h.check("/", "cookie", "stytch_session_jwt="+login.JWT)
		if len(a.client()) != 0 || a.upstream()["cookie"] != "" {
			t.Errorf("%v %v", a.client(), a.upstream())
		}
	})
}

func TestBothEncodingsOfHeadersAreRead(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login, other := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
	raw := func(lines ...string) *authv3.CheckRequest {
		in := request("/")
		m := &corev3.HeaderMap{}
		for i := 0; i < len(lines); i += 2 {
			m.Headers = append(m.Headers, &corev3.HeaderValue{Key: lines[i], RawValue: []byte(lines[i+1])})
		}
		in.Attributes.Request.Http.HeaderMap = m
		return in
	}
	for _, c := range []struct {
		name   string
		in     *authv3.CheckRequest
		reason string
	}{
		{"one line", raw("authorization", "Bearer "+login.JWT), "verified"},
		{"two cookie lines", raw("cookie", "theme=dark", "cookie", "stytch_session_jwt="+login.JWT), "verified"},
		{"two cookie lines that differ", raw("cookie", "stytch_session_jwt="+other.JWT, "cookie", "stytch_session_jwt="+login.JWT), "ambiguous_credential"},
		{"two authorization lines", raw("authorization", "Bearer "+login.JWT, "authorization", "Bearer "+login.JWT), "ambiguous_credential"},
		{"an empty line before it, as in a map", raw("authorization", "", "authorization", "Bearer "+login.JWT), "ambiguous_credential"},
		{"a line that is not UTF-8", raw("authorization", "Bearer \xff"), "malformed"},
		{"no line", raw(), "no_credential"},
	} {
		if a := h.checkContext(t.Context(), c.in); a.reason != c.reason {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.reason)
		}
	}
	both := raw("authorization", "Bearer "+login.JWT)
	both.Attributes.Request.Http.Headers["authorization"] = "Bearer " + other.JWT
	if a := h.checkContext(t.Context(), both); a.reason != "ambiguous_credential" {
		t.Errorf("both encodings at once: %s", a.reason)
	}
}

func TestDenialsSayWhatAClientCanActOn(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	for _, c := range []struct {
		headers   []string
		path      string
		status    int
		public    string
		challenge string
		grpc      string
	}{
		{nil, "/", 401, "no_credential", `Bearer realm="session"`, "16"},
		{[]string{"authorization", "Bearer x"}, "/", 401, "invalid_credential", `Bearer realm="session", error="invalid_token", error_description="the session is not valid, or no longer"`, "16"},
		{[]string{"authorization", "a,b"}, "/", 400, "ambiguous_credential", "", "3"},
		{nil, "//", 400, "ambiguous_path", "", "3"},
	} {
		a := h.check(c.path, c.headers...)
		if a.status() != c.status || a.body()["reason"] != c.public || a.body()["message"] == "" {
			t.Errorf("%s: %d %v", c.public, a.status(), a.body())
		}
		if a.client()["www-authenticate"] != c.challenge || a.client()["cache-control"] != "no-store" || a.client()["content-type"] != "application/json" {
			t.Errorf("%s: %v", c.public, a.client())
		}
		if a.client()["grpc-status"] != "" {
			t.Errorf("%s: a grpc-status for a browser", c.public)
		}
		g := h.check(c.path, append(c.headers, "content-type", "application/grpc+proto")...)
		if g.client()["grpc-status"] != c.grpc || !strings.HasPrefix(g.GetDeniedResponse().GetBody(), c.public+": ") {
			t.Errorf("%s to a gRPC client: %v %q", c.public, g.client(), g.GetDeniedResponse().GetBody())
		}
	}
}

// TestAnythingUndecidedIsDenied keeps the empty CheckResponse, which Envoy reads as an allowance, out of reach.
func TestAnythingUndecidedIsDenied(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	for name, in := range map[string]*authv3.CheckRequest{
		"nil": nil, "empty": {}, "no request": {Attributes: &authv3.AttributeContext{}},
	} {
		if a := h.checkContext(t.Context(), in); a.allowed() || a.status() != 400 {
			t.Errorf("%s: %d %s", name, a.status(), a.reason)
		}
	}
	for r := check.Reason(-1); r < 100; r++ {
		known := r >= check.Public && r <= check.Internal
		if r.Allowed() && (!known || r > check.Grace) {
			t.Errorf("%d (%v) allows", r, r)
		}
	}
}

// faulty panics, or fails with an error that nobody knows.
type faulty struct{ err error }

func (f faulty) Recall(*session.Session, string, time.Time) (known, proved bool, err error) { return }

func (f faulty) VerifyInto(context.Context, *session.Session, string, time.Time) (bool, error) {
	if f.err == nil {
		panic("verifier")
	}
	return false, f.err
}

func (f faulty) Ahead(context.Context, sessionapi.Request) *sessionapi.Exchange { panic("session API") }

func (f faulty) Authenticate(context.Context, sessionapi.Request, time.Duration) (*sessionapi.Exchange, error) {
	panic("session API")
}

func TestAPanicAndAnUnknownErrorAreDenials(t *testing.T) {
	for name, project1 := range map[string]check.Project{
		"panic":         {Verifier: faulty{}},
		"unknown error": {Verifier: faulty{errors.New("?")}},
		"API panic":     {Verifier: faulty{}, API: faulty{}},
	} {
		h := newHouse(t, session.Consumer, func(c *check.Config) { c.Projects = map[string]check.Project{project: project1} })
		headers := []string{"authorization", "Bearer a.b.c"}
		if name == "API panic" {
			headers = []string{"x-session-token", strings.Repeat("t", 44)}
		}
		if a := h.check("/", headers...); a.status() != 503 || a.reason != "internal" || a.body()["reason"] != "unavailable" {
			t.Errorf("%s: %d %s", name, a.status(), a.reason)
		}
		if panicked := strings.Contains(h.log.String(), "check panicked"); panicked != (name != "unknown error") {
			t.Errorf("%s: the log says %q", name, h.log)
		}
	}
}

func TestTheAnswerComesBeforeTheCallersDeadlineAndTheCallServesTheNext(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, time.Hour)
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Latency: 600 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	a := h.checkContext(ctx, request("/", "authorization", "Bearer "+old))
	if a.status() != 503 || a.reason != "api_unavailable" {
		t.Errorf("%d %s", a.status(), a.reason)
	}
	if ctx.Err() != nil {
		t.Error("the answer came after the deadline")
	}
	if a := h.check("/", "authorization", "Bearer "+old); a.reason != "exchanged" {
		t.Errorf("the next request: %s", a.reason)
	}
	if calls := h.apiCalls(); calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestEqualRequestsShareOneCall(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, time.Hour)
	if err := h.emulator.SetFault("authenticate", sessionapitest.Fault{Latency: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // together, then late
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if a := h.check("/", "cookie", "stytch_session_jwt="+old); a.reason != "exchanged" || a.client()["set-cookie"] == "" {
					t.Errorf("%s %v", a.reason, a.client())
				}
			})
		}
		all.Wait()
	}
	if calls := h.apiCalls(); calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestOneDecisionOneLogLineOneCount(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	h.check("/a?token="+login.Token, "authorization", "Bearer "+login.JWT, "x-request-id", "id-1")
	h.check("/b")
	lines := strings.Split(strings.TrimSpace(h.log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), h.log)
	}
	for i, want := range []string{`"reason":"verified"`, `"reason":"no_credential"`} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("%s lacks %s", lines[i], want)
		}
	}
	for _, want := range []string{`"verdict":"allow"`, `"path":"/a"`, `"request_id":"id-1"`, `"subject":"` + login.Subject} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%s lacks %s", lines[0], want)
		}
	}
	families, err := h.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var counted float64
	for _, f := range families {
		if f.GetName() == "authz_decisions_total" {
			for _, m := range f.GetMetric() {
				counted += m.GetCounter().GetValue()
			}
		}
	}
	if counted != 2 {
		t.Errorf("%v decisions counted", counted)
	}
}

func TestNewRefusesARuleWithoutAProject(t *testing.T) {
	rules, err := policy.Compile(policy.Config{Default: policy.Rule{Name: "default", Project: "nobody"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := check.New(check.Config{Rules: rules}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("%v", err)
	}
	if _, err := check.New(check.Config{}); err == nil {
		t.Error("no rules were accepted")
	}
}

// TestAJWTIsVerifiedOnceAndThenRecalled presents one, another one, and one that is forged.
func TestAJWTIsVerifiedOnceAndThenRecalled(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	other := h.mint(login, time.Minute)
	forged := login.JWT[:len(login.JWT)-4] + "AAAA"
	for i, c := range []struct {
		jwt, reason        string
		recalled, verified float64
	}{
		{login.JWT, "verified", 0, 1}, {login.JWT, "verified", 1, 1}, {other, "verified", 1, 2}, {login.JWT, "verified", 2, 2},
		{forged, "forged", 2, 3}, {forged, "forged", 2, 4}, {login.JWT, "verified", 3, 4},
	} {
		a := h.check("/app", "authorization", "Bearer "+c.jwt)
		recalled, verified := h.metric("authz_jwts_total", "proof", "recalled"), h.metric("authz_jwts_total", "proof", "verified")
		if a.reason != c.reason || recalled != c.recalled || verified != c.verified {
			t.Errorf("%d: %s, %v recalled, %v verified", i, a.reason, recalled, verified)
		}
	}
	h.revocations.Revoke(revocation.Revocation{ProjectID: project, SessionID: login.SessionID}, time.Now())
	if a := h.check("/app", "authorization", "Bearer "+login.JWT); a.allowed() || a.reason != "revoked" {
		t.Errorf("a JWT that is remembered, of a session that is revoked: %s", a.reason)
	}
}
