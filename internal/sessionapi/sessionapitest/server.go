// Package sessionapitest is the emulator: a stand-in for the vendor's session service that answers as the service
// does, so that tests and newcomers need no account.
//
// One Server is one project, consumer or B2B. Its sessions live in memory; its JWTs are genuine, signed by keys that
// its key set serves; its error bodies are the vendor's. Beside the vendor's endpoints it has those under /emulator/,
// for what a test must be able to do to a service: log in, revoke, mint an old JWT, rotate keys, break. They ask for
// no credential, which is one reason why Run refuses to listen off loopback unless told to.
//
// It is a development tool and holds no real sessions. Not emulated: rate limits, the other ways to log in, M2M
// tokens, and whatever else the sidecar and the vendor's session clients don't ask for.
//
// See https://stytch.com/docs/api/session-auth and https://stytch.com/docs/b2b/api/authenticate-session.
package sessionapitest

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// What an emulator is called when nobody says otherwise. The secret protects nothing.
const (
	DefaultProjectID = "project-test-11111111-1111-4111-8111-111111111111"
	DefaultSecret    = "secret-test-emulator-for-development-only="
)

// The two products, each with endpoints and words of its own.
const (
	Consumer = "consumer"
	B2B      = "b2b"
)

// Config says what project the emulator stands for. The zero Config is a consumer project.
type Config struct {
	// ProjectID is "project-test-…" or "project-live-…". Default DefaultProjectID.
	ProjectID string
	// Secret is what a caller of the vendor's endpoints must show. Default DefaultSecret.
	Secret string
	// Product is Consumer or B2B. Default Consumer.
	Product string
	// Issuer is what JWTs name as iss. Default "stytch.com/<project id>".
	Issuer string
	// JWTLifetime is exp − iat, in whole seconds. Default 5m, as the vendor's.
	JWTLifetime time.Duration
	// SessionLifetime is how long a session lives unless its log-in says. Default 60m.
	SessionLifetime time.Duration
	// Policy is the project's RBAC policy. Default DefaultPolicy(). SetPolicy replaces it.
	Policy *Policy
	// OrganizationRoles are the roles that an organization adds to the policy, by organization id. Default none.
	// SetOrganizationRoles replaces them.
	OrganizationRoles map[string][]Role
	// NewKey makes a signing key when the first is needed and at each rotation. Default: a fresh RSA key of 2048
	// bits; a test in a hurry takes SharedKeys.
	NewKey func() (*rsa.PrivateKey, error)
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Logger hears of start and stop. Default: discarded.
	Logger *slog.Logger
}

// Server is one emulated project. It is safe for concurrent use.
type Server struct {
	config Config
	env    string // "test" or "live", the middle of every id
	mux    *http.ServeMux
	keys   keyring
	store  store
	rbac   rbac
	faults faults
}

var projectIDs = regexp.MustCompile(`^project-(test|live)-[0-9A-Za-z-]+$`)

// New checks config and starts nothing.
func New(config Config) (*Server, error) {
	config = config.withDefaults()
	match := projectIDs.FindStringSubmatch(config.ProjectID)
	switch {
	case match == nil:
		return nil, fmt.Errorf("project id %q is not of the form project-test-… or project-live-…", config.ProjectID)
	case config.Product != Consumer && config.Product != B2B:
		return nil, fmt.Errorf("product %q is neither %q nor %q", config.Product, Consumer, B2B)
	case config.JWTLifetime < time.Second || config.JWTLifetime%time.Second != 0:
		return nil, fmt.Errorf("JWT lifetime %v is not a positive number of whole seconds", config.JWTLifetime)
	case config.SessionLifetime <= 0:
		return nil, fmt.Errorf("session lifetime %v is not positive", config.SessionLifetime)
	}
	s := &Server{config: config, env: match[1], mux: http.NewServeMux()}
	s.keys.generate = config.NewKey
	s.keys.env = s.env
	s.store.init()
	s.SetPolicy(config.Policy)
	s.rbac.roles = map[string][]Role{}
	for id, roles := range config.OrganizationRoles {
		s.rbac.roles[id] = cloneRoles(roles)
	}
	s.faults.init()
	s.routes()
	s.controlRoutes()
	return s, nil
}

func (c Config) withDefaults() Config {
	if c.ProjectID == "" {
		c.ProjectID = DefaultProjectID
	}
	if c.Secret == "" {
		c.Secret = DefaultSecret
	}
	if c.Product == "" {
		c.Product = Consumer
	}
	if c.Issuer == "" {
		c.Issuer = "stytch.com/" + c.ProjectID
	}
	if c.JWTLifetime == 0 {
		c.JWTLifetime = 5 * time.Minute
	}
	if c.SessionLifetime == 0 {
		c.SessionLifetime = time.Hour
	}
	if c.NewKey == nil {
		c.NewKey = freshKey
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ServeHTTP answers the vendor's endpoints and those under /emulator/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", s.now().Format(http.TimeFormat))
	s.mux.ServeHTTP(w, r)
}

// routes are the vendor's endpoints for the product; every other path is route_not_found.
func (s *Server) routes() {
	base := "/v1/"
	if s.isB2B() {
		base = "/v1/b2b/"
		s.route("GET "+base+"rbac/organizations/{organization_id}", EndpointOrganizationPolicy, s.authorized(s.getOrganizationPolicy))
	}
	s.route("POST "+base+"sessions/authenticate", EndpointAuthenticate, s.authorized(s.authenticate))
	s.route("POST "+base+"sessions/revoke", EndpointRevoke, s.authorized(s.revoke))
	s.route("GET "+base+"sessions", EndpointSessions, s.authorized(s.getSessions))
	s.route("GET "+base+"sessions/jwks/{project_id}", EndpointKeySet, s.getKeySet)
	s.route("GET "+base+"rbac/policy", EndpointPolicy, s.authorized(s.getPolicy))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, &apiError{http.StatusNotFound, "route_not_found", "No such route."})
	})
}

func (s *Server) isB2B() bool { return s.config.Product == B2B }

func (s *Server) now() time.Time { return s.config.Now().UTC() }

// newID is an id as the vendor makes them: "session-test-<uuid>".
func (s *Server) newID(kind string) string { return kind + "-" + s.env + "-" + uuid() }

// uuid is a random UUID, version 4 (RFC 9562).
func uuid() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return strings.Join([]string{
		fmt.Sprintf("%x", b[:4]), fmt.Sprintf("%x", b[4:6]), fmt.Sprintf("%x", b[6:8]), fmt.Sprintf("%x", b[8:10]), fmt.Sprintf("%x", b[10:]),
	}, "-")
}
