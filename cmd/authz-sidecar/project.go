package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/admin"
	"authz-sidecar/internal/check"
	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// project is one project at work. It never changes, but for its secret: a configuration that says something else of it gets another.
type project struct {
	config   config.Project
	registry *prometheus.Registry // of its own, so that it ends with the project
	clock    *clock.Clock
	keys     *jwkscache.Cache
	verifier *session.Verifier
	api      *sessionapi.Client
	rbac     *rbac.Cache // nil where no rule needs it
	// stop ends what runs for it in the background. Checks that still have it are answered nevertheless.
	stop func()
}

func newProject(c config.Project, revocations *revocation.Denylist, logger *slog.Logger) (*project, error) {
	p := &project{config: c, registry: prometheus.NewRegistry()}
	logger = logger.With("project", c.Name)
	registerer := prometheus.WrapRegistererWith(prometheus.Labels{"project": c.Name}, p.registry)
	failed := func(err error) (*project, error) { return nil, fmt.Errorf("project %s: %w", c.Name, err) }

	p.clock = clock.New(clock.Config{Logger: logger, Registerer: registerer})
	var err error
	c.Keys.Heard, c.Keys.Logger, c.Keys.Registerer = p.clock.Heard, logger, registerer
	if p.keys, err = jwkscache.New(c.Keys); err != nil {
		return failed(err)
	}
	c.API.Verify = func(ctx context.Context, jwt string, now time.Time) (*session.Session, error) {
		return p.verifier.Verify(ctx, jwt, now)
	}
	c.API.Clock, c.API.Logger, c.API.Registerer = p.clock, logger, registerer
	c.API.OnEnded = func(s *session.Session, certain bool) {
		if certain {
			revocations.Revoke(revocation.Revocation{ProjectID: s.ProjectID, SessionID: s.ID}, time.Now())
		} else {
			revocations.Doubt(revocation.Session{ProjectID: s.ProjectID, ID: s.ID}, time.Now())
		}
	}
	if p.api, err = sessionapi.New(c.API); err != nil {
		return failed(err)
	}
	if c.RBAC != nil {
		policy := *c.RBAC
		policy.Logger, policy.Registerer = logger, registerer
		if p.rbac, err = rbac.New(policy); err != nil {
			return failed(err)
		}
	}
	c.Verifier.Keys = p.keys
	if p.verifier, err = session.NewVerifier(c.Verifier); err != nil { // the last, since it is to be closed
		return failed(err)
	}
	p.stop = p.verifier.Close
	return p, nil
}

// start has run, which is errgroup's Go, run what the project does in the background until ctx ends or stop is called.
func (p *project) start(ctx context.Context, run func(func() error)) {
	ctx, p.stop = context.WithCancel(ctx)
	run(func() error {
		defer p.verifier.Close()
		defer p.closeConnections()
		return p.keys.Run(ctx)
	})
	if p.rbac != nil {
		run(func() error { return p.rbac.Run(ctx) })
	}
}

// closeConnections closes those to the service on which nothing is under way, since nobody else uses the transport.
func (p *project) closeConnections() {
	if t, ok := p.config.API.Transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// gate is what a gate has of the project.
func (p *project) gate() check.Project {
	g := check.Project{Product: p.config.Verifier.Product, Verifier: p.verifier, API: p.api, Clock: p.clock}
	if p.rbac != nil {
		g.Permissions = p.rbac
	}
	return g
}

// missing says what the project still waits for, "" if it is ready.
func (p *project) missing() string {
	var waiting []string
	wait := func(what, lastError string) {
		if lastError != "" {
			what += " (" + lastError + ")"
		}
		waiting = append(waiting, what)
	}
	if !p.keys.Ready() {
		wait("the key set of "+p.config.Name+" has not been loaded", p.keys.Status().LastError)
	}
	if p.rbac != nil && !p.rbac.Ready() {
		wait("the RBAC policy of "+p.config.Name+" has not been loaded", p.rbac.Status().LastError)
	}
	return strings.Join(waiting, "; ")
}

// projects are those of one configuration.
type projects []*project

// missing says which key set or RBAC policy readiness waits for.
func (ps projects) missing() string {
	var waiting []string
	for _, p := range ps {
		if what := p.missing(); what != "" {
			waiting = append(waiting, what)
		}
	}
	return strings.Join(waiting, "; ")
}

// revocable is what the admin listener knows of the projects.
func (ps projects) revocable() []admin.Project {
	var all []admin.Project
	for _, p := range ps {
		all = append(all, admin.Project{Name: p.config.Name, ID: p.config.Verifier.ProjectID, Product: p.config.Verifier.Product})
	}
	return all
}

// like is the project in whose place one of this configuration comes: that of its id, else that of its name; nil if there is none.
func (ps projects) like(c config.Project) *project {
	for _, same := range []func(*project) bool{
		func(p *project) bool { return p.config.Verifier.ProjectID == c.Verifier.ProjectID },
		func(p *project) bool { return p.config.Name == c.Name },
	} {
		if i := slices.IndexFunc(ps, same); i >= 0 {
			return ps[i]
		}
	}
	return nil
}

// forget gives back the memory of what need not be remembered.
func (ps projects) forget() {
	for _, p := range ps {
		p.verifier.Forget()
		p.api.Forget()
	}
}
