// Package health tells the outside how the sidecar is: to Kubernetes' probes, to Prometheus, to a person with curl.
//
// It is read-only and may face the pod's address. One plain-text listener serves HTTP (/healthz, /readyz, /metrics) and
// the gRPC health service (grpc.health.v1) side by side. Three answers are told apart:
//
//   - startup: the configuration is loaded and the listeners are open. It does not wait for the key sets, since a
//     mesh may hold outbound calls back until the pod has started.
//   - readiness: every key set has been loaded once. Only draining takes it back: stale keys are an alarm and a
//     503 a request, and taking every replica out at once would help nobody.
//   - liveness: the process answers. It depends on nothing outside.
package health

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"authz-sidecar/internal/httpserve"
)

// The gRPC health services that probes name.
const (
	Startup   = "startup"
	Readiness = "readiness"
	Liveness  = "liveness"
)

// Config is what a Server needs.
type Config struct {
	// Missing says what readiness waits for, "" once there is nothing; from then on it must say nothing. Required.
	Missing func() string
	// Gatherer has the metrics. Default: none.
	Gatherer prometheus.Gatherer
}

// Server serves health. It is the gRPC health service too, for other servers to register: with Check alone, which is
// what probes and Envoy use, since an open Watch would hold up the end of whoever serves it.
type Server struct {
	healthpb.UnimplementedHealthServer

	missing           func() string
	gatherer          prometheus.Gatherer
	started, draining atomic.Bool
}

// New makes a Server. It is live, and neither started nor ready.
func New(cfg Config) *Server {
	s := &Server{missing: cfg.Missing, gatherer: cfg.Gatherer}
	if s.gatherer == nil {
		s.gatherer = prometheus.NewRegistry()
	}
	return s
}

// Started says that the listeners are open.
func (s *Server) Started() { s.started.Store(true) }

// Drain takes readiness back for good: whoever balances load should go elsewhere. Startup and liveness stand.
func (s *Server) Drain() { s.draining.Store(true) }

// notServing says why a service does not serve, "" if it does. The service "" is the one that Envoy's own health check
// asks, and means readiness.
func (s *Server) notServing(service string) (why string, known bool) {
	switch {
	case service == Liveness:
		return "", true
	case service == Startup && s.started.Load():
		return "", true
	case service == Startup:
		return "starting", true
	case service != Readiness && service != "":
		return "", false
	case s.draining.Load():
		return "draining", true
	}
	return s.missing(), true
}

// Check implements grpc.health.v1.Health.
func (s *Server) Check(_ context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	why, known := s.notServing(in.GetService())
	switch {
	case !known:
		return nil, status.Errorf(codes.NotFound, "unknown service: ask for %q, %q or %q", Startup, Readiness, Liveness)
	case why != "":
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// Whoever reaches the listener can hold little: a probe sends a few hundred bytes, at once, and comes back soon.
const (
	readTimeout    = 5 * time.Second
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 16 << 10
)

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	grpcServer := grpc.NewServer()
	healthpb.RegisterHealthServer(grpcServer, s)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.page(Liveness))
	mux.HandleFunc("GET /readyz", s.page(Readiness))
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{}))

	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				grpcServer.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true) // gRPC probes speak it with no upgrade before

	if err := httpserve.Until(ctx, server, l); err != nil {
		return fmt.Errorf("health %w", err)
	}
	return nil
}

// page tells a person, or a probe that speaks HTTP, the status of a service.
func (s *Server) page(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if why, _ := s.notServing(service); why != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "not ready:", why)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
