package jwkscache_test

import (
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/jwkscache"
)

func TestGenerationChangesWithTheUsableKeysAndWithNothingElse(t *testing.T) {
	a, b, c := testKey("a"), testKey("b"), testKey("c")
	first := body(set(a, b))
	for name, tt := range map[string]struct {
		second http.HandlerFunc
		change bool
	}{
		"the same set":                       {first, false},
		"another order":                      {body(set(b, a)), false},
		"other keys that nobody can use":     {body(set(b, a, c.with("use", "enc"), c.with("kid", ""))), false},
		"other members that make no key":     {body(set(a.with("x5c", nil), b.with("alg", nil))), false},
		"a set that cannot be read":          {body("{}"), false},
		"a set without a usable key":         {body(set(a.with("use", "enc"))), false},
		"no answer":                          {refuse, false},
		"a key is withdrawn":                 {body(set(a)), true},
		"a key is withdrawn, one added":      {body(set(a, c)), true},
		"a key is added":                     {body(set(a, b, c)), true},
		"a key is replaced under its id":     {body(set(a, b.with("n", c["n"]))), true},
		"only a key's exponent is another":   {body(set(a, b.with("e", number(65539)))), true},
		"the keys have changed places":       {body(set(a.with("kid", "b"), b.with("kid", "a"))), true},
		"a key has another id":               {body(set(a, b.with("kid", "B"))), true},
		"a key is for something else now":    {body(set(a, b.with("use", "enc"))), true},
		"another key claims the id of one":   {body(set(a, b, c.with("kid", "b"))), true},
		"all keys are others of the same id": {body(set(testKey("a"), testKey("b"))), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, first, jwkscache.Config{}).settle()
				before := f.Generation()
				if before == 0 {
					t.Fatal("0 with keys")
				}
				f.serve(tt.second)
				f.pass(12 * time.Minute)
				after := f.Generation()
				if after == 0 || after != before != tt.change {
					t.Errorf("from %d to %d, want a change: %v", before, after, tt.change)
				}
				f.serve(first)
				f.pass(12 * time.Minute)
				if again := f.Generation(); tt.change && (again == before || again == after) || !tt.change && again != before {
					t.Errorf("%d, then %d, then with the first keys again %d", before, after, again)
				}
			})
		})
	}
}

func TestGenerationIsZeroWhileNoKeyMayBeUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, refuse, jwkscache.Config{}).settle()
		if got := f.Generation(); got != 0 {
			t.Errorf("%d before anything was loaded", got)
		}
		good := body(set(testKey("a")))
		f.serve(good)
		f.pass(2 * time.Second)
		loaded, since := f.Generation(), f.Status().FetchedAt
		if loaded == 0 {
			t.Error("0 with a key")
		}
		f.serve(refuse)
		time.Sleep(24*time.Hour - time.Since(since))
		f.want("a", found, 0)
		if got := f.Generation(); got != loaded {
			t.Errorf("%d just before the keys are too old, was %d", got, loaded)
		}
		time.Sleep(time.Nanosecond)
		f.want("a", unavailable, 0)
		if got := f.Generation(); got != 0 {
			t.Errorf("%d with keys that are too old", got)
		}
		f.serve(good)
		f.pass(34 * time.Second)
		if got := f.Generation(); got != loaded {
			t.Errorf("%d with the same keys again, was %d", got, loaded)
		}
		f.serve(refuse)
		f.pass(25 * time.Hour)
		f.serve(body(set(testKey("a"))))
		f.pass(34 * time.Second)
		if got := f.Generation(); got == 0 || got == loaded {
			t.Errorf("%d with another key after staleness, was %d", got, loaded)
		}
		f.stop()
		if got := f.Generation(); got == 0 {
			t.Error("0 once Run has ended, though keys serve on")
		}
	})
}

func TestAKeyIsOfTheGenerationThatWasReadBeforeOrOfALaterOne(t *testing.T) {
	var sets atomic.Int64 // generation g brings the key with the exponent 65535 + 2g
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		body(set(testKey("a").with("e", number(65535+2*sets.Add(1)))))(w, r)
	}, jwkscache.Config{RefreshInterval: ms})
	for !f.Ready() {
		runtime.Gosched()
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for last := uint64(0); last < 50; {
				generation := f.Generation()
				key, err := f.Key(t.Context(), "a")
				if err != nil || uint64(key.E) < 65535+2*generation || generation < last {
					t.Errorf("generation %d after %d, and then a key %+v (%v)", generation, last, key, err)
					return
				}
				last = generation
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
}

func BenchmarkGeneration(b *testing.B) {
	f := start(b, body(set(testKey("a"))), jwkscache.Config{})
	for !f.Ready() {
		runtime.Gosched()
	}
	b.ReportAllocs()
	for b.Loop() {
		if f.Generation() == 0 {
			b.Fatal("0 with a key")
		}
	}
}
