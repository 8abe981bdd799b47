package sessionapitest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// run runs an emulator until the test calls stop, which is how Run ended.
func run(t *testing.T, s *sessionapitest.Server, l sessionapitest.Listen) (httpURL, httpsURL string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, l, func(a, b string) { httpURL, httpsURL = a, b; close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatalf("Run ended at once: %v", err)
	}
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	return httpURL, httpsURL, stop
}

func TestRunServesHTTPAndTLSAndWarns(t *testing.T) {
	var log bytes.Buffer
	s, err := sessionapitest.New(sessionapitest.Config{
		NewKey: sessionapitest.SharedKeys(), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	httpURL, httpsURL, stop := run(t, s, sessionapitest.Listen{HTTP: "127.0.0.1:0", HTTPS: "localhost:0", CAFile: caFile})

	ca, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("the CA file holds no certificate: %s", ca)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	localhost := strings.Replace(httpsURL, "127.0.0.1", "localhost", 1)
	for _, url := range []string{httpURL, httpsURL, localhost} {
		if _, err := (&sessionapitest.Control{BaseURL: url, HTTP: client}).LogIn(t.Context(), sessionapitest.LogIn{}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	response, err := client.Get(httpsURL + jwksPath)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	chain := response.TLS.VerifiedChains[0]
	if leaf, ca := chain[0], chain[len(chain)-1]; len(ca.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, ca.SubjectKeyId) {
		t.Error("the certificate does not say by key id which CA signed it: a client that trusts two emulators is lost")
	}
	if err := s.SetFault("jwks", sessionapitest.Fault{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if response, err := client.Get(httpsURL + jwksPath); err == nil {
		response.Body.Close()
		t.Error("refuse over HTTP/2: an answer came")
	}

	plain := &http.Transport{}
	defer plain.CloseIdleConnections()
	if response, err := (&http.Client{Transport: plain}).Get(httpsURL); err == nil {
		response.Body.Close()
		t.Error("a client that does not trust the CA got an answer")
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "development only") || strings.Contains(text, sessionapitest.DefaultSecret) {
		t.Errorf("the log says %s", text)
	}
}

func TestRunEndsHangingRequests(t *testing.T) {
	s, err := sessionapitest.New(sessionapitest.Config{NewKey: sessionapitest.SharedKeys()})
	if err != nil {
		t.Fatal(err)
	}
	url, _, stop := run(t, s, sessionapitest.Listen{HTTP: "127.0.0.1:0"})
	if err := s.SetFault("jwks", sessionapitest.Fault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	var client sync.WaitGroup
	client.Go(func() {
		if response, err := (&http.Client{Transport: transport}).Get(url + jwksPath); err == nil {
			response.Body.Close()
			t.Error("an answer came")
		}
	})
	awaitCalls(t, s, "jwks", 1)
	begin := time.Now()
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	client.Wait()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

func TestRunRefusesAddressesOffLoopback(t *testing.T) {
	s, err := sessionapitest.New(sessionapitest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		for _, l := range []sessionapitest.Listen{{HTTP: address}, {HTTPS: address}, {HTTP: "127.0.0.1:0", HTTPS: address}} {
			err := s.Run(t.Context(), l, func(string, string) { t.Errorf("%+v: listens", l) })
			if err == nil || !strings.Contains(err.Error(), "--allow-non-loopback") {
				t.Errorf("%+v: got %v, want an error that names the flag", l, err)
			}
		}
	}
	for _, l := range []sessionapitest.Listen{{}, {HTTP: "127.0.0.1"}} {
		if err := s.Run(t.Context(), l, nil); err == nil {
			t.Errorf("%+v: no error", l)
		}
	}
	_, _, stop := run(t, s, sessionapitest.Listen{HTTP: "0.0.0.0:0", AllowNonLoopback: true})
	if err := stop(); err != nil {
		t.Errorf("with AllowNonLoopback: %v", err)
	}
}
