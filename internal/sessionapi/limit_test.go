package sessionapi_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/sessionapi"
)

// flood asks n different requests of a kind at once and returns how many were not shed, whatever the answer.
func (b *bench) flood(n int, request func(i int) sessionapi.Request) int {
	b.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	passed := 0
	for i := range n {
		wg.Go(func() {
			_, err := b.ask(request(i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, sessionapi.ErrOutage):
				b.t.Errorf("our own limit passes for an outage: %v", err)
			case !errors.Is(err, sessionapi.ErrUnavailable):
				passed++
			}
		})
	}
	wg.Wait()
	return passed
}

// jwts are each of another user, for all that is known.
func jwts(prefix string) func(int) sessionapi.Request {
	return func(i int) sessionapi.Request { return sessionapi.Request{JWT: fmt.Sprint(prefix, i)} }
}

func tokens(prefix string) func(int) sessionapi.Request {
	return func(i int) sessionapi.Request { return sessionapi.Request{Token: fmt.Sprint(prefix, i)} }
}

// beside are tokens that stand beside a JWT that was proved.
func beside(prefix string) func(int) sessionapi.Request {
	return func(i int) sessionapi.Request {
		return sessionapi.Request{Token: fmt.Sprint(prefix, i), Session: asked}
	}
}

func TestSoManyCallsBeginInASecond(t *testing.T) {
	for _, c := range []struct {
		name    string
		limit   int
		request func(prefix string) func(int) sessionapi.Request
		label   string
		// What passes of 40 at once, of 40 more, of 40 half a second later, of 40 five seconds later.
		want [4]int
	}{
		{"no limit", 0, tokens, "rate_shed", [4]int{40, 40, 40, 40}},
		{"JWTs", 10, jwts, "rate_shed", [4]int{10, 0, 5, 10}},
		{"tokens that nobody knows", 10, tokens, "token_shed", [4]int{5, 0, 2, 5}},
		{"tokens beside a proved JWT", 10, beside, "token_shed", [4]int{5, 0, 2, 5}},
		{"an odd limit", 5, tokens, "token_shed", [4]int{2, 0, 1, 2}},
		{"a limit that cannot be halved", 1, tokens, "token_shed", [4]int{1, 0, 0, 1}},
		{"one JWT in a second", 1, jwts, "rate_shed", [4]int{1, 0, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, always(404, `{"error_type":"session_not_found"}`), func(cfg *sessionapi.Config) { cfg.CallsPerSecond = c.limit })
				defer b.done()
				calls := 0
				for i, pause := range []time.Duration{0, 0, 500 * time.Millisecond, 5 * time.Second} {
					time.Sleep(pause)
					if n := b.flood(40, c.request(fmt.Sprint("round ", i, " "))); n != c.want[i] {
						t.Errorf("round %d: %d passed, want %d", i, n, c.want[i])
					}
					calls += c.want[i]
				}
				b.wantCalls(calls)
				if n := b.metric("calls_total", c.label); int(n) != 160-calls {
					t.Errorf("%v counted as %s, want %d", n, c.label, 160-calls)
				}
			})
		})
	}
}

func TestWhatCostsNoCallIsNeverShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, after(time.Second), func(cfg *sessionapi.Config) { cfg.CallsPerSecond = 1 })
		defer b.done()
		for _, of := range []string{"joined", "kept"} {
			if n := b.flood(40, func(int) sessionapi.Request { return jwtRequest }); n != 40 {
				t.Errorf("%s: %d passed", of, n)
			}
		}
		b.wantCalls(1)
	})
}

// TestTokensThatAnybodyCanMakeUpGetHalf counts who passes when everything is taken by calls under way.
func TestTokensThatAnybodyCanMakeUpGetHalf(t *testing.T) {
	known := func(b *bench, n int, kept time.Duration) {
		if got := b.flood(n, tokens("token ")); got != n {
			b.t.Fatalf("%d became known, want %d", got, n)
		}
		time.Sleep(kept)
	}
	for _, c := range []struct {
		name         string
		most, keep   int
		before       func(b *bench)
		request      func(i int) sessionapi.Request
		want, tokens int // how many pass, and how many are shed as tokens
	}{
		{"JWTs", 8, 100, nil, jwts(""), 8, 0},
		{"tokens", 8, 100, nil, tokens("token "), 4, 16},
		{"tokens beside a proved JWT", 8, 100, nil, beside("token "), 4, 16},
		{"an odd number", 5, 100, nil, tokens("token "), 2, 18},
		{"a number that cannot be halved", 1, 100, nil, tokens("token "), 1, 19},
		{"tokens that the API has just said yes to", 8, 100, func(b *bench) { known(b, 4, 0) }, func(i int) sessionapi.Request {
			return sessionapi.Request{Token: fmt.Sprint("token ", i%4), DurationMinutes: 5 + i/4}
		}, 8, 0},
		{"until the new JWT expires", 8, 100, func(b *bench) { known(b, 4, jwtLifetime-1) }, tokens("token "), 8, 12},
		{"and no longer", 8, 100, func(b *bench) { known(b, 4, jwtLifetime) }, tokens("token "), 4, 16},
		{"other tokens than those", 8, 100, func(b *bench) { known(b, 4, 0) }, tokens("another "), 4, 16},
		{"where nothing is kept", 8, 0, func(b *bench) { known(b, 4, 0) }, tokens("token "), 4, 16},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, after(time.Second), func(cfg *sessionapi.Config) { cfg.MaxCalls, cfg.KeptExchanges = c.most, c.keep })
				defer b.done()
				if c.before != nil {
					c.before(b)
				}
				anew := func(i int) sessionapi.Request {
					r := c.request(i)
					r.DurationMinutes += 100 // which no kept exchange answers
					return r
				}
				before := b.metric("calls_total", "token_shed")
				if n := b.flood(20, anew); n != c.want {
					t.Errorf("%d pass, want %d", n, c.want)
				}
				if n := int(b.metric("calls_total", "token_shed") - before); n != c.tokens {
					t.Errorf("%d are shed as tokens, want %d", n, c.tokens)
				}
				if n := b.flood(1, tokens("when there is room again ")); n != 1 {
					t.Error("still shed")
				}
			})
		})
	}
}

// TestMadeUpTokensNeverHoldUpARefresh has 10,000 tokens come while 400 JWTs are refreshed at a lower rate than half of the limits.
func TestMadeUpTokensNeverHoldUpARefresh(t *testing.T) {
	const most, perSecond = 64, 200
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		calls, underWay, worst := map[bool]int{}, map[bool]int{}, map[bool]int{} // by whether it is a token's
		b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
			text, err := io.ReadAll(r.Body)
			token := strings.Contains(string(text), "session_token")
			mu.Lock()
			calls[token]++
			underWay[token]++
			worst[token] = max(worst[token], underWay[token])
			mu.Unlock()
			time.Sleep(390 * time.Millisecond)
			mu.Lock()
			underWay[token]--
			mu.Unlock()
			if token {
				return respond(404, `{"error_type":"session_not_found"}`), err
			}
			return respond(200, yes("session-1", "user-1")), err
		}), func(cfg *sessionapi.Config) { cfg.MaxCalls, cfg.CallsPerSecond = most, perSecond })
		defer b.done()

		var wg sync.WaitGroup
		begin := time.Now()
		for i := range 10_000 { // 2,000 a second for 5 s
			wg.Go(func() { b.Authenticate(t.Context(), sessionapi.Request{Token: fmt.Sprint(i)}, 0) })
			if i%25 == 0 { // 80 a second, so that 32 are under way at most
				wg.Go(func() {
					if _, err := b.ask(jwts("")(i)); err != nil {
						t.Errorf("a refresh: %v", err)
					}
				})
			}
			time.Sleep(500 * time.Microsecond)
		}
		seconds := time.Since(begin).Seconds()
		wg.Wait()
		if calls[false] != 400 || worst[true] > most/2 || worst[true] < most/2-1 {
			t.Errorf("%d refreshes, at most %d tokens under way", calls[false], worst[true])
		}
		if n := calls[true]; float64(n) > perSecond/2*(seconds+1) || n < 200 {
			t.Errorf("%d calls for tokens in %v s", n, seconds)
		}
		for label, want := range map[string]int{"shed": 0, "rate_shed": 0, "token_shed": 10_000 - calls[true]} {
			if n := int(b.metric("calls_total", label)); n != want {
				t.Errorf("%d counted as %s, want %d", n, label, want)
			}
		}
	})
}

// TestAheadLeavesHalfOfASecondToThoseWhoWait is TestAheadLeavesHalfOfTheCallsToThoseWhoWait for the rate.
func TestAheadLeavesHalfOfASecondToThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(200, yes("session-1", "user-1")), func(cfg *sessionapi.Config) { cfg.CallsPerSecond = 10 })
		defer b.done()
		for i := range 10 {
			b.Ahead(t.Context(), jwts("ahead ")(i))
			b.Wait()
		}
		b.wantAhead(map[string]int{"started": 6, "shed": 4})
		if n := b.flood(10, jwts("")); n != 4 {
			t.Errorf("%d of those who wait passed", n)
		}
		time.Sleep(time.Second)
		b.Ahead(t.Context(), jwts("later ")(0))
		b.Wait()
		b.wantAhead(map[string]int{"started": 7, "shed": 4})
	})
}
