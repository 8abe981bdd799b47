package sessionapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

func TestEqualRequestsShareOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(100*time.Millisecond))
		defer b.done()
		many := func() {
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					if _, err := b.ask(jwtRequest); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			wg.Wait()
		}
		many()
		b.wantCalls(1)
		time.Sleep(time.Minute)
		many()
		b.wantCalls(1)
		if joined, reused := b.metric("joined_total"), b.metric("reused_total"); joined != 999 || reused != 1000 {
			t.Errorf("%v joined and %v reused, want 999 and 1000", joined, reused)
		}
	})
}

func TestGaugesShowWhoWaitsForWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second))
		defer b.done()
		for range 3 {
			go b.ask(jwtRequest)
		}
		go b.ask(tokenRequest)
		synctest.Wait()
		if w, f, s := b.metric("waiters"), b.metric("calls_in_flight"), b.Status().InFlight; w != 4 || f != 2 || s != 2 {
			t.Errorf("%v waiters, %v calls, %v in the status; want 4, 2, 2", w, f, s)
		}
		b.Wait()
		synctest.Wait()
		if w, f, n := b.metric("waiters"), b.metric("calls_in_flight"), b.metric("call_seconds"); w != 0 || f != 0 || n != 2 {
			t.Errorf("afterwards %v waiters, %v calls, %v measured; want 0, 0, 2", w, f, n)
		}
	})
}

func TestCallOutlivesTheCallerThatBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second))
		defer b.done()
		first, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := b.askWithin(first, jwtRequest, session.NoMaxAge)
			wantError(t, err, sessionapi.ErrUnavailable)
			wantError(t, err, context.Canceled)
		})
		synctest.Wait()
		for range 3 {
			wg.Go(func() {
				if _, err := b.ask(jwtRequest); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		leave()
		wg.Wait()
		if _, err := b.ask(jwtRequest); err != nil {
			t.Error(err)
		}
		b.wantCalls(1)
	})
}

func TestCallersDeadlineEndsItsWaitAndNotTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second))
		defer b.done()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := b.askWithin(ctx, jwtRequest, session.NoMaxAge)
		wantError(t, err, sessionapi.ErrUnavailable)
		wantError(t, err, context.DeadlineExceeded)
		if err != nil && !strings.Contains(err.Error(), "caller's deadline") {
			t.Errorf("the error does not say whose deadline: %v", err)
		}
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		b.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("the call ended after %v, not with its answer", took)
		}
		if _, err := b.ask(jwtRequest); err != nil {
			t.Errorf("the late answer does not serve the next request: %v", err)
		}
		b.wantCalls(1)
	})
}

func TestCallerThatHasAlreadyLeftStartsNoCall(t *testing.T) {
	b := newBench(t, always(200, yes("session-1", "user-1")))
	defer b.done()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.askWithin(ctx, jwtRequest, session.NoMaxAge)
	wantError(t, err, sessionapi.ErrUnavailable)
	b.Wait()
	b.wantCalls(0)
}

func TestHangingCallEndsAtTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Hour))
		defer b.done()
		for want := 1; want <= 2; want++ { // "could not ask" is never kept
			start := time.Now()
			_, err := b.ask(jwtRequest)
			wantError(t, err, sessionapi.ErrUnavailable)
			if took := time.Since(start); took != timeout {
				t.Errorf("ended after %v, want %v", took, timeout)
			}
			b.wantCalls(want)
		}
	})
}

func TestVerificationThatRunsIntoTheTimeoutIsNoMismatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(200, yes("session-1", "user-1")), func(c *sessionapi.Config) {
			c.Verify = func(ctx context.Context, _ string, _ time.Time) (*session.Session, error) {
				<-ctx.Done()
				return nil, session.ErrUnknownKey
			}
		})
		defer b.done()
		_, err := b.ask(jwtRequest)
		wantError(t, err, sessionapi.ErrUnavailable)
	})
}

func TestKeptExchangeServesWhileItIsFreshEnough(t *testing.T) {
	const maxAge = 30 * time.Second
	for _, c := range []struct {
		name   string
		jwt    string
		maxAge time.Duration
		later  time.Duration
		calls  int
	}{
		{"just younger than the rule's max age", "good", maxAge, maxAge - 1, 1},
		{"just as old as the rule's max age", "good", maxAge, maxAge, 2},
		{"a max age of 0 at the same instant", "good", 0, 0, 2},
		{"a max age of 0 with an iat in the future", "future", 0, 0, 2},
		{"just younger than the max age with an iat in the future", "future", maxAge, maxAge - 1, 1},
		{"just as old as the max age with an iat in the future", "future", maxAge, maxAge, 2},
		{"just younger than the max age, by an iat in the past", "past", maxAge, maxAge - 5*time.Second - 1, 1},
		{"just as old as the max age, by an iat in the past", "past", maxAge, maxAge - 5*time.Second, 2},
		{"just before the JWT expires", "good", session.NoMaxAge, jwtLifetime - 1, 1},
		{"just when the JWT expires", "good", session.NoMaxAge, jwtLifetime, 2},
		{"just before the session ends", "ending", session.NoMaxAge, time.Minute - 1, 1},
		{"just when the session ends", "ending", session.NoMaxAge, time.Minute, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, always(200, fmt.Sprintf(`{"session_jwt":"%s.session-1.user-1..%s"}`, c.jwt, projectID)))
				defer b.done()
				for range 2 {
					if _, err := b.askWithin(t.Context(), jwtRequest, c.maxAge); err != nil {
						t.Error(err)
					}
					time.Sleep(c.later)
				}
				b.wantCalls(c.calls)
			})
		})
	}
}

func TestExchangeTooOldForOneRuleStillServesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := 200
		b := newBench(t, api(func(*http.Request) (*http.Response, error) {
			return respond(answer, yes("session-1", "user-1")), nil
		}))
		defer b.done()
		b.ask(jwtRequest)
		time.Sleep(time.Minute)
		answer = 500
		_, err := b.askWithin(t.Context(), jwtRequest, time.Second)
		wantError(t, err, sessionapi.ErrUnavailable)
		if _, err := b.ask(jwtRequest); err != nil {
			t.Error(err)
		}
		b.wantCalls(2)
	})
}

func TestNoDropsWhatWasKept(t *testing.T) {
	for name, answer := range map[string]string{
		"the session is gone":       `404 {"error_type":"session_not_found"}`,
		"the credential is refused": `400 {"error_type":"invalid_session_token"}`,
		"the session is forbidden":  `403 {"error_type":"organization_suspended"}`,
		"the answer does not fit":   "200 " + yes("session-2", "user-1"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := []string{"200 " + yes("session-1", "user-1"), answer, "500 {}"}
				b := newBench(t, api(func(*http.Request) (*http.Response, error) {
					var status int
					fmt.Sscan(script[0], &status)
					_, body, _ := strings.Cut(script[0], " ")
					script = script[1:]
					return respond(status, body), nil
				}))
				defer b.done()
				if _, err := b.ask(jwtRequest); err != nil {
					t.Fatal(err)
				}
				if _, err := b.askWithin(t.Context(), jwtRequest, 0); err == nil || errors.Is(err, sessionapi.ErrUnavailable) {
					t.Fatalf("got %v, want a no", err)
				}
				time.Sleep(remembered)
				_, err := b.ask(jwtRequest) // which a kept exchange would have answered
				wantError(t, err, sessionapi.ErrUnavailable)
			})
		})
	}
}

func TestMaxAgeOfZeroJoinsACallUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second))
		defer b.done()
		go b.ask(jwtRequest)
		time.Sleep(time.Second / 2)
		if _, err := b.askWithin(t.Context(), jwtRequest, 0); err != nil {
			t.Error(err)
		}
		b.wantCalls(1)
	})
}

func TestCredentialsNeverShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		b := newBench(t, api(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, yes(fmt.Sprint("session-", n.Add(1)), "user-1")), nil
		}))
		defer b.done()
		requests := []sessionapi.Request{
			{JWT: credential}, {Token: credential}, // of equal text
			{Token: credential + "x"}, {Token: "t\x00" + credential}, {JWT: "jwt\x00" + credential},
		}
		for range 2 { // under way first, then kept
			seen := make(map[string]bool)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, r := range requests {
				wg.Go(func() {
					if e, err := b.ask(r); err != nil {
						t.Error(err)
					} else {
						mu.Lock()
						defer mu.Unlock()
						seen[e.Session.ID] = true
					}
				})
			}
			wg.Wait()
			if len(seen) != len(requests) {
				t.Errorf("%d sessions for %d credentials", len(seen), len(requests))
			}
			b.wantCalls(len(requests))
		}
	})
}

func TestOldestExchangeMakesRoom(t *testing.T) {
	b := newBench(t, always(200, yes("session-1", "user-1")), func(c *sessionapi.Config) { c.KeptExchanges = 2 })
	defer b.done()
	for _, c := range []struct {
		token string
		calls int
	}{{"a", 1}, {"b", 2}, {"a", 2}, {"c", 3}, {"b", 3}, {"c", 3}, {"a", 4}} {
		if _, err := b.ask(sessionapi.Request{Token: c.token}); err != nil {
			t.Fatal(err)
		}
		b.wantCalls(c.calls)
	}
	if kept := b.Status().Kept; kept != 2 {
		t.Errorf("%d kept, want 2", kept)
	}
}

func TestExpiredExchangesTakeNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(200, yes("session-1", "user-1")))
		defer b.done()
		for i := range 10 {
			b.ask(sessionapi.Request{Token: fmt.Sprint(i)})
		}
		time.Sleep(jwtLifetime)
		b.ask(jwtRequest)
		if kept := b.Status().Kept; kept != 1 {
			t.Errorf("%d kept, want 1", kept)
		}
	})
}

func TestNothingIsKeptWhereNoneMayBe(t *testing.T) {
	b := newBench(t, always(200, yes("session-1", "user-1")), func(c *sessionapi.Config) { c.KeptExchanges = 0 })
	defer b.done()
	b.ask(jwtRequest)
	b.ask(jwtRequest)
	b.wantCalls(2)
}

func TestOneCallTooManyIsShedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), func(c *sessionapi.Config) { c.MaxCalls = 2 })
		defer b.done()
		var wg sync.WaitGroup
		for _, jwt := range []string{"a", "b", "b"} { // the third joins: sharing is always allowed
			wg.Go(func() {
				if _, err := b.ask(sessionapi.Request{JWT: jwt}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		_, err := b.ask(sessionapi.Request{JWT: "c"})
		wantError(t, err, sessionapi.ErrUnavailable)
		if took := time.Since(start); took != 0 {
			t.Errorf("shed after %v", took)
		}
		if n := b.metric("calls_total", "shed"); n != 1 {
			t.Errorf("%v shed, want 1", n)
		}
		wg.Wait()
		if _, err := b.ask(sessionapi.Request{JWT: "c"}); err != nil {
			t.Errorf("shed though there is room again: %v", err)
		}
		b.wantCalls(3)
	})
}

func TestPanicInsideTheCallReachesNobody(t *testing.T) {
	for name, c := range map[string]struct {
		api   api
		shown string
	}{
		"in the verifier, with a credential in its text": {always(200, `{"session_jwt":"panic.s.u.."}`), "panic=string"},
		"in the transport": {func(*http.Request) (*http.Response, error) {
			var nobody *session.Session
			return respond(200, nobody.ID), nil
		}, "nil pointer"},
		"no panic, but the goroutine ends": {func(*http.Request) (*http.Response, error) {
			runtime.Goexit()
			return nil, nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
					time.Sleep(time.Second)
					return c.api(r)
				}))
				defer b.done()
				for range 2 {
					var wg sync.WaitGroup
					for range 10 {
						wg.Go(func() {
							_, err := b.ask(jwtRequest)
							wantError(t, err, sessionapi.ErrUnavailable)
						})
					}
					wg.Wait()
				}
				b.wantCalls(2)
				if n := b.metric("calls_total", "panic"); n != 2 {
					t.Errorf("%v panics counted, want 2", n)
				}
				stacks := strings.Count(b.log.String(), " stack=")
				if want := min(len(c.shown), 1); stacks != want { // the second comes too soon after the first
					t.Errorf("%d stacks logged, want %d", stacks, want)
				}
				if !strings.Contains(b.log.String(), c.shown) {
					t.Errorf("the log does not say %q:\n%s", c.shown, b.log)
				}
			})
		})
	}
}

func TestKeptExchangeWhoseKeyIsWithdrawnIsAskedForAgain(t *testing.T) {
	var withdrawn atomic.Bool
	b := newBench(t, always(200, yes("session-1", "user-1")), func(c *sessionapi.Config) {
		c.Verify = func(ctx context.Context, jwt string, now time.Time) (*session.Session, error) {
			if withdrawn.Load() {
				return nil, session.ErrUnknownKey
			}
			return verify(ctx, jwt, now)
		}
	})
	defer b.done()
	for range 2 {
		if _, err := b.ask(jwtRequest); err != nil {
			t.Fatal(err)
		}
	}
	b.wantCalls(1)
	withdrawn.Store(true)
	_, err := b.ask(jwtRequest)
	wantError(t, err, sessionapi.ErrUnavailable)
	b.wantCalls(2)
	if kept := b.Status().Kept; kept != 0 {
		t.Errorf("%d are kept", kept)
	}
}
