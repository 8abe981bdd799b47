package sessionapitest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/cert"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// keyBits is the size of the vendor's keys.
const keyBits = 2048

// maxKeys bounds a keyring that somebody rotates in a loop; the oldest are forgotten.
const maxKeys = 64

// keyring is the project's signing keys. This file is the only one that knows jwx.
type keyring struct {
	generate func() (*rsa.PrivateKey, error)
	env      string

	mu   sync.Mutex
	keys []*signingKey // guarded by mu; the last is the current one; the elements never change but for served
}

type signingKey struct {
	private *rsa.PrivateKey
	public  jwk.Key
	served  bool // whether the key set has it; guarded by keyring.mu
}

// current makes the first key when it is first asked for, because it takes a second under the race detector.
func (k *keyring) current() (*signingKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) == 0 {
		return k.add()
	}
	return k.keys[len(k.keys)-1], nil
}

// rotate makes a new current key; without overlap the key set forgets the others.
func (k *keyring) rotate(overlap bool) (*signingKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) == 0 {
		if _, err := k.add(); err != nil {
			return nil, err
		}
	}
	old := slices.Clone(k.keys)
	key, err := k.add()
	if err != nil {
		return nil, err
	}
	if !overlap {
		for _, o := range old {
			o.served = false
		}
	}
	return key, nil
}

// find is the key of that id, served or not: a test may want a JWT under a key that is gone.
func (k *keyring) find(kid string) *signingKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.keys, func(key *signingKey) bool { return key.id() == kid })
	if i < 0 {
		return nil
	}
	return k.keys[i]
}

// publicSet is the keys that the key set endpoint serves (RFC 7517, section 5).
func (k *keyring) publicSet() (jwk.Set, error) {
	if _, err := k.current(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	set := jwk.NewSet()
	for _, key := range k.keys {
		if !key.served {
			continue
		}
		if err := set.AddKey(key.public); err != nil {
			return nil, fmt.Errorf("add key %s: %w", key.id(), err)
		}
	}
	return set, nil
}

// publicKeys is the keys member of the key set.
func (k *keyring) publicKeys() (json.RawMessage, error) {
	set, err := k.publicSet()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("write key set: %w", err)
	}
	var wire struct {
		Keys json.RawMessage `json:"keys"`
	}
	err = json.Unmarshal(text, &wire)
	return wire.Keys, err
}

// open is the payload of a JWT that a served key signed, and whose header says so: jws.Verify goes by the key's
// algorithm whatever the header's. Its claims are not looked at.
func (k *keyring) open(token string) ([]byte, error) {
	set, err := k.publicSet()
	if err != nil {
		return nil, err
	}
	message, err := jws.ParseString(token)
	if err != nil {
		return nil, err
	}
	for _, signature := range message.Signatures() {
		if alg := signature.ProtectedHeaders().Algorithm(); alg != jwa.RS256 {
			return nil, fmt.Errorf("alg is %q", alg)
		}
	}
	return jws.Verify([]byte(token), jws.WithKeySet(set))
}

// add makes a key; the caller holds mu.
func (k *keyring) add() (*signingKey, error) {
	private, err := k.generate()
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	public, err := publicJWK(private, "jwk-"+k.env+"-"+uuid())
	if err != nil {
		return nil, fmt.Errorf("describe a signing key: %w", err)
	}
	key := &signingKey{private: private, public: public, served: true}
	k.keys = append(k.keys, key)
	if len(k.keys) > maxKeys {
		k.keys = k.keys[1:]
	}
	return key, nil
}

func (key *signingKey) id() string { return key.public.KeyID() }

// sign is the compact serialisation of header and payload (RFC 7515, section 7.1), neither of which it reads: the
// algorithm is RS256 whatever the header says.
func (key *signingKey) sign(header, payload []byte) (string, error) {
	signer, err := jws.NewSigner(jwa.RS256)
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := signer.Sign([]byte(signed), key.private)
	if err != nil {
		return "", fmt.Errorf("sign a JWT: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// publicJWK describes a key as the vendor's key set does, certificate chain included.
func publicJWK(private *rsa.PrivateKey, kid string) (jwk.Key, error) {
	public, err := jwk.FromRaw(private.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: kid},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	thumbprint := sha256.Sum256(der)
	var chain cert.Chain
	if err := chain.AddString(base64.StdEncoding.EncodeToString(der)); err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		jwk.KeyIDKey:                  kid,
		jwk.AlgorithmKey:              jwa.RS256,
		jwk.KeyUsageKey:               jwk.ForSignature,
		jwk.KeyOpsKey:                 jwk.KeyOperationList{jwk.KeyOpVerify},
		jwk.X509CertChainKey:          &chain,
		jwk.X509CertThumbprintS256Key: base64.RawURLEncoding.EncodeToString(thumbprint[:]),
	} {
		if err := public.Set(name, value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	return public, nil
}

func freshKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, keyBits) }

// shared is the keys that this process has made for SharedKeys, in order.
var shared struct {
	sync.Mutex
	keys []*rsa.PrivateKey
}

// SharedKeys is a Config.NewKey for tests that make many servers: each source walks through the same keys, made once
// a process. Two servers then have the same keys under different ids, so it is not for a test that is about one
// project's key being refused by another.
func SharedKeys() func() (*rsa.PrivateKey, error) {
	next := 0
	return func() (*rsa.PrivateKey, error) {
		shared.Lock()
		defer shared.Unlock()
		if next == len(shared.keys) {
			key, err := freshKey()
			if err != nil {
				return nil, err
			}
			shared.keys = append(shared.keys, key)
		}
		next++
		return shared.keys[next-1], nil
	}
}
