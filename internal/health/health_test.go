package health_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"authz-sidecar/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// probe is a running server with both kinds of client.
type probe struct {
	*health.Server
	t    *testing.T
	url  string
	grpc healthpb.HealthClient
}

func start(t *testing.T, cfg health.Config) *probe {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := health.New(cfg)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(ctx, listener) }()
	go func() { ended <- server.Run(ctx) }()
	conn, err := grpc.NewClient("passthrough:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		http.DefaultClient.CloseIdleConnections()
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return &probe{server, t, "http://" + listener.Addr().String(), healthpb.NewHealthClient(conn)}
}

func (p *probe) get(path string) (int, string) {
	p.t.Helper()
	response, err := http.Get(p.url + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (p *probe) serving(service string) bool {
	p.t.Helper()
	answer, err := p.grpc.Check(p.t.Context(), &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		p.t.Fatal(err)
	}
	return answer.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

func (p *probe) eventuallyServing(service string) {
	p.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !p.serving(service); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%q is not serving", service)
		}
	}
}

func TestReadinessWaitsForWhatIsMissingAndOnlyDrainingTakesItBack(t *testing.T) {
	var missing atomic.Value
	missing.Store("key set of project one")
	p := start(t, health.Config{Missing: func() string { return missing.Load().(string) }})

	if p.serving(health.Startup) {
		t.Error("started before the listeners are open")
	}
	p.Started()
	if !p.serving(health.Startup) || !p.serving(health.Liveness) {
		t.Error("startup or liveness waits for the key set")
	}
	if p.serving(health.Readiness) || p.serving("") {
		t.Error("ready without a key set")
	}
	if code, body := p.get("/readyz"); code != 503 || !strings.Contains(body, "key set of project one") {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if code, _ := p.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}

	missing.Store("")
	p.eventuallyServing(health.Readiness)
	missing.Store("key set of project one") // staleness is an alarm, not an end of readiness
	if code, body := p.get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %q", code, body)
	}

	p.Drain()
	if p.serving(health.Readiness) || p.serving("") {
		t.Error("ready while draining")
	}
	if !p.serving(health.Startup) || !p.serving(health.Liveness) {
		t.Error("draining must not have the process restarted")
	}
}

func TestDrainingBeforeReadinessStays(t *testing.T) {
	var ready atomic.Bool
	p := start(t, health.Config{Missing: func() string {
		if ready.Load() {
			return ""
		}
		return "key set"
	}})
	p.Drain()
	ready.Store(true)
	time.Sleep(200 * time.Millisecond) // several polls
	if code, body := p.get("/readyz"); code != 503 || body != "draining\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
}

func TestItIsReadOnlyAndServesMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "authz_decisions_total", Help: "x"})
	registry.MustRegister(counter)
	counter.Inc()
	p := start(t, health.Config{Missing: func() string { return "" }, Gatherer: registry})

	if code, body := p.get("/metrics"); code != 200 || !strings.Contains(body, "authz_decisions_total 1") {
		t.Errorf("/metrics: %d %q", code, body)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/v1/revocations"} {
		if code, _ := p.get(path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
	response, err := http.Post(p.url+"/readyz", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", response.StatusCode)
	}
}

func TestAWatcherDoesNotHoldUpTheEnd(t *testing.T) {
	p := start(t, health.Config{Missing: func() string { return "" }})
	stream, err := p.grpc.Watch(context.Background(), &healthpb.HealthCheckRequest{Service: health.Liveness})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	// The clean-up ends the server while the stream is open; goleak sees what stays.
}
