package jwkscache_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"authz-sidecar/internal/jwkscache"
)

// transport is one that leaves nothing behind when the test ends.
func transport(t *testing.T, roots *x509.CertPool) *http.Transport {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// wantOutcome waits for the first fetch over real sockets.
func (f *fixture) wantOutcome(outcome string) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(ms) {
		if f.metric("authz_key_set_fetches_total", outcome) > 0 {
			if f.Ready() != (outcome == "ok") {
				f.t.Errorf("ready: %v after a fetch that was %s", f.Ready(), outcome)
			}
			return
		}
	}
	f.t.Fatalf("no fetch ended as %q: %+v", outcome, f.Status())
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var hits atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		body(set(testKey("a")))(w, r)
	}))
	defer target.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			server := httptest.NewServer(http.RedirectHandler(target.URL, code))
			defer server.Close()
			start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, nil)}).wantOutcome("status")
		})
	}
	if hits.Load() != 0 {
		t.Errorf("the redirect's target was asked %d times", hits.Load())
	}
	start(t, nil, jwkscache.Config{URL: target.URL, Transport: transport(t, nil)}).wantOutcome("ok")
}

func TestTheDeadlineCoversABodyThatDrips(t *testing.T) {
	good := set(testKey("a"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range []byte(good) {
			if _, err := w.Write([]byte{c}); err != nil || r.Context().Err() != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(10 * ms)
		}
	}))
	defer server.Close()
	began := time.Now()
	f := start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, nil), FetchTimeout: 100 * ms})
	f.wantOutcome("timeout")
	if took := time.Since(began); took < 100*ms || took > 2*time.Second {
		t.Errorf("gave up after %v, want 100ms", took)
	}
}

func TestABodyWithoutEndIsCut(t *testing.T) {
	var sent atomic.Int64
	block := bytes.Repeat([]byte(" "), 1<<16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			n, err := w.Write(block)
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	}))
	f := start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, nil)})
	f.wantOutcome("too_large")
	f.stop()
	server.Close() // returns once the handler has: the connection was closed
	if sent.Load() > 64<<20 {
		t.Errorf("%d bytes were taken", sent.Load())
	}
}

func TestACompressedBodyIsMeasuredAfterwards(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte(set(testKey("a")) + strings.Repeat(" ", 4<<20)))
	w.Close()
	server := httptest.NewServer(body(packed.String(), "Content-Encoding: gzip"))
	defer server.Close()
	start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, nil)}).wantOutcome("too_large")
}

func TestABodyThatBreaksOffIsAFailure(t *testing.T) {
	server := httptest.NewServer(body(set(testKey("a")), "Content-Length: 100000"))
	defer server.Close()
	start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, nil)}).wantOutcome("request_failed")
}

func TestTheServersCertificateMustBeTrusted(t *testing.T) {
	server := httptest.NewUnstartedServer(body(set(testKey("a"))))
	server.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, roots)}).wantOutcome("ok")
	start(t, nil, jwkscache.Config{URL: server.URL, Transport: transport(t, x509.NewCertPool())}).wantOutcome("request_failed")
}

func TestConfigIsRefusedWithWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		config jwkscache.Config
		want   []string // nil: it is accepted
	}{
		"https":                        {jwkscache.Config{URL: "https://keys.example.com/jwks"}, nil},
		"http":                         {jwkscache.Config{URL: "http://keys.example.com/jwks"}, []string{"http://keys.example.com/jwks", "use https"}},
		"http on localhost":            {jwkscache.Config{URL: "http://localhost:8080/jwks"}, nil},
		"http on 127.0.0.1":            {jwkscache.Config{URL: "http://127.0.0.1:8080/jwks"}, nil},
		"http on 127.9.9.9":            {jwkscache.Config{URL: "http://127.9.9.9/jwks"}, nil},
		"http on ::1":                  {jwkscache.Config{URL: "http://[::1]:8080/jwks"}, nil},
		"http on a private address":    {jwkscache.Config{URL: "http://10.0.0.1/jwks"}, []string{"http://10.0.0.1/jwks", "use https"}},
		"http on all addresses":        {jwkscache.Config{URL: "http://0.0.0.0/jwks"}, []string{"use https"}},
		"http on localhost.evil.test":  {jwkscache.Config{URL: "http://localhost.evil.test/jwks"}, []string{"use https"}},
		"http on 127.0.0.1.evil.test":  {jwkscache.Config{URL: "http://127.0.0.1.evil.test/jwks"}, []string{"use https"}},
		"http with localhost as user":  {jwkscache.Config{URL: "http://localhost@evil.test/jwks"}, []string{"without user"}},
		"another scheme":               {jwkscache.Config{URL: "file:///etc/keys"}, []string{"file:///etc/keys", "want https://"}},
		"another scheme on localhost":  {jwkscache.Config{URL: "ftp://localhost/keys"}, []string{"use https"}},
		"no URL":                       {jwkscache.Config{}, []string{`""`, "want https://"}},
		"a path":                       {jwkscache.Config{URL: "/jwks"}, []string{"want https://"}},
		"not a URL":                    {jwkscache.Config{URL: "https://keys.example.com:port/"}, []string{"key set URL"}},
		"a password, which isn't told": {jwkscache.Config{URL: "https://u:hunter2@keys.example.com"}, []string{"without user"}},
		"a negative duration":          {jwkscache.Config{URL: "https://k.test", MaxStale: -1}, []string{"maximum staleness", "negative"}},
		"bounds that cross":            {jwkscache.Config{URL: "https://k.test", MinRefreshInterval: 2 * time.Hour}, []string{"2h0m0s", "1h0m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := jwkscache.New(tt.config)
			if (err != nil) != (tt.want != nil) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}
