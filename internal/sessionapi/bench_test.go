package sessionapi_test

import (
	"strings"
	"testing"

	"authz-sidecar/internal/sessionapi"
)

// BenchmarkKeptExchange is what a request costs that a kept exchange answers, without the proof of its JWT.
func BenchmarkKeptExchange(b *testing.B) {
	for name, r := range map[string]sessionapi.Request{
		"plain":      {JWT: strings.Repeat("x", 1200), Session: asked},
		"permission": {JWT: strings.Repeat("x", 1200), Session: asked, Check: reading},
	} {
		b.Run(name, func(b *testing.B) {
			api := newBench(b, always(200, granting("session-1", "user-1")))
			defer api.done()
			if _, err := api.ask(r); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := api.ask(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
