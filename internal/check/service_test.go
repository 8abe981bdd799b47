package check_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestAnotherServerIsPutToUseAndNoRequestNotices swaps two Servers under load: every Check is answered by the one or the other, whole.
func TestAnotherServerIsPutToUseAndNoRequestNotices(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	closed := newHouse(t, session.Consumer, func(c *check.Config) {
		c.Rules = compile(t, policy.Rule{Name: "closed", Match: prefix("/"), Session: policy.Refused})
	})
	conn, stop := h.overGRPC()
	defer stop()
	message := encoded(t, request("/public"))

	ask := func() string {
		response := new(authv3.CheckResponse)
		if err := conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, message, response); err != nil {
			t.Error(err)
		}
		return newAnswer(response).reason
	}
	var clients sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if reason := ask(); reason != "public" && reason != "refused" {
					t.Errorf("reason %q", reason)
					return
				}
			}
		})
	}
	for range 200 {
		h.service.Use(closed.server)
		if reason := ask(); reason != "refused" {
			t.Fatalf("after a swap to the closed one: %q", reason)
		}
		h.service.Use(h.server)
		if reason := ask(); reason != "public" {
			t.Fatalf("after a swap to the open one: %q", reason)
		}
	}
	close(done)
	clients.Wait()
}

// loggerThatPanics stands for a fault where none is expected: behind the decision.
type loggerThatPanics struct{ slog.Handler }

func (loggerThatPanics) Enabled(context.Context, slog.Level) bool  { return true }
func (loggerThatPanics) Handle(context.Context, slog.Record) error { panic("log") }

// TestAPanicOutsideTheDecisionIsADenialToo has the log panic, so that even the panic cannot be logged.
func TestAPanicOutsideTheDecisionIsADenialToo(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) { c.Logger = slog.New(loggerThatPanics{slog.DiscardHandler}) })
	conn, stop := h.overGRPC()
	defer stop()
	for range 3 {
		response := new(authv3.CheckResponse)
		if err := conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, encoded(t, request("/public")), response); err != nil {
			t.Fatalf("a gRPC error is no verdict: %v", err)
		}
		if a := newAnswer(response); a.status() != http.StatusServiceUnavailable || a.reason != "internal" || a.body()["reason"] != "unavailable" {
			t.Errorf("status %d, reason %q, body %v", a.status(), a.reason, a.body())
		}
	}
	if n := h.metric("authz_check_panics_total"); n != 3 {
		t.Errorf("%v panics were counted, want 3", n)
	}
}

// TestAMessageThatDoesNotComeIsNoVerdict is the one gRPC error that a Check ends with.
func TestAMessageThatDoesNotComeIsNoVerdict(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	var handler grpc.MethodHandler
	h.service.Register(registrar(func(d *grpc.ServiceDesc) { handler = d.Methods[0].Handler }))
	broken := errors.New("broken")
	if answer, err := handler(h.service, t.Context(), func(any) error { return broken }, nil); !errors.Is(err, broken) {
		t.Errorf("%v, %v", answer, err)
	}
	if _, err := handler(h.service, t.Context(), func(any) error { panic("receive") }, nil); err != nil {
		t.Errorf("a panic is a denial, not %v", err)
	}
}

type registrar func(*grpc.ServiceDesc)

func (r registrar) RegisterService(d *grpc.ServiceDesc, _ any) { r(d) }

// TestAClockThatIsSetBackMakesNoExpiredJWTYoung and its twins: our wall clock jumps, and the session API has told its own.
func TestAClockThatIsSetBackMakesNoExpiredJWTYoung(t *testing.T) {
	for name, row := range map[string]struct {
		jump  time.Duration // of our wall clock
		heard bool          // the session API has told its time
		age   time.Duration // of the JWT
		want  string
	}{
		"a right clock, a young JWT":            {0, true, time.Minute, "verified"},
		"a right clock, an expired JWT":         {0, true, 10 * time.Minute, "exchanged"},
		"set back, an expired JWT":              {-time.Hour, true, 10 * time.Minute, "exchanged"},
		"set back, a young JWT":                 {-time.Hour, true, time.Minute, "verified"},
		"set back, and nothing heard":           {-time.Hour, false, time.Minute, "not_yet_valid"},
		"set forward: old is what has expired":  {time.Hour, true, time.Minute, "exchanged"},
		"set forward by less than is left":      {2 * time.Minute, true, time.Minute, "verified"},
		"set forward by more than is left":      {5 * time.Minute, true, time.Minute, "exchanged"},
		"set forward, and nothing heard so far": {time.Hour, false, time.Minute, "exchanged"},
	} {
		t.Run(name, func(t *testing.T) {
			service := clock.New(clock.Config{})
			h := newHouse(t, session.Consumer, func(c *check.Config) {
				c.Now = func() time.Time { return time.Now().Add(row.jump) }
				p := c.Projects[project]
				p.Clock = service
				c.Projects[project] = p
			})
			login := h.logIn(sessionapitest.LogIn{})
			if row.heard {
				now := time.Now()
				ours := now.Add(row.jump)
				service.Heard(now.UTC().Format(http.TimeFormat), ours, ours)
			}
			a := h.check("/", "authorization", "Bearer "+h.mint(login, row.age))
			calls := 0
			if row.want == "exchanged" {
				calls = 1
			}
			if a.reason != row.want || h.apiCalls() != calls {
				t.Errorf("%s after %d calls, want %s after %d", a.reason, h.apiCalls(), row.want, calls)
			}
			if strings.Contains(h.log.String(), "forged") {
				t.Error("it is not forged")
			}
		})
	}
}

// TestWhatTheSessionAPIWouldHaveToBeAskedAboutIsRefusedWhileMemoryIsShort leaves those alone who are proved here.
func TestWhatTheSessionAPIWouldHaveToBeAskedAboutIsRefusedWhileMemoryIsShort(t *testing.T) {
	short := true
	h := newHouse(t, session.Consumer, func(c *check.Config) { c.Overloaded = func() bool { return short } })
	login := h.logIn(sessionapitest.LogIn{})
	if a := h.check("/", "authorization", "Bearer "+login.JWT); a.reason != "verified" {
		t.Errorf("a proved JWT: %s", a.reason)
	}
	for name, header := range map[string][]string{
		"an expired JWT": {"authorization", "Bearer " + h.mint(login, 10*time.Minute)},
		"a token":        {"cookie", "stytch_session=" + login.Token},
	} {
		a := h.check("/", header...)
		if a.reason != "overloaded" || a.status() != http.StatusServiceUnavailable || h.apiCalls() != 0 || a.client()["retry-after"] == "" {
			t.Errorf("%s: %s, %d, %d calls, %v", name, a.reason, a.status(), h.apiCalls(), a.client())
		}
	}
	short = false
	if a := h.check("/", "cookie", "stytch_session="+login.Token); a.reason != "exchanged" {
		t.Errorf("with memory again: %s", a.reason)
	}
}
