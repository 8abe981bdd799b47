package session

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
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
	// Generation counts the changes of the keys that may be used; 0 while none may be: none loaded, or too old. It never
	// waits.
	Generation() uint64
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
	// CacheBytes bounds the memory that JWTs which were proved authentic are remembered in. 0 remembers none.
	CacheBytes int
}

// Verifier proves session JWTs of one project. It is safe for concurrent use.
type Verifier struct {
	config Config
	cache  *cache // nil: nothing is remembered
	// checkSignature is jws.Token.Verify.
	checkSignature func(*jws.Token, *rsa.PublicKey) error
	// header is the last one of an authentic JWT: all those under one key have the same.
	header atomic.Pointer[header]
}

// header is a JOSE header that was read, and what it says.
type header struct{ text, kid string }

// NewVerifier returns a Verifier, or what is wrong with the configuration. It is to be closed.
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
	case c.CacheBytes < 0:
		return nil, errors.New("session verifier: negative cache size")
	}
	c.Issuers = slices.Clone(c.Issuers)
	if c.MaxLifetime == 0 {
		c.MaxLifetime = time.Hour
	}
	v := &Verifier{config: c, checkSignature: (*jws.Token).Verify}
	if c.CacheBytes > 0 {
		v.cache = newCache(c.CacheBytes, c.ExpiryLeeway)
	}
	return v, nil
}

// Close ends what runs for the verifier in the background. A verifier that is closed may still be used.
func (v *Verifier) Close() {
	if v.cache != nil {
		v.cache.close()
	}
}

// Forget drops what is remembered, to give its memory back; each JWT is proved anew.
func (v *Verifier) Forget() {
	if v.cache != nil {
		v.cache.entries.InvalidateAll()
	}
}

// Verify proves a session JWT as VerifyInto does. The session is nil unless the error is nil or ErrExpired.
func (v *Verifier) Verify(ctx context.Context, jwt string, now time.Time) (*Session, error) {
	s := new(Session)
	if proved, err := v.VerifyInto(ctx, s, jwt, now); !proved {
		return nil, err
	} else {
		return s, err
	}
}

// VerifyInto proves a session JWT as of now. It reports whether it did: then into is what the JWT says, and the error is nil,
// or ErrExpired if the JWT is authentic but old. Else into is zero. Not checked here: whether it was revoked, and how old a
// rule lets it be (Session.TooOld).
//
// The memory of into.Roles and into.Factors is used again: who keeps a session while into goes on to the next one, keeps a
// Clone. Nothing of the text of jwt is kept, neither in into nor elsewhere.
func (v *Verifier) VerifyInto(ctx context.Context, into *Session, jwt string, now time.Time) (proved bool, err error) {
	p, err := v.prove(ctx, jwt, now)
	if err != nil {
		*into = Session{}
		return false, err
	}
	return v.open(p, into, now)
}

// open sets into to what a proof says, if now is within its times or later.
func (v *Verifier) open(p proof, into *Session, now time.Time) (proved bool, err error) {
	if err = v.checkTimes(p.times(), now); err != nil && !errors.Is(err, ErrExpired) {
		*into = Session{}
		return false, err
	}
	into.ProjectID, into.Product = v.config.ProjectID, v.config.Product
	p.unpack(into)
	return true, err
}

// prove returns what an authentic JWT says. Whether now is within its times is not checked, only whether it is worth
// remembering.
func (v *Verifier) prove(ctx context.Context, jwt string, now time.Time) (proof, error) {
	// Read before the key is looked up: of a key that goes in between, the generation is the older one, and nothing is found
	// under that any more.
	generation := v.config.Keys.Generation()
	var digest digest
	remember := v.cache != nil && generation != 0 && len(jwt) <= jws.MaxLength
	if remember {
		digest = v.cache.digest(jwt)
		if p, ok := v.cache.get(digest, generation); ok {
			return p, nil
		}
	}
	token, err := jws.Parse(jwt)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if token.Payload == "" { // which is fine for a JWS
		return "", fmt.Errorf("%w: an empty part", ErrMalformed)
	}
	h := v.header.Load()
	if h == nil || h.text != token.Header {
		kid, err := readHeader(token.Header)
		if err != nil {
			return "", fmt.Errorf("%w: header: %w", ErrMalformed, err)
		}
		h = &header{strings.Clone(token.Header), strings.Clone(kid)}
	}
	key, err := v.config.Keys.Key(ctx, h.kid)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	if key == nil {
		return "", ErrUnknownKey
	}
	authenticate := func() (proof, error) {
		p, err := v.authenticate(token, key, generation)
		if err == nil && v.header.Load() != h {
			v.header.Store(h)
		}
		return p, err
	}
	if !remember {
		return authenticate()
	}
	return v.cache.once(digest, generation, authenticate, func(p proof) bool {
		err := v.checkTimes(p.times(), now)
		return err == nil || errors.Is(err, ErrExpired)
	})
}

// authenticate checks the signature and then the claims.
func (v *Verifier) authenticate(token *jws.Token, key *rsa.PublicKey, generation uint64) (proof, error) {
	if err := v.checkSignature(token, key); err != nil {
		return "", fmt.Errorf("%w: %w", ErrForged, err)
	}
	var c claims
	if err := v.readClaims(&c, token.Payload); err != nil {
		return "", fmt.Errorf("%w: %w", ErrClaims, err)
	}
	return pack(&c, generation), nil
}

// checkTimes says whether a JWT is ErrNotYetValid or ErrExpired.
func (v *Verifier) checkTimes(t times, now time.Time) error {
	if t.start.After(now.Add(v.config.IssueLeeway)) {
		return ErrNotYetValid
	}
	earliest := now.Add(-v.config.ExpiryLeeway)
	if !t.expires.After(earliest) {
		return ErrExpired
	}
	// The session may have been extended since, which only the session API knows.
	if !t.ends.IsZero() && !t.ends.After(earliest) {
		return errEnded
	}
	return nil
}

var errEnded = fmt.Errorf("%w: its session has ended", ErrExpired)
