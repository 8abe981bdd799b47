package jwkscache_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/jwkscache"
)

const ms = time.Millisecond

func TestANewKeyIsFoundByOneFetchThatAllCallersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("old"))), jwkscache.Config{}).settle()
		f.pass(time.Minute)
		f.serve(after(40*ms, body(set(testKey("new")))))
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { f.want("new", found, 40*ms) })
		}
		wg.Go(func() {
			time.Sleep(20 * ms)
			f.want("old", found, 0) // while the fetch is under way
			f.want("new", found, 20*ms)
		})
		wg.Wait()
		f.wantHits(2)
		f.wantMetric("authz_key_set_unknown_keys_total", "found", 101)
		f.want("old", unavailable, 0) // no fetch has begun since this question
		f.pass(5 * time.Second)
		f.want("old", absent, 0)
	})
}

func TestAnAbsentKeyIsAbsentOnceAFreshSetLacksIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{RefreshInterval: time.Hour}).settle()
		f.serve(after(40*ms, body(set(testKey("a")))))
		f.pass(time.Minute)
		f.want("x", absent, 40*ms)
		f.want("x", absent, 0)
		f.pass(29 * time.Second)
		f.want("x", absent, 0)
		f.wantHits(2)
		f.pass(time.Second) // 30 s after the first question it is forgotten
		f.want("x", absent, 40*ms)
		f.wantHits(3)
		f.wantMetric("authz_key_set_unknown_keys_total", "absent", 4)
	})
}

func TestAKeyThatComesLaterBeatsTheMemoryOfItsAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{RefreshInterval: time.Minute}).settle()
		f.want("late", absent, 0)
		f.serve(body(set(testKey("a"), testKey("late"))))
		f.pass(67 * time.Second)
		f.want("late", found, 0)
	})
}

func TestACallerWaitsNoLongerThanItsLimitOrItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		f.pass(time.Minute)
		f.serve(after(3*time.Second, body(set(testKey("new")))))
		f.want("new", unavailable, 100*ms) // began the fetch
		f.want("new", unavailable, 100*ms) // waits for the one under way

		ctx, cancel := context.WithTimeout(t.Context(), 30*ms)
		defer cancel()
		asked := time.Now()
		key, err := f.Key(ctx, "new")
		if judge(t, key, err) != unavailable || time.Since(asked) != 30*ms || !strings.Contains(err.Error(), "deadline") {
			t.Errorf("%v after %v, want the context's end after 30ms", err, time.Since(asked))
		}
		if key, err = f.Key(ctx, "a"); judge(t, key, err) != found {
			t.Errorf("a known key depends on the context: %v", err)
		}
		f.pass(3 * time.Second)
		f.want("new", found, 0) // the fetch outlived who asked for it
		f.wantHits(2)
	})
}

func TestTheGovernorSpacesTheFetchesThatUnknownKeysCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		f.pass(time.Minute)
		f.serve(after(40*ms, body(set(testKey("a")))))
		f.want("x", absent, 40*ms)
		f.want("y", unavailable, 0) // a wait would be pointless
		f.wantHits(2)
		if next := time.Until(f.Status().NextFetch); next != 5*time.Second-40*ms {
			t.Errorf("next fetch in %v", next)
		}
		f.pass(5*time.Second - 41*ms)
		f.wantHits(2)
		f.pass(1 * ms)
		f.wantHits(3) // nobody had to ask again
		f.want("y", absent, 40*ms)
	})
}

func TestAFetchThatBeganBeforeTheQuestionProvesNoAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		f.pass(time.Minute)
		f.serve(after(60*ms, body(set(testKey("a"), testKey("new")))))
		var wg sync.WaitGroup
		wg.Go(func() { f.want("x", absent, 60*ms) })
		wg.Go(func() {
			time.Sleep(20 * ms)
			f.want("y", unavailable, 40*ms) // woken, and the governor lets no other begin
		})
		wg.Go(func() {
			time.Sleep(20 * ms)
			f.want("new", found, 40*ms) // but what it brought is good
		})
		wg.Wait()
		f.pass(5 * time.Second)
		f.want("y", absent, 0)
		f.wantHits(3)
	})
}

func TestScheduledFetchesDoNotCountAgainstTheGovernor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		f.want("x", absent, 0) // right after the first fetch
		f.wantHits(2)
		f.pass(5 * time.Second)

		// Asked while a scheduled fetch is under way: another one follows it at once.
		f.serve(after(50*ms, body(set(testKey("a")))))
		time.Sleep(time.Until(f.Status().NextFetch) + 10*ms)
		f.wantHits(3)
		f.want("y", absent, 90*ms)
		f.wantHits(4)
	})
}

func TestAFailedFetchProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := body(set(testKey("a")))
		f := start(t, good, jwkscache.Config{}).settle()
		f.pass(time.Minute)
		f.serve(after(40*ms, refuse))
		f.want("x", unavailable, 40*ms)
		f.want("x", unavailable, 0)
		f.serve(body(set[any]())) // no key at all is a failure, too
		f.pass(2 * time.Second)
		f.want("x", unavailable, 0)
		f.want("a", found, 0)
		f.serve(good)
		f.pass(6 * time.Second)
		f.want("x", absent, 0)
		f.wantMetric("authz_key_set_unknown_keys_total", "unavailable", 3)
	})
}

func TestAKeyIDThatNoKeyMayHaveIsAbsentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey(strings.Repeat("k", 256)))), jwkscache.Config{}).settle()
		f.want(strings.Repeat("k", 256), found, 0)
		f.want(strings.Repeat("k", 257), absent, 0)
		f.want(strings.Repeat("x", 1<<16), absent, 0)
		f.want("", absent, 0)
		f.wantHits(1)
		if n := f.Status().UnknownKeyIDs; n != 0 {
			t.Errorf("%d remembered", n)
		}
		f.want(strings.Repeat("x", 256), absent, 0)
		f.wantHits(2)
	})
}

func TestAFloodOfInventedKeyIDsCostsOneFetchAnIntervalAndNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := set(testKey("a"))
		f := start(t, body(good), jwkscache.Config{RefreshInterval: time.Hour}).settle()
		f.pass(time.Minute)
		began := time.Now()
		flood := func(from, to int) { // 1,000 a second
			for i := from; i < to; i++ {
				key, err := f.Key(t.Context(), fmt.Sprintf("%0240d", i))
				if judge(t, key, err) == found {
					t.Fatal("an invented key was found")
				}
				time.Sleep(ms)
			}
		}
		flood(0, 20_000)
		before := heap()
		flood(20_000, 100_000)
		if grown := int64(heap()) - int64(before); grown > 1<<20 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if n := f.Status().UnknownKeyIDs; n > 8192 {
			t.Errorf("%d remembered", n)
		}
		for _, gap := range gaps(f.times())[1:] {
			if gap < 5*time.Second {
				t.Errorf("two fetches in %v", gap)
			}
		}
		if hits := len(f.times()) - 1; hits > 1+int(time.Since(began)/(5*time.Second)) {
			t.Errorf("%d fetches in %v", hits, time.Since(began))
		}

		// In the flood an absent key is told from an unanswered one, and a new one is found, within the interval.
		f.serve(body(set(testKey("a"), testKey("new"))))
		for range 5 {
			f.Key(t.Context(), "absent")
			f.Key(t.Context(), "new")
			flood(0, 1000)
		}
		f.want("new", found, 0)
		f.want("absent", absent, 0)
		f.want("a", found, 0)

		// It empties by itself.
		f.pass(30 * time.Second)
		f.want("absent", absent, 0)
		if n := f.Status().UnknownKeyIDs; n > 1 {
			t.Errorf("%d remembered after the flood", n)
		}
	})
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func TestARotationWithOverlapDeniesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kid := func(n int) string { return fmt.Sprint("key-", n) }
		f := start(t, body(set(testKey(kid(0)))), jwkscache.Config{RefreshInterval: time.Minute}).settle()
		var current atomic.Int64 // the key that JWTs are signed with now; those of the one before have not all expired
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for ctx.Err() == nil {
					n := int(current.Load())
					for _, kid := range []string{kid(n), kid(max(n-1, 0))} {
						if key, err := f.Key(t.Context(), kid); judge(t, key, err) != found {
							t.Errorf("%s: denied (%v)", kid, err)
						}
					}
					time.Sleep(50 * ms)
				}
			})
		}
		for n := 1; n <= 10; n++ {
			f.serve(after(40*ms, body(set(testKey(kid(n-1)), testKey(kid(n))))))
			current.Store(int64(n))
			time.Sleep(10 * time.Second) // more than the governor wants
		}
		cancel()
		wg.Wait()
		f.want(kid(10), found, 0)
	})
}

func TestManyAskWhileSetsAreSwapped(t *testing.T) {
	a, b, c := testKey("a"), testKey("b"), testKey("c")
	sets := []string{set(a, b), set(b, c), set(c, a)}
	f := start(t, body(sets[0]), jwkscache.Config{
		RefreshInterval: ms, UnknownKeyInterval: ms, UnknownKeyWait: 5 * ms,
	})
	for !f.Ready() {
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			f.serve(body(sets[i%3]))
			f.Status()
			runtime.Gosched()
		}
	})
	for g := range 16 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				kid := []string{"a", "b", "c", fmt.Sprint("invented ", g, " ", i)}[i%4]
				key, err := f.Key(ctx, kid)
				if got := judge(t, key, err); got == found && i%4 == 3 {
					t.Errorf("%q was found", kid)
				}
			}
		})
	}
	wg.Wait()
}
