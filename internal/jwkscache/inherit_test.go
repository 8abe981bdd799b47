package jwkscache_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/jwkscache"
)

// heir makes a cache that has inherited from another, and does not run it.
func heir(t *testing.T, from *jwkscache.Cache, config jwkscache.Config) *jwkscache.Cache {
	t.Helper()
	cache, _ := load(t, config)
	cache.Inherit(from)
	return cache
}

func TestWhoReplacesACacheOfTheSameSetHasItsKeysAtTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{ProjectID: "p"}).settle()
		f.serve(body(set(testKey("a"), testKey("b")))) // another generation
		f.pass(11 * time.Minute)
		fetched := f.Status().FetchedAt
		f.stop()
		cache := heir(t, f.Cache, jwkscache.Config{URL: "https://keys.test/jwks", ProjectID: "p"})
		if !cache.Ready() || cache.Generation() != f.Generation() || !cache.Status().FetchedAt.Equal(fetched) {
			t.Errorf("ready %v, generation %d, want %d; %+v", cache.Ready(), cache.Generation(), f.Generation(), cache.Status())
		}
		if key, err := cache.Key(t.Context(), "b"); judge(t, key, err) != found {
			t.Error("a key is missing")
		}
		if key, err := cache.Key(t.Context(), "gone"); judge(t, key, err) != unavailable {
			t.Error("an inherited set proves that a key is absent")
		}
		time.Sleep(time.Until(fetched.Add(24*time.Hour + 1)))
		if key, err := cache.Key(t.Context(), "b"); judge(t, key, err) != unavailable {
			t.Error("an inherited key serves when it is too old")
		}
	})
}

func TestNothingIsInheritedFromACacheOfAnotherSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{ProjectID: "p"}).settle()
		empty := start(t, refuse, jwkscache.Config{ProjectID: "p"}).settle()
		for name, cache := range map[string]*jwkscache.Cache{
			"another URL":     heir(t, f.Cache, jwkscache.Config{URL: "https://keys.test/other", ProjectID: "p"}),
			"another project": heir(t, f.Cache, jwkscache.Config{URL: "https://keys.test/jwks", ProjectID: "q"}),
			"one without any": heir(t, empty.Cache, jwkscache.Config{URL: "https://keys.test/jwks", ProjectID: "p"}),
			"none":            heir(t, nil, jwkscache.Config{URL: "https://keys.test/jwks", ProjectID: "p"}),
		} {
			if cache.Ready() || cache.Generation() != 0 {
				t.Errorf("%s: ready %v, generation %d", name, cache.Ready(), cache.Generation())
			}
		}
	})
}

// TestWhatWasInMemoryServesWhateverTheDiskHas says so of a saved set that looks younger, too: the wall clock tells its age.
func TestWhatWasInMemoryServesWhateverTheDiskHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		save(t, config, testKey("saved"))
		time.Sleep(time.Minute)
		unsaved := config
		unsaved.File = ""
		younger := start(t, body(set(testKey("younger"))), unsaved).settle()
		cache := heir(t, younger.Cache, config)
		if key, err := cache.Key(t.Context(), "younger"); judge(t, key, err) != found || cache.Status().FromFile {
			t.Errorf("the inherited one does not serve: %+v", cache.Status())
		}

		time.Sleep(time.Minute)
		save(t, config, testKey("youngest"))
		cache = heir(t, younger.Cache, config)
		if key, err := cache.Key(t.Context(), "youngest"); judge(t, key, err) == found || cache.Status().FromFile {
			t.Errorf("the saved one serves: %+v", cache.Status())
		}
	})
}

func TestAServerThatHoldsFetchesBackIsNotAskedByWhoReplacesACache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(503)
		}, jwkscache.Config{}).settle()
		f.stop()
		heir := start(t, body(set(testKey("a"))), jwkscache.Config{}, f.Cache).settle()
		heir.pass(time.Minute - 1)
		heir.wantHits(0)
		heir.pass(6*time.Second + 1)
		heir.wantHits(1)
		heir.want("a", found, 0)
	})
}
