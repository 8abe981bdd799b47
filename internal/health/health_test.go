package health_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

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
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	conn, err := grpc.NewClient("passthrough:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
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
	if !p.serving(health.Readiness) || !p.serving("") {
		t.Error("not ready with nothing missing")
	}
	if code, body := p.get("/readyz"); code != 200 || body != "ok\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}

	p.Drain()
	if code, body := p.get("/readyz"); code != 503 || body != "not ready: draining\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if p.serving(health.Readiness) || p.serving("") {
		t.Error("ready while draining")
	}
	if !p.serving(health.Startup) || !p.serving(health.Liveness) {
		t.Error("draining must not have the process restarted")
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

func TestAnUnknownServiceAndAWatchAreRefused(t *testing.T) {
	p := start(t, health.Config{Missing: func() string { return "" }})
	if _, err := p.grpc.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "live"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
	stream, err := p.grpc.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: health.Liveness})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a watch: %v", err)
	}
}
