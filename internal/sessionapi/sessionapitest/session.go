package sessionapitest

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxCustomClaims is the vendor's limit on a session's custom claims, as JSON.
const maxCustomClaims = 4 << 10

// reservedClaims are the names that a custom claim must not have (RFC 7519, section 4.1).
var reservedClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}

// ErrNoSession says that no session has the given id, not even a dead one.
var ErrNoSession = errors.New("no such session")

// Factor is an authentication factor as the vendor writes it: at least "type" and "delivery_method", and in
// "email_factor" or the like what was proved.
type Factor map[string]any

// session is what the emulator knows of one. A copy may be read without a lock: its slices and maps are replaced,
// never changed.
type session struct {
	id, token                        string
	subject, email, emailID          string
	organizationID, organizationSlug string
	roles                            []string
	factors                          []Factor
	claims                           map[string]any
	startedAt, accessedAt, expiresAt time.Time
	revoked                          bool
}

func (s *session) lives(now time.Time) bool { return !s.revoked && now.Before(s.expiresAt) }

// touch notes an access, always a later one, because a clock that stands still must not make two equal JWTs.
func (s *session) touch(now time.Time) {
	if !now.After(s.accessedAt) {
		now = s.accessedAt.Add(time.Microsecond)
	}
	s.accessedAt = now
}

// mergeClaims adds custom claims; a null deletes.
func (s *session) mergeClaims(claims map[string]any) *apiError {
	merged := maps.Clone(s.claims)
	if merged == nil {
		merged = map[string]any{}
	}
	for name, value := range claims {
		switch {
		case slices.Contains(reservedClaims, name):
			return &apiError{http.StatusBadRequest, "reserved_claims_in_custom_claims", fmt.Sprintf("session_custom_claims: %q is a reserved claim.", name)}
		case strings.HasPrefix(name, "https://stytch.com/"):
			return &apiError{http.StatusBadRequest, "stytch_claims_in_custom_claims", fmt.Sprintf("session_custom_claims: %q is a claim of the service's.", name)}
		case value == nil:
			delete(merged, name)
		default:
			merged[name] = value
		}
	}
	text, err := json.Marshal(merged)
	if err != nil {
		return errBadRequest("session_custom_claims: %v.", err)
	}
	if len(text) > maxCustomClaims {
		return &apiError{http.StatusBadRequest, "custom_claims_too_large", fmt.Sprintf("session_custom_claims: larger than %d bytes.", maxCustomClaims)}
	}
	s.claims = merged
	return nil
}

// LogIn says who logs in. What is empty is invented.
type LogIn struct {
	// UserID is for a consumer project, MemberID and the organization for B2B.
	UserID           string `json:"user_id,omitempty"`
	MemberID         string `json:"member_id,omitempty"`
	OrganizationID   string `json:"organization_id,omitempty"`
	OrganizationSlug string `json:"organization_slug,omitempty"`
	// Roles default to stytch_user or stytch_member; an empty list, not nil, is none.
	Roles []string `json:"roles,omitzero"`
	// Factors default to one code by e-mail.
	Factors      []Factor       `json:"authentication_factors,omitempty"`
	CustomClaims map[string]any `json:"custom_claims,omitempty"`
	// Duration is how long the session lives; in JSON "90s" or "1h". Default Config.SessionLifetime.
	Duration time.Duration `json:"-"`
}

// Login is a new session with both its credentials.
type Login struct {
	SessionID      string    `json:"session_id"`
	Token          string    `json:"session_token"`
	JWT            string    `json:"session_jwt"`
	Subject        string    `json:"subject"`
	OrganizationID string    `json:"organization_id,omitempty"`
	ExpiresAt      time.Time `json:"expires_at"`
}

// LogIn starts a session.
func (s *Server) LogIn(in LogIn) (Login, error) {
	switch {
	case s.isB2B() && in.UserID != "":
		return Login{}, errors.New("user_id: a B2B project has members")
	case !s.isB2B() && (in.MemberID != "" || in.OrganizationID != "" || in.OrganizationSlug != ""):
		return Login{}, errors.New("member_id, organization_id, organization_slug: a consumer project has users")
	case in.Duration < 0:
		return Login{}, errors.New("session_duration: is negative")
	}
	now := s.now()
	sess := &session{
		id: s.newID("session"), token: newToken(),
		subject:   cmp.Or(in.UserID, s.newID("user")),
		roles:     slices.Clone(in.Roles),
		startedAt: now, accessedAt: now, expiresAt: now.Add(cmp.Or(in.Duration, s.config.SessionLifetime)),
	}
	role := "stytch_user"
	if s.isB2B() {
		sess.subject, role = cmp.Or(in.MemberID, s.newID("member")), "stytch_member"
		sess.organizationID = cmp.Or(in.OrganizationID, s.newID("organization"))
		sess.organizationSlug = cmp.Or(in.OrganizationSlug, "acme")
	}
	if in.Roles == nil {
		sess.roles = []string{role}
	}
	sess.email, sess.emailID = sess.subject+"@example.com", s.newID("email")
	factors := in.Factors
	if factors == nil {
		factors = []Factor{{"type": "otp", "delivery_method": "email",
			"email_factor": map[string]any{"email_id": sess.emailID, "email_address": sess.email}}}
	}
	for i, f := range factors {
		complete, err := f.complete(now)
		if err != nil {
			return Login{}, fmt.Errorf("authentication_factors[%d]: %w", i, err)
		}
		sess.factors = append(sess.factors, complete)
	}
	if refusal := sess.mergeClaims(in.CustomClaims); refusal != nil {
		return Login{}, errors.New(refusal.message)
	}
	jwt, err := s.mint(sess, now)
	if err != nil {
		return Login{}, err
	}
	login := Login{sess.id, sess.token, jwt, sess.subject, sess.organizationID, sess.expiresAt}
	return login, s.store.add(sess)
}

// Revoke ends a session.
func (s *Server) Revoke(sessionID string) error {
	return s.change(sessionID, func(sess *session) error { sess.revoked = true; return nil })
}

// AttachFactor adds an authentication factor to a session.
func (s *Server) AttachFactor(sessionID string, f Factor) error {
	complete, err := f.complete(s.now())
	if err != nil {
		return fmt.Errorf("factor: %w", err)
	}
	return s.change(sessionID, func(sess *session) error {
		sess.factors = append(slices.Clip(sess.factors), complete)
		return nil
	})
}

// MergeClaims adds custom claims to a session; a nil value deletes.
func (s *Server) MergeClaims(sessionID string, claims map[string]any) error {
	return s.change(sessionID, func(sess *session) error {
		if refusal := sess.mergeClaims(claims); refusal != nil {
			return errors.New(refusal.message)
		}
		return nil
	})
}

// Extend makes a session end d from now, which may be sooner than before.
func (s *Server) Extend(sessionID string, d time.Duration) error {
	return s.change(sessionID, func(sess *session) error { sess.expiresAt = s.now().Add(d); return nil })
}

// change changes a session, dead or alive.
func (s *Server) change(id string, change func(*session) error) error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	sess := s.store.byID[id]
	if sess == nil {
		return fmt.Errorf("session_id: %w", ErrNoSession)
	}
	return change(sess)
}

// complete checks a factor and dates it.
func (f Factor) complete(now time.Time) (Factor, error) {
	for _, name := range []string{"type", "delivery_method"} {
		if text, _ := f[name].(string); text == "" {
			return nil, fmt.Errorf("%s is missing", name)
		}
	}
	f = maps.Clone(f)
	if f["last_authenticated_at"] == nil {
		f["last_authenticated_at"] = now
	}
	return f, nil
}

// newToken is an opaque token of the vendor's length and alphabet.
func newToken() string {
	var b [33]byte
	rand.Read(b[:]) // never fails
	return base64.URLEncoding.EncodeToString(b[:])
}
