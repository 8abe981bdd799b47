package sessionapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

var reading = &sessionapi.AuthorizationCheck{ResourceID: "documents", Action: "read"}

// checkRequest trades the canary and asks whether the session may read.
var checkRequest = sessionapi.Request{JWT: credential, Session: asked, Check: reading}

func TestOnlyAVerdictThatAuthorizesIsAYesToACheck(t *testing.T) {
	for _, c := range []struct {
		name, members string
		want          error
	}{
		{"authorized", `"verdict":{"authorized":true,"granting_roles":["editor"]}`, nil},
		{"authorized, with spaces", `"verdict" : { "granting_roles" : [] , "authorized" : true }`, nil},
		{"authorized, in escapes", `"v\u0065rdict":{"authoriz\u0065d":true}`, nil},
		{"not authorized", `"verdict":{"authorized":false}`, sessionapi.ErrForbidden},
		{"no verdict", `"other":1`, sessionapi.ErrForbidden},
		{"an empty verdict", `"verdict":{}`, sessionapi.ErrForbidden},
		{"null for a verdict", `"verdict":null`, sessionapi.ErrForbidden},
		{"true for a verdict", `"verdict":true`, sessionapi.ErrForbidden},
		{"an array for a verdict", `"verdict":[{"authorized":true}]`, sessionapi.ErrForbidden},
		{"a string for a verdict", `"verdict":"{\"authorized\":true}"`, sessionapi.ErrForbidden},
		{"authorized is null", `"verdict":{"authorized":null}`, sessionapi.ErrForbidden},
		{"authorized is a string", `"verdict":{"authorized":"true"}`, sessionapi.ErrForbidden},
		{"authorized is a number", `"verdict":{"authorized":1}`, sessionapi.ErrForbidden},
		{"authorized is an object", `"verdict":{"authorized":{"authorized":true}}`, sessionapi.ErrForbidden},
		{"authorized by another name", `"verdict":{"Authorized":true}`, sessionapi.ErrForbidden},
		{"a verdict by another name", `"Verdict":{"authorized":true}`, sessionapi.ErrForbidden},
		{"authorized without a verdict", `"authorized":true`, sessionapi.ErrForbidden},
		{"a verdict too deep", `"session":{"verdict":{"authorized":true}}`, sessionapi.ErrForbidden},
		{"two verdicts, a no first", `"verdict":{"authorized":false},"verdict":{"authorized":true}`, sessionapi.ErrForbidden},
		{"two verdicts, a yes first", `"verdict":{"authorized":true},"verdict":{"authorized":false}`, sessionapi.ErrForbidden},
		{"two verdicts, one null", `"verdict":null,"verdict":{"authorized":true}`, sessionapi.ErrForbidden},
		{"two verdicts in two cases", `"verdict":{"authorized":true},"VERDICT":{"authorized":false}`, sessionapi.ErrForbidden},
		{"two verdicts, one in escapes", `"verdict":{"authorized":true},"verdic\u0074":{"authorized":false}`, sessionapi.ErrForbidden},
		{"authorized twice, a no first", `"verdict":{"authorized":false,"authorized":true}`, sessionapi.ErrForbidden},
		{"authorized twice, a yes first", `"verdict":{"authorized":true,"authorized":false}`, sessionapi.ErrForbidden},
		{"authorized in two cases", `"verdict":{"AUTHORIZED":false,"authorized":true}`, sessionapi.ErrForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, always(200, "{"+c.members+","+yes("session-1", "user-1")[1:]))
			defer b.done()
			if _, err := b.ask(jwtRequest); err != nil {
				t.Errorf("to a call that did not ask: %v", err)
			}
			_, err := b.ask(checkRequest)
			wantOnly(t, err, c.want)
			outcome, kept := "ok", 3 // the other's, this and this for its own JWT
			if c.want != nil {
				outcome, kept = "not_authorized", 1
			}
			if n := b.metric("calls_total", outcome); n == 0 {
				t.Errorf("not counted as %s", outcome)
			}
			if n := b.Status().Kept; n != kept {
				t.Errorf("%d kept, want %d", n, kept)
			}
		})
	}
}

func TestTwoHundredFromSomethingInBetweenIsNoVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"HTML":                           {"<html>Welcome to the airport</html>", sessionapi.ErrUnavailable},
		"JSON of another's":              {`{"verdict":{"authorized":true}}`, sessionapi.ErrUnavailable},
		"the vendor's yes without a JWT": {`{"status_code":200,"verdict":{"authorized":true}}`, sessionapi.ErrUnavailable},
		"the vendor's no without a JWT":  {`{"status_code":200,"verdict":{"authorized":false}}`, sessionapi.ErrForbidden},
		"a yes with another's JWT":       {granting("session-2", "user-1"), sessionapi.ErrMismatch},
		"a no with another's JWT":        {yes("session-2", "user-1"), sessionapi.ErrForbidden},
		"a yes whose JWT has no key yet": {strings.Replace(granting("session-1", "user-1"), "good.", "unknown.", 1), sessionapi.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, always(200, c.body))
			defer b.done()
			_, err := b.ask(checkRequest)
			wantOnly(t, err, c.want)
			if err == nil {
				t.Error("a yes")
			}
		})
	}
}

// variants are requests that differ in one thing each, some of which would run into one another if they were strung together.
func variants() []sessionapi.Request {
	check := func(organization, resource, action string) *sessionapi.AuthorizationCheck {
		return &sessionapi.AuthorizationCheck{OrganizationID: organization, ResourceID: resource, Action: action}
	}
	var all []sessionapi.Request
	for _, c := range []*sessionapi.AuthorizationCheck{
		nil, check("", "ab", "c"), check("", "a", "bc"), check("", "c", "ab"), check("a", "b", "c"), check("ab", "c", "d"), check("a", "bc", "d"),
		check("", "ab\x00", "c"), check("", "ab", "\x00c"), check("", "ab", "c\x00"), check("", "a\x00b", "c"), check("", "AB", "c"), check("", "ab", "c5"),
	} {
		for _, minutes := range []int{0, 5, 55} {
			for _, text := range []string{credential, credential + "\x00ab", "jwt\x00" + credential} {
				all = append(all,
					sessionapi.Request{JWT: text, Session: asked, Check: c, DurationMinutes: minutes},
					sessionapi.Request{Token: text, Check: c, DurationMinutes: minutes})
			}
		}
	}
	return all
}

func TestOnlyEqualRequestsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, api(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, granting("session-1", "user-1")), nil
		}), func(c *sessionapi.Config) { c.KeptExchanges = 1000 })
		defer b.done()
		requests := variants()
		for _, of := range []string{"under way", "kept"} {
			var wg sync.WaitGroup
			for range 2 {
				for _, r := range requests {
					if r.Check != nil {
						r.Check = new(*r.Check) // equal is not the same
					}
					wg.Go(func() {
						if _, err := b.ask(r); err != nil {
							t.Error(err)
						}
					})
				}
			}
			wg.Wait()
			if n := int(b.calls.Load()); n != len(requests) {
				t.Errorf("%s: %d calls for %d different requests", of, n, len(requests))
			}
		}
	})
}

func TestCallAsksWhatItsKeySaysWhateverTheCallerDoesNext(t *testing.T) {
	var body string
	b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
		text, err := io.ReadAll(r.Body)
		body = string(text)
		return respond(200, granting("session-1", "user-1")), err
	}))
	defer b.done()
	check := *reading
	r := checkRequest
	r.Check = &check
	b.Ahead(t.Context(), r)
	check.Action = "delete" // the race detector sees it too if the call reads it
	b.Wait()
	if !strings.Contains(body, `"read"`) {
		t.Errorf("asked %s", body)
	}
}

func TestGrantedPermissionServesTheNewJWTToo(t *testing.T) {
	writing := &sessionapi.AuthorizationCheck{ResourceID: "documents", Action: "write"}
	extending := checkRequest
	extending.DurationMinutes = 5
	const maxAge = 30 * time.Second
	for _, c := range []struct {
		name    string
		first   sessionapi.Request
		second  func(jwt string) sessionapi.Request
		later   time.Duration
		calls   int
		permits int // kept afterwards
	}{
		{"the same check, young enough", checkRequest,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading}
			}, maxAge - 1, 1, 2},
		{"the same check, too old", checkRequest,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading}
			}, maxAge, 2, 0},
		{"the same check, got by a token", sessionapi.Request{Token: credential, Check: reading},
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading}
			}, 1, 1, 2},
		{"another check", checkRequest,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: writing}
			}, 1, 2, 0},
		{"no check", checkRequest,
			func(jwt string) sessionapi.Request { return sessionapi.Request{JWT: jwt, Session: asked} }, 1, 2, 0},
		{"the same check and an extension", checkRequest,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading, DurationMinutes: 5}
			}, 1, 2, 0},
		{"the same check and the same extension", extending,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading, DurationMinutes: 5}
			}, 1, 1, 2},
		{"the same check without the extension", extending,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading}
			}, 1, 2, 0},
		{"a token of the same text", checkRequest,
			func(jwt string) sessionapi.Request { return sessionapi.Request{Token: jwt, Check: reading} }, 1, 2, 0},
		{"nothing was asked before", jwtRequest,
			func(jwt string) sessionapi.Request {
				return sessionapi.Request{JWT: jwt, Session: asked, Check: reading}
			}, 1, 2, 0},
		{"nothing was asked at all", jwtRequest,
			func(jwt string) sessionapi.Request { return sessionapi.Request{JWT: jwt, Session: asked} }, 1, 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, always(200, granting("session-1", "user-1")))
				defer b.done()
				first, err := b.askWithin(t.Context(), c.first, maxAge)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(c.later)
				if _, err := b.askWithin(t.Context(), c.second(first.JWT), maxAge); err != nil {
					t.Error(err)
				}
				b.wantCalls(c.calls)
				if n := b.Status().Kept; c.calls == 1 && n != c.permits {
					t.Errorf("%d kept, want %d", n, c.permits)
				}
			})
		})
	}
}

func TestKeptExchangesBoundsThoseForNewJWTsToo(t *testing.T) {
	for most := range 4 {
		b := newBench(t, always(200, granting("session-1", "user-1")), func(c *sessionapi.Config) { c.KeptExchanges = most })
		for i := range 5 {
			if _, err := b.ask(sessionapi.Request{Token: fmt.Sprint(i), Check: reading}); err != nil {
				t.Fatal(err)
			}
			if n := b.Status().Kept; n > most {
				t.Errorf("%d kept, want at most %d", n, most)
			}
		}
		b.done()
	}
}

func TestNothingStaysOfAnExchangeThatIsNoLongerKept(t *testing.T) {
	b := newBench(t, always(200, granting("session-1", "user-1")), func(c *sessionapi.Config) { c.KeptExchanges = 1 })
	defer b.done()
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	ask := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := b.ask(sessionapi.Request{Token: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(0, 1_000)
	before := heap()
	ask(1_000, 9_000)
	if grown := heap() - before; grown > 256<<10 {
		t.Errorf("%d bytes stay of 8000 exchanges", grown)
	}
}

// TestNoEndsWhatItIsAbout keeps exchanges of one session for several requests, then has one of them refused.
func TestNoEndsWhatItIsAbout(t *testing.T) {
	byToken := sessionapi.Request{Token: credential}
	newJWT := sessionapi.Request{JWT: "good.session-1.user-1.." + projectID, Session: asked, Check: reading}
	stranger := sessionapi.Request{Token: "another"}
	all := map[string]sessionapi.Request{
		"JWT": jwtRequest, "JWT with check": checkRequest, "new JWT with check": newJWT, "token": byToken,
		"token with check": {Token: credential, Check: reading}, "another's token": stranger,
	}
	for _, c := range []struct {
		name    string
		answer  string
		refused sessionapi.Request
		remain  []string
	}{
		{"the session of a JWT is gone", `404 {"error_type":"session_not_found"}`, jwtRequest, []string{"another's token"}},
		{"the session of a JWT with a check is gone", `404 {"error_type":"session_not_found"}`, checkRequest, []string{"another's token"}},
		{"the session of a token is gone", `404 {"error_type":"session_not_found"}`, byToken,
			[]string{"JWT", "JWT with check", "another's token"}},
		{"a JWT has not the permission any more", `403 {"error_type":"session_authorization_error"}`, checkRequest,
			[]string{"JWT", "token", "another's token"}},
		{"the new JWT has not the permission any more", "200 " + yes("session-1", "user-1"), newJWT,
			[]string{"JWT", "token", "another's token"}},
		{"a JWT may not be used at all", `403 {"error_type":"organization_suspended"}`, jwtRequest, []string{"another's token"}},
		{"nothing could be asked", `500 {}`, checkRequest,
			[]string{"JWT", "JWT with check", "new JWT with check", "token", "token with check", "another's token"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := ""
			b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
				if answer != "" {
					var status int
					fmt.Sscan(answer, &status)
					return respond(status, answer[4:]), nil
				}
				if text, _ := io.ReadAll(r.Body); strings.Contains(string(text), "another") {
					return respond(200, yes("session-2", "user-2")), nil
				}
				return respond(200, granting("session-1", "user-1")), nil
			}))
			defer b.done()
			for _, name := range []string{"JWT", "JWT with check", "token", "token with check", "another's token"} {
				if _, err := b.ask(all[name]); err != nil {
					t.Fatal(err)
				}
			}
			answer = c.answer
			if _, err := b.askWithin(t.Context(), c.refused, 0); err == nil {
				t.Fatal("a yes")
			}
			answer = "500 {}"
			remain := map[string]bool{}
			for _, name := range c.remain {
				remain[name] = true
			}
			for name, r := range all {
				if _, err := b.ask(r); (err == nil) != remain[name] {
					t.Errorf("%s: got %v, kept should be %v", name, err, remain[name])
				}
			}
		})
	}
}

func TestYesThatANoOvertookIsNotKept(t *testing.T) {
	gone := `{"error_type":"session_not_found"}`
	denied := `{"error_type":"session_authorization_error"}`
	for _, c := range []struct {
		name         string
		slow, fast   sessionapi.Request
		status, kept int
		body         string
	}{
		{"the session ended meanwhile", jwtRequest, checkRequest, 404, 0, gone},
		{"the session ended meanwhile, asked about by a token", sessionapi.Request{Token: credential},
			sessionapi.Request{Token: credential, DurationMinutes: 5}, 404, 0, gone},
		{"another's session ended", jwtRequest, sessionapi.Request{Token: credential, DurationMinutes: 5}, 404, 1, gone},
		{"a permission was refused", jwtRequest, checkRequest, 403, 1, denied},
		{"nothing could be asked", jwtRequest, checkRequest, 500, 1, "{}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				b := newBench(t, api(func(*http.Request) (*http.Response, error) {
					if n++; n == 1 {
						time.Sleep(time.Second)
						return respond(200, yes("session-1", "user-1")), nil
					}
					return respond(c.status, c.body), nil
				}))
				defer b.done()
				go func() {
					if _, err := b.ask(c.slow); err != nil {
						t.Errorf("who asked before gets %v", err)
					}
				}()
				synctest.Wait()
				if _, err := b.ask(c.fast); err == nil {
					t.Error("a yes")
				}
				b.Wait()
				if got := b.Status().Kept; got != c.kept {
					t.Errorf("%d kept, want %d", got, c.kept)
				}
			})
		})
	}
}

func TestOnEndedHearsOfEachSessionThatIsNotFound(t *testing.T) {
	const gone = `{"error_type":"session_not_found"}`
	for _, c := range []struct {
		name    string
		request sessionapi.Request
		status  int
		body    string
		want    int
	}{
		{"a JWT's session is not found", jwtRequest, 404, gone, 1},
		{"a JWT's session is not found, asked with a check", checkRequest, 404, gone, 1},
		{"a token's session is not found", tokenRequest, 404, gone, 0},
		{"a JWT without a session", sessionapi.Request{JWT: credential}, 404, gone, 0},
		{"a proxy's 404", jwtRequest, 404, "<html>", 0},
		{"the credential is refused", jwtRequest, 400, `{"error_type":"unable_to_parse_session_jwt"}`, 0},
		{"the session is forbidden", jwtRequest, 403, `{"error_type":"organization_suspended"}`, 0},
		{"not authorized", checkRequest, 200, yes("session-1", "user-1"), 0},
		{"another session in the answer", jwtRequest, 200, yes("session-2", "user-1"), 0},
		{"nothing could be asked", jwtRequest, 500, gone, 0},
		{"a yes", jwtRequest, 200, yes("session-1", "user-1"), 0},
	} {
		for _, ahead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ahead %v", c.name, ahead), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var heard []string
					var b *bench
					b = newBench(t, api(func(*http.Request) (*http.Response, error) {
						time.Sleep(time.Second)
						return respond(c.status, c.body), nil
					}), func(cfg *sessionapi.Config) {
						cfg.OnEnded = func(s *session.Session, certain bool) {
							if !certain {
								t.Error("not for certain")
							}
							b.Status() // no lock is held
							heard = append(heard, s.ID)
						}
					})
					defer b.done()
					if ahead {
						b.Ahead(t.Context(), c.request)
					} else {
						var wg sync.WaitGroup
						for range 10 {
							wg.Go(func() {
								_, err := b.ask(c.request)
								if errors.Is(err, sessionapi.ErrSessionNotFound) && len(heard) != c.want {
									t.Errorf("answered after %d were heard of, want %d", len(heard), c.want)
								}
							})
						}
						wg.Wait()
					}
					b.Wait()
					if len(heard) != c.want || c.want == 1 && heard[0] != c.request.Session.ID {
						t.Errorf("heard of %v, want %d", heard, c.want)
					}
					b.wantCalls(1)
				})
			})
		}
	}
}

// TestASessionBesideATokenThatIsNotFoundIsInDoubt has each request's own JWT doubted, though all share one call or its
// answer, and that of a call that nobody waits for.
func TestASessionBesideATokenThatIsNotFoundIsInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		doubted := map[string]int{}
		b := newBench(t, api(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(404, `{"error_type":"session_not_found"}`), nil
		}), func(cfg *sessionapi.Config) {
			cfg.OnEnded = func(s *session.Session, certain bool) {
				mu.Lock()
				defer mu.Unlock()
				if certain {
					t.Error("for certain")
				}
				doubted[s.ID]++
			}
		})
		defer b.done()
		beside := func(id string) sessionapi.Request {
			return sessionapi.Request{Token: tokenRequest.Token, Session: &session.Session{ID: id}}
		}
		var wg sync.WaitGroup
		for _, id := range []string{"session-1", "session-2"} {
			wg.Go(func() {
				_, err := b.ask(beside(id))
				wantOnly(t, err, sessionapi.ErrSessionNotFound)
			})
		}
		wg.Wait()
		_, err := b.ask(beside("session-3")) // which the no to the others answers
		wantOnly(t, err, sessionapi.ErrSessionNotFound)
		b.wantCalls(1)
		time.Sleep(remembered)
		b.Ahead(t.Context(), beside("session-4"))
		b.Wait()
		b.wantCalls(2)
		for _, id := range []string{"session-1", "session-2", "session-3", "session-4"} {
			if doubted[id] == 0 {
				t.Errorf("%s is in no doubt", id)
			}
		}
	})
}

func TestPanicInOnEndedReachesNobody(t *testing.T) {
	b := newBench(t, always(404, `{"error_type":"session_not_found"}`), func(c *sessionapi.Config) {
		c.OnEnded = func(*session.Session, bool) { panic("with " + credential) }
	})
	defer b.done()
	_, err := b.ask(jwtRequest)
	wantOnly(t, err, sessionapi.ErrSessionNotFound)
	if !strings.Contains(b.log.String(), "panicked") {
		t.Error("not logged")
	}
}

// FuzzVerdict sends answers to a check: whatever else they hold, there is no yes without one that the vendor's own clients
// would read.
func FuzzVerdict(f *testing.F) {
	for _, s := range []string{
		`{"authorized":true}`, `{"authorized":false}`, `null`, `[]`, `{"authorized":true,"authorized":false}`, `{"Authorized":true}`,
		`{"authorized":true},"verdict":{}`, `{"authorized":"true"}`, `{`, `{"authorized":true}},{`, `{"authorized" : true , "x":{"authorized":false}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, verdict string) {
		body := `{"verdict":` + verdict + "," + yes("session-1", "user-1")[1:]
		b := newBench(t, always(200, body))
		defer b.done()
		var err error
		fuzztest.Allocates(t, 50, len(body), func() { _, err = b.ask(checkRequest) })
		if n := b.metric("calls_total", "panic"); n != 0 {
			t.Fatalf("panic: %s", b.log)
		}
		var last map[string]any
		if err == nil && json.Unmarshal([]byte(body), &last) != nil {
			t.Fatalf("yes to no JSON: %s", body)
		}
		if v, _ := last["verdict"].(map[string]any); err == nil && v["authorized"] != true {
			t.Fatalf("yes to %s", body)
		}
	})
}
