package sessionapitest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// controlEndpoint is one of those under /emulator/, with an example of its body for people with curl.
type controlEndpoint struct {
	method, path, what, example string
	serve                       func(r *http.Request) (any, error)
}

// done is the answer of a control endpoint that has nothing to say.
type done struct{}

func (s *Server) controlEndpoints() []controlEndpoint {
	const session = `"session_id":"session-test-…"`
	subject, logIn := "user-test-mallory", `{"user_id":"user-test-ada","roles":["editor"],"session_duration":"1h"}`
	if s.isB2B() {
		subject, logIn = "member-test-mallory", `{"member_id":"member-test-ada","organization_id":"organization-test-acme",`+
			`"organization_slug":"acme","roles":["editor"],"session_duration":"1h"}`
	}
	const role = `{"role_id":"editor","permissions":[{"resource_id":"documents","actions":["read","write"]}]}`
	all := []controlEndpoint{
		{"POST", "log_in", "start a session; every field is optional", logIn,
			body(func(in LogIn) (any, error) { return s.LogIn(in) })},
		{"POST", "revoke", "end a session", `{` + session + `}`,
			body(func(in sessionRequest) (any, error) { return done{}, s.Revoke(in.SessionID) })},
		{"POST", "extend", "make a session end so long from now", `{` + session + `,"session_duration":"30m"}`,
			body(func(in extendRequest) (any, error) {
				return done{}, s.Extend(in.SessionID, time.Duration(in.Duration))
			})},
		{"POST", "attach_factor", "add an authentication factor", `{` + session + `,"factor":{"type":"totp","delivery_method":"authenticator_app"}}`,
			body(func(in attachFactorRequest) (any, error) { return done{}, s.AttachFactor(in.SessionID, in.Factor) })},
		{"POST", "custom_claims", "merge custom claims; null deletes", `{` + session + `,"custom_claims":{"plan":"gold"}}`,
			body(func(in customClaimsRequest) (any, error) { return done{}, s.MergeClaims(in.SessionID, in.CustomClaims) })},
		{"POST", "mint", "a JWT of a session, dead or alive, as if issued at issued_at or age ago", `{` + session + `,"age":"10m"}`,
			body(s.controlMint)},
		{"POST", "sign", "sign any claims, with any header, under any key of the project", `{"claims":{"sub":"` + subject + `"}}`,
			body(s.controlSign)},
		{"POST", "rotate_keys", "sign with a new key; with overlap the key set keeps the old ones", `{"overlap":true}`,
			body(func(in rotateRequest) (any, error) {
				kid, err := s.RotateKeys(in.Overlap)
				return rotateAnswer{kid}, err
			})},
		{"POST", "policy", "replace the RBAC policy; without one it is the default again", `{"policy":{"roles":[` + role + `]}}`,
			body(func(in policyRequest) (any, error) { s.SetPolicy(in.Policy); return done{}, nil })},
		{"POST", "faults", "break an endpoint: latency, then status and body, hang or refuse; headers; count", `{"endpoint":"authenticate","fault":{"latency":"100ms","status":503,"count":3}}`,
			body(func(in faultRequest) (any, error) { return done{}, s.SetFault(in.Endpoint, in.Fault) })},
		{"POST", "faults/clear", "mend every endpoint", "",
			func(*http.Request) (any, error) { s.ClearFaults(); return done{}, nil }},
		{"GET", "calls", "how many requests have arrived at each endpoint", "",
			func(*http.Request) (any, error) { return s.allCalls(), nil }},
		{"POST", "calls/reset", "count from 0 again", "",
			func(*http.Request) (any, error) { s.ResetCalls(); return done{}, nil }},
		{"GET", "sessions", "every session, dead ones included", "",
			func(*http.Request) (any, error) { return s.statuses(), nil }},
	}
	if !s.isB2B() {
		return all
	}
	return append(all, controlEndpoint{"POST", "organization_roles", "replace the roles that an organization adds to the RBAC policy",
		`{"organization_id":"organization-test-acme","roles":[` + role + `]}`,
		body(func(in organizationRolesRequest) (any, error) {
			return done{}, s.SetOrganizationRoles(in.OrganizationID, in.Roles)
		})})
}

func (s *Server) controlRoutes() {
	for _, e := range s.controlEndpoints() {
		s.mux.HandleFunc(e.method+" /emulator/"+e.path, func(w http.ResponseWriter, r *http.Request) {
			answer, err := e.serve(r)
			if err != nil {
				writeJSON(w, http.StatusBadRequest, ControlError{err.Error()})
				return
			}
			writeJSON(w, http.StatusOK, answer)
		})
	}
	s.mux.HandleFunc("GET /emulator/{$}", s.manual)
	s.mux.HandleFunc("/emulator/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, ControlError{"no such control endpoint; GET /emulator/ lists them"})
	})
}

// manual says what there is, with lines to paste.
func (s *Server) manual(w http.ResponseWriter, r *http.Request) {
	base := "http://" + r.Host
	if r.TLS != nil {
		base = "https://" + r.Host
	}
	var text strings.Builder
	fmt.Fprintf(&text, "The emulator of the session service, for development only: it holds no real sessions.\n\n")
	fmt.Fprintf(&text, "project  %s (%s)\nsecret   %s\nfaults   for endpoints %q\n", s.config.ProjectID, s.config.Product, s.config.Secret, endpoints)
	for _, e := range s.controlEndpoints() {
		fmt.Fprintf(&text, "\n# %s\ncurl -s", e.what)
		if e.method == http.MethodPost {
			fmt.Fprint(&text, " -X POST")
		}
		if e.example != "" {
			fmt.Fprintf(&text, " -d '%s'", e.example)
		}
		fmt.Fprintf(&text, " %s/emulator/%s\n", base, e.path)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, text.String())
}

func (s *Server) controlMint(in mintRequest) (any, error) {
	if !in.IssuedAt.IsZero() && in.Age != 0 {
		return nil, errors.New("issued_at, age: give one of them")
	}
	if in.IssuedAt.IsZero() {
		in.IssuedAt = s.now().Add(-time.Duration(in.Age))
	}
	jwt, err := s.Mint(in.SessionID, in.IssuedAt)
	return jwtAnswer{jwt}, err
}

func (s *Server) controlSign(in signRequest) (any, error) {
	if in.Header != nil && in.RawHeader != nil {
		return nil, errors.New("header, raw_header: give one of them")
	}
	if in.Claims != nil && in.RawClaims != nil {
		return nil, errors.New("claims, raw_claims: give one of them")
	}
	jwt, err := s.SignWith(in.KeyID, either(in.RawHeader, in.Header), either(in.RawClaims, in.Claims))
	return jwtAnswer{jwt}, err
}

// either is the one that is given, or an untyped nil.
func either(raw, text []byte) any {
	switch {
	case raw != nil:
		return raw
	case text != nil:
		return text
	}
	return nil
}

func (s *Server) statuses() []sessionStatus {
	now, list := s.now(), []sessionStatus{}
	for _, sess := range s.store.find(func(*session) bool { return true }) {
		list = append(list, sessionStatus{sess.id, sess.subject, sess.organizationID, sess.roles, sess.expiresAt, sess.lives(now)})
	}
	return list
}

// body decodes a control endpoint's request, strictly, so that a misspelt field is an error that names it.
func body[In any](serve func(In) (any, error)) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var in In
		if err := strict(http.MaxBytesReader(nil, r.Body, maxBody), &in); err != nil && err != io.EOF {
			return nil, fmt.Errorf("request: %w", err)
		}
		return serve(in)
	}
}
