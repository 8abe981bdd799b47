package sessionapitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The claims that hold the session and, in B2B, its organization.
const (
	sessionClaim      = "https://stytch.com/session"
	organizationClaim = "https://stytch.com/organization"
)

// Mint is a genuine JWT of a session, dead or alive, as if issued then. It is how a test gets an expired one without
// waiting.
func (s *Server) Mint(sessionID string, issuedAt time.Time) (string, error) {
	sess, ok := s.store.get(sessionID)
	if !ok {
		return "", fmt.Errorf("session_id: %w", ErrNoSession)
	}
	return s.mint(&sess, issuedAt)
}

// ExpiredJWT is a genuine JWT of a session that expired a second ago.
func (s *Server) ExpiredJWT(sessionID string) (string, error) {
	return s.Mint(sessionID, s.now().Add(-s.config.JWTLifetime-time.Second))
}

// Sign puts a good signature of the current key on whatever it is given: a []byte or json.RawMessage goes in as it
// is, anything else as JSON. A nil header is the usual one. Signing is RS256 even if the header says otherwise.
func (s *Server) Sign(header, claims any) (string, error) { return s.SignWith("", header, claims) }

// SignWith is Sign under the key of that id, current, retained or gone; "" is the current one.
func (s *Server) SignWith(kid string, header, claims any) (string, error) {
	key, err := s.keys.current()
	if err != nil {
		return "", err
	}
	if kid != "" {
		if key = s.keys.find(kid); key == nil {
			return "", fmt.Errorf("kid: the project never had a key %q", kid)
		}
	}
	if header == nil {
		header = usualHeader(key)
	}
	h, err := raw(header)
	if err != nil {
		return "", fmt.Errorf("header: %w", err)
	}
	c, err := raw(claims)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	return key.sign(h, c)
}

// RotateKeys makes a new signing key and returns its id. With overlap the key set keeps the old ones; without, JWTs
// under them are worth nothing from now on.
func (s *Server) RotateKeys(overlap bool) (string, error) {
	key, err := s.keys.rotate(overlap)
	if err != nil {
		return "", err
	}
	return key.id(), nil
}

// KeyID is the id of the key that signs now.
func (s *Server) KeyID() (string, error) {
	key, err := s.keys.current()
	if err != nil {
		return "", err
	}
	return key.id(), nil
}

// Claims are those that a session's JWT would have if issued then: something for Sign to spoil.
func (s *Server) Claims(sessionID string, issuedAt time.Time) (map[string]any, error) {
	sess, ok := s.store.get(sessionID)
	if !ok {
		return nil, fmt.Errorf("session_id: %w", ErrNoSession)
	}
	return s.claims(&sess, issuedAt), nil
}

func (s *Server) mint(sess *session, issuedAt time.Time) (string, error) {
	return s.Sign(nil, s.claims(sess, issuedAt))
}

func (s *Server) claims(sess *session, issuedAt time.Time) map[string]any {
	claims := map[string]any{}
	maps.Copy(claims, sess.claims)
	iat := issuedAt.Unix()
	maps.Copy(claims, map[string]any{
		"iss": s.config.Issuer, "aud": []string{s.config.ProjectID}, "sub": sess.subject,
		"iat": iat, "nbf": iat, "exp": iat + int64(s.config.JWTLifetime/time.Second),
		sessionClaim: map[string]any{
			"id":                     sess.id,
			"started_at":             sess.startedAt,
			"last_accessed_at":       sess.accessedAt,
			"expires_at":             sess.expiresAt,
			"attributes":             attributes{},
			"authentication_factors": sess.factors,
			"roles":                  sess.roles,
		},
	})
	if s.isB2B() {
		claims[organizationClaim] = map[string]any{"organization_id": sess.organizationID, "slug": sess.organizationSlug}
	}
	return claims
}

// openJWT is the session id of a JWT that this project signed, however long ago it expired. Whether the session lives
// is not looked at here.
func (s *Server) openJWT(jwt string) (string, *apiError) {
	payload, err := s.keys.open(jwt)
	if err != nil {
		return "", errUnparsableJWT
	}
	var claims struct {
		Issuer   string   `json:"iss"`
		Audience audience `json:"aud"`
		Session  struct {
			ID string `json:"id"`
		} `json:"https://stytch.com/session"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil ||
		claims.Issuer != s.config.Issuer || !slices.Contains(claims.Audience, s.config.ProjectID) || claims.Session.ID == "" {
		return "", errUnparsableJWT
	}
	return claims.Session.ID, nil
}

// audience is a string or a list of them (RFC 7519, section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

func usualHeader(key *signingKey) any {
	return map[string]string{"alg": "RS256", "kid": key.id(), "typ": "JWT"}
}

func raw(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, errors.New("is missing")
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	}
	return json.Marshal(v)
}
