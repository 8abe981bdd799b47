//go:build !race

package session

import (
	"runtime"
	"testing"
)

// heap is how much of it is in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// The bounds are per token: the goal for a user's, and for a member's some more for the names of the organization. Not under the
// race detector, which makes allocations larger.
func TestMemoryOfARememberedToken(t *testing.T) {
	const tokens = 100_000
	for product, most := range map[Product]int{Consumer: 300, B2B: 400} {
		t.Run(string(product), func(t *testing.T) {
			before := heap()
			c := newCache(1<<30, 0)
			defer c.close()
			for n := range tokens {
				put(c, product, n)
			}
			c.entries.CleanUp()
			bytes := (heap() - before) / tokens
			p := pack(realistic(product, 0), 1)
			weight := int(weigh(p))
			t.Logf("%d bytes a token, of which the proof has %d; its weight is %d", bytes, len(p), weight)
			if n := c.entries.EstimatedSize(); n != tokens {
				t.Errorf("%d tokens are remembered", n)
			}
			if bytes > most {
				t.Errorf("%d bytes a token, more than %d", bytes, most)
			}
			if weight < bytes*95/100 || weight > bytes*120/100 {
				t.Errorf("a token weighs %d, and costs %d bytes", weight, bytes)
			}
			runtime.KeepAlive(c)
		})
	}
}
