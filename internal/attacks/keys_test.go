package attacks

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
)

// privateKeys are the keys of testdata/keys.pem by name.
var privateKeys = sync.OnceValues(func() (map[string]*rsa.PrivateKey, error) {
	text, err := os.ReadFile("testdata/keys.pem")
	if err != nil {
		return nil, err
	}
	keys := map[string]*rsa.PrivateKey{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if keys[block.Headers["Name"]], err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return nil, err
		}
	}
	return keys, nil
})

func privateKey(name string) (*rsa.PrivateKey, error) {
	keys, err := privateKeys()
	if err != nil {
		return nil, err
	}
	if keys[name] == nil {
		return nil, fmt.Errorf("there is no key %q", name)
	}
	return keys[name], nil
}

// hands hands out these keys, in order.
func hands(names ...string) func() (*rsa.PrivateKey, error) {
	next := -1
	return func() (*rsa.PrivateKey, error) {
		if next++; next == len(names) {
			return nil, errors.New("no further key")
		}
		return privateKey(names[next])
	}
}

// hashes are those of the algorithms by the last three characters of their names.
var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

func hashOf(alg string) crypto.Hash {
	if len(alg) > 3 && hashes[alg[len(alg)-3:]] != 0 {
		return hashes[alg[len(alg)-3:]]
	}
	return crypto.SHA256
}

// sign makes a signature by any of RFC 7518's RSA algorithms.
func sign(alg string, key *rsa.PrivateKey, text string) ([]byte, error) {
	hash := hashOf(alg)
	h := hash.New()
	h.Write([]byte(text))
	if alg[:2] == "PS" {
		return rsa.SignPSS(rand.Reader, key, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	return rsa.SignPKCS1v15(nil, key, hash, h.Sum(nil))
}

// mac signs with a secret, as HS256, HS384 or HS512 do.
func mac(alg, secret, text string) []byte {
	m := hmac.New(hashOf(alg).New, []byte(secret))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// paddedDigest is the signature that every public key with the exponent 1 accepts.
func paddedDigest(size int, text string) []byte {
	sum := sha256.Sum256([]byte(text))
	const info = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20" // RFC 8017, section 9.2
	em := make([]byte, size)
	em[1] = 1
	end := size - len(info) - len(sum)
	for i := 2; i < end-1; i++ {
		em[i] = 0xff
	}
	copy(em[end:], info)
	copy(em[end+len(info):], sum[:])
	return em
}

// spellings are what an attacker can take for a secret in a public key.
func spellings(key *rsa.PublicKey) (map[string]string, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(key)
	inPEM := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	spkiPEM := inPEM("PUBLIC KEY", spki)
	return map[string]string{
		"pem": spkiPEM, "pem-without-newline": spkiPEM[:len(spkiPEM)-1], "pkcs1-pem": inPEM("RSA PUBLIC KEY", pkcs1),
		"der": string(spki), "pkcs1-der": string(pkcs1),
		"n": modulus(key.N), "n-bytes": string(key.N.Bytes()), "n-hex": key.N.Text(16), "n-decimal": key.N.String(),
		"jwk":     `{"kty":"RSA","n":"` + modulus(key.N) + `","e":"AQAB"}`,
		"nothing": "", "zero-byte": "\x00",
	}, nil
}

func modulus(n *big.Int) string { return encode(n.Bytes()) }

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode(part string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(part) }
