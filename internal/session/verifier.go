package session

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"time"

	"authz-sidecar/internal/jws"
)

// What Verify says no with.
var (
	// ErrMalformed: not a session JWT at all, or not in its one canonical spelling. Extract says it of a credential.
	ErrMalformed = errors.New("credential is malformed")
	// ErrUnknownKey: an up-to-date key set has no such key.
	ErrUnknownKey = errors.New("session JWT names an unknown key")
	// ErrKeysUnavailable: whether there is such a key could not be learnt. It wraps the reason.
	ErrKeysUnavailable = errors.New("the key that a session JWT names could not be learnt")
	// ErrForged: the signature is not the key's.
	ErrForged = errors.New("session JWT is forged")
	// ErrClaims: authentic, but not a session of this project, or not readable in one way only.
	ErrClaims = errors.New("session JWT has unacceptable claims")
	// ErrNotYetValid: authentic, but issued in the future.
	ErrNotYetValid = errors.New("session JWT is not yet valid")
	// ErrExpired: authentic, but it or its session has come to its end.
	ErrExpired = errors.New("session JWT has expired")
)

// KeySet is where a verifier gets its keys.
type KeySet interface {
	// Key returns the key of that id. A nil key without an error means that an up-to-date set has no such key; an error
	// means that this could not be learnt.
	Key(ctx context.Context, kid string) (*rsa.PublicKey, error)
}

// Config says which sessions a Verifier accepts.
type Config struct {
	// ProjectID is the audience. Required.
	ProjectID string
	// Product is Consumer or B2B. Required.
	Product Product
	// Issuers are compared exactly. At least one.
	Issuers []string
	// Keys are the project's. Required.
	Keys KeySet
	// ExpiryLeeway is how long after its exp a JWT, or after its end a session, still counts as unexpired. Default 0.
	ExpiryLeeway time.Duration
	// IssueLeeway is how far in the future iat and nbf may lie. Default 0.
	IssueLeeway time.Duration
	// MaxLifetime is the most that exp − iat may be. Default 1h.
	MaxLifetime time.Duration
}

// Verifier proves session JWTs of one project. It is safe for concurrent use.
type Verifier struct{ config Config }

// NewVerifier returns a Verifier, or what is wrong with the configuration.
func NewVerifier(c Config) (*Verifier, error) {
	switch {
	case c.ProjectID == "":
		return nil, errors.New("session verifier: no project id")
	case c.Product != Consumer && c.Product != B2B:
		return nil, fmt.Errorf("session verifier: unknown product %q", c.Product)
	case len(c.Issuers) == 0 || slices.Contains(c.Issuers, ""):
		return nil, errors.New("session verifier: no issuers, or an empty one")
	case c.Keys == nil:
		return nil, errors.New("session verifier: no key set")
	case c.ExpiryLeeway < 0 || c.IssueLeeway < 0 || c.MaxLifetime < 0:
		return nil, errors.New("session verifier: negative leeway or lifetime")
	}
	c.Issuers = slices.Clone(c.Issuers)
	if c.MaxLifetime == 0 {
		c.MaxLifetime = time.Hour
	}
	return &Verifier{config: c}, nil
}

// Verify proves a session JWT as of now. The session is nil unless the error is nil or ErrExpired: then it is authentic
// but old. Not checked here: whether it was revoked, and how old a rule lets it be (Session.TooOld).
func (v *Verifier) Verify(ctx context.Context, jwt string, now time.Time) (*Session, error) {
	token, err := jws.Parse(jwt)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if token.Payload == "" { // which is fine for a JWS
		return nil, fmt.Errorf("%w: an empty part", ErrMalformed)
	}
	kid, err := readHeader(token.Header)
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	key, err := v.config.Keys.Key(ctx, kid)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	if key == nil {
		return nil, ErrUnknownKey
	}
	if err := token.Verify(key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	c, err := v.readClaims(token.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClaims, err)
	}
	s := &c.session
	s.KeyID = kid
	if latest := now.Add(v.config.IssueLeeway); s.IssuedAt.After(latest) || c.notBefore.After(latest) {
		return nil, ErrNotYetValid
	}
	earliest := now.Add(-v.config.ExpiryLeeway)
	if !s.Expires.After(earliest) {
		return s, ErrExpired
	}
	// The session may have been extended since, which only the session API knows.
	if !s.EndsAt.IsZero() && !s.EndsAt.After(earliest) {
		return s, fmt.Errorf("%w: its session has ended", ErrExpired)
	}
	return s, nil
}
