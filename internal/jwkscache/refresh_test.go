package jwkscache_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/jwkscache"
)

// gaps are the times between fetches.
func gaps(hits []time.Time) []time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(hits); i++ {
		gaps = append(gaps, hits[i].Sub(hits[i-1]))
	}
	return gaps
}

func wantGap(t *testing.T, got, want time.Duration) {
	t.Helper()
	if got < want*9/10 || got > want*11/10 {
		t.Errorf("gap %v, want %v ± 10%%", got, want)
	}
}

func TestScheduledFetchesFollowCacheControlWithinBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		header string
		config jwkscache.Config
		want   time.Duration
	}{
		"no header":                       {"X-None: 1", jwkscache.Config{}, 10 * time.Minute},
		"no max-age":                      {"Cache-Control: public", jwkscache.Config{}, 10 * time.Minute},
		"max-age":                         {"Cache-Control: public, max-age=1200", jwkscache.Config{}, 20 * time.Minute},
		"max-age in capitals, quoted":     {`Cache-Control: Max-Age="1200"`, jwkscache.Config{}, 20 * time.Minute},
		"max-age below the minimum":       {"Cache-Control: max-age=5", jwkscache.Config{}, time.Minute},
		"max-age=0":                       {"Cache-Control: max-age=0", jwkscache.Config{}, time.Minute},
		"max-age above the maximum":       {"Cache-Control: max-age=86400", jwkscache.Config{}, time.Hour},
		"max-age beyond all numbers":      {"Cache-Control: max-age=99999999999999999999999", jwkscache.Config{}, time.Hour},
		"max-age that is no number":       {"Cache-Control: max-age=soon", jwkscache.Config{}, time.Minute},
		"negative max-age":                {"Cache-Control: max-age=-1", jwkscache.Config{}, time.Minute},
		"two max-ages, the lower counts":  {"Cache-Control: max-age=1800, max-age=1200", jwkscache.Config{}, 20 * time.Minute},
		"no-store":                        {"Cache-Control: no-store", jwkscache.Config{}, time.Minute},
		"no-cache beside a max-age":       {"Cache-Control: max-age=1200, No-Cache", jwkscache.Config{}, time.Minute},
		"s-maxage is for shared caches":   {"Cache-Control: s-maxage=1200", jwkscache.Config{}, 10 * time.Minute},
		"own bounds":                      {"Cache-Control: max-age=86400", jwkscache.Config{MaxRefreshInterval: 2 * time.Hour}, 2 * time.Hour},
		"own interval":                    {"X-None: 1", jwkscache.Config{RefreshInterval: 30 * time.Second}, 30 * time.Second},
		"never above half of what serves": {"X-None: 1", jwkscache.Config{MaxStale: 4 * time.Minute}, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, body(set(testKey("a")), tt.header), tt.config).settle()
				f.wantHits(1) // at once
				f.pass(50 * tt.want)
				all := gaps(f.times())
				for _, gap := range all {
					wantGap(t, gap, tt.want)
				}
				if slices.Min(all) > tt.want*97/100 || slices.Max(all) < tt.want*103/100 {
					t.Errorf("gaps from %v to %v: they are not spread", slices.Min(all), slices.Max(all))
				}
			})
		})
	}
}

func TestFailuresAreRetriedEverLaterUntilOneSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, refuse, jwkscache.Config{}).settle()
		if f.Ready() {
			t.Error("ready with nothing loaded")
		}
		f.want("a", unavailable, 0)
		f.wantHits(1) // the question caused none
		f.pass(5 * time.Minute)
		for i, gap := range gaps(f.times()) {
			wantGap(t, gap, min(time.Second<<min(i, 6), 30*time.Second))
		}
		if f.Status().LastError == "" || f.Status().Loaded {
			t.Errorf("status %+v", f.Status())
		}
		if age := f.metric("authz_key_set_age_seconds", ""); !math.IsInf(age, 1) {
			t.Errorf("age %v before the first good fetch", age)
		}
		f.wantLog("WARN key set fetch failed; retrying, with the last good set if there is one")

		f.serve(body(set(testKey("a"))))
		f.pass(33 * time.Second)
		if !f.Ready() || f.Status().LastError != "" {
			t.Errorf("not healed by itself: %+v", f.Status())
		}
		f.want("a", found, 0)
		f.wantLog("INFO key set fetch recovered", "INFO key set loaded")

		f.serve(refuse)
		f.pass(12 * time.Minute)
		f.want("a", found, 0)
		f.serve(body(set(testKey("b"))))
		f.pass(34 * time.Second)
		f.serve(refuse)
		hits := len(f.times())
		f.pass(11*time.Minute + 2*time.Second)
		wantGap(t, gaps(f.times())[hits], time.Second) // it begins anew
	})
}

func TestLastGoodKeysServeUntilTheyAreStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := body(set(testKey("a")))
		f := start(t, after(time.Second, good), jwkscache.Config{})
		f.pass(2 * time.Second)
		f.log.take()
		f.serve(status(500))
		f.pass(24*time.Hour - 2*time.Second) // just 24 h since the fetch began
		f.want("a", found, 0)
		f.wantMetric("authz_key_set_age_seconds", "", 86400)
		f.pass(1)
		f.want("a", unavailable, 0)
		f.want("unknown", unavailable, 0)
		f.pass(time.Minute)
		f.wantLog("WARN key set fetch failed; retrying, with the last good set if there is one",
			"ERROR key set is stale: its keys are no longer used")
		f.pass(24 * time.Hour)
		f.wantLog()
		if !f.Ready() {
			t.Error("staleness took readiness back")
		}
		f.serve(good)
		f.pass(34 * time.Second)
		f.want("a", found, 0)
		f.wantLog("INFO key set fetch recovered")
	})
}

func TestAKnownKeyNeverWaitsForAHangingEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		f.serve(hang)
		f.pass(11 * time.Minute) // a fetch hangs, or is about to be retried
		for range 100 {
			f.want("a", found, 0)
			f.pass(100 * time.Millisecond)
		}
		if f.metric("authz_key_set_fetches_total", "timeout") == 0 {
			t.Error("no fetch timed out")
		}
	})
}

func TestAfterRunHasEndedKnownKeysServeAndUnknownOnesAreUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{UnknownKeyWait: time.Second}).settle()
		f.want("gone", absent, 0)
		f.pass(5 * time.Second)
		f.serve(hang)
		go func() {
			time.Sleep(100 * time.Millisecond)
			f.stop()
		}()
		f.want("b", unavailable, 100*time.Millisecond) // woken at the end
		f.want("a", found, 0)
		f.want("gone", absent, 0)
		f.want("c", unavailable, 0)
		if s := f.Status(); s.LastError != "" || !s.NextFetch.IsZero() {
			t.Errorf("a fetch that was called off is a failure: %+v", s)
		}
		f.wantMetric("authz_key_set_fetches_total", "timeout", 0)
		if f.Run(t.Context()) == nil {
			t.Error("Run ran a second time")
		}
	})
}

func TestChangesAreAnnounced(t *testing.T) {
	a, b, c := testKey("a"), testKey("b"), testKey("c")
	const (
		changed  = "INFO key set changed"
		lost     = "WARN key set has lost keys: no JWT under them passes any more"
		replaced = "WARN key set replaced: no key is as before"
	)
	for name, tt := range map[string]struct {
		before, after []members
		line, change  string // the log's and the metric's; "" if there is none
	}{
		"the same set, in another order":       {[]members{a, b}, []members{b, a}, "", ""},
		"one more":                             {[]members{a}, []members{a, b}, changed, "added"},
		"one less":                             {[]members{a, b}, []members{a}, lost, "removed"},
		"one for another, with overlap":        {[]members{a, b}, []members{b, c}, lost, "removed"},
		"all others":                           {[]members{a, b}, []members{c}, replaced, "replaced"},
		"another key under the same id":        {[]members{a}, []members{testKey("a")}, replaced, "replaced"},
		"another key under one id of two":      {[]members{a, b}, []members{testKey("a"), b}, lost, "removed"},
		"one that cannot be used came along":   {[]members{a}, []members{a, b.with("use", "enc")}, changed, ""},
		"one that cannot be used is there yet": {[]members{a, b.with("use", "enc")}, []members{a, b.with("use", "enc")}, "", ""},
		"one that can no longer be used":       {[]members{a, b}, []members{a, b.with("use", "enc")}, lost, "removed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, body(set(tt.before...)), jwkscache.Config{}).settle()
				f.wantLog(loaded)
				f.serve(body(set(tt.after...)))
				f.pass(11 * time.Minute)
				f.wantLog(slices.DeleteFunc([]string{tt.line}, func(line string) bool { return line == "" })...)
				f.pass(11 * time.Minute)
				f.wantLog()
				for _, change := range []string{"added", "removed", "replaced"} {
					want := 0.0
					if change == tt.change {
						want = 1
					}
					f.wantMetric("authz_key_set_changes_total", change, want)
				}
			})
		})
	}
}

func TestNeitherKeysNorCallersKeyIDsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testKey("served-a"), testKey("served-b")
		f := start(t, body(set(a)), jwkscache.Config{}).settle()
		f.want("canary", absent, 0)
		_, err := f.Key(t.Context(), "canary-too") // the governor does not let it be known yet
		f.serve(body(set(b, a.with("kid", ""))))
		f.pass(11 * time.Minute)
		f.serve(body("canary " + set(a)))
		f.pass(11 * time.Minute)
		families, _ := f.registry.Gather()
		told := fmt.Sprint(f.log.text(), f.Status(), families, err)
		if !strings.Contains(told, "served-b") {
			t.Error("nothing was told at all")
		}
		for _, secret := range []any{"canary", a["n"], b["n"]} {
			if strings.Contains(told, secret.(string)) {
				t.Errorf("%v is in %s", secret, told)
			}
		}
	})
}

func TestStatusTellsWhatIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f := start(t, after(time.Second, body(set(testKey("b"), testKey("a")))), jwkscache.Config{}).settle()
		if s := f.Status(); s.Loaded || !s.FetchedAt.IsZero() {
			t.Errorf("before the first answer: %+v", s)
		}
		f.pass(2 * time.Second)
		s := f.Status()
		if !s.Loaded || !slices.Equal(s.KeyIDs, []string{"a", "b"}) || !s.FetchedAt.Equal(began) {
			t.Errorf("after it: %+v", s)
		}
		wantGap(t, s.NextFetch.Sub(began.Add(time.Second)), 10*time.Minute)
		f.wantMetric("authz_key_set_keys", "", 2)
		f.wantMetric("authz_key_set_age_seconds", "", 2)
	})
}

func TestRequestSaysWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "GET" || r.Header.Get("Accept") != "application/json" || r.Header.Get("User-Agent") != "authz-sidecar" {
				t.Errorf("%s %v", r.Method, r.Header)
			}
		}, jwkscache.Config{}).settle().wantHits(1)
	})
}

func TestRetryAfterHoldsTheNextFetchBackWithinBounds(t *testing.T) {
	good := body(set(testKey("a")))
	refusal := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for _, value := range header {
				w.Header().Set("Retry-After", value)
			}
			w.WriteHeader(code)
		}
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   time.Duration // to the next fetch, and a tenth more at most
	}{
		"429 that says nothing":            {refusal(429), time.Second},
		"429 with seconds":                 {refusal(429, "60"), time.Minute},
		"503 with seconds":                 {refusal(503, "60"), time.Minute},
		"503 with a date":                  {refusal(503, "Sat, 01 Jan 2000 00:02:00 GMT"), 2 * time.Minute},
		"a date that has passed":           {refusal(429, "Fri, 31 Dec 1999 23:59:59 GMT"), time.Second},
		"0":                                {refusal(429, "0"), time.Second},
		"the least":                        {refusal(429, "1"), time.Second},
		"the most":                         {refusal(429, "300"), 5 * time.Minute},
		"beyond the most":                  {refusal(429, "86400"), 5 * time.Minute},
		"beyond all numbers":               {refusal(429, "99999999999999999999"), time.Second},
		"neither a number nor a date":      {refusal(429, "soon"), time.Second},
		"500, for which it has no meaning": {refusal(500, "60"), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, tt.answer, jwkscache.Config{}).settle()
				f.serve(good)
				f.pass(tt.want * 9 / 10)
				if tt.want > time.Second {
					f.pass(tt.want/10 - 1)
				} else if !f.Ready() {
					f.pass(tt.want / 10) // the usual delay is jittered both ways
				}
				if f.Ready() && tt.want > time.Second {
					t.Errorf("fetched before %v were over", tt.want)
				}
				f.pass(tt.want/10 + 100*ms)
				if !f.Ready() {
					t.Errorf("not fetched after %v", tt.want*11/10)
				}
			})
		})
	}
}

// A rotation goes on while a server holds fetches back; who brings a JWT under the new key waits 30 s at most.
func TestAServerHoldsAFetchForAnUnknownKeyBackNoLongerThanAnOutageWould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		f.serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "300")
			w.WriteHeader(429)
		})
		f.want("new", unavailable, 0) // woken by the failure
		f.wantHits(2)
		f.serve(body(set(testKey("a"), testKey("new"))))
		for f.pass(30*time.Second - 1); len(f.times()) < 3; f.pass(ms) {
			f.want("new", unavailable, 0)
		}
		if gap := gaps(f.times())[1]; gap < 30*time.Second || gap > 30*time.Second+ms {
			t.Errorf("asked again after %v, want 30s", gap)
		}
		f.want("new", found, 0)
	})
}

func TestAMillionInventedKeyIDsCostOneFetchAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{RefreshInterval: time.Hour}).settle()
		before := heap()
		for i := range 1_000_000 { // in 100 s
			if i%1000 == 0 {
				f.pass(100 * ms)
			}
			if key, _ := f.Key(t.Context(), strconv.Itoa(i)); key != nil {
				t.Fatal("an invented key was found")
			}
		}
		if grown := int64(heap()) - int64(before); grown > 4<<20 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if n := len(f.times()); n > 2+100/5 {
			t.Errorf("%d fetches in 100 s", n)
		}
		if n := f.Status().UnknownKeyIDs; n > 8192 {
			t.Errorf("%d remembered", n)
		}
		f.want("a", found, 0)
	})
}
