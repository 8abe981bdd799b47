package requirement_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
)

// judge returns "true", "false" or why an expression could not be evaluated.
func judge(t testing.TB, expression string, e requirement.Evidence) string {
	t.Helper()
	s := newSet(t, config{Expressions: []string{expression}, Variables: []string{"org", "slug"}})
	r := s.Examine(t.Context(), e)[0]
	err := s.Check(t.Context(), e)
	if (err == nil) != (r.Saw == "true") || r.Met != (err == nil) || err != nil && !errors.Is(err, requirement.ErrForbidden) {
		t.Errorf("Examine says %+v, Check %v", r, err)
	}
	return r.Saw
}

const (
	missing  = "something that it reads is not there"
	unfit    = "it could not be evaluated with what the session and the request hold"
	costly   = "it costs too much to evaluate"
	overlong = "a text of the request is longer than 8192 bytes"
)

func TestExpressions(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{`true`, "true"},
		{`false`, "false"},

		{`session.id == "session-1" && session.subject == "member-1"`, "true"},
		{`session.id == "session-2"`, "false"},
		{`session.organization_id == "organization-1" && session.organization_slug == "acme"`, "true"},
		{`"editor" in session.roles`, "true"},
		{`"admin" in session.roles`, "false"},
		{`session.roles == ["viewer", "editor"]`, "true"},
		{`session.roles.exists(r, r.startsWith("edit"))`, "true"},
		{`session.roles.all(r, r.startsWith("edit"))`, "false"},
		{`size(session.factors) == 3 && session.factors[0].type == "otp"`, "true"},
		{`session.factors.exists(f, f.delivery_method == "sms" && now - f.authenticated_at <= duration("1m"))`, "true"},
		{`session.factors.exists(f, f.delivery_method == "sms" && now - f.authenticated_at < duration("1m"))`, "false"},
		{`session.factors.filter(f, f.type == "totp")[0].authenticated_at < now`, missing},
		{`session.factors.exists(f, !has(f.authenticated_at))`, "true"},
		{`now - session.issued_at == duration("1m") && session.expires_at - now == duration("4m")`, "true"},
		{`has(session.ends_at)`, "false"},
		{`session.ends_at < now`, missing},
		{`!(session.ends_at < now)`, missing},

		{`session.claims.plan == "pro"`, "true"},
		{`session.claims["plan"] == "free"`, "false"},
		{`session.claims.level > 2 && session.claims.level < 3.5`, "true"},
		{`session.claims.share > 0 && session.claims.whole == 2`, "true"},
		{`session.claims.beta == true && session.claims.closed == false && session.claims.nothing == null`, "true"},
		{`"a" in session.claims.groups && 7 in session.claims.groups`, "true"},
		{`"c" in session.claims.groups`, "false"},
		{`session.claims.object.list[1] == 2`, "true"},
		{`session.claims.object.list[2] == 2`, missing},
		{`session.claims.groups.exists(g, type(g) == string && g.lowerAscii() == "a")`, "true"},
		{`session.claims.plan > 3`, unfit},
		{`session.claims.other == "x"`, missing},
		{`session.claims.other != "x"`, missing},
		{`!("other" in session.claims)`, "true"},
		{`has(session.claims.plan)`, "true"},
		{`has(session.claims.other)`, "false"},
		{`session.claims.exists(name, name == "plan")`, "true"},
		{`size(session.claims) == 12`, "true"},
		{`session.claims == {"plan": "pro"}`, "false"},
		{`path == {"slug": "acme", "org": "organization-1"}`, "true"},
		{`path == session.claims`, unfit},

		{`request.method == "GET" && request.host == "app.example.com" && request.path == "/orgs/acme/docs/7"`, "true"},
		{`request.method in ["POST", "PUT"]`, "false"},
		{`request.path.matches("^/orgs/[a-z]+/docs/[0-9]{1,4}$")`, "true"},
		{`matches(request.path, "^/docs")`, "false"},
		{`request.path.split("/")[2] == path.slug`, "true"},
		{`request.headers["x-tier"] == "gold"`, "true"},
		{`request.headers["x-tier"] == "silver"`, "false"},
		{`request.headers["x-other"] == "gold"`, missing},
		{`request.headers["x-other"] != "gold"`, missing},
		{`"x-tier" in request.headers && !("x-other" in request.headers)`, "true"},
		{`request.headers["x-" + "tier"] == "gold"`, "true"},

		{`path.org == session.organization_id`, "true"},
		{`path["slug"] == session.organization_slug`, "true"},
		{`path.slug == session.organization_id`, "false"},
		{`path[request.method] == "x"`, missing},
		{`path.all(name, name in ["org", "slug"]) && size(path) == 2`, "true"},
		{`{"org": "organization-1", "slug": "acme"} == path`, "true"},

		{`now == timestamp("2025-10-01T09:41:40Z") && now.getDayOfWeek("Europe/Berlin") == 3`, "true"},
		{`session.claims.level / 0 == 1`, unfit},
		{`session.claims.level + 9223372036854775807 > 0`, unfit},
	} {
		t.Run(c.expression, func(t *testing.T) {
			if got := judge(t, c.expression, evidence(t)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestExpressionMistakes(t *testing.T) {
	for _, c := range []struct{ name, expression, problem, remedy string }{
		{"a field of the session that there is not", `session.role == "x"`, "undefined field 'role' (line 1, column 8)", "organization_slug, roles, subject"},
		{"a field of the request that there is not", `request.query == "x"`, "undefined field 'query'", "request has headers, host, method, path"},
		{"a field of a factor that there is not", `session.factors.exists(f, f.kind == "otp")`, "undefined field 'kind'", "a factor has authenticated_at"},
		{"a presence that there is not", `has(session.role)`, "undefined field 'role'", "session has"},
		{"a variable that there is not", "true &&\n sesion.id == ''", "undeclared reference to 'sesion' (line 2", "session, request, path and now"},
		{"a path variable that there is not", `path.team == "x"`, "no path variable is named team", "org, slug"},
		{"one by index", `path["team"] == "x"`, "no path variable is named team", "org, slug"},
		{"one by presence", `has(path.team)`, "no path variable is named team", "org, slug"},
		{"one by membership", `"team" in path`, "no path variable is named team", "org, slug"},
		{"a syntax error", `session.id ==`, "Syntax error", "cel.dev"},
		{"nothing", ``, "Syntax error", "cel.dev"},
		{"types that do not go together", `session.id == 1`, "no matching overload", "cel.dev"},
		{"a number", `size(session.roles)`, "int, not bool", "compare"},
		{"a claim, which may be anything", `session.claims.beta`, "dyn, not bool", "== true"},
		{"a header name in capitals", `request.headers["X-Tier"] == "gold"`, "lower case", "x-tier"},
		{"a header field in capitals", `request.headers.Host == ""`, "lower case", "host"},
		{"a header's presence in capitals", `"X-Tier" in request.headers`, "lower case", "x-tier"},
		{"all headers counted", `size(request.headers) > 0`, "listed", "name the header"},
		{"all headers looked through", `request.headers.exists(h, h == "x")`, "listed", "name the header"},
		{"all headers carried elsewhere", `[request.headers].exists(h, h["x"] == "y")`, "listed", "name the header"},
		{"a constant that fails", `int("x") == 1`, "type conversion error", "mend"},
		{"an object made", `authz.Factor{type: "otp"}.type == "otp"`, "cannot be made", "fields"},
		{"objects compared", `session == session`, "neither side", "convert"},
		{"things without a type compared", `dyn(session.roles) == dyn(session.roles)`, "neither side", "convert"},
		{"an index without a type", `session.roles.exists(r, [1].exists(i, {1: true}[dyn(i)]))`, "index", "convert"},
		{"claims joined, which may be lists", `size(session.claims.a + session.claims.a) > 1`, "joined", "string("},
		{"lists joined", `size(session.roles + ["x"]) > 1`, "joined", "one after the other"},
		{"a regular expression that a request has", `request.path.matches(request.method)`, "constant", "quotes"},
		{"a regular expression that is none", `request.path.matches("(")`, "missing closing )", "re2"},
		{"a regular expression that is short and large", `request.path.matches("(a{100}){10}")`, "too large", "repeat less"},
		{"format", `"%s".format([session.id]) == ""`, "format is not available", ""},
		{"join", `session.roles.join() == ""`, "join is not available", ""},
		{"lists within lists within lists", `session.roles.all(a, session.roles.all(b, session.roles.all(c, a != b)))`, "may cost", "one list at a time"},
		{"a text that grows by its square", `request.path.replace("", request.path) == ""`, "may cost", "whole texts"},
		{"deep brackets", strings.Repeat("[", 60) + strings.Repeat("]", 60) + " == []", "recursion limit", ""},
		{"deep brackets without an end", strings.Repeat("(", 2000), "", ""},
		{"too long", `"` + strings.Repeat("x", 4096) + `" == session.id`, "size", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := requirement.New(config{Expressions: []string{"true", c.expression}, Variables: []string{"org", "slug"}})
			checkMistake(t, err, "cel[1]", c.problem, c.remedy)
		})
	}
}

func TestUsefulExpressionsAreCheapEnough(t *testing.T) {
	for _, expression := range []string{
		`session.roles.exists(r, request.headers["x-roles"].contains(r))`,
		`session.roles.exists(r, r in session.claims.groups)`,
		`session.claims.groups.exists(g, session.claims.teams.exists(t, string(g) == string(t)))`,
		`session.claims.groups.map(g, g.lowerAscii()).exists(g, g.startsWith("x"))`,
		`request.path.split("/").exists(s, s in session.roles)`,
		`request.headers["x"].matches("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")`,
		`session.claims.items.exists(i, i.id == path.org && i.owners.exists(o, o == session.subject))`,
		`session.claims.owner == session.claims.reader`,
		`true` + strings.Repeat(` || session.id + "x" + "y" == "session"`, 50),
	} {
		newSet(t, config{Expressions: []string{expression}, Variables: []string{"org"}})
	}
}

func TestHeaders(t *testing.T) {
	for _, c := range []struct {
		name        string
		expressions []string
		names       []string
		all         bool
	}{
		{"no expression", nil, nil, false},
		{"none read", []string{`request.path == "/"`}, nil, false},
		{"all ways of reading one, twice", []string{
			`request.headers["b"] == "" && has(request.headers.c) && request.headers.a.startsWith("x")`, `"d-e" in request.headers || request.headers["a"] == ""`,
		}, []string{"a", "b", "c", "d-e"}, false},
		{"one within a macro", []string{`session.roles.exists(r, r == request.headers["x"])`}, []string{"x"}, false},
		{"one by a name that a request has", []string{`request.headers["x"] == request.headers[request.method]`}, []string{"x"}, true},
		{"one by a name put together", []string{`("x-" + request.method) in request.headers`}, nil, true},
		{"one through another name of the request", []string{`[request].exists(r, r.headers["x"] == "y")`}, []string{"x"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			names, all := newSet(t, config{Expressions: c.expressions}).Headers()
			if !slices.Equal(names, c.names) || all != c.all {
				t.Errorf("got %q, %v", names, all)
			}
		})
	}
}

func TestOnlyNamedHeadersAreRead(t *testing.T) {
	e := evidence(t)
	var read []string
	e.Request.Header = func(name string) (string, bool) { read = append(read, name); return "v", true }
	s := newSet(t, config{Expressions: []string{`request.method == "POST" || request.headers["x-a"] == "v"`}})
	if err := s.Check(t.Context(), e); err != nil || !slices.Equal(read, []string{"x-a"}) {
		t.Errorf("read %q, error %v", read, err)
	}
	e.Request.Header = nil
	if s.Check(t.Context(), e) == nil {
		t.Error("met without headers")
	}
}

func TestWhatIsTooLongIsNotMet(t *testing.T) {
	long := strings.Repeat("x", 8193)
	for _, c := range []struct {
		name, expression string
		change           func(*requirement.Evidence, string)
	}{
		{"a header", `request.headers["x"].startsWith("x")`, func(e *requirement.Evidence, s string) { e.Request.Header = headers(map[string]string{"x": s}) }},
		{"a header that must be absent", `!("x" in request.headers) || true`, func(e *requirement.Evidence, s string) { e.Request.Header = headers(map[string]string{"x": s}) }},
		{"a path", `request.path.startsWith("x")`, func(e *requirement.Evidence, s string) { e.Request.Path = s }},
		{"a host", `request.host.startsWith("x")`, func(e *requirement.Evidence, s string) { e.Request.Host = s }},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := evidence(t)
			c.change(&e, long[1:])
			if got := judge(t, c.expression, e); got != "true" {
				t.Errorf("as long as it may be: %s", got)
			}
			c.change(&e, long)
			if got := judge(t, c.expression, e); got != overlong {
				t.Errorf("a byte more: %s", got)
			}
		})
	}
}

// adversarial is a session and a request that are as large as they can be.
func adversarial(t testing.TB) requirement.Evidence {
	e := evidence(t)
	e.Session.Roles = nil
	for i := range 256 {
		e.Session.Roles = append(e.Session.Roles, fmt.Sprintf("%s%03d", strings.Repeat("a", 253), i))
	}
	e.Session.Factors = slices.Repeat(e.Session.Factors, 30)
	e.Session.Claims = claims(t, `{"list":[`+strings.Repeat("1,", 4000)+`1]}`)
	e.Request.Path = strings.Repeat("a", 8192)
	e.Request.Header = func(string) (string, bool) { return e.Request.Path, true }
	return e
}

func TestEvaluationIsBounded(t *testing.T) {
	// doubled makes lists that share their members: twice as many texts with each step, at the same cost.
	doubled := func(steps int) string { return `[session.roles]` + strings.Repeat(`.map(x, [x, x])`, steps) }
	for _, expression := range []string{
		`session.roles.exists(a, session.roles.exists(b, a.size() + b.size() < 0))`,
		`session.roles.exists(a, session.roles.exists(b, a == b + "x"))`,
		`session.claims.list.exists(a, session.claims.list.exists(b, string(a) < string(b)))`,
		`session.roles.map(a, session.roles.map(b, a + b)).exists(l, l.exists(x, x == "a"))`,
		`session.roles.exists(a, session.roles.exists(b, session.claims.list == [1]))`,
		`session.roles.exists(a, [1, 2, 3].exists(b, a in session.claims.list))`,
		`session.roles.exists(a, session.roles.exists(b, session.factors.size() == 0))`,
		`request.path.split("").map(x, x + x).exists(x, x == "b")`,
		`session.roles.exists(a, request.headers["x"].matches("(a?){60}b"))`,
		`request.path.replace("", session.roles[0]) == "a"`,
		`[1,2,3,4,5,6,7,8].exists(a, [1,2,3,4,5,6,7,8].exists(b, [1,2,3,4,5,6,7,8].exists(c, [1,2,3,4,5,6,7,8].exists(d, [1,2,3,4,5,6,7,8].exists(e, a+b+c+d+e > 100)))))`,
	} {
		t.Run(expression, func(t *testing.T) {
			s := newSet(t, config{Expressions: []string{expression}})
			start := time.Now()
			err := s.Check(t.Context(), adversarial(t))
			if took := time.Since(start); took > 30*time.Second { // 60 ms, but for the race detector and a busy machine
				t.Errorf("took %v", took)
			}
			if unmet, ok := errors.AsType[*requirement.UnmetError](err); !ok || unmet.Detail != costly {
				t.Errorf("error %v", err)
			}
		})
	}
	for _, c := range []struct{ expression, problem string }{
		{doubled(8) + ` == ` + doubled(8), "neither side"},
		{doubled(8) + ` in [` + doubled(8) + `]`, "neither side"},
		{`dyn(` + doubled(8) + `) == dyn(` + doubled(8) + `)`, "neither side"},
		{`(true ? ` + doubled(7) + ` : session.claims.list) == (true ? ` + doubled(7) + ` : session.claims.list)`, "neither side"},
		{`{1: true}[(true ? ` + doubled(16) + ` : session.claims.list)]`, "index"},
		{`[session.roles]` + strings.Repeat(`.map(x, x + x)`, 15) + `.exists(l, "a" in l)`, "joined"},
		{`"%s".format(` + doubled(16) + `) == ""`, "format"},
		{doubled(17) + ` == []`, "more than 16 lists"},
		{strings.Repeat("[1].map(x, ", 17) + "1" + strings.Repeat(")", 17) + " == []", "more than 16 lists"},
	} {
		t.Run(c.expression, func(t *testing.T) {
			_, err := requirement.New(config{Expressions: []string{c.expression}})
			checkMistake(t, err, "cel[0]", c.problem, "")
		})
	}
	// Comparison with something that is known to be flat is at an end where that is.
	if got := judge(t, doubled(15)+`.exists(l, dyn(l) == "a")`, evidence(t)); got != "false" {
		t.Errorf("flat comparison: %s", got)
	}
}

func TestEvaluationEndsWithTheRequest(t *testing.T) {
	s := newSet(t, config{Expressions: []string{`session.claims.list.all(x, x == 1)`}})
	if err := s.Check(t.Context(), adversarial(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Check(ctx, adversarial(t)); !errors.Is(err, requirement.ErrForbidden) || !strings.Contains(err.Error(), "request ended") {
		t.Errorf("error %v", err)
	}
}

func TestSetsAreShared(t *testing.T) {
	s := newSet(t, config{AnyRole: []string{"editor"}, Factors: []requirement.Factors{{}}, Variables: []string{"org"}, Expressions: []string{
		`session.organization_id == path.org && request.headers["x"] == session.id && session.claims.n == int(session.id)`,
		`session.factors.exists(f, f.type == session.id) && request.path.matches("^[0-9]+$")`,
	}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				id := fmt.Sprint(i*1000 + j)
				e := requirement.Evidence{
					Session: &session.Session{ID: id, OrganizationID: id, Roles: []string{"editor"},
						Factors: []session.Factor{{Type: id}}, Claims: claims(t, `{"n":`+id+`}`)},
					Request:   requirement.Request{Path: id, Header: headers(map[string]string{"x": id})},
					Variables: requirement.Variables{{Name: "org", Value: id}},
					Now:       now,
				}
				if err := s.Check(t.Context(), e); err != nil {
					t.Error(err)
				}
				e.Variables[0].Value = "other"
				if s.Check(t.Context(), e) == nil {
					t.Error("another's organization passes")
				}
			}
		})
	}
	wg.Wait()
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		`true`, `session.claims.plan == "pro"`, `path.org == session.organization_id`, `request.headers["x"].matches("a{3}")`,
		`session.factors.exists(f, now - f.authenticated_at < duration("5m"))`, `[[1]].map(x, [x, x]) == [[[1]]]`, `has(request.headers.x)`,
		`session.roles.filter(r, r != "x").exists_one(r, r.replace("e", "") == b"x")`, `{"a": [1u, 2.0]}["a"][0] == 1`, `"\u0000".split("")[0] in path`,
		`timestamp("2025-10-01T00:00:00Z").getHours("America/New_York") == 1 ? true : int("9") > 3`, `type(session) == authz.Session`, `a.b{c: 1}.d`, "`", `"`, `((((`,
	} {
		f.Add(seed)
	}
	e := evidence(f)
	requirement.New(config{Expressions: []string{"true"}}) // the first one makes what all share
	f.Fuzz(func(t *testing.T, text string) {
		start := time.Now()
		var s *requirement.Set
		var err error
		// CEL's lexer quotes, of each character that it cannot read, all that follows: the square of at most 4096.
		fuzztest.Allocates(t, 400_000, len(text), func() {
			s, err = requirement.New(config{Expressions: []string{text}, Variables: []string{"org"}})
		})
		if (s == nil) == (err == nil) {
			t.Fatalf("set %v with error %v", s, err)
		}
		if err != nil {
			if _, ok := errors.AsType[*requirement.FieldError](err); !ok {
				t.Fatalf("error %v", err)
			}
			return
		}
		var r requirement.Result
		fuzztest.Allocates(t, 10_000, len(text), func() { r = s.Examine(t.Context(), e)[0] })
		err = s.Check(t.Context(), e)
		if (err == nil) != r.Met || r.Err != nil && err == nil || err != nil && !errors.Is(err, requirement.ErrForbidden) {
			t.Fatalf("Examine says %+v, Check %v", r, err)
		}
		nobody := e
		nobody.Session = nil
		if s.Check(t.Context(), nobody) == nil {
			t.Fatal("nobody passes")
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("took %v", took)
		}
	})
}
