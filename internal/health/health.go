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
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// The gRPC health services that probes name.
const (
	Startup   = "startup"
	Readiness = "readiness"
	Liveness  = "liveness"
)

// Config is what a Server needs.
type Config struct {
	// Missing says what readiness waits for, "" once there is nothing. It is asked until it says so, then never again.
	Missing func() string
	// Gatherer has the metrics. Default: none.
	Gatherer prometheus.Gatherer
}

// Server serves health.
type Server struct {
	missing  func() string
	gatherer prometheus.Gatherer
	grpc     *health.Server

	mu       sync.Mutex
	draining bool // written by Drain, once
}

// New makes a Server. It is live, and neither started nor ready.
func New(cfg Config) *Server {
	s := &Server{missing: cfg.Missing, gatherer: cfg.Gatherer, grpc: health.NewServer()}
	if s.gatherer == nil {
		s.gatherer = prometheus.NewRegistry()
	}
	s.ready(healthpb.HealthCheckResponse_NOT_SERVING)
	s.grpc.SetServingStatus(Startup, healthpb.HealthCheckResponse_NOT_SERVING)
	s.grpc.SetServingStatus(Liveness, healthpb.HealthCheckResponse_SERVING)
	return s
}

// GRPC is the gRPC health service, for other servers to register too.
func (s *Server) GRPC() healthpb.HealthServer { return s.grpc }

// Started says that the listeners are open.
func (s *Server) Started() { s.grpc.SetServingStatus(Startup, healthpb.HealthCheckResponse_SERVING) }

// readyPoll is how often the missing part of readiness is looked for: one map lookup a project.
const readyPoll = 50 * time.Millisecond

// Run makes the server ready as soon as nothing is missing, and returns when ctx ends.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for s.missing() != "" {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	s.mu.Lock()
	if !s.draining {
		s.ready(healthpb.HealthCheckResponse_SERVING)
	}
	s.mu.Unlock()
	<-ctx.Done()
	return nil
}

// ready sets the services that say whether traffic should come here; "" is the one that Envoy's own health check asks.
func (s *Server) ready(status healthpb.HealthCheckResponse_ServingStatus) {
	s.grpc.SetServingStatus("", status)
	s.grpc.SetServingStatus(Readiness, status)
}

// Drain takes readiness back for good: whoever balances load should go elsewhere. Startup and liveness stand.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.ready(healthpb.HealthCheckResponse_NOT_SERVING)
}

// The read side is bounded: a probe sends a few hundred bytes, at once.
const (
	readTimeout    = 5 * time.Second
	maxHeaderBytes = 16 << 10
)

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	grpcServer := grpc.NewServer()
	healthpb.RegisterHealthServer(grpcServer, s.grpc)
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
		MaxHeaderBytes:    maxHeaderBytes,
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true) // gRPC probes speak it with no upgrade before

	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		s.grpc.Shutdown() // ends the streams of those who watch
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("health listener %s: %w", l.Addr(), err)
	}
	<-done
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("health listener %s: %w", l.Addr(), err)
}

// page tells a person, or a probe that speaks HTTP, the status of a service.
func (s *Server) page(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		answer, err := s.grpc.Check(r.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err == nil && answer.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			fmt.Fprintln(w, "ok")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		if missing := s.missing(); missing != "" {
			fmt.Fprintln(w, "not ready:", missing)
			return
		}
		fmt.Fprintln(w, "draining")
	}
}
