// Package session proves sessions: what it returns as a Session was signed by the project's own key for the project's
// own sessions, and there is exactly one spelling of a token that it accepts.
//
// Names.Extract finds the Credential in a request and refuses one that two readers could read differently.
// Verifier.Verify proves a session JWT locally, cheapest check first and each before the next one looks: size, shape and
// canonical base64url (package jws), the header, the key, the signature over the received bytes, the claims, and time last. So
// a JWT that is forged costs at most one RSA operation, and ErrExpired is only ever said of an authentic one: it is the
// one error that is worth a call to the session API.
//
// A verifier may remember which JWTs it has proved authentic, and what they say, under a keyed digest of the whole JWT. What
// it remembers saves the RSA operation and nothing else: the key set's generation and all times are checked on every call,
// and what was refused is never remembered.
//
// A Session holds what the JWT says of itself, of the session with its roles and authentication factors, and of whose it
// is; these are read strictly, so that one of another type, out of bounds or under a name of another case makes the JWT
// unacceptable. It also holds the custom claims, which may be any JSON and are decoded only when asked for.
//
// JSON is read by a reader of its own, because encoding/json folds the case of names, keeps the last of two members of
// one name and mends invalid UTF-8: each lets two programs see two identities in one token.
package session

import (
	"math"
	"slices"
	"time"
)

// Product says whose sessions a project has.
type Product string

const (
	// Consumer sessions belong to users.
	Consumer Product = "consumer"
	// B2B sessions belong to members of organizations.
	B2B Product = "b2b"
)

// NoMaxAge is the age that no session JWT reaches: it may be used until it expires.
const NoMaxAge = time.Duration(math.MaxInt64)

// Session is what a session JWT proved.
type Session struct {
	// ProjectID and Product are the verifier's own: the JWT's issuer, audience and claims agree with them.
	ProjectID string
	Product   Product
	// ID names the session. It outlives its JWTs, of which every exchange makes a new one.
	ID string
	// Subject is the user ("user-…") or the member ("member-…").
	Subject string
	// OrganizationID is set for B2B only; so is OrganizationSlug, which may still be empty.
	OrganizationID   string
	OrganizationSlug string
	// Roles may be empty. They hold what an operator named them: any text, not only what fits a header.
	Roles []string
	// Factors are how the session's user has authenticated, in the JWT's order; may be empty, and holds 32 at most.
	Factors []Factor
	// Claims are the custom claims.
	Claims Claims
	// IssuedAt and Expires are the JWT's iat and exp.
	IssuedAt time.Time
	Expires  time.Time
	// EndsAt is when the session itself ends unless it is extended; zero if the JWT does not say.
	EndsAt time.Time
}

// Factor is one authentication factor.
type Factor struct {
	// Type is what it is: "otp", "webauthn_registration", "password" and so on; printable ASCII without spaces, 64 bytes at most.
	Type string
	// DeliveryMethod is how it came: "sms", "email" and so on; as Type is, and may be empty.
	DeliveryMethod string
	// AuthenticatedAt is when it was last used; zero if the JWT does not say. It may lie in the future.
	AuthenticatedAt time.Time
}

// Clone returns a copy that shares nothing with s which VerifyInto would write to.
func (s *Session) Clone() *Session {
	c := *s
	c.Roles, c.Factors = slices.Clone(s.Roles), slices.Clone(s.Factors)
	return &c
}

// TooOld reports whether the JWT is at least maxAge old. At a maxAge of 0 every JWT is, one from a clock that is ahead of
// ours too.
func (s *Session) TooOld(now time.Time, maxAge time.Duration) bool {
	return maxAge != NoMaxAge && max(now.Sub(s.IssuedAt), 0) >= maxAge
}
