package sessionapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

func queue(most, queued int) func(*sessionapi.Config) {
	return func(c *sessionapi.Config) { c.MaxCalls, c.MaxQueued = most, queued }
}

// inTurn asks n requests, one after the other but all at the same moment, and returns the errors and when each came.
func (b *bench) inTurn(n int, request func(i int) sessionapi.Request) ([]error, []time.Duration) {
	b.t.Helper()
	errs, took := make([]error, n), make([]time.Duration, n)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, errs[i] = b.ask(request(i))
			took[i] = time.Since(begin)
		})
		synctest.Wait()
	}
	wg.Wait()
	return errs, took
}

func TestCallsWaitInTheOrderOfTheirComing(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name    string
		queued  int
		request func(string) func(int) sessionapi.Request
		want    [5]time.Duration // when each is answered
		served  int
		label   string
	}{
		{"a queue of none", 0, jwts, [5]time.Duration{600 * ms}, 1, "shed"},
		{"a queue of two", 2, jwts, [5]time.Duration{600 * ms, 1200 * ms, 1800 * ms}, 3, "shed"},
		{"no longer than a call may take", 4, jwts, [5]time.Duration{600 * ms, 1200 * ms, 1800 * ms, 2400 * ms, timeout}, 4, "shed"},
		{"tokens that may be made up", 4, tokens, [5]time.Duration{600 * ms}, 1, "token_shed"},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			b := newBench(t, after(600*ms), queue(1, c.queued))
			defer b.done()
			errs, took := b.inTurn(5, c.request(""))
			for i, err := range errs {
				if (err == nil) != (i < c.served) || took[i] != c.want[i] {
					t.Errorf("%d: %v after %v, want %v", i, err, took[i], c.want[i])
				}
				if err != nil {
					wantOnly(t, err, sessionapi.ErrUnavailable)
				}
			}
			if count(errs, sessionapi.ErrOutage) != 0 {
				t.Errorf("our own limit passes for an outage: %v", errs)
			}
			b.wantCalls(c.served)
			if n := b.metric("calls_total", c.label); int(n) != 5-c.served {
				t.Errorf("%v counted as %s", n, c.label)
			}
			if n := b.flood(1, jwts("later ")); n != 1 {
				t.Error("shed when there is room again")
			}
		}))
	}
}

func TestACallThatHasWaitedHasAllItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(1900*time.Millisecond), queue(1, 1))
		defer b.done()
		errs, took := b.inTurn(2, jwts(""))
		if count(errs, nil) != 2 || took[1] != 3800*time.Millisecond {
			t.Errorf("%v after %v", errs, took)
		}
	})
}

func TestGaugesShowWhoWaitsForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), queue(2, 5))
		for i := range 5 {
			go b.ask(jwts("")(i))
		}
		synctest.Wait()
		if s := b.Status(); s.InFlight != 2 || s.Queued != 3 || b.metric("calls_in_flight") != 2 || b.metric("calls_queued") != 3 {
			t.Errorf("%+v", s)
		}
		b.done()
		if s := b.Status(); s.InFlight != 0 || s.Queued != 0 || b.metric("calls_in_flight") != 0 || b.metric("calls_queued") != 0 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

func TestEqualRequestsShareAPlaceInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), queue(1, 1))
		defer b.done()
		go b.ask(jwts("first ")(0))
		synctest.Wait()
		if errs := b.together(100, func(int) sessionapi.Request { return jwtRequest }); count(errs, nil) != 100 {
			t.Errorf("%v", errs)
		}
		b.wantCalls(2)
	})
}

// TestWhoLeavesTheQueueTakesNothingAlong, and is not told of an outage: it is our own limit that it met. Its twin is told.
func TestWhoLeavesTheQueueTakesNothingAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), queue(1, 1))
		defer b.done()
		ctx, leave := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer leave()
		go func() {
			_, err := b.askWithin(ctx, jwts("first ")(0), session.NoMaxAge)
			wantError(t, err, sessionapi.ErrOutage)
		}()
		synctest.Wait()
		_, err := b.askWithin(ctx, jwtRequest, session.NoMaxAge)
		wantError(t, err, context.DeadlineExceeded)
		wantOnly(t, err, sessionapi.ErrUnavailable)
		if errors.Is(err, sessionapi.ErrOutage) {
			t.Errorf("our own limit passes for an outage: %v", err)
		}
		b.Wait()
		if _, err := b.ask(jwtRequest); err != nil {
			t.Error(err)
		}
		b.wantCalls(2)
	})
}

func TestAQueueThatTheAPIHasLeftWaitingIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Hour), queue(5, 100))
		defer b.done()
		time.AfterFunc(time.Second, func() { b.together(100, jwts("queued ")) }) // to be there when the five have timed out
		errs := b.together(5, jwts("hanging "))
		if n := count(errs, sessionapi.ErrOutage); n != 5 {
			t.Errorf("%v", errs)
		}
		synctest.Wait()
		made := int(b.calls.Load()) // the first four to end gave their turn away before it was known that five have failed
		if made < 5 || made > 9 {
			t.Errorf("%d calls", made)
		}
		if n := int(b.metric("calls_total", "breaker_open")); n != 105-made {
			t.Errorf("%d of those who waited are told that the API fails", n)
		}
		if s := b.Status(); s.Queued != 0 || s.InFlight != made-5 {
			t.Errorf("%+v", s)
		}
	})
}

// TestTenThousandExpiredTokensAreQueuedAndShed is fault 25: whatever comes, so many calls are under way, so many wait, and the rest is told so at once.
func TestTenThousandExpiredTokensAreQueuedAndShed(t *testing.T) {
	const all, most, queued = 10_000, 64, 128
	synctest.Test(t, func(t *testing.T) {
		var underWay, worst atomic.Int32
		b := newBench(t, api(func(*http.Request) (*http.Response, error) {
			if n := underWay.Add(1); n > worst.Load() {
				worst.Store(n)
			}
			time.Sleep(300 * time.Millisecond)
			underWay.Add(-1)
			return respond(200, yes("session-1", "user-1")), nil
		}), queue(most, queued))
		defer b.done()
		var atOnce, served atomic.Int32
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				begin := time.Now()
				_, err := b.Authenticate(t.Context(), jwts("")(i), 0)
				switch took := time.Since(begin); {
				case err == nil && took <= 900*time.Millisecond:
					served.Add(1)
				case err != nil && took == 0:
					atOnce.Add(1)
				default:
					t.Errorf("%v after %v", err, took)
				}
			})
		}
		synctest.Wait()
		if s := b.Status(); s.InFlight != most || s.Queued != queued {
			t.Errorf("%+v", s)
		}
		wg.Wait()
		if s, a, w := served.Load(), atOnce.Load(), worst.Load(); s != most+queued || a != all-most-queued || w != most {
			t.Errorf("%d served, %d told at once, %d calls at the worst", s, a, w)
		}
	})
}

// TestMadeUpTokensDoNotWait: one that comes when all calls are JWTs' is told so at once, so that the JWT beside it may wait instead.
func TestMadeUpTokensDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), queue(4, 10))
		defer b.done()
		for i := range 4 {
			go b.ask(jwts("")(i))
		}
		synctest.Wait()
		begin := time.Now()
		_, err := b.ask(tokenRequest)
		wantError(t, err, sessionapi.ErrTokenShed)
		wantOnly(t, err, sessionapi.ErrUnavailable)
		if took := time.Since(begin); took != 0 {
			t.Errorf("after %v", took)
		}
		if _, err := b.ask(jwtRequest); err != nil {
			t.Errorf("a JWT: %v", err)
		}
	})
}

// TestMadeUpTokensNeverStandInTheQueue has them take all that they can get, while a JWT comes.
func TestMadeUpTokensNeverStandInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), queue(4, 2))
		defer b.done()
		for i := range 2 {
			go b.ask(jwts("refresh ")(i))
		}
		for i := range 100 {
			go b.Authenticate(t.Context(), sessionapi.Request{Token: fmt.Sprint(i)}, 0)
		}
		synctest.Wait()
		if s := b.Status(); s.InFlight != 4 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
		if n := b.flood(2, jwts("more ")); n != 2 {
			t.Errorf("%d of 2 are served", n)
		}
	})
}
