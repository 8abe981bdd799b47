package revocation_test

import (
	"fmt"
	"testing"
	"time"

	"authz-sidecar/internal/revocation"
)

// BenchmarkVerdict looks up a JWT that nothing concerns, as every request does.
func BenchmarkVerdict(b *testing.B) {
	for _, entries := range []int{0, 1, 100_000} {
		for _, kinds := range []string{"sessions", "all kinds"} {
			b.Run(fmt.Sprintf("%d, %s", entries, kinds), func(b *testing.B) {
				d := newDenylist(b, 100_000, nil)
				for i := range entries {
					end(d, numbered(i), start)
				}
				if kinds == "all kinds" && entries > 0 {
					for _, r := range before {
						r.IssuedBefore = start.Add(-time.Hour)
						d.Revoke(r, start) // evicts: there is a floor, too
					}
				}
				token := member(start.Add(time.Minute))
				b.ResetTimer()
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						d.Verdict(token, start)
					}
				})
			})
		}
	}
}

// BenchmarkFlood writes 100,000 new sessions an operation, at a full Denylist.
func BenchmarkFlood(b *testing.B) {
	sessions := make([]revocation.Session, 200_000)
	for i := range sessions {
		sessions[i] = numbered(i)
	}
	d, half := newDenylist(b, 100_000, nil), 0
	b.ReportAllocs()
	for b.Loop() {
		for _, s := range sessions[half*100_000:][:100_000] {
			end(d, s, start)
		}
		half = 1 - half
	}
}
