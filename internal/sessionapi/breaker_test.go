package sessionapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// How long a breaker stays open, at least and at most.
const minOpen, maxOpen = 5 * time.Second, 6 * time.Second

// fickle is a session API that can be told to answer otherwise.
type fickle struct{ now atomic.Pointer[api] }

func (f *fickle) RoundTrip(r *http.Request) (*http.Response, error) { return (*f.now.Load())(r) }

func (f *fickle) become(a api) { f.now.Store(&a) }

func newFickle(a api) *fickle {
	f := new(fickle)
	f.become(a)
	return f
}

// refuse is a port that nobody listens on.
func refuse(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

// together asks n different requests at once, and returns their errors.
func (b *bench) together(n int, request func(i int) sessionapi.Request) []error {
	b.t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _, errs[i] = b.ask(request(i)) })
	}
	wg.Wait()
	return errs
}

// count says how many of the errors are one.
func count(errs []error, one error) (n int) {
	for _, err := range errs {
		if errors.Is(err, one) {
			n++
		}
	}
	return n
}

func TestWhatOpensTheBreaker(t *testing.T) {
	slow := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	for _, c := range []struct {
		name  string
		api   api
		opens bool
	}{
		{"nobody listens", refuse, true},
		{"connections end", func(*http.Request) (*http.Response, error) { return nil, io.EOF }, true},
		{"no answer in time", slow, true},
		{"500", always(500, `{"error_type":"internal_server_error"}`), true},
		{"502", always(502, "<html>"), true},
		{"a redirect", always(302, ""), true},
		{"garbage", always(200, "<html>"), true},
		{"an answer without a JWT", always(200, `{"status_code":200}`), true},
		{"a body without end", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(endless{})}, nil
		}, true},
		{"a body that breaks off", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(broken{})}, nil
		}, true},
		{"a panic", func(*http.Request) (*http.Response, error) { panic("x") }, true},
		{"the goroutine ends", func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil }, true},

		{"yes", always(200, yes("session-1", "user-1")), false},
		{"no such session", always(404, `{"error_type":"session_not_found"}`), false},
		{"a refused credential", always(400, `{"error_type":"invalid_session_token"}`), false},
		{"forbidden", always(403, `{"error_type":"organization_suspended"}`), false},
		{"our own secret", always(401, `{"error_type":"unauthorized_credentials"}`), false},
		{"a 4xx that nobody knows", always(418, ""), false},
		{"another project's session", always(200, `{"session_jwt":"good.session-1.user-1..project-test-2"}`), false},
		{"a JWT that our keys cannot prove", always(200, `{"session_jwt":"unknown.session-1.user-1.."}`), false},
		{"too many requests", slowly(time.Millisecond, always(429, "")), false},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			b := newBench(t, c.api)
			defer b.done()
			b.together(20, jwts("before "))
			time.Sleep(2 * time.Second) // in which a 429 is over
			calls, counted := int(b.calls.Load()), b.metric("calls_total", "breaker_open")
			err := b.together(1, jwts("after "))[0]
			if made := int(b.calls.Load()) > calls; made == c.opens {
				t.Errorf("a further call was made: %v", made)
			}
			want := map[bool]string{true: "open", false: "closed"}[c.opens]
			if s := b.Status(); s.Breaker != want || s.TokenBreaker != "closed" {
				t.Errorf("%q, tokens %q", s.Breaker, s.TokenBreaker)
			}
			if !c.opens {
				return
			}
			wantOnly(t, err, sessionapi.ErrUnavailable)
			wantError(t, err, sessionapi.ErrOutage)
			if n := b.metric("calls_total", "breaker_open") - counted; n != 1 {
				t.Errorf("%v counted", n)
			}
		}))
	}
}

func TestTheBreakerNeedsFiveFailuresAndHalfOfAllInTenSeconds(t *testing.T) {
	for _, c := range []struct {
		name             string
		good, bad, later int
		pause            time.Duration
		opens            bool
	}{
		{"four", 0, 4, 0, 0, false},
		{"five", 0, 5, 0, 0, true},
		{"five of ten", 5, 5, 0, 0, true},
		{"five of eleven", 6, 5, 0, 0, false},
		{"four, and one 9 s later", 0, 4, 1, 9 * time.Second, true},
		{"four, and one 10 s later", 0, 4, 1, 10 * time.Second, false},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			weather := newFickle(always(200, yes("session-1", "user-1")))
			b := newBench(t, weather)
			defer b.done()
			b.together(c.good, jwts("good "))
			weather.become(always(500, ""))
			b.together(c.bad, jwts("bad "))
			time.Sleep(c.pause)
			b.together(c.later, jwts("later "))
			if got := b.Status().Breaker; (got == "open") != c.opens {
				t.Errorf("it is %s", got)
			}
		}))
	}
}

func TestAnOpenBreakerAnswersAtOnceAndSaysWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(500, ""))
		defer b.done()
		b.together(5, jwts("bad "))
		opened := time.Now()
		for range 4 {
			_, err := b.ask(jwtRequest)
			if limited, ok := errors.AsType[*sessionapi.RetryAfterError](err); !ok {
				t.Errorf("%v does not say when", err)
			} else if at := time.Since(opened) + limited.After; at < minOpen || at > maxOpen {
				t.Errorf("told to come back %v after it opened", at)
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(opened); took != 4*time.Second {
			t.Errorf("4 requests took %v", took-4*time.Second)
		}
		b.wantCalls(5)
	})
}

// TestHalfOpenThereIsOneProbe is fault 28: of a hundred requests that come when the time is over, one is asked about.
func TestHalfOpenThereIsOneProbe(t *testing.T) {
	for _, c := range []struct {
		name  string
		probe api
		state string
	}{
		{"which is answered", after(time.Second), "closed"},
		{"which is answered with a no", func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(404, `{"error_type":"session_not_found"}`), nil
		}, "closed"},
		{"which fails", func(*http.Request) (*http.Response, error) { time.Sleep(time.Second); return respond(503, ""), nil }, "open"},
		{"which breaks", func(*http.Request) (*http.Response, error) { time.Sleep(time.Second); return nil, io.EOF }, "open"},
		{"which hangs", after(time.Hour), "open"},
		{"which panics", func(*http.Request) (*http.Response, error) { time.Sleep(time.Second); panic("x") }, "open"},
		{"whose goroutine ends", func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			runtime.Goexit()
			return nil, nil
		}, "open"},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			weather := newFickle(always(500, ""))
			b := newBench(t, weather)
			defer b.done()
			b.together(5, jwts("bad "))
			time.Sleep(maxOpen)
			weather.become(c.probe)
			b.calls.Store(0)
			errs := b.together(100, jwts("round 1 "))
			b.wantCalls(1)
			if n := count(errs, sessionapi.ErrOutage); n < 99 {
				t.Errorf("%d of the others were not told of an outage", 99-n)
			}
			if got := b.Status().Breaker; got != c.state {
				t.Errorf("it is %s, want %s", got, c.state)
			}
			weather.become(always(200, yes("session-1", "user-1")))
			if c.state == "open" {
				b.together(10, jwts("too early "))
				b.wantCalls(1)
				time.Sleep(maxOpen)
				b.together(1, jwts("the next probe ")) // which is not kept away by the last one
			}
			if n := count(b.together(10, jwts("round 2 ")), sessionapi.ErrUnavailable); n != 0 || b.Status().Breaker != "closed" {
				t.Errorf("%d fail when all is well: %+v", n, b.Status())
			}
		}))
	}
}

// TestWhatComesDuringTheProbeTakesNothing from the rate that is for those who come after it.
func TestWhatComesDuringTheProbeTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather, func(c *sessionapi.Config) { c.CallsPerSecond = 100 })
		defer b.done()
		b.together(5, jwts("bad "))
		time.Sleep(maxOpen)
		weather.become(after(10 * time.Millisecond))
		go b.ask(jwts("the probe ")(0))
		synctest.Wait()
		b.together(1000, jwts("during "))
		b.Wait()
		if n := count(b.together(99, jwts("after ")), nil); n != 99 {
			t.Errorf("%d pass", n)
		}
	})
}

func TestAProbeWhoseCallerLeavesGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		b.together(5, jwts("bad "))
		time.Sleep(maxOpen)
		weather.become(after(time.Second))
		ctx, leave := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer leave()
		_, err := b.askWithin(ctx, jwtRequest, session.NoMaxAge)
		wantError(t, err, context.DeadlineExceeded)
		if got := b.Status().Breaker; got != "half_open" {
			t.Errorf("it is %s", got)
		}
		b.Wait()
		if got := b.Status().Breaker; got != "closed" {
			t.Errorf("afterwards it is %s", got)
		}
	})
}

// TestTokensThatFailStopTokensAlone has a stranger make up tokens that the API fails on.
func TestTokensThatFailStopTokensAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
			text, err := io.ReadAll(r.Body)
			if strings.Contains(string(text), "poison") {
				return respond(500, ""), err
			}
			return respond(200, yes("session-1", "user-1")), err
		}))
		defer b.done()
		if _, err := b.ask(tokenRequest); err != nil {
			t.Fatal(err)
		}
		b.together(5, tokens("poison "))
		_, err := b.ask(sessionapi.Request{Token: "another"})
		wantOnly(t, err, sessionapi.ErrUnavailable)
		wantError(t, err, sessionapi.ErrTokenShed)
		if errs := b.together(10, jwts("good ")); count(errs, nil) != 10 {
			t.Errorf("JWTs: %v", errs)
		}
		if _, err := b.ask(sessionapi.Request{Token: credential, DurationMinutes: 5}); err != nil {
			t.Errorf("a token of who has just been let in: %v", err)
		}
		if s := b.Status(); s.Breaker != "closed" || s.TokenBreaker != "open" {
			t.Errorf("%+v", s)
		}
	})
}

// TestWhatBefallsMadeUpTokensIsAnOutageOnlyWhereOthersFailToo has a stranger bring about all that can befall tokens.
func TestWhatBefallsMadeUpTokensIsAnOutageOnlyWhereOthersFailToo(t *testing.T) {
	ill := func(with api) api {
		return func(r *http.Request) (*http.Response, error) {
			text, _ := io.ReadAll(r.Body)
			if strings.Contains(string(text), "poison") {
				return with(r)
			}
			return respond(200, yes("session-1", "user-1")), nil
		}
	}
	for _, c := range []struct {
		name    string
		api     api
		before  int // tokens of his, asked at once
		patient bool
		retry   bool // a RetryAfterError is there
	}{
		{"its call fails", always(500, ""), 0, true, false},
		{"its call is limited", limited(429, "30"), 0, true, true},
		{"its call is told to come back", limited(503, "30"), 0, true, true},
		{"its call has no answer in time", after(time.Hour), 0, true, false},
		{"its caller's time is over", after(time.Hour), 0, false, false},
		{"its breaker is open", always(500, ""), 5, true, true},
		{"it is held back", limited(503, "30"), 1, true, true},
		{"it is held back for another's limit", limited(429, "30"), 1, true, true},
	} {
		for _, failing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, others fail %v", c.name, failing), inABubble(func(t *testing.T) {
				weather := newFickle(ill(c.api))
				b := newBench(t, weather)
				defer b.done()
				if failing {
					weather.become(always(500, ""))
					b.together(1, jwts("bad "))
					weather.become(ill(c.api))
				}
				b.together(c.before, tokens("poison "))
				ctx, leave := context.WithTimeout(t.Context(), map[bool]time.Duration{true: time.Minute, false: time.Second}[c.patient])
				defer leave()
				_, err := b.askWithin(ctx, sessionapi.Request{Token: "the poison"}, 0)
				wantOnly(t, err, sessionapi.ErrUnavailable)
				if errors.Is(err, sessionapi.ErrOutage) != failing {
					t.Errorf("%v: an outage is %v", err, !failing)
				}
				if _, is := errors.AsType[*sessionapi.RetryAfterError](err); is != c.retry {
					t.Errorf("%v: says when to come back: %v", err, is)
				}
				if !c.patient {
					wantError(t, err, context.DeadlineExceeded)
				}
				b.Wait()
				if errs := b.together(1, jwts("well ")); errs[0] != nil { // and that ends an outage
					t.Error(errs)
				}
				if _, err := b.ask(sessionapi.Request{Token: "a further poison"}); errors.Is(err, sessionapi.ErrOutage) {
					t.Errorf("%v: an outage, when others are answered", err)
				}
			}))
		}
	}
}

// TestATokenThatWasLetInMakesAnOutage, since nobody can make that up, but not one that was made up.
func TestATokenThatWasLetInMakesAnOutage(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint(known), inABubble(func(t *testing.T) {
			weather := newFickle(always(200, yes("session-1", "user-1")))
			b := newBench(t, weather)
			defer b.done()
			if known {
				b.ask(tokenRequest)
			}
			weather.become(always(500, ""))
			b.askWithin(t.Context(), tokenRequest, 0)
			if _, err := b.ask(sessionapi.Request{Token: "another"}); errors.Is(err, sessionapi.ErrOutage) != known {
				t.Errorf("%v: an outage is %v", err, !known)
			}
		}))
	}
}

// of are JWTs of one user, each of another session.
func of(user string) func(int) sessionapi.Request {
	return func(i int) sessionapi.Request {
		id := fmt.Sprint(user, " ", i)
		return sessionapi.Request{JWT: id, Session: &session.Session{ProjectID: projectID, Product: session.Consumer, ID: id, Subject: user}}
	}
}

// TestNobodyOpensTheBreakerForOthers has the API fail on one user, whatever he sends, and on three others. A fourth makes it five.
func TestNobodyOpensTheBreakerForOthers(t *testing.T) {
	for _, others := range []int{3, 4} {
		t.Run(fmt.Sprint(others), inABubble(func(t *testing.T) {
			b := newBench(t, always(500, ""))
			defer b.done()
			for i := range 30 {
				b.ask(of("user-1")(0))
				b.ask(of("user-1")(i))
				for other := range others {
					b.ask(of(fmt.Sprint("user-", 2+other))(i))
				}
				time.Sleep(time.Second)
			}
			want := map[int]int{3: 0, 4: 1}[others]
			if opened := b.changes("known")["open"]; min(opened, 1) != want {
				t.Errorf("it opened %d times", opened)
			}
		}))
	}
}

func TestNobodyOpensTheBreakerByATokenThatWasLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(200, yes("session-1", "user-1")))
		b := newBench(t, weather)
		defer b.done()
		b.together(10, tokens("let in "))
		weather.become(always(500, ""))
		for i := range 10 {
			b.askWithin(t.Context(), tokens("let in ")(i), 0)
		}
		b.wantCalls(20)
		if got := b.Status().Breaker; got != "closed" {
			t.Errorf("it is %s", got)
		}
		b.together(4, jwts("of others "))
		if got := b.Status().Breaker; got != "open" {
			t.Errorf("with four others it is %s", got)
		}
	})
}

func TestWhoFailsAgainMakesNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		b.ask(of("user-1")(0))
		weather.become(always(200, yes("session-1", "user-1")))
		b.ask(jwtRequest)
		weather.become(always(500, ""))
		outage := func() bool {
			_, err := b.ask(sessionapi.Request{Token: "made up"})
			return errors.Is(err, sessionapi.ErrOutage)
		}
		if b.ask(of("user-1")(1)); outage() {
			t.Error("his second failure in 10 s makes an outage")
		}
		if b.ask(of("user-2")(0)); !outage() {
			t.Error("another's first failure makes none")
		}
	})
}

// TestAnOutageThatComesBackOpensTheBreakerAgain though the same users fail as before.
func TestAnOutageThatComesBackOpensTheBreakerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		b.together(5, jwts("bad "))
		time.Sleep(maxOpen)
		weather.become(always(200, yes("session-1", "user-1")))
		b.ask(jwtRequest)
		weather.become(always(500, ""))
		b.together(5, jwts("bad "))
		if n := b.changes("known")["open"]; n != 2 {
			t.Errorf("it opened %d times", n)
		}
	})
}

// TestTheProbeCountsWhoeverMadeIt has another call of his, from before, end in the meantime.
func TestTheProbeCountsWhoeverMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(slowly(maxOpen+time.Second, always(500, "")))
		b := newBench(t, weather, func(c *sessionapi.Config) { c.Timeout = time.Minute })
		defer b.done()
		go b.ask(of("user-1")(0))
		synctest.Wait()
		weather.become(always(500, ""))
		b.together(5, jwts("bad "))
		time.Sleep(maxOpen)
		weather.become(slowly(2*time.Second, always(500, "")))
		b.ask(of("user-1")(1))
		b.wantCalls(7)
		if got := b.Status().Breaker; got != "open" {
			t.Errorf("it is %s", got)
		}
		time.Sleep(maxOpen)
		weather.become(always(200, yes("session-1", "user-1")))
		if _, err := b.ask(jwtRequest); err != nil {
			t.Errorf("the next probe: %v", err)
		}
	})
}

// TestJWTsThatFailStopJWTs is the other way round.
func TestJWTsThatFailStopJWTs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, refuseThenNoSuch(t))
		defer b.done()
		b.together(5, jwts("bad "))
		_, err := b.ask(jwtRequest)
		wantError(t, err, sessionapi.ErrOutage)
		if errors.Is(err, sessionapi.ErrTokenShed) {
			t.Error("a JWT is shed as a token")
		}
		_, err = b.ask(tokenRequest)
		wantOnly(t, err, sessionapi.ErrSessionNotFound)
	})
}

// refuseThenNoSuch fails on JWTs and knows no token.
func refuseThenNoSuch(t *testing.T) api {
	return func(r *http.Request) (*http.Response, error) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(string(text), "session_jwt") {
			return respond(500, ""), nil
		}
		return respond(404, `{"error_type":"session_not_found"}`), nil
	}
}

func TestNobodyIsTradedAheadWhileTheAPIFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		b.together(5, jwts("bad "))
		weather.become(always(200, yes("session-1", "user-1")))
		ahead := func() { b.Ahead(t.Context(), agedRequest(time.Minute)); b.Wait() }
		ahead()
		time.Sleep(maxOpen)
		ahead() // which is no probe
		b.wantCalls(5)
		b.wantAhead(map[string]int{"shed": 2})
		b.together(1, jwts("the probe "))
		ahead()
		b.wantCalls(7)
		b.wantAhead(map[string]int{"shed": 2, "started": 1})
	})
}

func TestTheBreakerTellsOfChangesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		lines := func() (stops, again int) {
			return strings.Count(b.log.String(), `msg="session API calls stop: too many have failed" calls=known`),
				strings.Count(b.log.String(), `msg="session API calls are made again" calls=known`)
		}
		b.together(5, jwts("bad "))
		for i := range 3 {
			b.together(20, jwts(fmt.Sprint("while it is open ", i)))
			time.Sleep(maxOpen)
		}
		if s, a := lines(); s != 1 || a != 0 {
			t.Errorf("%d and %d lines after one opening and 2 probes:\n%s", s, a, b.log)
		}
		weather.become(always(200, yes("session-1", "user-1")))
		b.together(2, jwts("well "))
		if s, a := lines(); s != 1 || a != 1 {
			t.Errorf("%d and %d lines after it has closed:\n%s", s, a, b.log)
		}
		if got := fmt.Sprint(b.changes("known")); got != "map[closed:1 half_open:3 open:3]" {
			t.Errorf("changes: %s", got)
		}
		weather.become(always(500, ""))
		b.together(20, jwts("bad again "))
		if got := b.metric("breaker_state", "known"); got != 2 {
			t.Errorf("the gauge shows %v", got)
		}
		if got := b.metric("breaker_state", "unknown"); got != 0 {
			t.Errorf("the other gauge shows %v", got)
		}
	})
}

// TestOpeningAndClosingFloodsNoLog has the breaker open and close as often as it can.
func TestOpeningAndClosingFloodsNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		for i := range 10 {
			weather.become(always(500, ""))
			b.together(5, tokens(fmt.Sprint("bad ", i)))
			time.Sleep(maxOpen)
			weather.become(always(404, `{"error_type":"session_not_found"}`))
			b.together(1, tokens(fmt.Sprint("good ", i)))
		}
		if n := b.changes("unknown")["open"]; n != 10 {
			t.Errorf("opened %d times", n)
		}
		if n := strings.Count(b.log.String(), "calls stop"); n != 5 {
			t.Errorf("%d lines in a minute, want 5", n)
		}
	})
}

// changes are the breaker's, by state.
func (b *bench) changes(calls string) map[string]int {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	found := map[string]int{}
	for _, f := range families {
		if f.GetName() != "authz_session_api_breaker_changes_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == calls {
				found[m.GetLabel()[1].GetValue()] = int(m.GetCounter().GetValue())
			}
		}
	}
	return found
}
