package check_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestNobodyIsTakenForAnother has many people ask at once, over grpc: some leave in the middle, some Checks panic, the session API is
// slow, and what grpc gets back of its buffers is spoilt at once. Each answer and each line of the log is about who asked, and in the
// end no buffer is missing.
func TestNobodyIsTakenForAnother(t *testing.T) {
	lines := &lineJudge{t: t}
	h := newHouseOf(t, session.Consumer, func(c *check.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
		p := c.Projects[project]
		p.Verifier = panicky{p.Verifier}
		c.Projects[project] = p
		c.IdentityHeaders = append(c.IdentityHeaders, check.IdentityHeader{Name: "x-auth-who", Claim: "who"})
		c.Rules = compile(t,
			policy.Rule{Name: "fresh", Match: prefix("/fresh"), MaxTokenAge: 0},
			policy.Rule{Name: "ahead", Match: prefix("/ahead"), MaxTokenAge: session.NoMaxAge, RefreshAhead: 10 * time.Minute},
			policy.Rule{Name: "own", Match: policy.Match{PathTemplate: "/own/{who}"}, MaxTokenAge: session.NoMaxAge, Require: require(t, requirement.Config{
				Expressions: []string{`path.who == session.claims.who && path.who == request.headers["x-who"] && path.who == request.headers["x-" + "made-up"]`},
				Variables:   []string{"who"},
			})},
		)
	}, func(s *session.Config, c *sessionapi.Config) {
		s.CacheBytes, c.KeptExchanges = 16<<10, 4 // too little for all
	})
	people := make([]person, 8)
	for i := range people {
		who := fmt.Sprintf("p%d", i)
		login := h.logIn(sessionapitest.LogIn{UserID: "user-test-" + who, Roles: []string{"role-" + who}, CustomClaims: map[string]any{"who": who}})
		p := person{who: who, login: login, jwts: []string{login.JWT, h.mint(login, time.Hour)}}
		for age := range 4 {
			p.jwts = append(p.jwts, h.mint(login, time.Duration(age)*time.Second))
		}
		people[i] = p
	}
	h.fail(sessionapitest.Fault{Latency: time.Millisecond})

	for _, c := range []struct {
		name   string
		leave  bool
		checks int
	}{
		{"while some leave in the middle", true, 80},
		{"while all wait for their answers", false, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool := &spoiler{BufferPool: mem.DefaultBufferPool()}
			conn, stop := h.overGRPC(experimental.BufferPool(pool), grpc.WaitForHandlers(true), grpc.NumStreamWorkers(4))
			var passed atomic.Int64
			var group sync.WaitGroup
			for i, p := range people {
				group.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 0))
					for range c.checks {
						patience := time.Minute
						if c.leave && r.IntN(4) == 0 {
							patience = time.Duration(r.IntN(4000)) * time.Microsecond
						}
						if p.ask(t, conn, r, patience) {
							passed.Add(1)
						}
					}
				})
			}
			group.Wait()
			stop()
			if passed.Load() < int64(c.checks) { // of eight times as many
				t.Errorf("only %d passed", passed.Load())
			}
			// Of whom has left, grpc itself drops what it had not handed on.
			if !c.leave && (pool.out.Load() != 0 || pool.used.Load() == 0) {
				t.Errorf("of %d buffers %d were not given back", pool.used.Load(), pool.out.Load())
			}
		})
	}
	if lines.n == 0 {
		t.Error("no line was judged")
	}
}

// person is somebody with a session, and JWTs of it: new, old and of several ages.
type person struct {
	who   string
	login sessionapitest.Login
	jwts  []string
}

// ask asks one Check and reports whether it passed. The answer is about p, whatever it says.
func (p person) ask(t *testing.T, conn *grpc.ClientConn, r *rand.Rand, patience time.Duration) (passed bool) {
	jwt := func() string { return p.jwts[r.IntN(len(p.jwts))] }
	headers := []string{"x-request-id", p.who, "x-who", p.who, "x-made-up", p.who}
	switch r.IntN(4) {
	case 0:
		headers = append(headers, "cookie", "who="+p.who+"; stytch_session_jwt="+jwt())
	case 1:
		headers = append(headers, "cookie", "who="+p.who+"; stytch_session_jwt="+jwt(), "authorization", "Bearer "+jwt())
	case 2:
		headers = append(headers, "x-session-token", p.login.Token)
	default:
		headers = append(headers, "authorization", "Bearer "+jwt())
	}
	if r.IntN(10) == 0 { // comes in several pieces
		headers = append(headers, "user-agent", strings.Repeat(p.who, 15000))
	}
	in := request([]string{"/fresh/", "/ahead/", "/own/", "/app/"}[r.IntN(4)]+p.who, headers...)
	in.Attributes.Request.Http.Host = p.who + ".example.com"
	if r.IntN(2) == 0 {
		in = asLines(in)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	response := new(authv3.CheckResponse)
	if err := conn.Invoke(ctx, "/envoy.service.auth.v3.Authorization/Check", encoded(t, in), response); err != nil {
		if patience == time.Minute {
			t.Error(err)
		}
		return false
	}
	a := newAnswer(response)
	text := response.String()
	for _, subject := range subjects.FindAllString(text, -1) {
		if subject != "user-test-"+p.who {
			t.Errorf("%s is told of %s", p.who, subject)
		}
	}
	for _, payload := range payloads.FindAllStringSubmatch(text, -1) {
		if claims, _ := base64.RawURLEncoding.DecodeString(payload[1]); !strings.Contains(string(claims), `"user-test-`+p.who+`"`) {
			t.Errorf("%s is given a JWT of %s", p.who, claims)
		}
	}
	if !a.allowed() {
		if a.reason != "internal" && a.reason != "api_unavailable" {
			t.Errorf("%s: %s", p.who, a.reason)
		}
		return false
	}
	for name, want := range map[string]string{
		"x-auth-subject": "user-test-" + p.who, "x-auth-session-id": p.login.SessionID, "x-auth-roles": "role-" + p.who, "x-auth-who": p.who,
	} {
		if got := a.upstream()[name]; got != want {
			t.Errorf("%s: the app sees %s %q", p.who, name, got)
		}
	}
	if cookie, ok := a.upstream()["cookie"]; ok && strings.Contains(cookie, "who=") && !strings.Contains(cookie, "who="+p.who) {
		t.Errorf("%s: the app sees the cookies %q", p.who, cookie)
	}
	return true
}

var (
	subjects = regexp.MustCompile(`user-test-\w+`)
	payloads = regexp.MustCompile(`eyJ[\w-]+\.([\w-]+)\.[\w-]+`)
)

// spoiler is a buffer pool that spoils what it gets back, so that whoever goes on reading it notices.
type spoiler struct {
	mem.BufferPool
	used, out atomic.Int64
}

func (s *spoiler) Get(length int) *[]byte {
	s.used.Add(1)
	s.out.Add(1)
	return s.BufferPool.Get(length)
}

func (s *spoiler) Put(buffer *[]byte) {
	s.out.Add(-1)
	all := (*buffer)[:cap(*buffer)]
	for i := range all {
		all[i] = '~'
	}
	s.BufferPool.Put(buffer)
}

// panicky panics now and then, after a session was written.
type panicky struct{ check.Verifier }

func (p panicky) Recall(into *session.Session, jwt string, now time.Time) (known, proved bool, err error) {
	known, proved, err = p.Verifier.Recall(into, jwt, now)
	if proved && rand.IntN(50) == 0 {
		panic("in the middle")
	}
	return known, proved, err
}

// lineJudge is a log of which each line is about one person's request alone.
type lineJudge struct {
	t *testing.T
	n int // the handler writes one line at a time
}

func (l *lineJudge) Write(line []byte) (int, error) {
	var said struct {
		Msg, Host, Path, Subject string
		RequestID                string `json:"request_id"`
	}
	if err := json.Unmarshal(line, &said); err != nil {
		l.t.Errorf("%v: %s", err, line)
	}
	if said.Msg != "check" {
		return len(line), nil
	}
	l.n++
	who := said.RequestID
	if who == "" || said.Host != who+".example.com" || !strings.HasSuffix(said.Path, "/"+who) || said.Subject != "" && said.Subject != "user-test-"+who {
		l.t.Errorf("of several requests: %s", line)
	}
	return len(line), nil
}
