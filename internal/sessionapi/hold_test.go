package sessionapi_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/sessionapi"
)

// TestNobodyIsAskedAboutUntilTheAPISaidToComeBack is fault 19.
func TestNobodyIsAskedAboutUntilTheAPISaidToComeBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		api    api
		until  time.Duration
		others time.Duration // until others may be asked about
		retry  int           // second calls of the first, which is made at once
		counts string
	}{
		{"429", limited(429, "30"), 30 * time.Second, 10 * time.Second, 0, "rate_limited"},
		{"429 for a moment", limited(429, "5"), 5 * time.Second, 5 * time.Second, 0, "rate_limited"},
		{"429 that does not say when", always(429, ""), time.Second, time.Second, 0, "rate_limited"},
		{"429 for an hour", limited(429, "3600"), 300 * time.Second, 10 * time.Second, 0, "rate_limited"},
		{"429 until a time", limited(429, "Sat, 01 Jan 2000 00:00:07 GMT"), 7 * time.Second, 7 * time.Second, 0, "rate_limited"},
		{"503 that says when", limited(503, "30"), 30 * time.Second, 30 * time.Second, 0, "unavailable"},
		{"503 that does not", always(503, ""), 0, 0, 1, "unavailable"},
		{"500", limited(500, "30"), 0, 0, 0, "unavailable"},
		{"404", limited(404, "30"), 0, 0, 0, "unexpected"},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			b := newBench(t, c.api)
			defer b.done()
			begin := time.Now()
			b.ask(jwts("first ")(0))
			if n := b.metric("calls_total", c.counts); n != 1 {
				t.Errorf("%v counted as %s", n, c.counts)
			}
			made := 1 + c.retry
			b.wantCalls(made)
			if c.until == 0 {
				b.ask(jwts("second ")(0))
				if int(b.calls.Load()) == made {
					t.Error("held back")
				}
				return
			}
			s := b.Status()
			if held := s.HeldBackUntil.Sub(begin); held != c.others || !s.TokensHeldBackUntil.Equal(s.HeldBackUntil) {
				t.Errorf("all are held back for %v, want %v: %+v", held, c.others, s)
			}
			if alone := s.HeldBackUsers == 1; alone != (c.until > c.others) {
				t.Errorf("%d are held back for longer", s.HeldBackUsers)
			}
			for _, r := range []sessionapi.Request{jwts("first ")(0), jwts("second ")(0), tokenRequest} {
				_, err := b.ask(r)
				wantOnly(t, err, sessionapi.ErrUnavailable)
				wantError(t, err, sessionapi.ErrOutage)
				want := c.others
				if r == jwts("first ")(0) {
					want = c.until
				}
				if after, ok := errors.AsType[*sessionapi.RetryAfterError](err); !ok || after.After != want {
					t.Errorf("%v, want %v", err, want)
				}
				if errors.Is(err, sessionapi.ErrTokenShed) != (r.Token != "") {
					t.Errorf("%v: shed as a token", err)
				}
			}
			b.Ahead(t.Context(), agedRequest(time.Minute))
			b.Wait()
			b.wantCalls(made)
			if n := b.metric("calls_total", "held_back"); n != 3 {
				t.Errorf("%v counted", n)
			}
			time.Sleep(c.others - time.Nanosecond)
			b.ask(jwts("just before ")(0))
			b.wantCalls(made)
			time.Sleep(time.Nanosecond)
			b.ask(jwts("now ")(0))
			b.wantCalls(made + 1)
		}))
	}
}

// TestWhoseLimitItIs has the API limit one user, whatever sessions of his are asked about, or the project.
func TestWhoseLimitItIs(t *testing.T) {
	well := always(200, yes("session-1", "user-1"))
	limits := limited(429, "300")
	asks := func(b *bench, request sessionapi.Request) bool {
		before := b.calls.Load()
		b.ask(request)
		return b.calls.Load() > before
	}
	for _, c := range []struct {
		name  string
		then  func(b *bench, weather *fickle)
		after time.Duration // since the API's first 429
		whole bool          // the project is limited
	}{
		{"others are answered", func(b *bench, weather *fickle) {
			time.Sleep(10 * time.Second)
			weather.become(well)
			b.ask(jwts("other ")(0))
		}, 10 * time.Second, false},
		{"nobody has asked since", func(*bench, *fickle) { time.Sleep(10 * time.Second) }, 10 * time.Second, false},
		{"the first after it is limited as well", func(b *bench, _ *fickle) {
			time.Sleep(10 * time.Second)
			b.ask(jwts("other ")(0))
		}, 20 * time.Second, true},
		{"the first after it is answered, the second limited", func(b *bench, weather *fickle) {
			time.Sleep(10 * time.Second)
			weather.become(well)
			b.ask(jwts("other ")(0))
			weather.become(limits)
			b.ask(jwts("other ")(1))
		}, 20 * time.Second, false},
		{"the first after it comes when his own time is over", func(b *bench, _ *fickle) {
			time.Sleep(300 * time.Second)
			b.ask(jwts("other ")(0))
		}, 310 * time.Second, false},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			weather := newFickle(limits)
			b := newBench(t, weather)
			defer b.done()
			begin := time.Now()
			b.ask(of("user-1")(0))
			if asks(b, jwts("at once ")(0)) {
				t.Error("another is not held back")
			}
			c.then(b, weather)
			weather.become(well)
			time.Sleep(time.Until(begin.Add(c.after)))
			if asks(b, jwts("later ")(0)) == c.whole {
				t.Errorf("others are held back: %v", c.whole)
			}
			if left := 300*time.Second - time.Since(begin); left > 0 && asks(b, of("user-1")(1)) {
				t.Error("another session of the user who is limited is asked about")
			} else if time.Sleep(left); c.whole == asks(b, of("user-1")(1)) {
				t.Errorf("when his time is over, he is held back: %v", !c.whole)
			}
		}))
	}
}

// TestALimitThatSeveralMeetAtOnceIsTheProjects, but not one that several sessions of one user meet.
func TestALimitThatSeveralMeetAtOnceIsTheProjects(t *testing.T) {
	for name, c := range map[string]struct {
		request func(int) sessionapi.Request
		held    time.Duration
	}{
		"of several users": {jwts(""), 300 * time.Second},
		"of one user":      {of("user-1"), 10 * time.Second},
	} {
		t.Run(name, inABubble(func(t *testing.T) {
			b := newBench(t, slowly(time.Second, limited(429, "300")))
			defer b.done()
			b.together(5, c.request)
			b.wantCalls(5)
			if held := time.Until(b.Status().HeldBackUntil); held != c.held {
				t.Errorf("all are held back for %v, want %v", held, c.held)
			}
		}))
	}
}

// TestAnAnswerToACallFromBeforeTheHoldShowsNothing of whose limit it is.
func TestAnAnswerToACallFromBeforeTheHoldShowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(nil)
		b := newBench(t, weather, func(c *sessionapi.Config) { c.Timeout = time.Minute })
		defer b.done()
		for i, a := range []api{limited(429, "300"), always(200, yes("session-1", "user-1")), limited(429, "300")} {
			weather.become(slowly(time.Duration(1+i)*time.Second, a))
			go b.ask(jwts("")(i))
			synctest.Wait()
		}
		b.Wait()
		if held := time.Until(b.Status().HeldBackUntil); held != 300*time.Second {
			t.Errorf("all are held back for %v", held)
		}
	})
}

func TestWhatIsLeftOfTheWaitIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, limited(429, "10"))
		defer b.done()
		b.ask(jwtRequest)
		for _, want := range []time.Duration{10, 7, 4, 1, 0} {
			_, err := b.ask(jwtRequest)
			after, ok := errors.AsType[*sessionapi.RetryAfterError](err)
			if least := max(want, 1) * time.Second; !ok || want > 0 && after.After != least {
				t.Errorf("%v, want %v", err, least)
			}
			time.Sleep(3 * time.Second)
		}
	})
}

// TestTokensThatAreLimitedHoldBackTokensAlone: else a stranger who makes up tokens could keep everybody from a refresh.
func TestTokensThatAreLimitedHoldBackTokensAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(limited(429, "30"))
		b := newBench(t, weather)
		defer b.done()
		b.ask(tokenRequest)
		weather.become(always(200, yes("session-1", "user-1")))
		_, err := b.ask(sessionapi.Request{Token: "another"})
		wantError(t, err, sessionapi.ErrTokenShed)
		if s := b.Status(); !s.HeldBackUntil.IsZero() || time.Until(s.TokensHeldBackUntil) != 10*time.Second || s.HeldBackUsers != 1 {
			t.Errorf("%+v", s)
		}
		if _, err := b.ask(jwtRequest); err != nil {
			t.Errorf("a refresh: %v", err)
		}
		b.wantCalls(2)
	})
}

func TestACallThatHasFailedIsHeldBackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(slowly(time.Second, always(503, "")))
		b := newBench(t, weather)
		defer b.done()
		go b.ask(jwts("slow ")(0))
		synctest.Wait()
		weather.become(limited(429, "60"))
		b.ask(jwtRequest)
		b.Wait()
		b.wantCalls(2) // and none for the second time
	})
}

func TestALaterAndShorterWaitEndsNoLongerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(slowly(time.Second, limited(429, "2")))
		b := newBench(t, weather)
		defer b.done()
		go b.ask(jwts("slow ")(0))
		synctest.Wait()
		weather.become(limited(429, "60"))
		b.ask(jwtRequest)
		time.Sleep(10 * time.Second)
		b.ask(jwtRequest)
		b.wantCalls(2)
	})
}

func TestWhoWaitsInTheQueueIsHeldBackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, slowly(time.Second, limited(429, "30")), queue(1, 100))
		defer b.done()
		errs := b.together(50, jwts(""))
		b.wantCalls(1)
		if n := count(errs, sessionapi.ErrOutage); n != 50 {
			t.Errorf("%d are told of the wait", n)
		}
		if n := b.metric("calls_total", "held_back"); n != 49 {
			t.Errorf("%v counted", n)
		}
	})
}

// TestForgetGivesTheExchangesBack, but what the API said no to stays known.
func TestForgetGivesTheExchangesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(after(0))
		b := newBench(t, weather)
		defer b.done()
		b.together(50, jwts(""))
		if n := b.Status().Kept; n != 50 {
			t.Fatalf("%d are kept", n)
		}
		b.Forget()
		if n := b.Status().Kept; n != 0 {
			t.Errorf("%d are kept", n)
		}
		weather.become(always(404, `{"error_type":"session_not_found"}`))
		b.ask(sessionapi.Request{JWT: "gone", Session: asked})
		b.Forget()
		b.calls.Store(0)
		b.ask(sessionapi.Request{JWT: "gone", Session: asked})
		b.wantCalls(0)
		weather.become(after(0))
		for i := range 2 {
			if errs := b.together(3, jwts("again ")); count(errs, nil) != 3 {
				t.Error(fmt.Sprint(i, errs))
			}
		}
		b.wantCalls(3)
	})
}
