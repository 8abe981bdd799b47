package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"authz-sidecar/internal/admin"
	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/health"
	"authz-sidecar/internal/pressure"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/watch"
)

func serveCommand() *cobra.Command {
	var file, level, format string
	var takeover bool
	command := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Answer Envoy",
		Long: "Answer Envoy, by what the configuration file and those that it names say at any time: they are looked at every second, and " +
			"on SIGHUP. SIGTERM ends it once all is answered.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sink := newLogSink(cmd.ErrOrStderr())
			defer sink.close()
			logger, err := newLogger(sink, level, format)
			if err != nil {
				return err
			}
			signal.Ignore(syscall.SIGPIPE) // whoever reads our log may die without us
			tuneGC()                       // which loading profits from, too
			if limit, from := pressure.SetLimit(); limit > 0 {
				logger.Info("memory is limited", "bytes", limit, "by", from)
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo, sink.dropped)
			defer startProfile()()
			return serve(cmd.Context(), file, takeover, logger, registry)
		},
	}
	command.Flags().StringVar(&file, "config", "", "the configuration file")
	command.Flags().BoolVar(&takeover, "takeover", false, "take the socket from the sidecar that serves it now, once ready, and end that one")
	command.Flags().StringVar(&level, "log-level", "info", "debug (a line for each request that passes, too), info, warn or error")
	command.Flags().StringVar(&format, "log-format", "json", "json or text")
	command.MarkFlagRequired("config")
	return command
}

var buildInfo = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
	Name:        "authz_build_info",
	Help:        "Always 1; the label says which version runs.",
	ConstLabels: prometheus.Labels{"version": version},
}, func() float64 { return 1 })

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var options slog.HandlerOptions
	var parsed slog.Level
	if err := parsed.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	options.Level = parsed
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, &options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use json or text", format)
}

// serve answers by a configuration file until ctx ends, then drains: every Check that was accepted is answered.
func serve(ctx context.Context, file string, takeover bool, logger *slog.Logger, registry *prometheus.Registry) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // before anything else, since by itself it ends a process
	defer signal.Stop(hangup)
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	r := &reloader{
		hangup: hangup,
		file:   file, base: registry, started: cfg, metrics: newReloadMetrics(registry), watcher: watch.New(cfg.Files),
		shared: shared{metrics: check.NewMetrics(registry), logger: logger},
	}
	cfg.Denylist.Service, cfg.Denylist.Registerer = r.serviceTime, registry
	if r.denylist, err = revocation.New(cfg.Denylist); err != nil {
		return err
	}
	r.watcher.Logger = logger
	memory := pressure.New(pressure.Config{Relieve: r.forget, Logger: logger, Registerer: registry})
	r.overloaded = memory.Short
	first, err := newGeneration(cfg, nil, r.shared)
	if err != nil {
		return err
	}
	defer first.stopBegun()
	r.current.Store(first)
	r.tls.Store(cfg.Listen.TLS)
	r.service = check.NewService(first.server)
	warn(logger, cfg)
	if cfg.Listen.Admin != "" {
		r.operator, err = admin.New(admin.Config{
			Token: cfg.Listen.AdminToken, Projects: first.projects.revocable(), Denylist: r.denylist, Leeway: cfg.Denylist.Leeway,
			Status: r.describe, Logger: logger, Registerer: registry,
		})
		if err != nil {
			return err
		}
	}
	probes := health.New(health.Config{Missing: r.missing, Gatherer: r})
	server := newGRPCServer(r.serverTLS())
	r.service.Register(server)
	healthpb.RegisterHealthServer(server, probes)

	listeners, err := listen(cfg.Listen, takeover, logger, registry)
	if err != nil {
		return err
	}
	defer listeners.release()

	// What runs in the background goes on while the last Checks are answered.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, background := errgroup.WithContext(background)
	r.run = group.Go
	first.start(background, group.Go)
	group.Go(func() error { return memory.Run(background) })
	group.Go(func() error { return server.Serve(listeners.check) })
	group.Go(func() error { return listeners.keep(background) })
	group.Go(func() error { return r.Run(background) })
	group.Go(func() error {
		if takeover {
			if err := r.ready(ctx); err != nil { // who is told to end meanwhile takes nothing over
				return nil
			}
			if err := listeners.socket.Publish(); err != nil {
				return fmt.Errorf("listen.check: %w", err)
			}
			if err := listeners.awaitOthers(ctx, cfg.Listen, logger); err != nil {
				return err
			}
		}
		if listeners.health != nil {
			logger.Info("serving health", "address", listeners.health.Addr().String())
			group.Go(func() error { return probes.Serve(background, listeners.health) })
		}
		if listeners.admin != nil {
			logger.Info("serving admin", "address", listeners.admin.Addr().String())
			group.Go(func() error { return r.operator.Serve(background, listeners.admin) })
		}
		probes.Started()
		logger.Info("serving checks", "address", listeners.check.Addr().String(), "projects", len(first.projects), "rules", ruleCount(cfg), "version", version)
		return nil
	})

	group.Go(func() error {
		select {
		case <-ctx.Done():
			if r.operator != nil {
				r.operator.Drain()
			}
			drain(probes, server, logger)
		case <-background.Done():
			server.Stop()
		}
		stop()
		return nil
	})
	err = group.Wait()
	logger.Info("stopped")
	return err
}

// The bounds of the gRPC server.
const (
	// All headers of the client arrive in one message; Envoy's own limit for them is 60 KiB by default, 8 MiB at most. What is
	// larger still (a body, which nobody here reads) is answered with a gRPC error, and so is no verdict: hence the room.
	maxMessage = 16 << 20
	// Of the gRPC call itself, not of the client's request.
	maxHeaderList = 16 << 10
	// Of a connection. Envoy's circuit breakers open at 1,024 requests by default, and where it has more it makes another connection. Each
	// stream costs some 25 KiB even if it never gets anywhere.
	maxStreams = 1024
	// How long a new connection may take to shake hands.
	connectionTimeout = 5 * time.Second
	// Shorter than this a client's pings are refused; Envoy's connection_keepalive is commonly 30 s.
	minPingInterval = 10 * time.Second
	// A connection on which nothing has come for so long is asked for a sign of life, and closed without one: a peer that reads
	// nothing, or is gone, must not hold on to answers.
	pingAfter   = 30 * time.Second
	pingTimeout = 10 * time.Second
	// With TLS a client must show its certificate anew from time to time, so that one which was withdrawn is out without a restart.
	maxConnectionAge = 5 * time.Minute
)

// What makes the server fast, each with its number in docs/decisions/0011-what-makes-a-check-cheap.md.
const (
	// Checks are answered by so many goroutines that wait for them, and only beyond that by new ones, which first have to grow
	// their stacks.
	streamWorkers = 64
	// Of each connection, and Envoy has one for each of its workers: so much of what has come is read at once.
	readBuffer = 128 << 10
)

func newGRPCServer(mutual *tls.Config) *grpc.Server {
	transport, alive := insecure.NewCredentials(), keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}
	if mutual != nil {
		transport = credentials.NewTLS(mutual)
		alive.MaxConnectionAge, alive.MaxConnectionAgeGrace = maxConnectionAge, drainGrace
	}
	return grpc.NewServer(
		grpc.Creds(transport),
		grpc.ForceServerCodecV2(check.NewCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(connectionTimeout),
		// grpc-go closes the connection of a peer that pings more often than it is told to allow.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.KeepaliveParams(alive),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ReadBufferSize(readBuffer),
	)
}

const (
	// drainPause is between NOT_SERVING and the end of accepting, for those who balance load by health.
	drainPause = 250 * time.Millisecond
	// drainGrace is how long accepted Checks may take; a call to the session API takes 2 s by default, and Kubernetes
	// kills after 30 s.
	drainGrace = 10 * time.Second
)

func drain(probes *health.Server, server *grpc.Server, logger *slog.Logger) {
	logger.Info("draining")
	probes.Drain()
	time.Sleep(drainPause)
	late := time.AfterFunc(drainGrace, func() {
		logger.Warn("draining took too long: closing connections", "grace", drainGrace)
		server.Stop()
	})
	defer late.Stop()
	server.GracefulStop()
}
