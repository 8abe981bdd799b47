package sessionapitest_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

const jwksPath = "/v1/sessions/jwks/" + sessionapitest.DefaultProjectID

func (e *emulator) spoil(endpoint sessionapitest.Endpoint, fault sessionapitest.Fault) {
	e.t.Helper()
	if err := e.SetFault(endpoint, fault); err != nil {
		e.t.Fatal(err)
	}
}

func (e *emulator) get(ctx context.Context, path string) (int, string, http.Header, error) {
	r, _ := http.NewRequestWithContext(ctx, "GET", e.url+path, nil)
	response, err := e.client.Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), response.Header, err
}

// awaitCalls polls, because a request over a real socket has no event that synctest could wait for.
func awaitCalls(t *testing.T, s *sessionapitest.Server, endpoint sessionapitest.Endpoint, calls int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); s.Calls(endpoint) < calls; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls of %s have not arrived", calls, endpoint)
		}
	}
}

func TestFaultReplacesTheAnswerUntilItsCountIsSpent(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	e.spoil("jwks", sessionapitest.Fault{Status: 503, Body: "<html>", Headers: map[string]string{"Retry-After": "7"}, Count: 2})
	for range 2 {
		status, text, header, err := e.get(t.Context(), jwksPath)
		if status != 503 || text != "<html>" || header.Get("Retry-After") != "7" || err != nil {
			t.Fatalf("got %d %q %v %v", status, text, header, err)
		}
	}
	e.expect(jwksPath, nil, 200, "")
	if got := e.Calls("jwks"); got != 3 {
		t.Errorf("got %d calls, want 3", got)
	}
	if got := e.Calls("authenticate"); got != 0 {
		t.Errorf("got %d calls of another endpoint, want 0", got)
	}
	e.ResetCalls()
	if got := e.Calls("jwks"); got != 0 {
		t.Errorf("after a reset: got %d calls, want 0", got)
	}
}

func TestFaultBodyAloneIsAMismatched200(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{})
	e.spoil("authenticate", sessionapitest.Fault{Body: `{"session_jwt":"another"}`})
	if o := e.expect(consumerPath, object{"session_token": login.Token}, 200, ""); o["session_jwt"] != "another" {
		t.Errorf("got %v", o)
	}
	e.ClearFaults()
	if o := e.expect(consumerPath, object{"session_token": login.Token}, 200, ""); o["session_jwt"] == "another" {
		t.Errorf("after ClearFaults: got %v", o)
	}
}

func TestFaultHeadersAloneJoinTheUsualAnswer(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	e.spoil("jwks", sessionapitest.Fault{Headers: map[string]string{"Cache-Control": "max-age=60"}})
	status, text, header, err := e.get(t.Context(), jwksPath)
	if status != 200 || !strings.Contains(text, `"keys"`) || header.Get("Cache-Control") != "max-age=60" || err != nil {
		t.Errorf("got %d %q %v %v", status, text, header, err)
	}
}

func TestErrorBodyIsTheVendors(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	e.spoil("authenticate", sessionapitest.Fault{Status: 429, Body: e.ErrorBody(429, "too_many_requests", "Too many requests have been made.")})
	e.expect(consumerPath, object{}, 429, "too_many_requests")
}

func TestRefuseEndsTheConnection(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	e.spoil("jwks", sessionapitest.Fault{Refuse: true})
	if status, text, _, err := e.get(t.Context(), jwksPath); err == nil {
		t.Errorf("got %d %q, want no answer", status, text)
	}
	e.spoil("jwks", sessionapitest.Fault{})
	e.expect(jwksPath, nil, 200, "")
}

func TestHangEndsWhenTheFaultIsCleared(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	e.spoil("authenticate", sessionapitest.Fault{Hang: true})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			r, _ := http.NewRequestWithContext(t.Context(), "POST", e.url+consumerPath, strings.NewReader("{}"))
			if status, text, err := e.do(r); err == nil {
				t.Errorf("got %d %q, want no answer", status, text)
			}
		})
	}
	awaitCalls(t, e.Server, "authenticate", 3) // they count when they arrive, not when they end
	e.ClearFaults()
	clients.Wait()
}

func TestHangEndsWhenTheClientLeaves(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	e.spoil("authenticate", sessionapitest.Fault{Hang: true})
	ctx, leave := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "POST", e.url+consumerPath, strings.NewReader("{}"))
	var client sync.WaitGroup
	client.Go(func() {
		if _, _, err := e.do(r); err == nil {
			t.Error("an answer came")
		}
	})
	awaitCalls(t, e.Server, "authenticate", 1)
	leave()
	client.Wait()
	// The server's Close, in start's Cleanup, waits for the handler.
}

func TestLatencyComesBeforeTheAnswerAndBreaksOffWithTheFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sessionapitest.New(sessionapitest.Config{NewKey: sessionapitest.SharedKeys()})
		if err != nil {
			t.Fatal(err)
		}
		login, err := s.LogIn(sessionapitest.LogIn{})
		if err != nil {
			t.Fatal(err)
		}
		ask := func() (int, time.Duration) {
			begin := time.Now()
			w := newRecorder()
			r, _ := http.NewRequestWithContext(t.Context(), "POST", consumerPath, strings.NewReader(`{"session_token":"`+login.Token+`"}`))
			r.SetBasicAuth(sessionapitest.DefaultProjectID, sessionapitest.DefaultSecret)
			s.ServeHTTP(w, r)
			return w.status, time.Since(begin)
		}
		if err := s.SetFault("authenticate", sessionapitest.Fault{Latency: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if status, took := ask(); status != 200 || took != time.Minute {
			t.Errorf("got %d after %v, want 200 after a minute", status, took)
		}
		time.AfterFunc(time.Second, s.ClearFaults)
		if status, took := ask(); status != 200 || took != time.Second {
			t.Errorf("cleared: got %d after %v, want 200 after a second", status, took)
		}
	})
}

// recorder is a ResponseWriter that keeps the status.
type recorder struct {
	header http.Header
	status int
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}} }
func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }

func TestSetFaultRefuses(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	for name, c := range map[string]struct {
		endpoint sessionapitest.Endpoint
		fault    sessionapitest.Fault
		word     string
	}{
		"an unknown endpoint": {"authentificate", sessionapitest.Fault{Hang: true}, "endpoint"},
		"two ways at once":    {"jwks", sessionapitest.Fault{Hang: true, Refuse: true}, "only one"},
		"a status of 99":      {"jwks", sessionapitest.Fault{Status: 99}, "status"},
		"a negative latency":  {"jwks", sessionapitest.Fault{Latency: -1}, "latency"},
		"a negative count":    {"jwks", sessionapitest.Fault{Count: -1}, "count"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := e.SetFault(c.endpoint, c.fault); err == nil || !strings.Contains(err.Error(), c.word) {
				t.Errorf("got %v, want an error about %s", err, c.word)
			}
		})
	}
	defer func() {
		if recover() == nil {
			t.Error("counting the calls of an unknown endpoint did not panic")
		}
	}()
	e.Calls("authentificate")
}

func TestEverythingAtOnce(t *testing.T) {
	e := start(t, sessionapitest.Config{})
	login := e.logIn(sessionapitest.LogIn{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			e.expect(consumerPath, object{"session_token": login.Token, "session_custom_claims": object{"n": 1}}, 200, "")
		})
		all.Go(func() { e.expect(jwksPath, nil, 200, "") })
		all.Go(func() { e.expect("/v1/sessions?user_id="+login.Subject, nil, 200, "") })
		all.Go(func() {
			if _, err := e.RotateKeys(true); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := e.AttachFactor(login.SessionID, sessionapitest.Factor{"type": "totp", "delivery_method": "authenticator_app"}); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := e.Extend(login.SessionID, time.Hour); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() { e.spoil("revoke", sessionapitest.Fault{Status: 500}); e.ClearFaults(); e.ResetCalls() })
		all.Go(func() { e.logIn(sessionapitest.LogIn{}) })
	}
	all.Wait()
	o := e.expect(consumerPath, object{"session_jwt": login.JWT}, 200, "")
	if got := len(o.at("session/authentication_factors").([]any)); got != 5 {
		t.Errorf("got %d factors, want 5", got)
	}
}
