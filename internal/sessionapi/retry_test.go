package sessionapi_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// first gives one answer to the first call, and a yes to all others.
func first(a api) api {
	var asked atomic.Bool
	return func(r *http.Request) (*http.Response, error) {
		if !asked.Swap(true) {
			return a(r)
		}
		return respond(200, yes("session-1", "user-1")), nil
	}
}

// limited answers with a status, and says when to come back.
func limited(status int, after string) api {
	return func(*http.Request) (*http.Response, error) {
		r := respond(status, "")
		r.Header.Set("Retry-After", after)
		return r, nil
	}
}

// slowly answers so much later.
func slowly(d time.Duration, a api) api {
	return func(r *http.Request) (*http.Response, error) {
		time.Sleep(d)
		return a(r)
	}
}

type timedOut struct{ error }

func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }

func TestWhatIsAskedASecondTime(t *testing.T) {
	fails := func(err error) api { return func(*http.Request) (*http.Response, error) { return nil, err } }
	for _, c := range []struct {
		name  string
		first api
		cause string // "" if it is not
	}{
		{"nobody listens", refuse, "connection"},
		{"a reset", fails(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), "connection"},
		{"an end", fails(io.EOF), "connection"},
		{"an end in the answer", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(ended{}))}, nil
		}, "connection"},
		{"GOAWAY", fails(errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1")), "connection"},
		{"a stream that is reset", fails(errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer")), "connection"},
		{"502", always(502, ""), "gateway"},
		{"503", always(503, ""), "gateway"},
		{"504", always(504, ""), "gateway"},
		{"503 late, but with a little time left", slowly(timeout-100*time.Millisecond, always(503, "")), "gateway"},

		{"503 with Retry-After", limited(503, "1"), ""},
		{"503 when all the time is over", slowly(timeout-40*time.Millisecond, always(503, "")), ""},
		{"500", always(500, ""), ""},
		{"501", always(501, ""), ""},
		{"505", always(505, ""), ""},
		{"429", always(429, ""), ""},
		{"404", always(404, ""), ""},
		{"a session that is not found", always(404, `{"error_type":"session_not_found"}`), ""},
		{"garbage", always(200, "<html>"), ""},
		{"another's session", always(200, yes("session-2", "user-1")), ""},
		{"no connection in time", fails(&net.OpError{Op: "dial", Err: timedOut{io.EOF}}), ""},
		{"no handshake in time", fails(timedOut{io.EOF}), ""},
		{"no HTTP", fails(errors.New("malformed HTTP response")), ""},
		{"a panic", func(*http.Request) (*http.Response, error) { panic("x") }, ""},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			b := newBench(t, first(c.first))
			defer b.done()
			_, err := b.ask(jwtRequest)
			calls := 1
			if c.cause != "" {
				calls = 2
				if err != nil {
					t.Error(err)
				}
			}
			b.wantCalls(calls)
			for _, cause := range []string{"connection", "gateway", "secret"} {
				if n := b.metric("retries_total", cause); (n == 1) != (cause == c.cause) {
					t.Errorf("%v counted as %s", n, cause)
				}
			}
			b.Wait()
			counted := 0.
			for _, o := range []string{"ok", "unavailable", "unexpected", "rate_limited", "session_not_found", "mismatch", "panic"} {
				counted += b.metric("calls_total", o)
			}
			if counted != 1 || b.metric("call_seconds") != 1 {
				t.Errorf("%v counted as calls", counted)
			}
		}))
	}
}

// ended is a connection that ends.
type ended struct{}

func (ended) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestASecondFailureIsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(503, ""))
		defer b.done()
		_, err := b.ask(jwtRequest)
		wantError(t, err, sessionapi.ErrOutage)
		b.wantCalls(2)
	})
}

func TestNobodyWaitsForASecondCallAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, first(refuse))
		defer b.done()
		b.Ahead(t.Context(), agedRequest(time.Minute))
		b.Wait()
		b.wantCalls(1)
	})
}

func TestTheProbeIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weather := newFickle(always(500, ""))
		b := newBench(t, weather)
		defer b.done()
		b.together(5, jwts("bad "))
		time.Sleep(maxOpen)
		weather.become(first(refuse))
		b.calls.Store(0)
		b.ask(jwtRequest)
		b.wantCalls(1)
	})
}

// TestAnOutageIsNotMadeWorse counts the second calls that many first ones get.
func TestAnOutageIsNotMadeWorse(t *testing.T) {
	for _, c := range []struct {
		name string
		good int // answered before
		bad  int // at once
		want int // second calls
	}{
		{"a connection that breaks under a handful", 0, 10, 10},
		{"an outage", 0, 200, 10},
		{"an outage after a thousand that were answered", 1000, 200, 10},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			weather := newFickle(always(200, yes("session-1", "user-1")))
			b := newBench(t, weather)
			defer b.done()
			for i := range c.good / 100 {
				b.together(100, jwts(fmt.Sprint("good ", i, " ")))
			}
			weather.become(refuse)
			b.together(c.bad, jwts("bad "))
			if n := int(b.metric("retries_total", "connection")); n != c.want {
				t.Errorf("%d second calls", n)
			}
		}))
	}
	t.Run("one in ten of what is answered pays for another", inABubble(func(t *testing.T) {
		weather := newFickle(refuse)
		b := newBench(t, weather)
		defer b.done()
		b.together(10, jwts("bad "))
		time.Sleep(maxOpen + 10*time.Second) // and all is forgotten but what was spent
		weather.become(always(200, yes("session-1", "user-1")))
		b.together(1, jwts("the probe "))
		b.together(28, jwts("good "))
		weather.become(refuse)
		b.together(4, jwts("bad again "))
		if n := int(b.metric("retries_total", "connection")); n != 12 {
			t.Errorf("%d second calls, want 12", n)
		}
	}))
}

// TestTokensTakeNoSecondCallFromJWTs has made-up tokens fail first.
func TestTokensTakeNoSecondCallFromJWTs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, api(refuse))
		defer b.done()
		b.together(50, tokens("bad "))
		b.together(1, jwts("good "))
		if n := int(b.metric("retries_total", "connection")); n != 11 {
			t.Errorf("%d second calls, want 11", n)
		}
	})
}

// TestARealConnectionThatBreaks has a server end one connection without an answer, over HTTP/1.1 and over HTTP/2.
func TestARealConnectionThatBreaks(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2 ", http2), func(t *testing.T) {
			var hits atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if hits.Add(1) == 1 {
					panic(http.ErrAbortHandler)
				}
				io.WriteString(w, yes("session-1", "user-1"))
			}))
			server.EnableHTTP2 = http2
			server.StartTLS()
			defer server.Close()
			b := newBench(t, nil, func(c *sessionapi.Config) { c.BaseURL, c.Transport = server.URL, server.Client().Transport })
			defer b.done()
			if _, err := b.ask(jwtRequest); err != nil {
				t.Error(err)
			}
			if n := hits.Load(); n != 2 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// rotating is a source whose file holds a newer secret from some time on.
type rotating struct {
	now, file atomic.Pointer[session.Secret]
	reread    atomic.Int32
}

func (r *rotating) Secret() session.Secret { return *r.now.Load() }

func (r *rotating) Reread() session.Secret {
	r.reread.Add(1)
	r.now.Store(r.file.Load())
	return r.Secret()
}

func newRotating(secret session.Secret) *rotating {
	r := new(rotating)
	r.now.Store(&secret)
	r.file.Store(&secret)
	return r
}

// TestARefusedSecretIsReadAgain is faults 20 and 38: nobody is logged out for our secret, and nobody notices that it was replaced.
func TestARefusedSecretIsReadAgain(t *testing.T) {
	const refusal = `{"error_type":"unauthorized_credentials"}`
	for _, c := range []struct {
		name           string
		held, file     session.Secret
		calls, rereads int
		want           error
	}{
		{"the secret that holds", secret, secret, 1, 0, nil},
		{"a newer one is there", "old", secret, 2, 1, nil},
		{"there is none", "old", "old", 1, 1, sessionapi.ErrSecretRefused},
		{"the newer one is as bad", "old", "newer", 2, 1, sessionapi.ErrSecretRefused},
	} {
		for kind, request := range map[string]sessionapi.Request{"JWT": jwtRequest, "token": tokenRequest} {
			t.Run(c.name+", "+kind, inABubble(func(t *testing.T) {
				source := newRotating(c.held)
				source.file.Store(&c.file)
				b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
					if _, password, _ := r.BasicAuth(); password != secret {
						return respond(401, refusal), nil
					}
					return respond(200, yes("session-1", "user-1")), nil
				}), func(cfg *sessionapi.Config) { cfg.Secret = source })
				defer b.done()
				begin := time.Now()
				_, err := b.ask(request)
				wantError(t, err, c.want)
				if c.want != nil {
					wantOnly(t, err, c.want)
				}
				if took := time.Since(begin); took != 0 {
					t.Errorf("it took %v", took)
				}
				b.wantCalls(c.calls)
				if n := source.reread.Load(); int(n) != c.rereads {
					t.Errorf("read again %d times", n)
				}
				if n := b.metric("retries_total", "secret"); int(n) != c.calls-1 {
					t.Errorf("%v counted", n)
				}
				if _, err := b.ask(sessionapi.Request{JWT: "next", Session: asked}); c.want == nil && err != nil {
					t.Error(err)
				}
			}))
		}
	}
}

// TestASecretIsReplacedUnderLoad has every call come back with a yes while the API takes the new secret alone from one moment on.
func TestASecretIsReplacedUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newRotating("old")
		var wanted atomic.Pointer[session.Secret]
		wanted.Store(source.now.Load())
		b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			if _, password, _ := r.BasicAuth(); password != wanted.Load().Reveal() {
				return respond(401, `{"error_type":"unauthorized_credentials"}`), nil
			}
			return respond(200, yes("session-1", "user-1")), nil
		}), func(cfg *sessionapi.Config) { cfg.Secret = source })
		defer b.done()
		for i := range 20 {
			if i == 10 {
				newer := session.Secret(secret)
				source.file.Store(&newer)
				wanted.Store(&newer)
			}
			if errs := b.together(20, jwts(fmt.Sprint(i, " "))); count(errs, nil) != 20 {
				t.Errorf("round %d: %v", i, errs)
			}
		}
		if n := b.metric("calls_total", "secret_refused"); n != 0 {
			t.Errorf("%v refused", n)
		}
	})
}
