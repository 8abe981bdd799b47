package sessionapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// dated has an answer say that it was written so much later than our clock shows, on a connection that was proved or was not.
func dated(a api, later time.Duration, proved bool) api {
	return func(r *http.Request) (*http.Response, error) {
		resp, err := a(r)
		if err == nil {
			resp.Header.Set("Date", time.Now().Add(later).UTC().Format(http.TimeFormat))
			resp.TLS = new(tls.ConnectionState)
			if proved {
				resp.TLS.VerifiedChains = [][]*x509.Certificate{{{}}}
			}
		}
		return resp, err
	}
}

func TestWhoseTimeIsHeard(t *testing.T) {
	for _, c := range []struct {
		name string
		api  api
		base string
		want bool
	}{
		{"over TLS that was proved", dated(always(200, yes("session-1", "user-1")), time.Hour, true), "https://api.test", true},
		{"of a no", dated(always(404, "{}"), time.Hour, true), "https://api.test", true},
		{"over TLS that was not", dated(always(200, yes("session-1", "user-1")), time.Hour, false), "https://api.test", false},
		{"on this machine", dated(always(200, yes("session-1", "user-1")), time.Hour, false), "http://127.0.0.1:1", true},
		{"on this machine, by its name", dated(always(200, yes("session-1", "user-1")), time.Hour, false), "https://localhost:1", true},
		{"an answer without a date", always(200, yes("session-1", "user-1")), "http://127.0.0.1:1", false},
		{"nobody's", refuse, "http://127.0.0.1:1", false},
	} {
		t.Run(c.name, inABubble(func(t *testing.T) {
			heard := clock.New(clock.Config{})
			b := newBench(t, c.api, func(cfg *sessionapi.Config) { cfg.BaseURL, cfg.Clock = c.base, heard })
			defer b.done()
			b.ask(tokenRequest)
			if s := heard.Status(); s.Heard != c.want || c.want && s.Skew.Round(2*time.Second) != -time.Hour {
				t.Errorf("%+v", s)
			}
		}))
	}
}

// TestARealCertificateIsEnoughToBeHeard has net/http say what it has verified.
func TestARealCertificateIsEnoughToBeHeard(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }))
	defer server.Close()
	transport := server.Client().Transport.(*http.Transport)
	transport.Proxy = nil
	heard := clock.New(clock.Config{})
	b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
		r.URL.Host = server.Listener.Addr().String()
		return transport.RoundTrip(r)
	}), func(cfg *sessionapi.Config) { cfg.BaseURL, cfg.Clock = "https://api.test", heard })
	defer b.done()
	b.ask(tokenRequest)
	if s := heard.Status(); !s.Heard || s.Skew.Abs() > 5*time.Second {
		t.Errorf("%+v", s)
	}
}

// TestJWTsAreProvedByTheServicesClockWhereOursIsBehind has our clock an hour behind.
func TestJWTsAreProvedByTheServicesClockWhereOursIsBehind(t *testing.T) {
	for name, c := range map[string]struct {
		later time.Duration
		want  time.Duration
	}{
		"ours is behind": {time.Hour, time.Hour},
		"ours is ahead":  {-time.Hour, 0},
		"they agree":     {0, 0},
	} {
		t.Run(name, inABubble(func(t *testing.T) {
			var proved []time.Duration
			b := newBench(t, dated(always(200, yes("session-1", "user-1")), c.later, true), func(cfg *sessionapi.Config) {
				cfg.Clock = clock.New(clock.Config{})
				cfg.Verify = func(ctx context.Context, jwt string, now time.Time) (*session.Session, error) {
					proved = append(proved, time.Until(now))
					return verify(ctx, jwt, now)
				}
			})
			defer b.done()
			for range 2 { // the second is kept, and proved again
				if _, err := b.ask(jwtRequest); err != nil {
					t.Error(err)
				}
			}
			b.wantCalls(1)
			for _, p := range proved {
				if p != c.want {
					t.Errorf("proved as of %v from now, want %v", p, c.want)
				}
			}
			if len(proved) != 2 {
				t.Errorf("proved %d times", len(proved))
			}
		}))
	}
}

// TestAKeptExchangeExpiresByTheServicesClock: one that serves by our clock, which was set back, is not handed on.
func TestAKeptExchangeExpiresByTheServicesClock(t *testing.T) {
	for name, c := range map[string]struct {
		later time.Duration // by how much the service is ahead when it next answers
		calls int
	}{
		"the JWT is young by both": {0, 2},
		"it is old by theirs":      {jwtLifetime, 3},
	} {
		t.Run(name, inABubble(func(t *testing.T) {
			weather := newFickle(dated(always(200, yes("session-1", "user-1")), 0, true))
			b := newBench(t, weather, func(cfg *sessionapi.Config) { cfg.Clock = clock.New(clock.Config{}) })
			defer b.done()
			b.ask(jwtRequest)
			weather.become(dated(always(404, "{}"), c.later, true))
			b.ask(sessionapi.Request{Token: "another"})
			weather.become(dated(always(200, yes("session-1", "user-1")), c.later, true))
			if _, err := b.ask(jwtRequest); err != nil {
				t.Error(err)
			}
			b.wantCalls(c.calls)
		}))
	}
}
