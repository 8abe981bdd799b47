package check_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestPreflightsPassIfTheRuleSaysSo(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "api", Match: policy.Match{PathPrefix: "/api", Methods: []string{"POST"}}, MaxTokenAge: session.NoMaxAge, Preflight: true}))
	preflight := []string{"origin", "https://app.example.com", "access-control-request-method", "POST"}
	for _, c := range []struct {
		name    string
		request string
		headers []string
		want    string
	}{
		{"a preflight", "OPTIONS /api/docs", preflight, "preflight"},
		{"elsewhere", "OPTIONS /other", preflight, "no_credential"},
		{"an OPTIONS that is none", "OPTIONS /api/docs", preflight[:2], "no_credential"},
		{"without an origin", "OPTIONS /api/docs", preflight[2:], "no_credential"},
		{"another method with its headers", "POST /api/docs", preflight, "no_credential"},
	} {
		a := h.check(c.request, slices.Concat(c.headers, []string{"x-auth-subject", "root"})...)
		if a.reason != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.want)
		}
		if a.allowed() && (len(a.upstream()) != 0 || len(a.removed()) == 0) {
			t.Errorf("%s: identity %v, removed %v", c.name, a.upstream(), a.removed())
		}
	}
}

func TestAnotherSitesPageSendsNoUnsafeRequestWithTheCookie(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Rules = compile(t, policy.Rule{Name: "refuse", Match: prefix("/refuse"), MaxTokenAge: session.NoMaxAge, RefuseCrossSite: true},
			policy.Rule{Name: "let", Match: prefix("/"), MaxTokenAge: session.NoMaxAge})
		c.TrustedOrigins = []string{"https://partner.example"}
	})
	login := h.logIn(sessionapitest.LogIn{})
	cookie, bearer := []string{"cookie", "stytch_session_jwt=" + login.JWT}, []string{"authorization", "Bearer " + login.JWT}
	for _, c := range []struct {
		name    string
		request string
		carried []string
		browser []string
		want    string
	}{
		{"another site", "POST /refuse", cookie, []string{"sec-fetch-site", "cross-site", "origin", "https://evil.example"}, "cross_site"},
		{"another site, where the rule does not mind", "POST /", cookie, []string{"sec-fetch-site", "cross-site"}, "verified"},
		{"another site, safely", "GET /refuse", cookie, []string{"sec-fetch-site", "cross-site"}, "verified"},
		{"another site, with a header that it cannot make a browser send", "POST /refuse", bearer, []string{"sec-fetch-site", "cross-site"}, "verified"},
		{"the same origin", "POST /refuse", cookie, []string{"sec-fetch-site", "same-origin", "origin", "https://app.example.com"}, "verified"},
		{"the same site", "DELETE /refuse", cookie, []string{"sec-fetch-site", "same-site"}, "verified"},
		{"the user's own doing", "POST /refuse", cookie, []string{"sec-fetch-site", "none"}, "verified"},
		{"a trusted origin", "POST /refuse", cookie, []string{"sec-fetch-site", "cross-site", "origin", "https://partner.example"}, "verified"},
		{"a trusted origin's namesake", "POST /refuse", cookie, []string{"sec-fetch-site", "cross-site", "origin", "http://partner.example"}, "cross_site"},
		{"two values", "POST /refuse", cookie, []string{"sec-fetch-site", "same-origin,cross-site"}, "cross_site"},
		{"no Sec-Fetch-Site, own origin", "POST /refuse", cookie, []string{"origin", "https://app.example.com:8443"}, "verified"},
		{"no Sec-Fetch-Site, another origin", "POST /refuse", cookie, []string{"origin", "https://evil.example"}, "cross_site"},
		{"no Sec-Fetch-Site, an origin that ends alike", "POST /refuse", cookie, []string{"origin", "https://evilapp.example.com"}, "cross_site"},
		{"no Sec-Fetch-Site, a hidden origin", "POST /refuse", cookie, []string{"origin", "null"}, "cross_site"},
		{"another site's WebSocket", "GET /refuse", cookie, []string{"sec-fetch-site", "cross-site", "upgrade", "websocket"}, "cross_site"},
		{"the own site's WebSocket", "GET /refuse", cookie, []string{"sec-fetch-site", "same-origin", "upgrade", "websocket"}, "verified"},
		{"an older browser's WebSocket", "GET /refuse", cookie, []string{"origin", "https://evil.example", "upgrade", "websocket"}, "cross_site"},
		{"neither: no browser", "POST /refuse", cookie, nil, "verified"},
		{"an opaque cookie", "POST /refuse", []string{"cookie", "stytch_session=" + login.Token}, []string{"sec-fetch-site", "cross-site"}, "cross_site"},
	} {
		before := h.apiCalls()
		a := h.check(c.request, append(append([]string{}, c.carried...), c.browser...)...)
		if a.reason != c.want {
			t.Errorf("%s: %s, want %s", c.name, a.reason, c.want)
		}
		if c.want == "cross_site" && (a.status() != 403 || a.body()["reason"] != "cross_site" || h.apiCalls() != before) {
			t.Errorf("%s: %d %v", c.name, a.status(), a.body())
		}
	}
}

func TestABrowserIsSentToLogIn(t *testing.T) {
	for _, page := range []string{"/login", "https://login.example.com/in?app=1"} {
		h := newHouse(t, session.Consumer, func(c *check.Config) {
			c.LogIn = check.LogIn{URL: page, ReturnParameter: "return_to"}
			c.Rules = compile(t,
				policy.Rule{Name: "pay", Match: prefix("/pay"), MaxTokenAge: session.NoMaxAge, RedirectToLogIn: true,
					Require: require(t, requirement.Config{Factors: []requirement.Factors{{MinCount: 2}}})},
				policy.Rule{Name: "role", Match: prefix("/role"), MaxTokenAge: session.NoMaxAge, RedirectToLogIn: true,
					Require: require(t, requirement.Config{AnyRole: []string{"admin"}})},
				policy.Rule{Name: "api", Match: prefix("/api"), MaxTokenAge: session.NoMaxAge},
				policy.Rule{Name: "pages", Match: prefix("/"), MaxTokenAge: session.NoMaxAge, RedirectToLogIn: true})
		})
		login := h.logIn(sessionapitest.LogIn{})
		navigate, script := []string{"sec-fetch-mode", "navigate"}, []string{"sec-fetch-mode", "cors", "accept", "text/html"}
		for _, c := range []struct {
			name    string
			request string
			headers []string
			status  int
			back    string
		}{
			{"a page", "/docs/1?tab=a&b=%20c", navigate, 302, "/docs/1?tab=a&b=%20c"},
			{"an older browser", "/docs", []string{"accept", "text/html,*/*"}, 302, "/docs"},
			{"a script", "/docs", script, 401, ""},
			{"a command line", "/docs", []string{"accept", "*/*"}, 401, ""},
			{"a form", "POST /docs", navigate, 401, ""},
			{"gRPC", "/docs", append([]string{"content-type", "application/grpc"}, navigate...), 401, ""},
			{"a rule without", "/api", navigate, 401, ""},
			{"an expired session that is gone", "/docs", append([]string{"authorization", "Bearer a.b.c"}, navigate...), 302, "/docs"},
			{"a step-up", "/pay", append([]string{"authorization", "Bearer " + login.JWT}, navigate...), 302, "/pay"},
			{"who may not is not sent round", "/role", append([]string{"authorization", "Bearer " + login.JWT}, navigate...), 403, ""},
			{"another host by a backslash", `/\evil.example`, navigate, 400, ""},
			{"another host by two slashes", "//evil.example", navigate, 400, ""},
			{"another host by an encoding", "/%2f/evil.example", navigate, 400, ""},
			{"a line break in the query", "GET /docs?a=\r\nset-cookie: a=b", navigate, 302, "/docs?a=\r\nset-cookie: a=b"},
			{"a very long query", "/docs?" + strings.Repeat("a", 3000), navigate, 302, "/"},
		} {
			a := h.check(c.request, c.headers...)
			if a.status() != c.status || a.allowed() {
				t.Errorf("%s: %d, want %d", c.name, a.status(), c.status)
			}
			location := a.client()["location"]
			if c.status != http.StatusFound {
				if location != "" {
					t.Errorf("%s: sent to %s", c.name, location)
				}
				continue
			}
			u, err := url.Parse(location)
			if err != nil || !strings.HasPrefix(location, page) || strings.ContainsAny(location, "\r\n\\ ") {
				t.Fatalf("%s: %q, %v", c.name, location, err)
			}
			if got := u.Query().Get("return_to"); got != c.back {
				t.Errorf("%s: back to %q, want %q", c.name, got, c.back)
			}
			if want := map[bool]string{true: "step_up"}[a.reason == "step_up"]; u.Query().Get("reason") != want {
				t.Errorf("%s: %s", c.name, location)
			}
			if a.client()["cache-control"] != "no-store" {
				t.Errorf("%s: %v", c.name, a.client())
			}
		}
	}
}

func TestTheCredentialCanBeKeptFromTheUpstream(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.RemoveCredential = true
		c.Rules = compile(t, policy.Rule{Name: "public", Match: prefix("/public"), Session: policy.None},
			policy.Rule{Name: "shadow", Match: prefix("/shadow"), MaxTokenAge: session.NoMaxAge, Shadow: true})
	})
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, time.Hour)
	for _, c := range []struct {
		name    string
		path    string
		headers []string
		cookie  string
		removed string
	}{
		{"a bearer", "/", []string{"authorization", "Bearer " + login.JWT, "cookie", "theme=dark"}, "", "authorization x-session-token"},
		{"a cookie alone", "/", []string{"cookie", "stytch_session_jwt=" + login.JWT}, "", "x-session-token cookie"},
		{"a cookie among others", "/", []string{"cookie", "theme=dark; stytch_session_jwt=" + login.JWT + "; stytch_session=" + login.Token + "; lang=en"}, "theme=dark; lang=en", "x-session-token"},
		{"an exchange", "/", []string{"cookie", "theme=dark; stytch_session_jwt=" + old}, "theme=dark", "x-session-token"},
		{"a token header", "/", []string{"x-session-token", login.Token}, "", "x-session-token"},
		{"a public path, whose bearer is the app's own affair", "/public", []string{"authorization", "Bearer app", "cookie", "stytch_session_jwt=x"}, "", "x-session-token cookie"},
		{"an authorization header that is no session JWT", "/public", []string{"authorization", "Basic dTpw"}, "", "x-session-token"},
		{"a rule that observes", "/shadow", []string{"authorization", "Bearer " + login.JWT}, "", ""},
	} {
		a := h.check(c.path, c.headers...)
		if !a.allowed() {
			t.Errorf("%s: %s", c.name, a.reason)
		}
		if a.upstream()["cookie"] != c.cookie || a.upstream()["authorization"] != "" {
			t.Errorf("%s: %v", c.name, a.upstream())
		}
		var removed []string
		for _, name := range a.removed() {
			if !strings.HasPrefix(name, "x-auth") && !strings.HasPrefix(name, "x_auth") {
				removed = append(removed, name)
			}
		}
		if got := strings.Join(removed, " "); got != c.removed {
			t.Errorf("%s: removed %q, want %q", c.name, got, c.removed)
		}
		if strings.HasSuffix(c.name, "exchange") && a.client()["set-cookie"] == "" {
			t.Error("the client does not get the new JWT")
		}
	}
}

func TestARefreshedJWTGoesBackInTheHeaderThatIsAskedFor(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) { c.RefreshedJWTHeader = "x-session-jwt" })
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, time.Hour)
	for name, headers := range map[string][]string{
		"a bearer":       {"authorization", "Bearer " + old},
		"a token header": {"x-session-token", login.Token},
		"both":           {"authorization", "Bearer " + old, "cookie", "stytch_session_jwt=" + old},
	} {
		a := h.check("/", headers...)
		jwt := a.client()["x-session-jwt"]
		if a.reason != "exchanged" || a.client()["cache-control"] != "no-store" {
			t.Errorf("%s: %s %v", name, a.reason, a.client())
		}
		if a := h.check("/", "authorization", "Bearer "+jwt); a.reason != "verified" {
			t.Errorf("%s: the new one: %s", name, a.reason)
		}
		if cookie := a.client()["set-cookie"]; (cookie != "") != (name == "both") {
			t.Errorf("%s: cookie %q", name, cookie)
		}
	}
	if a := h.check("/", "cookie", "stytch_session_jwt="+old); a.client()["x-session-jwt"] != "" {
		t.Error("a page's script gets a JWT that came by cookie")
	}
}

func parseCookie(t *testing.T, line string) *http.Cookie {
	t.Helper()
	cookie, err := http.ParseSetCookie(line)
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return cookie
}

func TestAGateInShadowLeavesTheCredential(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) { c.RemoveCredential, c.Shadow = true, true })
	login := h.logIn(sessionapitest.LogIn{})
	a := h.check("/", "authorization", "Bearer "+login.JWT, "cookie", "stytch_session_jwt="+login.JWT)
	if a.reason != "verified" || contains(a.removed(), "authorization") || contains(a.removed(), "cookie") || a.upstream()["cookie"] != "" {
		t.Errorf("%s %v %v", a.reason, a.upstream(), a.removed())
	}
}

func TestTheRuleForAmbiguousPaths(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		rules, err := policy.Compile(policy.Config{
			Rules: []policy.Rule{
				{Name: "public", Match: prefix("/public"), Session: policy.None},
				{Name: "odd", Match: policy.Match{ByName: true}, Project: project, MaxTokenAge: session.NoMaxAge, RedirectToLogIn: true},
			},
			Default: policy.Rule{Name: "default", Project: project, MaxTokenAge: session.NoMaxAge}, AmbiguousPathRule: "odd",
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Rules, c.LogIn = rules, check.LogIn{URL: "/login", ReturnParameter: "return_to"}
	})
	login := h.logIn(sessionapitest.LogIn{})
	for _, path := range []string{"/public//x", "/public/../x", "/a%2fb", "//evil.example"} {
		if a := h.check(path, "authorization", "Bearer "+login.JWT); a.reason != "verified" || a.metadata("rule") != "odd" {
			t.Errorf("%s: %s by %s", path, a.reason, a.metadata("rule"))
		}
		a := h.check(path, "sec-fetch-mode", "navigate")
		if a.status() != 302 || a.client()["location"] != "/login?return_to=%2F" {
			t.Errorf("%s: %d to %s", path, a.status(), a.client()["location"])
		}
	}
}

func TestARuleThatRefusesEverybody(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "closed", Match: prefix("/closed"), Session: policy.Refused}))
	login := h.logIn(sessionapitest.LogIn{})
	for _, headers := range [][]string{nil, {"authorization", "Bearer " + login.JWT}, {"authorization", "a,b"}} {
		a := h.check("/closed/x", headers...)
		if a.status() != 403 || a.reason != "refused" || a.body()["reason"] != "forbidden" {
			t.Errorf("%v: %d %s %v", headers, a.status(), a.reason, a.body())
		}
	}
	if h.apiCalls() != 0 {
		t.Error("the session API was asked")
	}
}
