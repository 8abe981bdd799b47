package sessionapitest_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func TestTransportServesWithoutASocket(t *testing.T) {
	s, err := sessionapitest.New(sessionapitest.Config{NewKey: sessionapitest.SharedKeys()})
	if err != nil {
		t.Fatal(err)
	}
	login, err := s.LogIn(sessionapitest.LogIn{})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: s.Transport()}
	r, _ := http.NewRequestWithContext(t.Context(), "POST", "https://any.example:444"+consumerPath, strings.NewReader(`{"session_token":"`+login.Token+`"}`))
	r.SetBasicAuth(sessionapitest.DefaultProjectID, sessionapitest.DefaultSecret)
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.NewDecoder(response.Body).Decode(&o); err != nil || response.Body.Close() != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "application/json" || o.at("session/session_id") != login.SessionID {
		t.Errorf("got %s %v %v", response.Status, response.Header, o)
	}
	if response.Request != r || response.ContentLength <= 0 || response.Status != "200 OK" {
		t.Errorf("the response is incomplete: %+v", response)
	}

	response, err = client.Get("http://any.example/v1/none")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != 404 || !strings.Contains(string(text), "route_not_found") {
		t.Errorf("got %s %s", response.Status, text)
	}
	if n := s.Calls("authenticate"); n != 1 {
		t.Errorf("%d calls counted, want 1", n)
	}

	control := &sessionapitest.Control{BaseURL: "http://emulator", HTTP: client}
	if err := control.Revoke(t.Context(), login.SessionID); err != nil {
		t.Error(err)
	}
}

func TestTransportMeetsFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault  sessionapitest.Fault
		status int   // 0 is an error
		err    error // which it is
		took   time.Duration
	}{
		"none":                          {sessionapitest.Fault{}, 200, nil, 0},
		"an answer of its own":          {sessionapitest.Fault{Status: 503, Body: "<html>"}, 503, nil, 0},
		"an answer without a body":      {sessionapitest.Fault{Status: 204}, 204, nil, 0},
		"latency":                       {sessionapitest.Fault{Latency: time.Second}, 200, nil, time.Second},
		"latency beyond the time limit": {sessionapitest.Fault{Latency: time.Hour}, 0, context.DeadlineExceeded, time.Minute},
		"hang":                          {sessionapitest.Fault{Hang: true}, 0, context.DeadlineExceeded, time.Minute},
		"refuse":                        {sessionapitest.Fault{Refuse: true}, 0, io.EOF, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := sessionapitest.New(sessionapitest.Config{NewKey: sessionapitest.SharedKeys()})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.SetFault("jwks", c.fault); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				body := &closed{}
				r, _ := http.NewRequestWithContext(ctx, "GET", "http://any.example"+jwksPath, body)
				response, err := s.Transport().RoundTrip(r)
				if took := time.Since(begin); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if !body.closed {
					t.Error("the request's body stays open")
				}
				if c.status == 0 {
					if response != nil || !errors.Is(err, c.err) {
						t.Errorf("got %v, %v; want %v", response, err, c.err)
					}
					return
				}
				if err != nil || response.StatusCode != c.status {
					t.Errorf("got %v, %v; want %d", response, err, c.status)
				}
			})
		})
	}
	s, err := sessionapitest.New(sessionapitest.Config{NewKey: sessionapitest.SharedKeys()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", "http://any.example"+jwksPath, nil)
	if _, err := s.Transport().RoundTrip(r); !errors.Is(err, context.Canceled) || s.Calls("jwks") != 0 {
		t.Errorf("a caller that has left: got %v after %d calls", err, s.Calls("jwks"))
	}
}

// closed is an empty body.
type closed struct{ closed bool }

func (*closed) Read([]byte) (int, error) { return 0, io.EOF }

func (c *closed) Close() error {
	c.closed = true
	return nil
}
