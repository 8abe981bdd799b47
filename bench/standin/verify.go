package standin

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

const sessionClaim = "https://stytch.com/session"

var errToken = errors.New("bad token")

// verifier is that of a kind.
func verifier(kind string, keySet []byte, issuer, audience string) (func(token string) (*identity, error), error) {
	keys, err := jwk.Parse(keySet)
	if err != nil {
		return nil, err
	}
	switch kind {
	case JWX:
		return func(token string) (*identity, error) { return withJWX(keys, issuer, audience, token) }, nil
	case RSA:
		byID := map[string]*rsa.PublicKey{}
		for i := range keys.Len() {
			key, _ := keys.Key(i)
			var public rsa.PublicKey
			if err := key.Raw(&public); err != nil {
				return nil, err
			}
			byID[key.KeyID()] = &public
		}
		return func(token string) (*identity, error) { return withRSA(byID, issuer, audience, token) }, nil
	}
	return nil, fmt.Errorf("no stand-in is called %q", kind)
}

func withJWX(keys jwk.Set, issuer, audience, token string) (*identity, error) {
	parsed, err := jwt.ParseString(token, jwt.WithKeySet(keys), jwt.WithValidate(true), jwt.WithIssuer(issuer), jwt.WithAudience(audience))
	if err != nil {
		return nil, err
	}
	claim, _ := parsed.Get(sessionClaim)
	session, ok := claim.(map[string]any)
	if !ok {
		return nil, errToken
	}
	who := &identity{subject: parsed.Subject(), expires: parsed.Expiration().Unix()}
	who.session, _ = session["id"].(string)
	roles, _ := session["roles"].([]any)
	for _, role := range roles {
		text, _ := role.(string)
		who.roles = append(who.roles, text)
	}
	return who, nil
}

func withRSA(keys map[string]*rsa.PublicKey, issuer, audience, token string) (*identity, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errToken
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return nil, err
		}
	}
	var header struct{ Alg, Kid string }
	if err := json.Unmarshal(raw[0], &header); err != nil {
		return nil, err
	}
	key := keys[header.Kid]
	if key == nil || header.Alg != "RS256" {
		return nil, errToken
	}
	digest := sha256.Sum256([]byte(token[:len(parts[0])+1+len(parts[1])]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], raw[2]); err != nil {
		return nil, err
	}
	var claims struct {
		Issuer   string   `json:"iss"`
		Audience []string `json:"aud"`
		Subject  string   `json:"sub"`
		Expires  int64    `json:"exp"`
		Session  struct {
			ID    string   `json:"id"`
			Roles []string `json:"roles"`
		} `json:"https://stytch.com/session"`
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		return nil, err
	}
	if claims.Issuer != issuer || !slices.Contains(claims.Audience, audience) || time.Now().Unix() >= claims.Expires {
		return nil, errToken
	}
	return &identity{claims.Subject, claims.Session.ID, claims.Session.Roles, claims.Expires}, nil
}
