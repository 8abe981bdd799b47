package rbac_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// emulator stands in for the service, without a network.
type emulator struct {
	*sessionapitest.Server
	t       *testing.T
	product session.Product
}

func newEmulator(t *testing.T, product session.Product) *emulator {
	t.Helper()
	role := func(id, resource string, actions ...string) sessionapitest.Role {
		return sessionapitest.Role{RoleID: id, Permissions: []sessionapitest.Permission{{ResourceID: resource, Actions: actions}}}
	}
	server, err := sessionapitest.New(sessionapitest.Config{
		ProjectID: projectID, Secret: secret, Product: string(product), NewKey: sessionapitest.SharedKeys(),
		OrganizationRoles: map[string][]sessionapitest.Role{
			"organization-test-a": {role("auditor", "documents", "read"), role("clerk", "invoices", "*"), role("star", "*", "*")},
			"organization-test-b": {role("auditor", "invoices", "read")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &emulator{server, t, product}
}

func (e *emulator) RoundTrip(r *http.Request) (response *http.Response, err error) {
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				panic(v)
			}
			response, err = nil, errors.Join(io.ErrUnexpectedEOF, r.Context().Err())
		}
	}()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	recorder := httptest.NewRecorder()
	e.ServeHTTP(recorder, r)
	return recorder.Result(), r.Context().Err()
}

func (e *emulator) fault(endpoint sessionapitest.Endpoint, fault sessionapitest.Fault) {
	e.t.Helper()
	if err := e.SetFault(endpoint, fault); err != nil {
		e.t.Fatal(err)
	}
}

// ask is the service's own verdict.
func (e *emulator) ask(token, organizationID, resource, action string) verdict {
	e.t.Helper()
	check := map[string]string{"resource_id": resource, "action": action}
	path := "/v1/sessions/authenticate"
	if e.product == session.B2B {
		check["organization_id"], path = organizationID, "/v1/b2b/sessions/authenticate"
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(quote(map[string]any{"session_token": token, "authorization_check": check})))
	r.SetBasicAuth(projectID, secret)
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	var answer struct {
		Verdict   struct{ Authorized bool }
		ErrorType string `json:"error_type"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		e.t.Fatal(err)
	}
	switch {
	case w.Code == 200 && answer.Verdict.Authorized:
		return granted
	case w.Code == 403 && answer.ErrorType == "session_authorization_error":
		return denied
	}
	e.t.Fatalf("status %d, %s", w.Code, answer.ErrorType)
	return ""
}

// TestTheServiceJudgesAlike compares every verdict with that of the service itself.
func TestTheServiceJudgesAlike(t *testing.T) {
	for _, product := range []session.Product{session.Consumer, session.B2B} {
		t.Run(string(product), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEmulator(t, product)
				f := start(t, nil, rbac.Config{Product: product, Transport: e})
				synctest.Wait()
				organizations := []string{""}
				if product == session.B2B {
					organizations = []string{"organization-test-a", "organization-test-b", "organization-test-c"}
				}
				count := map[verdict]int{}
				for _, organizationID := range organizations {
					for _, roles := range [][]string{{}, {"viewer"}, {"editor"}, {"admin"}, {"auditor"}, {"clerk"}, {"star"}, {"nobody"},
						{"viewer", "clerk"}, {"auditor", "editor"}, {"nobody", "stytch_member"}} {
						login, err := e.LogIn(sessionapitest.LogIn{OrganizationID: organizationID, Roles: roles})
						if err != nil {
							t.Fatal(err)
						}
						for _, resource := range []string{"documents", "invoices", "*", "Documents"} {
							for _, action := range []string{"read", "write", "delete", "*", "rea"} {
								want := e.ask(login.Token, organizationID, resource, action)
								got := f.may(t.Context(), f.member(organizationID, roles...), resource, action)
								if got != want {
									t.Errorf("%s: roles %q, %s %s: %s, want %s", organizationID, roles, action, resource, got, want)
								}
								count[got]++
							}
						}
					}
				}
				if count[granted] < 10 || count[denied] < 10 {
					t.Errorf("verdicts %v: there was nothing to compare", count)
				}
				if n := e.Calls(sessionapitest.EndpointPolicy); n != 1 {
					t.Errorf("%d fetches of the policy", n)
				}
				if product == session.B2B && e.Calls(sessionapitest.EndpointOrganizationPolicy) != 3 {
					t.Errorf("%d fetches of organizations' roles", e.Calls(sessionapitest.EndpointOrganizationPolicy))
				}
			})
		})
	}
}

func TestTheServicesFaultsAreOutlived(t *testing.T) {
	for name, fault := range map[string]sessionapitest.Fault{
		"an error":         {Status: 500, Body: `{"error_type":"internal_server_error"}`},
		"HTML":             {Body: "<html>"},
		"an empty answer":  {Status: 200},
		"no answer":        {Hang: true},
		"no connection":    {Refuse: true},
		"a late answer":    {Latency: time.Minute},
		"a redirect":       {Status: 302, Headers: map[string]string{"Location": "/v1/b2b/rbac/policy?again"}},
		"too many":         {Status: 429, Body: `{"error_type":"too_many_requests"}`},
		"an unknown route": {Status: 404, Body: `{"error_type":"route_not_found"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEmulator(t, session.B2B)
				both := []sessionapitest.Endpoint{sessionapitest.EndpointPolicy, sessionapitest.EndpointOrganizationPolicy}
				for _, endpoint := range both {
					e.fault(endpoint, fault)
				}
				f := start(t, nil, rbac.Config{Transport: e, MaxStale: 2 * time.Hour})
				viewer, auditor := f.member("organization-test-a", "viewer"), f.member("organization-test-a", "auditor")
				want := func(want verdict) {
					t.Helper()
					for _, s := range []*session.Session{viewer, auditor} {
						if got := f.may(t.Context(), s, "documents", "read"); got != want {
							t.Errorf("roles %q: %s, want %s", s.Roles, got, want)
						}
					}
				}
				f.pass(10 * time.Second)
				want(unavailable)
				e.fault(both[0], sessionapitest.Fault{})
				f.pass(40 * time.Second)
				if got := f.may(t.Context(), viewer, "documents", "read"); got != granted {
					t.Errorf("the project's policy: %s", got)
				}
				if got := f.may(t.Context(), auditor, "documents", "read"); got != unavailable {
					t.Errorf("the organization's roles: %s", got)
				}
				e.ClearFaults()
				f.pass(20 * time.Second)
				want(granted)
				for _, endpoint := range both {
					e.fault(endpoint, fault)
				}
				f.pass(time.Hour)
				want(granted)
				f.pass(2 * time.Hour)
				want(unavailable)
				e.ClearFaults()
				f.pass(40 * time.Second)
				want(granted)
			})
		})
	}
}

func TestTheServiceRefusesAnotherSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil, rbac.Config{Transport: newEmulator(t, session.B2B), Secret: session.Secret("secret-test-another=")})
		synctest.Wait()
		f.wantMetric(policyFetches, "secret_refused", 1)
		f.wantLog(refused)
		if f.Ready() {
			t.Error("ready")
		}
	})
}

// TestOverTheNetwork has the faults that only a network has.
func TestOverTheNetwork(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a policy": {body(project), "ok"},
		"a policy that is cut off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			body(project)(w, r)
		}, "request_failed"},
		"a connection that is closed": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "request_failed"},
		"a policy that drips": {func(w http.ResponseWriter, r *http.Request) {
			for range 1000 {
				if _, err := fmt.Fprint(w, " "); err != nil || r.Context().Err() != nil {
					return
				}
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, "timeout"},
		"a policy without end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(w, strings.Repeat(" ", 1<<16)); err != nil {
					return
				}
			}
		}, "too_large"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != policyPath {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, "status"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.answer)
			t.Cleanup(server.Close)
			transport := &http.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			timeout := 5 * time.Second
			if tt.want == "timeout" {
				timeout = 100 * time.Millisecond
			}
			f := start(t, nil, rbac.Config{BaseURL: server.URL, Transport: transport, FetchTimeout: timeout})
			deadline := time.Now().Add(10 * time.Second)
			for f.metric(policyFetches, tt.want) == 0 {
				if time.Now().After(deadline) {
					t.Fatalf("not counted as %s: %+v", tt.want, f.Status())
				}
				time.Sleep(time.Millisecond)
			}
			if f.Ready() != (tt.want == "ok") {
				t.Errorf("ready: %v", f.Ready())
			}
		})
	}
}
