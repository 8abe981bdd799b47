package session_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"authz-sidecar/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	project = "project-test-0d2b3c4e-1f60-4c2a-9d70-2f3a4b5c6d7e"
	issuer  = "stytch.com/" + project
	kid     = "jwk-test-1"
)

// issued is when the tokens of the tests were issued; they live for five minutes.
var issued = time.Unix(1759311700, 0)

func newKey(bits int) func() *rsa.PrivateKey {
	return sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return key
	})
}

var (
	signingKey = newKey(2048)
	otherKey   = newKey(2048)
)

// keySet is a KeySet that counts how often it is asked.
type keySet struct {
	keys       map[string]*rsa.PublicKey
	err        error
	calls      atomic.Int64
	generation atomic.Uint64
}

func newKeySet() *keySet {
	k := &keySet{keys: map[string]*rsa.PublicKey{kid: &signingKey().PublicKey}}
	k.generation.Store(1)
	return k
}

func (k *keySet) Key(_ context.Context, kid string) (*rsa.PublicKey, error) {
	k.calls.Add(1)
	return k.keys[kid], k.err
}

func (k *keySet) Generation() uint64 { return k.generation.Load() }

func consumerConfig() session.Config {
	return session.Config{
		ProjectID:   project,
		Product:     session.Consumer,
		Issuers:     []string{issuer, "https://test.stytch.com"},
		Keys:        newKeySet(),
		IssueLeeway: 5 * time.Second,
	}
}

func b2bConfig() session.Config {
	c := consumerConfig()
	c.Product = session.B2B
	return c
}

// cached has room for all that a test remembers.
func cached(c session.Config) session.Config {
	c.CacheBytes = 1 << 20
	return c
}

func newVerifier(t testing.TB, c session.Config) *session.Verifier {
	t.Helper()
	v, err := session.NewVerifier(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// raw is JSON text that goes into a token as it is.
type raw = json.RawMessage

type fields map[string]any

// with returns a copy with other members; nil deletes.
func (f fields) with(pairs ...any) fields {
	c := maps.Clone(f)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		} else {
			c[pairs[i].(string)] = pairs[i+1]
		}
	}
	return c
}

func (f fields) json() string {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// plus returns the JSON with further text before the closing brace, such as a second member of one name.
func (f fields) plus(text string) string {
	return strings.TrimSuffix(f.json(), "}") + "," + text + "}"
}

func header() fields { return fields{"alg": "RS256", "kid": kid, "typ": "JWT"} }

func sessionFields() fields {
	return fields{
		"id":               "session-test-1",
		"started_at":       "2025-10-01T09:41:40Z",
		"last_accessed_at": "2025-10-01T09:41:40Z",
		"expires_at":       "2025-10-31T09:41:40.935673870Z",
		"attributes":       nil,
		"roles":            []string{"stytch_user", "editor"},
		"authentication_factors": []fields{{
			"type": "otp", "delivery_method": "email", "last_authenticated_at": "2025-10-01T09:41:40Z",
			"email_factor": fields{"email_id": "email-test-1", "email_address": "u@example.com"},
		}},
	}
}

func organizationFields() fields {
	return fields{"organization_id": "organization-test-1", "slug": "acme"}
}

const (
	sessionName      = "https://stytch.com/session"
	organizationName = "https://stytch.com/organization"
)

func consumerClaims() fields {
	return fields{
		"iss": issuer, "aud": []string{project}, "sub": "user-test-1",
		"iat": issued.Unix(), "nbf": issued.Unix(), "exp": issued.Add(5 * time.Minute).Unix(),
		sessionName: sessionFields(), "any_custom_claim": "top-level",
	}
}

func b2bClaims() fields {
	return consumerClaims().with("sub", "member-test-1", organizationName, organizationFields())
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a token of any two texts, with a good signature.
func sign(header, payload string) string { return signWith(signingKey(), header, payload) }

func signWith(key *rsa.PrivateKey, header, payload string) string {
	signed := encode([]byte(header)) + "." + encode([]byte(payload))
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + encode(signature)
}

var goodToken = sync.OnceValue(func() string { return sign(header().json(), consumerClaims().json()) })

// allocated is how many bytes f allocates, with whatever else the process does meanwhile.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// checkError fails unless the error is the wanted sentinel and no other.
func checkError(t *testing.T, got, want error) {
	t.Helper()
	for _, sentinel := range []error{
		session.ErrMalformed, session.ErrAmbiguous, session.ErrForged, session.ErrUnknownKey,
		session.ErrKeysUnavailable, session.ErrClaims, session.ErrNotYetValid, session.ErrExpired,
	} {
		if errors.Is(got, sentinel) != (want == sentinel) {
			t.Fatalf("error is %v, want %v", got, want)
		}
	}
	if (got == nil) != (want == nil) {
		t.Fatalf("error is %v, want %v", got, want)
	}
}
