package session_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
)

// BenchmarkVerify stands beside BenchmarkRSA: what the verifier adds to the one RSA operation.
func BenchmarkVerify(b *testing.B) {
	v, token := newVerifier(b, consumerConfig()), goodToken()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token, issued); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRSA(b *testing.B) {
	token := goodToken()
	dot := strings.LastIndexByte(token, '.')
	sum := sha256.Sum256([]byte(token[:dot]))
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	key := &signingKey().PublicKey
	b.ReportAllocs()
	for b.Loop() {
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature); err != nil {
			b.Fatal(err)
		}
	}
}
