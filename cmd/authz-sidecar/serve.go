package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"strings"
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
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

func serveCommand() *cobra.Command {
	var file, level, format string
	command := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Answer Envoy",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sink := newLogSink(cmd.ErrOrStderr())
			defer sink.close()
			logger, err := newLogger(sink, level, format)
			if err != nil {
				return err
			}
			tuneGC() // which loading profits from, too
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo, sink.dropped)
			defer startProfile()()
			return serve(cmd.Context(), cfg, logger, registry)
		},
	}
	command.Flags().StringVar(&file, "config", "", "the configuration file")
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

// serve answers until ctx ends, then drains: every Check that was accepted is answered.
func serve(ctx context.Context, cfg *config.Config, logger *slog.Logger, registry *prometheus.Registry) error {
	cfg.Denylist.Registerer = registry
	revocations, err := revocation.New(cfg.Denylist)
	if err != nil {
		return err
	}
	projects, err := newProjects(cfg, revocations, logger, registry)
	if err != nil {
		return err
	}
	gate, err := newGate(cfg, projects, revocations, logger, registry)
	if err != nil {
		return err
	}
	for _, warning := range cfg.Warnings() {
		logger.Warn(warning)
	}
	var operator *admin.Server
	if cfg.Listen.Admin != "" {
		operator, err = admin.New(admin.Config{
			Token: cfg.Listen.AdminToken, Projects: projects.revocable(), Denylist: revocations, Leeway: cfg.Denylist.Leeway,
			Logger: logger, Registerer: registry,
		})
		if err != nil {
			return err
		}
	}
	probes := health.New(health.Config{Missing: projects.missing, Gatherer: registry})
	server := newGRPCServer(cfg.Listen.TLS)
	gate.Register(server)
	healthpb.RegisterHealthServer(server, probes)

	listeners, err := listen(cfg.Listen, logger, registry)
	if err != nil {
		return err
	}
	defer listeners.release()

	// What runs in the background goes on while the last Checks are answered.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, background := errgroup.WithContext(background)
	defer projects.close()
	if listeners.health != nil {
		group.Go(func() error { return probes.Serve(background, listeners.health) })
		logger.Info("serving health", "address", listeners.health.Addr().String())
	}
	if listeners.admin != nil {
		group.Go(func() error { return operator.Serve(background, listeners.admin) })
		logger.Info("serving admin", "address", listeners.admin.Addr().String())
	}
	for _, p := range projects {
		group.Go(func() error { return p.keys.Run(background) })
		if p.rbac != nil {
			group.Go(func() error { return p.rbac.Run(background) })
		}
	}
	group.Go(func() error { return server.Serve(listeners.check) })
	probes.Started()
	logger.Info("serving checks", "address", listeners.check.Addr().String(), "projects", len(projects), "rules", len(cfg.Gate.Rules.All())-1, "version", version)

	group.Go(func() error {
		select {
		case <-ctx.Done():
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

// project is one project at work.
type project struct {
	name string
	id   string
	keys *jwkscache.Cache
	rbac *rbac.Cache // nil where no rule needs it
	// verifier is the gate's.
	verifier *session.Verifier
	gate     check.Project
}

type projects []project

func newProjects(cfg *config.Config, revocations *revocation.Denylist, logger *slog.Logger, registerer prometheus.Registerer) (projects, error) {
	var all projects
	for _, c := range cfg.Projects {
		logger := logger.With("project", c.Name)
		registerer := prometheus.WrapRegistererWith(prometheus.Labels{"project": c.Name}, registerer)

		c.Keys.Logger, c.Keys.Registerer = logger, registerer
		keys, err := jwkscache.New(c.Keys)
		if err != nil {
			return nil, fmt.Errorf("project %s: %w", c.Name, err)
		}
		c.Verifier.Keys = keys
		verifier, err := session.NewVerifier(c.Verifier)
		if err != nil {
			return nil, fmt.Errorf("project %s: %w", c.Name, err)
		}
		c.API.Verify, c.API.Logger, c.API.Registerer = verifier.Verify, logger, registerer
		c.API.OnEnded = func(s *session.Session, certain bool) {
			if certain {
				revocations.Revoke(revocation.Revocation{ProjectID: s.ProjectID, SessionID: s.ID}, time.Now())
			} else {
				revocations.Doubt(revocation.Session{ProjectID: s.ProjectID, ID: s.ID}, time.Now())
			}
		}
		api, err := sessionapi.New(c.API)
		if err != nil {
			return nil, fmt.Errorf("project %s: %w", c.Name, err)
		}
		p := project{name: c.Name, id: c.Verifier.ProjectID, keys: keys, verifier: verifier, gate: check.Project{Product: c.Verifier.Product, Verifier: verifier, API: api}}
		if c.RBAC != nil {
			c.RBAC.Logger, c.RBAC.Registerer = logger, registerer
			if p.rbac, err = rbac.New(*c.RBAC); err != nil {
				return nil, fmt.Errorf("project %s: %w", c.Name, err)
			}
			p.gate.Permissions = p.rbac
		}
		all = append(all, p)
	}
	return all, nil
}

// close ends what the projects do in the background of their own.
func (ps projects) close() {
	for _, p := range ps {
		p.verifier.Close()
	}
}

// revocable is what the admin listener knows of the projects.
func (ps projects) revocable() []admin.Project {
	var all []admin.Project
	for _, p := range ps {
		all = append(all, admin.Project{Name: p.name, ID: p.id, Product: p.gate.Product})
	}
	return all
}

// missing says which key set or RBAC policy readiness waits for.
func (ps projects) missing() string {
	var waiting []string
	wait := func(what, lastError string) {
		if lastError != "" {
			what += " (" + lastError + ")"
		}
		waiting = append(waiting, what)
	}
	for _, p := range ps {
		if !p.keys.Ready() {
			wait("the key set of "+p.name+" has not been loaded", p.keys.Status().LastError)
		}
		if p.rbac != nil && !p.rbac.Ready() {
			wait("the RBAC policy of "+p.name+" has not been loaded", p.rbac.Status().LastError)
		}
	}
	return strings.Join(waiting, "; ")
}

func newGate(cfg *config.Config, ps projects, revocations *revocation.Denylist, logger *slog.Logger, registerer prometheus.Registerer) (*check.Server, error) {
	gate := cfg.Gate
	gate.Revocations, gate.Logger, gate.Registerer = revocations, logger, registerer
	gate.Projects = make(map[string]check.Project, len(ps))
	for _, p := range ps {
		gate.Projects[p.name] = p.gate
	}
	return check.New(gate)
}

// The bounds of the gRPC server.
const (
	// All headers of the client arrive in one message; Envoy's own limit for them is 60 KiB by default, 8 MiB at most. What is
	// larger still (a body, which nobody here reads) is answered with a gRPC error, and so is no verdict: hence the room.
	maxMessage = 16 << 20
	// Of the gRPC call itself, not of the client's request.
	maxHeaderList = 16 << 10
	// Envoy's circuit breakers open at 1,024 requests by default; several Envoys may share one sidecar.
	maxStreams = 4096
	// How long a new connection may take to shake hands.
	connectionTimeout = 5 * time.Second
	// Shorter than this a client's pings are refused; Envoy's connection_keepalive is commonly 30 s.
	minPingInterval = 10 * time.Second
)

// What makes the server fast, each with its number in docs/decisions/0011-performance.md.
const (
	// Checks are answered by so many goroutines that wait for them, and only beyond that by new ones, which first have to grow
	// their stacks.
	streamWorkers = 64
	// Of each connection, and Envoy has one for each of its workers: so much of what has come is read at once.
	readBuffer = 128 << 10
)

func newGRPCServer(mutual *tls.Config) *grpc.Server {
	transport := insecure.NewCredentials()
	if mutual != nil {
		transport = credentials.NewTLS(mutual)
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
