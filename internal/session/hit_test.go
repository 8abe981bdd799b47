//go:build !race

package session_test

import (
	"testing"
	"time"

	"authz-sidecar/internal/session"
)

// Not under the race detector: there pools drop some of what they are given, and it is allocated anew.
func TestAHitAllocatesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		config session.Config
		token  string
		now    time.Time
	}{
		"a user's":   {consumerConfig(), goodToken(), issued},
		"a member's": {b2bConfig(), sign(header().json(), b2bClaims().json()), issued},
		"an old one": {consumerConfig(), goodToken(), issued.Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			v, into := newVerifier(t, cached(test.config)), new(session.Session)
			n := testing.AllocsPerRun(1000, func() {
				if proved, err := v.VerifyInto(t.Context(), into, test.token, test.now); !proved {
					t.Fatal(err)
				}
			})
			if n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}
