package jwkscache

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

const (
	// maxKeys is how many keys of a set are looked at; the vendor serves two while it rotates.
	maxKeys = 100

	// RFC 7518, section 3.3, wants 2048 bits at least; beyond 8192 a signature costs more than a check may.
	minModulusBits, maxModulusBits = 2048, 8192
	// NIST SP 800-56B, section 6.2: 2^16 < e; crypto/rsa wants e < 2^31.
	minExponent, maxExponentBits = 1<<16 + 1, 31
)

// dropReason is why a key is not used.
type dropReason string

const (
	notRSA       dropReason = "not_rsa"       // another kty, known or not
	secretKey    dropReason = "secret"        // symmetric, or with private members: whoever reads it can sign
	wrongAlg     dropReason = "alg"           // present and not RS256
	wrongUse     dropReason = "use"           // present and not sig
	wrongKeyOps  dropReason = "key_ops"       // present without verify
	badModulus   dropReason = "modulus"       // even, or outside 2048 to 8192 bits
	badExponent  dropReason = "exponent"      // even, or outside 65537 to 2^31-1
	badKeyID     dropReason = "kid"           // missing, empty or longer than 256 bytes
	duplicateID  dropReason = "duplicate_kid" // another key claims the same kid
	unparsable   dropReason = "unparsable"    // not a JWK, or one with a member twice
	beyondBounds dropReason = "too_many"      // behind the hundredth key
)

var dropReasons = []dropReason{notRSA, secretKey, wrongAlg, wrongUse, wrongKeyOps, badModulus, badExponent, badKeyID,
	duplicateID, unparsable, beyondBounds}

// keySet is the usable keys of a set by kid, and how many others there were.
type keySet struct {
	keys    map[string]*rsa.PublicKey
	dropped map[dropReason]int
}

// parseKeySet reads a JWK set (RFC 7517, section 5), each key by itself, so that one of a kind that nobody knows does
// not spoil the others. Keys that claim one kid are all dropped, also those that are unusable anyway: which of them was
// meant cannot be known. The error is errMalformed or errNoKey.
//
// NOT checked: x5c, x5t and x5u (the URL that the set came from is what vouches for the keys), and whether the modulus
// is a product of two primes.
func parseKeySet(body []byte) (keySet, error) {
	fields, err := members(body)
	if err != nil {
		return keySet{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if len(fields["keys"]) != 1 {
		return keySet{}, fmt.Errorf(`%w: member "keys" occurs %d times`, errMalformed, len(fields["keys"]))
	}
	var jwks []json.RawMessage
	if err := json.Unmarshal(fields["keys"][0], &jwks); err != nil {
		return keySet{}, fmt.Errorf(`%w: member "keys": %w`, errMalformed, err)
	}

	set := keySet{make(map[string]*rsa.PublicKey), make(map[dropReason]int)}
	if excess := len(jwks) - maxKeys; excess > 0 {
		set.dropped[beyondBounds] = excess
		jwks = jwks[:maxKeys]
	}
	claims := make(map[string]int) // how many keys name each kid
	for _, raw := range jwks {
		kid, key, reason := parseKey(raw, claims)
		switch {
		case reason != "":
			set.dropped[reason]++
		case set.keys[kid] != nil:
			set.dropped[duplicateID]++
		default:
			set.keys[kid] = key
		}
	}
	for kid := range set.keys {
		if claims[kid] > 1 {
			delete(set.keys, kid)
			set.dropped[duplicateID]++
		}
	}
	if len(set.keys) == 0 {
		return set, fmt.Errorf("%w: none of %d, dropped for %v", errNoKey, len(jwks), set.dropped)
	}
	return set, nil
}

// parseKey reads one key and counts the kid, or kids, that it claims, whether it is usable or not.
func parseKey(raw json.RawMessage, claims map[string]int) (kid string, key *rsa.PublicKey, reason dropReason) {
	fields, err := members(raw)
	if err != nil {
		return "", nil, unparsable
	}
	repeated := false
	for name, values := range fields {
		repeated = repeated || len(values) > 1
		for _, value := range values {
			if name == "kid" && json.Unmarshal(value, &kid) == nil {
				claims[kid]++
			}
		}
	}
	has := func(name string) bool { return len(fields[name]) > 0 }
	var kty string
	if repeated || !has("kty") || json.Unmarshal(fields["kty"][0], &kty) != nil {
		return "", nil, unparsable
	}
	if kty == "oct" || slices.ContainsFunc(secretMembers, has) {
		return "", nil, secretKey
	}
	if kty != "RSA" {
		return "", nil, notRSA
	}
	parsed, err := jwk.ParseKey(raw)
	public, ok := parsed.(jwk.RSAPublicKey)
	if err != nil || !ok {
		return "", nil, unparsable
	}
	n, e := new(big.Int).SetBytes(public.N()), new(big.Int).SetBytes(public.E())
	switch {
	case has("alg") && public.Algorithm() != jwa.RS256:
		return "", nil, wrongAlg
	case has("use") && public.KeyUsage() != string(jwk.ForSignature):
		return "", nil, wrongUse
	case has("key_ops") && !slices.Contains(public.KeyOps(), jwk.KeyOpVerify):
		return "", nil, wrongKeyOps
	case n.BitLen() < minModulusBits || n.BitLen() > maxModulusBits || n.Bit(0) == 0:
		return "", nil, badModulus
	case e.BitLen() > maxExponentBits || e.Int64() < minExponent || e.Bit(0) == 0:
		return "", nil, badExponent
	case public.KeyID() == "" || len(public.KeyID()) > maxKeyID:
		return "", nil, badKeyID
	}
	return public.KeyID(), &rsa.PublicKey{N: n, E: int(e.Int64())}, ""
}

// secretMembers make a JWK more than a public key (RFC 7518, sections 6.3.2 and 6.4.1).
var secretMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// members reads one JSON object, and keeps apart what is written twice, which encoding/json would let the last win.
func members(object []byte) (map[string][]json.RawMessage, error) {
	var whole map[string]json.RawMessage // to refuse bad syntax, trailing data and what is no object
	if err := json.Unmarshal(object, &whole); err != nil {
		return nil, err
	}
	fields := make(map[string][]json.RawMessage, len(whole))
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil { // the opening brace
		return nil, err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		fields[fmt.Sprint(name)] = append(fields[fmt.Sprint(name)], value)
	}
	return fields, nil
}
