package sessionapi_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// aged is the session of the tests' JWTs as one that old proved it. The request trades such a JWT.
func aged(age time.Duration) *session.Session {
	s := *asked
	s.IssuedAt = time.Now().Add(-age)
	s.Expires = s.IssuedAt.Add(jwtLifetime)
	return &s
}

func agedRequest(age time.Duration) sessionapi.Request {
	return sessionapi.Request{JWT: credential, Session: aged(age)}
}

// timed answers as after does, but with JWTs that verify dates to when they were made, as real ones are.
func timed(d time.Duration) (api, func(*sessionapi.Config)) {
	return func(r *http.Request) (*http.Response, error) {
			time.Sleep(d)
			return respond(200, yes("session-1", fmt.Sprint("user-1,", time.Now().UnixNano()))), nil
		}, func(c *sessionapi.Config) {
			c.Verify = func(ctx context.Context, jwt string, now time.Time) (*session.Session, error) {
				s, err := verify(ctx, jwt, now)
				if err != nil {
					return nil, err
				}
				var nanos int64
				fmt.Sscanf(s.Subject, "user-1,%d", &nanos)
				s.Subject, s.IssuedAt = "user-1", time.Unix(0, nanos)
				s.Expires = s.IssuedAt.Add(jwtLifetime)
				return s, nil
			}
		}
}

func (b *bench) wantAhead(want map[string]int) {
	b.t.Helper()
	for _, result := range []string{"started", "handed_over", "under_way", "paused", "shed"} {
		if n := int(b.metric("ahead_total", result)); n != want[result] {
			b.t.Errorf("%d counted as %s, want %d", n, result, want[result])
		}
	}
}

func TestAheadTradesInTheBackgroundAndHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport, dated := timed(time.Second)
		b := newBench(t, transport, dated)
		defer b.done()
		old := agedRequest(4 * time.Minute)
		caller, leave := context.WithCancel(t.Context())
		begin := time.Now()
		if e := b.Ahead(caller, old); e != nil {
			t.Errorf("got %v before anything was asked", e)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the caller waited %v", took)
		}
		leave()
		synctest.Wait()
		for range 3 {
			if e := b.Ahead(t.Context(), old); e != nil {
				t.Errorf("got %v while the call is under way", e)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		e := b.Ahead(t.Context(), old)
		if e == nil || !e.Session.IssuedAt.After(old.Session.IssuedAt) || e.JWT == "" {
			t.Fatalf("got %+v, want the new exchange", e)
		}
		if again, err := b.ask(old); again != e || err != nil {
			t.Errorf("Authenticate does not know it: %v, %v", again, err)
		}
		b.wantCalls(1)
		b.wantAhead(map[string]int{"started": 1, "under_way": 3, "handed_over": 1})
	})
}

func TestAheadHandsOverNothingThatIsNotYounger(t *testing.T) {
	for _, c := range []struct {
		name    string
		request func() sessionapi.Request // once the kept exchange is age old
		age     time.Duration
		want    bool
	}{
		{"younger than the JWT by a second", func() sessionapi.Request { return agedRequest(2 * time.Minute) }, 2*time.Minute - time.Second, true},
		{"as old as the JWT", func() sessionapi.Request { return agedRequest(2 * time.Minute) }, 2 * time.Minute, false},
		{"older than the JWT", func() sessionapi.Request { return agedRequest(time.Minute) }, 2 * time.Minute, false},
		{"expired", func() sessionapi.Request { return agedRequest(time.Hour) }, jwtLifetime, false},
		{"of a token, younger than the JWT beside it", func() sessionapi.Request {
			return sessionapi.Request{Token: credential, Session: aged(4 * time.Minute)}
		}, 3 * time.Minute, true},
		{"of a token, as old as the JWT beside it", func() sessionapi.Request {
			return sessionapi.Request{Token: credential, Session: aged(3 * time.Minute)}
		}, 3 * time.Minute, false},
		{"of a token, another session than the JWT's beside it", func() sessionapi.Request {
			s := aged(4 * time.Minute)
			s.ID = "session-2"
			return sessionapi.Request{Token: credential, Session: s}
		}, 3 * time.Minute, false},
		{"of a token alone, in the first half of its life", func() sessionapi.Request { return tokenRequest }, jwtLifetime/2 - 1, true},
		{"of a token alone, in the second half of its life", func() sessionapi.Request { return tokenRequest }, jwtLifetime / 2, false},
		{"of another extension", func() sessionapi.Request {
			r := agedRequest(4 * time.Minute)
			r.DurationMinutes = 5
			return r
		}, time.Second, false},
		{"of another permission", func() sessionapi.Request {
			r := agedRequest(4 * time.Minute)
			r.Check = reading
			return r
		}, time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport, dated := timed(0)
				b := newBench(t, transport, dated)
				defer b.done()
				for _, r := range []sessionapi.Request{jwtRequest, tokenRequest} {
					if _, err := b.ask(r); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(c.age)
				got := b.Ahead(t.Context(), c.request())
				if (got != nil) != c.want {
					t.Errorf("got %+v, want one: %v", got, c.want)
				}
				b.Wait()
				calls := 3
				if c.want {
					calls = 2
				}
				b.wantCalls(calls)
			})
		})
	}
}

func TestAheadProvesWhatItHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		r := agedRequest(time.Minute)
		b.Ahead(t.Context(), r)
		b.Wait()
		if b.Ahead(t.Context(), r) == nil {
			t.Fatal("nothing is handed over")
		}
		withdrawn.Store(true)
		if e := b.Ahead(t.Context(), r); e != nil {
			t.Errorf("got %+v under a key that is withdrawn", e)
		}
		b.Wait()
		b.wantCalls(2)
	})
}

// TestTokenOfAnotherSessionIsNoMismatchAhead: the client put the two side by side, so nobody is to be alarmed.
func TestTokenOfAnotherSessionIsNoMismatchAhead(t *testing.T) {
	b := newBench(t, always(200, yes("session-2", "user-2")))
	defer b.done()
	b.Ahead(t.Context(), sessionapi.Request{Token: credential, Session: aged(time.Minute)})
	b.Wait()
	if n := b.metric("calls_total", "ok"); n != 1 {
		t.Errorf("%v calls were ok, want 1: %s", n, b.log)
	}
}

func TestAheadLeavesACredentialAloneAfterACallThatBroughtNothing(t *testing.T) {
	const pause = 10 * time.Second
	for name, c := range map[string]struct {
		status int
		body   string
	}{
		"could not ask":         {500, "{}"},
		"the session is gone":   {404, `{"error_type":"session_not_found"}`},
		"forbidden":             {403, `{"error_type":"organization_suspended"}`},
		"another session":       {200, yes("session-2", "user-1")},
		"no younger JWT":        {200, `{"session_jwt":"past.session-1.user-1..` + projectID + `"}`},
		"it panics":             {200, `{"session_jwt":"panic.session-1.user-1.."}`},
		"the answer is no JSON": {200, "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, api(func(*http.Request) (*http.Response, error) {
					time.Sleep(time.Second)
					return respond(c.status, c.body), nil
				}))
				defer b.done()
				r := agedRequest(0) // whose iat "past" is behind
				for range 3 {
					b.Ahead(t.Context(), r)
					b.Wait()
				}
				extended := r
				extended.DurationMinutes = 5
				b.Ahead(t.Context(), extended)
				b.wantCalls(1)
				b.Ahead(t.Context(), sessionapi.Request{JWT: "another", Session: r.Session})
				b.Wait()
				b.wantCalls(2)

				time.Sleep(pause - time.Second - 1) // the other call took a second
				b.Ahead(t.Context(), r)
				b.Wait()
				b.wantCalls(2)
				time.Sleep(time.Nanosecond)
				b.Ahead(t.Context(), r)
				b.Wait()
				b.wantCalls(3)
				b.wantAhead(map[string]int{"started": 3, "paused": 4})
				calls := 4 // somebody waits: that is never put off
				if c.status == 404 {
					calls = 3 // but for a no, which stands
				}
				b.askWithin(t.Context(), r, 0)
				b.wantCalls(calls)
			})
		})
	}
}

func TestAheadLeavesHalfOfTheCallsToThoseWhoWait(t *testing.T) {
	for most, ahead := range map[int]int{1: 0, 2: 1, 3: 1, 8: 4} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, after(time.Second), func(c *sessionapi.Config) { c.MaxCalls = most })
				defer b.done()
				request := func(i int) sessionapi.Request {
					return sessionapi.Request{JWT: fmt.Sprint(i), Session: aged(time.Minute)}
				}
				for i := range most {
					b.Ahead(t.Context(), request(i))
				}
				synctest.Wait()
				b.wantCalls(ahead)
				b.wantAhead(map[string]int{"started": ahead, "shed": most - ahead})
				for i := range most - ahead { // what is left is for them
					go b.ask(sessionapi.Request{JWT: fmt.Sprint("waited for", i)})
				}
				synctest.Wait()
				b.wantCalls(most)
				if n := b.metric("calls_total", "shed"); n != 0 {
					t.Errorf("%v of those who wait were shed", n)
				}
				b.Wait()
				synctest.Wait()

				for i := range ahead { // the calls of those who wait count too
					go b.ask(sessionapi.Request{JWT: fmt.Sprint("more", i)})
				}
				synctest.Wait()
				calls := int(b.calls.Load())
				b.Ahead(t.Context(), request(most))
				b.wantCalls(calls)
			})
		})
	}
}

func TestAuthenticateJoinsWhatAheadBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second))
		defer b.done()
		b.Ahead(t.Context(), jwtRequest)
		if _, err := b.askWithin(t.Context(), jwtRequest, 0); err != nil {
			t.Error(err)
		}
		b.wantCalls(1)
	})
}

func TestAheadIsNotPutOffByACallOfSomebodyElse(t *testing.T) {
	b := newBench(t, always(500, ""))
	defer b.done()
	r := agedRequest(time.Minute)
	b.ask(r)
	b.Ahead(t.Context(), r)
	b.Wait()
	b.wantCalls(2)
}

func TestAheadDoesNothingWhereNothingIsKept(t *testing.T) {
	b := newBench(t, always(200, yes("session-1", "user-1")), func(c *sessionapi.Config) { c.KeptExchanges = 0 })
	defer b.done()
	b.Ahead(t.Context(), agedRequest(time.Minute))
	b.Wait()
	b.wantCalls(0)
}

func TestAheadStartsNothingForACallerThatHasLeft(t *testing.T) {
	b := newBench(t, always(200, yes("session-1", "user-1")))
	defer b.done()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Ahead(ctx, agedRequest(time.Minute))
	b.Wait()
	b.wantCalls(0)
}

// TestAheadRemembersSoManyFailuresAndNoMore has the oldest give way when no more fit.
func TestAheadRemembersSoManyFailuresAndNoMore(t *testing.T) {
	const most = 10_000
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(400, "")) // which is an answer, so that calls go on
		request := func(i int) sessionapi.Request {
			return sessionapi.Request{JWT: fmt.Sprint(i), Session: asked}
		}
		for i := range most + 1 {
			b.Ahead(t.Context(), request(i))
			b.Wait()
		}
		b.Ahead(t.Context(), request(1))
		b.wantCalls(most + 1)
		b.Ahead(t.Context(), request(0))
		b.Wait()
		b.wantCalls(most + 2)
	})
}
