package check_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// What a request that is refused may cost. These tests count: calls, key fetches, RSA verifications, allocations and bytes that stay.
// How long one takes is for BenchmarkRejected.

// floodSize is how many requests of a hostile family come: so many by default, which is for a few seconds in all, or AMPLIFY. The
// full number is 100,000, in minutes and without the race detector:
//
//	AMPLIFY=100000 go test -run '^(TestWhatIsNotSigned|TestWhatMustBeAsked|TestAFlood)' -timeout 60m -v ./internal/check/
func floodSize(t testing.TB, byDefault int) int {
	text := os.Getenv("AMPLIFY")
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 100 {
		t.Fatalf("AMPLIFY=%q is no number of at least 100", text)
	}
	return n
}

const (
	// The limits of the session API client, small enough for a flood to meet them.
	floodCalls, floodCallsPerSecond = 8, 50
	// fetchInterval is the default of jwkscache.Config.UnknownKeyInterval, scheduledInterval what jitter may make of RefreshInterval.
	fetchInterval, scheduledInterval = 5 * time.Second, 9 * time.Minute

	// What a refused request may allocate, a JSON log line included, and more for each so many bytes that it sent.
	maxAllocations, bytesPerAllocation = 80, 16
	maxAllocated, maxCopies            = 10 << 10, 3
	// maxGrown is what may stay of a flood: the unknown key ids and the refused credentials that are remembered, and some slack.
	maxGrown = 2 << 20
)

// flooded is a house that counts what requests cost.
type flooded struct {
	*house
	login sessionapitest.Login
	// verifications are the look-ups of a key that exists: only what follows one is RSA.
	verifications atomic.Int64
	underWay      atomic.Int64
	mostUnderWay  atomic.Int64
	since         time.Time
}

func newFlooded(t testing.TB, callsPerSecond int) *flooded {
	f := &flooded{}
	f.house = newHouseOf(t, session.Consumer,
		func(c *check.Config) { c.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) }, // a house keeps its log
		func(s *session.Config, c *sessionapi.Config) {
			s.Keys = countedKeys{s.Keys, &f.verifications}
			c.Transport, c.MaxCalls, c.CallsPerSecond = f, floodCalls, callsPerSecond
		})
	f.login = f.logIn(sessionapitest.LogIn{})
	f.since = time.Now()
	return f
}

type countedKeys struct {
	session.KeySet
	found *atomic.Int64
}

func (k countedKeys) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	key, err := k.KeySet.Key(ctx, kid)
	if key != nil {
		k.found.Add(1)
	}
	return key, err
}

// RoundTrip calls the emulator in this process and measures how many calls are under way.
func (f *flooded) RoundTrip(r *http.Request) (*http.Response, error) {
	n := f.underWay.Add(1)
	defer f.underWay.Add(-1)
	for most := f.mostUnderWay.Load(); n > most && !f.mostUnderWay.CompareAndSwap(most, n); most = f.mostUnderWay.Load() {
	}
	return f.emulator.Transport().RoundTrip(r)
}

// wantRefused asks and returns the reason, which must be one of these.
func (f *flooded) wantRefused(in *authv3.CheckRequest, reasons ...string) string {
	f.t.Helper()
	return f.wantRefusal(f.checkContext(context.Background(), in), reasons...)
}

func (f *flooded) wantRefusal(a answer, reasons ...string) string {
	f.t.Helper()
	if (a.allowed() || !slices.Contains(reasons, a.reason)) && !f.t.Failed() { // one tells enough
		f.t.Errorf("%d %s, want a denial as one of %s", a.status(), a.reason, reasons)
	}
	return a.reason
}

// wantServing has an honest JWT pass, for one verification and no call.
func (f *flooded) wantServing() {
	f.t.Helper()
	calls, verifications := f.apiCalls(), f.verifications.Load()
	if a := f.check("/", "authorization", "Bearer "+f.mint(f.login, 0)); a.reason != "verified" {
		f.t.Errorf("an honest JWT: %s", a.reason)
	}
	if f.apiCalls() != calls || f.verifications.Load() != verifications+1 {
		f.t.Errorf("an honest JWT costs %d calls and %d verifications", f.apiCalls()-calls, f.verifications.Load()-verifications)
	}
}

// wantFetches bounds the key fetches since the house was built: those on the schedule, one that an unknown key id causes at once, and
// one for each interval that has passed.
func (f *flooded) wantFetches(unknown bool) {
	f.t.Helper()
	n, most := f.emulator.Calls(sessionapitest.EndpointKeySet), 1+int(time.Since(f.since)/scheduledInterval)
	if unknown {
		most += 1 + int(time.Since(f.since)/fetchInterval)
	}
	if n > most {
		f.t.Errorf("%d key fetches, want at most %d", n, most)
	}
}

// hostile is a family of requests that must cost no call.
type hostile struct {
	name string
	// next makes another request of the family, about as large as an honest one of size bytes.
	next func(r *rand.Rand) *authv3.CheckRequest
	size int
	// reasons are what it may be refused for, verifications what a request costs of RSA.
	reasons       []string
	verifications int
	// fetches says that the family may cause key fetches.
	fetches bool
}

// hostiles are the families that are refused without a call. For the others see freshTokens and what follows.
func (f *flooded) hostiles() []hostile {
	f.t.Helper()
	kid, err := f.emulator.KeyID()
	if err != nil {
		f.t.Fatal(err)
	}
	header := func(kid string) string { return encode(fmt.Sprintf(`{"alg":"RS256","kid":%q,"typ":"JWT"}`, kid)) }
	known := header(kid)
	payload := strings.Split(f.login.JWT, ".")[1]
	signature := func(r *rand.Rand) string { return text(r, 341) + "A" } // 256 bytes, with the last bits 0
	bearer := func(jwt string) *authv3.CheckRequest { return request("/", "authorization", "Bearer "+jwt) }
	cookie := func(cookie string) *authv3.CheckRequest { return request("/", "cookie", cookie) }
	usual := len(f.login.JWT)
	noCookie := []string{"no_credential", "malformed"} // so many may be too many

	return []hostile{
		{"random JWT-shaped tokens", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer("eyJ" + text(r, 97) + "." + text(r, len(payload)) + "." + signature(r))
		}, usual, []string{"malformed"}, 0, false},
		{"random key ids", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(header("jwk-test-"+text(r, 36)) + "." + payload + "." + signature(r))
		}, usual, []string{"keys_unavailable", "unknown_key"}, 0, true},
		{"bad signatures under a known key id", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(known + "." + payload + "." + signature(r))
		}, usual, []string{"forged"}, 1, false},
		{"without a key id", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(encode(`{"alg":"RS256","typ":"JWT"}`) + "." + payload + "." + signature(r))
		}, usual, []string{"malformed"}, 0, false},
		{"8 KiB, with a bad signature", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(known + "." + text(r, (8192-len(known)-342-2)/4*4) + "." + signature(r))
		}, 8192, []string{"forged"}, 1, false},
		{"8 KiB of JOSE header", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(encode(strings.Repeat(`{"alg":`, 800)) + "." + text(r, 100) + "." + signature(r))
		}, 8192, []string{"malformed"}, 0, false},
		{"more than 8 KiB", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(known + "." + text(r, 8192) + "." + signature(r))
		}, 8192, []string{"malformed"}, 0, false},
		{"64 KiB of cookies", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie(strings.Repeat(text(r, 5)+"=1; ", 64<<10/9))
		}, 64 << 10, noCookie, 0, false},
		{"64 KiB of the shortest cookies", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie(strings.Repeat(text(r, 1)+"=1;", 64<<10/4))
		}, 64 << 10, noCookie, 0, false},
		{"64 KiB of separators", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie(strings.Repeat(";", 64<<10) + text(r, 1) + "=1")
		}, 64 << 10, noCookie, 0, false},
		{"64 KiB of cookies that must be decoded", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie(strings.Repeat("%73tytch.sessio%"+text(r, 1)+"=1; ", 64<<10/21))
		}, 64 << 10, noCookie, 0, false},
		{"64 KiB of the shortest cookies that must be decoded", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie(strings.Repeat(text(r, 1)+".=1;", 64<<10/5))
		}, 64 << 10, noCookie, 0, false},
		{"64 KiB of one cookie's name that must be decoded", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie(strings.Repeat("%41", 64<<10/3-2) + text(r, 2) + "=1")
		}, 64 << 10, noCookie, 0, false},
		{"64 KiB of cookies around a bad signature", func(r *rand.Rand) *authv3.CheckRequest {
			filler := strings.Repeat("visitor="+text(r, 138)+"; ", 32<<10/148)
			return cookie(filler + "stytch_session_jwt=" + known + "." + payload + "." + signature(r) + "; " + filler)
		}, 64 << 10, []string{"forged"}, 1, false},
		{"64 KiB in the session's cookie", func(r *rand.Rand) *authv3.CheckRequest {
			return cookie("stytch_session_jwt=" + text(r, 64<<10))
		}, 64 << 10, []string{"malformed"}, 0, false},
		{"8 KiB of dots", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(text(r, 8) + strings.Repeat(".", 8184))
		}, 8192, []string{"malformed"}, 0, false},
		{"64 KiB of dots", func(r *rand.Rand) *authv3.CheckRequest {
			return bearer(text(r, 8) + strings.Repeat(".", 64<<10))
		}, 64 << 10, []string{"malformed"}, 0, false},
	}
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// text is random base64url.
func text(r *rand.Rand, n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	for i := 0; i < n; {
		for word := r.Uint64(); i < n && word > 0; i, word = i+1, word>>6 {
			b[i] = alphabet[word&63]
		}
	}
	return string(b)
}

// randomness is the same each time, and another for each i.
func randomness(i int) *rand.Rand { return rand.New(rand.NewPCG(1, uint64(i))) }

// freshTokens are opaque tokens that nobody issued.
func (f *flooded) freshTokens() func(*rand.Rand) *authv3.CheckRequest {
	return func(r *rand.Rand) *authv3.CheckRequest { return request("/", "x-session-token", text(r, 44)) }
}

// tokensBeside are such tokens beside a JWT.
func tokensBeside(jwt string) func(*rand.Rand) *authv3.CheckRequest {
	return func(r *rand.Rand) *authv3.CheckRequest {
		return request("/", "x-session-token", text(r, 44), "authorization", "Bearer "+jwt)
	}
}

// tokensBesideRetired stand beside a JWT under a key that the project is known not to have, which is set aside.
func (f *flooded) tokensBesideRetired() func(*rand.Rand) *authv3.CheckRequest {
	jwt, err := f.emulator.Sign(map[string]string{"alg": "RS256", "kid": "jwk-test-retired"}, map[string]any{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.wantRefused(request("/", "authorization", "Bearer "+jwt), "unknown_key")
	return tokensBeside(jwt)
}

// expiredJWTs are genuine JWTs that have expired, each of a session of its own that has ended. Signing one takes about a millisecond.
func (f *flooded) expiredJWTs() func(r *rand.Rand) *authv3.CheckRequest {
	claims, err := f.emulator.Claims(f.login.SessionID, time.Now().Add(-time.Hour))
	if err != nil {
		f.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		f.t.Fatal(err)
	}
	return func(r *rand.Rand) *authv3.CheckRequest {
		id := "session-test-" + text(r, 36)
		jwt, err := f.emulator.Sign(nil, bytes.ReplaceAll(payload, []byte(f.login.SessionID), []byte(id)))
		if err != nil {
			f.t.Fatal(err)
		}
		return request("/", "authorization", "Bearer "+jwt)
	}
}

// TestWhatIsNotSignedCostsNoCall sends each family and counts.
func TestWhatIsNotSignedCostsNoCall(t *testing.T) {
	for i, family := range newFlooded(t, floodCallsPerSecond).hostiles() {
		t.Run(family.name, func(t *testing.T) {
			f, n := newFlooded(t, floodCallsPerSecond), floodSize(t, 1000)
			if family.size > 8192 {
				n = floodSize(t, 200)
			}
			next, r := f.hostiles()[i].next, randomness(0)
			f.wantRefused(next(r), family.reasons...) // what is made once
			f.verifications.Store(0)

			const batch = 100
			var allocations, allocated, sent uint64
			before := heap()
			for range n / batch {
				requests, answers := make([][]byte, batch), make([][]byte, batch)
				for i := range requests {
					requests[i] = encoded(t, next(r))
					sent += uint64(len(requests[i]))
				}
				var start, end runtime.MemStats
				runtime.ReadMemStats(&start)
				for i, in := range requests {
					answers[i] = f.server.AppendCheck(context.Background(), nil, in)
				}
				runtime.ReadMemStats(&end)
				for _, a := range answers {
					f.wantRefusal(decoded(t, a), family.reasons...)
				}
				allocations += end.Mallocs - start.Mallocs
				allocated += end.TotalAlloc - start.TotalAlloc
			}
			grown, total := heap()-before, uint64(n/batch*batch)
			t.Logf("a request: %d allocations, %d bytes for %d sent; %d bytes stay of all", allocations/total, allocated/total, sent/total, grown)

			if calls := f.apiCalls(); calls != 0 {
				t.Errorf("%d session API calls", calls)
			}
			if got := f.verifications.Load(); got != int64(total)*int64(family.verifications) {
				t.Errorf("%d RSA verifications for %d requests, want %d each", got, total, family.verifications)
			}
			if allocations/total > maxAllocations+sent/total/bytesPerAllocation || allocated/total > maxAllocated+maxCopies*sent/total {
				t.Errorf("a request costs %d allocations and %d bytes for %d that were sent", allocations/total, allocated/total, sent/total)
			}
			if grown > maxGrown {
				t.Errorf("%d bytes stay of %d requests", grown, total)
			}
			f.wantFetches(family.fetches)
			f.wantServing()
		})
	}
}

// heap is what is alive.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestWhatMustBeAskedAboutStaysWithinTheBudget sends what only the session API can refuse, each twice and many at once: as many are
// asked about as the limits let, each once.
func TestWhatMustBeAskedAboutStaysWithinTheBudget(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     int
		next  func(f *flooded) func(r *rand.Rand) *authv3.CheckRequest
		again string // what one that was refused is refused for the next time
		// The limits, and the RSA verifications of one.
		calls, perSecond, verifications int
		fetches                         bool
	}{
		{"opaque tokens that nobody issued", floodSize(t, 1000), (*flooded).freshTokens, "session_not_found",
			floodCalls / 2, floodCallsPerSecond / 2, 0, false},
		{"opaque tokens that nobody issued, beside a JWT that is set aside", floodSize(t, 500), (*flooded).tokensBesideRetired, "session_not_found",
			floodCalls / 2, floodCallsPerSecond / 2, 0, true},
		{"expired JWTs of sessions that have ended", floodSize(t, 200), (*flooded).expiredJWTs, "revoked", // signing is dear
			floodCalls, floodCallsPerSecond, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			const workers = 16
			f := newFlooded(t, floodCallsPerSecond)
			if err := f.emulator.SetFault("authenticate", sessionapitest.Fault{Latency: 2 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			next := c.next(f)
			requests := make([][]*authv3.CheckRequest, workers)
			for w := range workers {
				r := randomness(w)
				for range c.n / workers {
					requests[w] = append(requests[w], next(r))
				}
			}
			before, begin := heap(), time.Now()
			var refused atomic.Int64
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for _, in := range requests[w] {
						if f.wantRefused(in, "session_not_found", "api_unavailable") != "session_not_found" {
							continue
						}
						refused.Add(1)
						f.wantRefused(in, c.again)
					}
				})
			}
			wg.Wait()
			f.client.Wait()
			took, grown := time.Since(begin), heap()-before
			runtime.KeepAlive(requests)
			total := c.n / workers * workers

			calls, most := int64(f.apiCalls()), float64(c.perSecond)*(1+took.Seconds())
			t.Logf("%d of %d were asked about in %v, at most %d at once", calls, total, took, f.mostUnderWay.Load())
			if float64(calls) > most || f.mostUnderWay.Load() > int64(c.calls) {
				t.Errorf("%d calls in %v, and %d at once", calls, took, f.mostUnderWay.Load())
			}
			if calls != refused.Load() || calls < int64(c.calls) {
				t.Errorf("%d calls for %d that were refused", calls, refused.Load())
			}
			if got, want := f.verifications.Load(), int64(total*c.verifications); got != want { // none is verified again
				t.Errorf("%d RSA verifications, want %d", got, want)
			}
			if grown > maxGrown {
				t.Errorf("%d bytes stay of %d requests", grown, total)
			}
			f.wantFetches(c.fetches)
			f.wantServing()
		})
	}
}

// TestTokensBesideOnesOwnJWT has somebody send made-up tokens beside their own JWT: they share the half of all such tokens, and then
// the JWT is traded in their place, once.
func TestTokensBesideOnesOwnJWT(t *testing.T) {
	f := newFlooded(t, floodCallsPerSecond)
	next, r := tokensBeside(f.mint(f.login, time.Hour)), randomness(0)
	refused, passed := 0, 0
	begin := time.Now()
	for range 200 {
		switch a := f.checkContext(t.Context(), next(r)); a.reason {
		case "session_not_found":
			refused++
		case "exchanged":
			passed++
		default:
			t.Fatalf("%d %s", a.status(), a.reason)
		}
	}
	if most := floodCallsPerSecond / 2 * (1 + time.Since(begin).Seconds()); float64(refused) > most || passed == 0 || f.apiCalls() != refused+1 {
		t.Errorf("%d tokens refused and %d JWTs traded, with %d calls", refused, passed, f.apiCalls())
	}
}

// TestAFloodHoldsUpNoRefresh sends all families at once, tokens that nobody issued among them, while honest clients have expired JWTs
// traded. There are fewer of those than the half of CallsPerSecond that the tokens cannot get at, so all of them pass.
func TestAFloodHoldsUpNoRefresh(t *testing.T) {
	const workers, honest = 4, floodCallsPerSecond / 2
	f, n := newFlooded(t, floodCallsPerSecond), floodSize(t, 1000)
	if err := f.emulator.SetFault("authenticate", sessionapitest.Fault{Latency: 2 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	old := make([]*authv3.CheckRequest, honest)
	for i := range old {
		login := f.logIn(sessionapitest.LogIn{})
		old[i] = request("/", "authorization", "Bearer "+f.mint(login, time.Hour))
		if i%2 == 0 { // as browsers do, with both cookies
			old[i] = request("/", "cookie", "stytch_session_jwt="+f.mint(login, time.Hour)+"; stytch_session="+login.Token)
		}
	}
	families := append(f.hostiles(), hostile{next: f.freshTokens(), reasons: []string{"session_not_found", "api_unavailable"}})
	asked := make(chan struct{}, n)
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range workers {
		wg.Go(func() {
			r := randomness(w)
			for i := range n / workers {
				family := families[i%len(families)]
				f.wantRefused(family.next(r), family.reasons...)
				asked <- struct{}{}
			}
		})
	}
	for i := range honest { // spread over the flood
		for range n / workers * workers / honest {
			<-asked
		}
		if a := f.checkContext(t.Context(), old[i]); a.reason != "exchanged" {
			t.Errorf("refresh %d: %d %s", i, a.status(), a.reason)
		}
	}
	wg.Wait()
	f.client.Wait()
	took := time.Since(begin)
	calls := f.apiCalls()
	t.Logf("%d calls in %v, %d of them refreshes", calls, took, honest)
	if tokens := float64(calls - honest); tokens > floodCallsPerSecond/2*(1+took.Seconds()) || tokens < 1 || f.mostUnderWay.Load() > floodCalls/2+1 {
		t.Errorf("%v calls for tokens in %v, %d at once", tokens, took, f.mostUnderWay.Load())
	}
	f.wantFetches(true)
	f.wantServing()
}

// BenchmarkRejected prints the CPU that a refused request of each family costs, beside an honest cold one of the same size in the same
// run: one that is verified anew and passes. The bar is twice as much. A token that nobody issued is held against an honest JWT of
// the usual size, since an honest token would cost a call. The limits are so low that almost no call is made.
func BenchmarkRejected(b *testing.B) {
	f := newFlooded(b, 1)
	families := append(f.hostiles(), hostile{name: "opaque tokens that nobody issued", next: f.freshTokens(), size: len(f.login.JWT)})
	var pool []*authv3.CheckRequest
	next := f.expiredJWTs()
	for range 500 {
		pool = append(pool, next(randomness(len(pool))))
	}
	families = append(families, hostile{name: "expired JWTs of sessions that have ended", size: len(f.login.JWT),
		next: func(r *rand.Rand) *authv3.CheckRequest { return pool[r.IntN(len(pool))] }})
	for _, family := range families {
		b.Run(family.name, func(b *testing.B) {
			const batch = 50
			honest, r := make([][]byte, batch), randomness(0) // each with a JWT of its own, which nobody remembers
			refused := make([][]byte, batch)
			var spent [2]time.Duration
			requests := 0
			for b.Loop() {
				for i := range refused {
					refused[i], honest[i] = encoded(b, family.next(r)), encoded(b, f.honest(family.size))
				}
				runtime.GC() // of what was just made
				requests += batch
				start := cpu()
				for i, in := range refused {
					refused[i] = f.server.AppendCheck(context.Background(), nil, in)
				}
				between := cpu()
				for i, in := range honest {
					honest[i] = f.server.AppendCheck(context.Background(), nil, in)
				}
				spent[0] += between - start
				spent[1] += cpu() - between
				for i := range refused {
					if decoded(b, refused[i]).allowed() || !decoded(b, honest[i]).allowed() {
						b.Fatal("a wrong verdict")
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(spent[0].Nanoseconds())/float64(requests), "cpu-ns/refused")
			b.ReportMetric(float64(spent[1].Nanoseconds())/float64(requests), "cpu-ns/honest")
			b.ReportMetric(float64(spent[0])/float64(spent[1]), "×honest")
		})
	}
}

// honest is a request that passes, with a JWT that nobody has seen before, and cookies, of size bytes together.
func (f *flooded) honest(size int) *authv3.CheckRequest {
	f.t.Helper()
	claims, err := f.emulator.Claims(f.login.SessionID, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	claims["filler"] = cryptorand.Text()
	if more := min(size, 8192) - len(f.login.JWT); more > 100 {
		claims["filler"] = cryptorand.Text() + strings.Repeat("x", more*3/4-50)
	}
	jwt, err := f.emulator.Sign(nil, claims)
	if err != nil {
		f.t.Fatal(err)
	}
	if size <= 8192 {
		return request("/", "authorization", "Bearer "+jwt)
	}
	return request("/", "cookie", strings.Repeat("visitor="+strings.Repeat("x", 118)+"; ", (size-len(jwt))/128)+"stytch_session_jwt="+jwt)
}

// cpu is what this process has used, in all its threads.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
