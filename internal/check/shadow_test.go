package check_test

import (
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestShadowLetsPassAndSaysWhatItWouldHaveDone(t *testing.T) {
	rules := func(shadow bool) *policy.Set {
		return compile(t, policy.Rule{Name: "app", Match: prefix("/app"), MaxTokenAge: session.NoMaxAge, Shadow: shadow})
	}
	for name, edit := range map[string]func(*check.Config){
		"a rule":         func(c *check.Config) { c.Rules = rules(true) },
		"the whole gate": func(c *check.Config) { c.Rules, c.Shadow = rules(false), true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, session.Consumer, edit)
			login, dead := h.logIn(sessionapitest.LogIn{}), h.logIn(sessionapitest.LogIn{})
			if err := h.emulator.Revoke(dead.SessionID); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				name    string
				path    string
				headers []string
				reason  string
				verdict string
			}{
				{"who would pass", "/app", []string{"authorization", "Bearer " + login.JWT}, "verified", "allow"},
				{"nobody", "/app", nil, "no_credential", "would_deny"},
				{"a forged JWT", "/app", []string{"authorization", "Bearer " + login.JWT[:len(login.JWT)-342] + dead.JWT[len(dead.JWT)-342:]}, "forged", "would_deny"},
				{"the API is asked as ever", "/app", []string{"cookie", "stytch_session_jwt=" + h.mint(dead, time.Hour)}, "session_not_found", "would_deny"},
				{"an ambiguous path is refused", "/app//x", []string{"authorization", "Bearer " + login.JWT}, "ambiguous_path", "deny"},
			} {
				a := h.check(c.path, append(c.headers, "x-auth-subject", "root")...)
				if a.reason != c.reason || a.metadata("verdict") != c.verdict || a.allowed() != (c.verdict != "deny") {
					t.Errorf("%s: %s %s, want %s %s", c.name, a.metadata("verdict"), a.reason, c.verdict, c.reason)
				}
				if c.verdict == "would_deny" && (len(a.upstream()) != 0 || !contains(a.removed(), "x-auth-subject") || !contains(a.removed(), "x_auth_subject")) {
					t.Errorf("%s: identity %v, removed %v", c.name, a.upstream(), a.removed())
				}
				if c.verdict == "allow" && a.upstream()["x-auth-subject"] != login.Subject {
					t.Errorf("%s: identity %v", c.name, a.upstream())
				}
			}
			a := h.check("/app", "cookie", "stytch_session_jwt="+h.mint(login, time.Hour))
			if a.reason != "exchanged" || a.client()["set-cookie"] == "" {
				t.Errorf("an exchange: %s %v", a.reason, a.client())
			}
			if !strings.Contains(h.log.String(), `"verdict":"would_deny"`) {
				t.Error("the log does not say so")
			}
			if n := h.metric("authz_shadow_rules"); n < 1 {
				t.Errorf("the gauge says %v", n)
			}
			if n := h.metric("authz_decisions_total", "verdict", "would_deny", "reason", "no_credential"); n != 1 {
				t.Errorf("%v were counted", n)
			}
			if n := h.metric("authz_would_deny_total", "rule", "app", "reason", "no_credential"); n != 1 {
				t.Errorf("%v were counted by rule", n)
			}
		})
	}
	h := newHouse(t, session.Consumer, func(c *check.Config) { c.Rules = rules(true) })
	if a := h.check("/other"); a.allowed() {
		t.Error("another rule is in shadow, too")
	}
	if h.metric("authz_shadow_rules") != 1 {
		t.Error("the gauge counts other rules")
	}
}

func TestAFaultOfOursPassesInNoShadow(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Shadow = true
		c.Projects = map[string]check.Project{project: {Verifier: faulty{}}}
	})
	if a := h.check("/", "authorization", "Bearer a.b.c"); a.allowed() || a.reason != "internal" {
		t.Errorf("%s", a.reason)
	}
}

func TestARuleThatEnvoysRouteNames(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t,
		policy.Rule{Name: "payments", Match: policy.Match{ByName: true}, MaxTokenAge: 0},
		policy.Rule{Name: "open", Match: prefix("/open"), Session: policy.None}))
	login := h.logIn(sessionapitest.LogIn{})
	named := func(path, rule string) *authv3.CheckRequest {
		in := request(path, "authorization", "Bearer "+login.JWT, "x-rule", "open", "rule", "open")
		in.Attributes.ContextExtensions = map[string]string{"rule": rule}
		return in
	}
	for _, c := range []struct{ path, rule, want string }{
		{"/open", "payments", "exchanged"},
		{"/any", "", "verified"},
		{"/open", "", "public"},
		{"/open", "open", "public"},
		{"/any", "open", "unknown_rule"},
		{"/open", "nobody", "unknown_rule"},
	} {
		a := h.checkContext(t.Context(), named(c.path, c.rule))
		if a.reason != c.want {
			t.Errorf("%s by %q: %s, want %s", c.path, c.rule, a.reason, c.want)
		}
		if c.want == "unknown_rule" && (a.status() != 503 || !strings.Contains(h.log.String(), `"level":"WARN"`)) {
			t.Errorf("%d, not loud", a.status())
		}
	}
}

func contains(list []string, s string) bool {
	return strings.Contains("\n"+strings.Join(list, "\n")+"\n", "\n"+s+"\n")
}
