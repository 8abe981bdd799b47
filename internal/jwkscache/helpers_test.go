package jwkscache_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/jwkscache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// members of a JWK or of a set.
type members map[string]any

// testKey is a usable key as the vendor serves it. Nothing here verifies a signature, so any odd modulus will do.
func testKey(kid string) members {
	return members{"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "key_ops": []string{"verify"},
		"n": modulus(2048), "e": number(65537), "x5c": []string{"MIIC"}}
}

func (m members) with(name string, value any) members {
	changed := members{name: value}
	for k, v := range m {
		if k != name {
			changed[k] = v
		}
	}
	if value == nil {
		delete(changed, name)
	}
	return changed
}

func number(n int64) string { return base64.RawURLEncoding.EncodeToString(big.NewInt(n).Bytes()) }

// modulus is an odd number of so many bits, another one each time, and the same ones in each run.
func modulus(bits int) string {
	random, n := rand.New(rand.NewPCG(0, moduli.Add(1))), big.NewInt(1)
	for i := 1; i < bits-1; i++ {
		n.SetBit(n, i, random.UintN(2))
	}
	return base64.RawURLEncoding.EncodeToString(n.SetBit(n, bits-1, 1).Bytes())
}

var moduli atomic.Uint64

// null is the value, where nil means that there is none.
var null = (*int)(nil)

// set is the body of a key set.
func set[K any](keys ...K) string {
	body, err := json.Marshal(members{"keys": keys, "status_code": 200, "request_id": "request-id-test-1"})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// endpoint is the key server, in memory, so that time may be synctest's.
type endpoint struct {
	mu     sync.Mutex
	answer http.HandlerFunc
	hits   []time.Time
	busy   int // requests under way
	open   int // bodies that were not closed
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.hits = append(e.hits, time.Now())
	e.busy++
	answer := e.answer
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.busy--
		e.mu.Unlock()
	}()
	recorder := httptest.NewRecorder()
	answer(recorder, r)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	if recorder.Code == 0 {
		return nil, errors.New("connection refused")
	}
	response := recorder.Result()
	e.mu.Lock()
	e.open++
	e.mu.Unlock()
	response.Body = &closeCounter{response.Body, e}
	return response, nil
}

type closeCounter struct {
	io.Reader
	e *endpoint
}

func (c *closeCounter) Close() error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.open--
	return nil
}

func (e *endpoint) serve(answer http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

func (e *endpoint) times() []time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]time.Time(nil), e.hits...)
}

// body answers 200 with header lines such as "Cache-Control: no-store".
func body(text string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
		w.Write([]byte(text))
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// refuse is a closed port.
func refuse(w http.ResponseWriter, _ *http.Request) { w.(*httptest.ResponseRecorder).Code = 0 }

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// after answers late, unless it is given up before.
func after(d time.Duration, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			answer(w, r)
		case <-r.Context().Done():
		}
	}
}

// log collects what was announced.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the lines since the last call, level and message only.
func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for line := range strings.Lines(l.buf.String()) {
		var record struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &record) == nil {
			lines = append(lines, record.Level+" "+record.Msg)
		}
	}
	l.buf.Reset()
	return lines
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// fixture is a cache in front of an endpoint.
type fixture struct {
	*jwkscache.Cache
	*endpoint
	t        testing.TB
	log      *log
	registry *prometheus.Registry
	stop     context.CancelFunc // ends Run and waits for it
}

// start runs a cache until the test ends. It may have inherited from others.
func start(t testing.TB, first http.HandlerFunc, config jwkscache.Config, from ...*jwkscache.Cache) *fixture {
	t.Helper()
	f := &fixture{endpoint: &endpoint{answer: first}, t: t, log: &log{}, registry: prometheus.NewRegistry()}
	config.URL = cmp.Or(config.URL, "https://keys.test/jwks")
	if config.Transport == nil {
		config.Transport = f.endpoint
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewJSONHandler(f.log, nil))
	}
	config.Registerer = f.registry
	cache, err := jwkscache.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range from {
		cache.Inherit(other)
	}
	f.Cache = cache
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cache.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		f.stop()
		if f.open != 0 {
			t.Errorf("%d response bodies were not closed", f.open)
		}
	})
	return f
}

// settle lets everything happen that needs no time to pass.
func (f *fixture) settle() *fixture {
	synctest.Wait()
	return f
}

// pass lets time pass, and then what follows from it happen.
func (f *fixture) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// the three answers that there are.
type verdict string

const (
	found       verdict = "found"
	absent      verdict = "absent"
	unavailable verdict = "unavailable"
)

func judge(t testing.TB, key *rsa.PublicKey, err error) verdict {
	t.Helper()
	switch {
	case err != nil && key != nil:
		t.Errorf("a key and an error: %v", err)
	case err != nil && !errors.Is(err, jwkscache.ErrUnavailable):
		t.Errorf("error %v is not ErrUnavailable", err)
	}
	switch {
	case err != nil:
		return unavailable
	case key == nil:
		return absent
	}
	return found
}

// want asks for kid and wants this verdict after just this time.
func (f *fixture) want(kid string, want verdict, wait time.Duration) {
	f.t.Helper()
	asked := time.Now()
	key, err := f.Key(f.t.Context(), kid)
	if got := judge(f.t, key, err); got != want {
		f.t.Errorf("key %.40q: %s (%v), want %s", kid, got, err, want)
	}
	if got := time.Since(asked); got != wait {
		f.t.Errorf("key %.40q: took %v, want %v", kid, got, wait)
	}
}

func (f *fixture) wantHits(want int) {
	f.t.Helper()
	if got := len(f.times()); got != want {
		f.t.Errorf("%d fetches, want %d", got, want)
	}
}

func (f *fixture) wantLog(want ...string) {
	f.t.Helper()
	got := f.log.take()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		f.t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// metric reads one value; label is the value of its only label, if it has one.
func (f *fixture) metric(name, label string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != name || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	f.t.Fatalf("no metric %s{%s}", name, label)
	return 0
}

func (f *fixture) wantMetric(name, label string, want float64) {
	f.t.Helper()
	if got := f.metric(name, label); got != want {
		f.t.Errorf("%s{%s} = %v, want %v", name, label, got, want)
	}
}
