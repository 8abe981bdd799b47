package session_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"authz-sidecar/internal/session"
)

// changingKeys is a key set that changes whenever it is asked, so that no proof of before counts.
type changingKeys struct {
	*keySet
	changes atomic.Uint64
}

func (k *changingKeys) Generation() uint64 { return k.changes.Add(1) }

// bareRSA returns the one RSA operation that the proof of a token needs, and nothing else.
func bareRSA(b testing.TB, token string) func() {
	dot := strings.LastIndexByte(token, '.')
	sum := sha256.Sum256([]byte(token[:dot]))
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	key := &signingKey().PublicKey
	return func() {
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature); err != nil {
			b.Fatal(err)
		}
	}
}

// verification returns the proof of a token under a configuration.
func verification(b testing.TB, c session.Config, token string) func() {
	v, into := newVerifier(b, c), new(session.Session)
	return func() {
		if proved, err := v.VerifyInto(b.Context(), into, token, issued); !proved {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify is the proof of a token that was not seen before: without a cache, and with one, as a miss.
func BenchmarkVerify(b *testing.B) {
	missing := cached(consumerConfig())
	missing.Keys = &changingKeys{keySet: newKeySet()}
	for name, c := range map[string]session.Config{"alone": consumerConfig(), "cache=miss": missing} {
		b.Run(name, func(b *testing.B) {
			verify := verification(b, c, goodToken())
			b.ReportAllocs()
			for b.Loop() {
				verify()
			}
		})
	}
}

// BenchmarkVerifyToRSA measures a verification and the bare RSA operation by turns, so that noise meets both, and reports
// their ratio (of medians).
func BenchmarkVerifyToRSA(b *testing.B) {
	missing := cached(consumerConfig())
	missing.Keys = &changingKeys{keySet: newKeySet()}
	for name, c := range map[string]session.Config{"alone": consumerConfig(), "cache=miss": missing} {
		b.Run(name, func(b *testing.B) {
			verify, bare := verification(b, c, goodToken()), bareRSA(b, goodToken())
			var both [2][]time.Duration
			for b.Loop() {
				for i, f := range [...]func(){verify, bare} {
					began := time.Now()
					f()
					both[i] = append(both[i], time.Since(began))
				}
			}
			for i := range both {
				slices.Sort(both[i])
			}
			middle := len(both[0]) / 2
			b.ReportMetric(float64(both[0][middle]), "ns/verify")
			b.ReportMetric(float64(both[1][middle]), "ns/rsa")
			b.ReportMetric(float64(both[0][middle])/float64(both[1][middle]), "verify/rsa")
		})
	}
}

// BenchmarkHit is the proof of a token that is remembered.
func BenchmarkHit(b *testing.B) {
	b.Run("one", func(b *testing.B) {
		verify := verification(b, cached(consumerConfig()), goodToken())
		b.ReportAllocs()
		for b.Loop() {
			verify()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		v := newVerifier(b, cached(consumerConfig()))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for into := new(session.Session); pb.Next(); {
				if proved, err := v.VerifyInto(b.Context(), into, goodToken(), issued); !proved {
					b.Fatal(err)
				}
			}
		})
	})
}

func BenchmarkRSA(b *testing.B) {
	bare := bareRSA(b, goodToken())
	b.ReportAllocs()
	for b.Loop() {
		bare()
	}
}
