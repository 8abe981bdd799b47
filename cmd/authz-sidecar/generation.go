package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/revocation"
)

// generation is what one configuration has set up.
type generation struct {
	config   *config.Config
	projects projects
	server   *check.Server
	loadedAt time.Time
	// begun are those of the projects that the generation before had not.
	begun projects
}

// shared is what one generation leaves to the next.
type shared struct {
	denylist   *revocation.Denylist
	metrics    *check.Metrics
	overloaded func() bool
	logger     *slog.Logger
}

// newGeneration sets up what a configuration says. Projects of the generation before (nil for the first) of which it says nothing
// new stay as they run, and those of which it does take over the keys. Nothing is started.
func newGeneration(cfg *config.Config, before *generation, s shared) (*generation, error) {
	g := &generation{config: cfg, loadedAt: time.Now()}
	for _, c := range cfg.Projects {
		var old *project
		if before != nil {
			old = before.projects.like(c)
		}
		if old != nil && old.config.Fingerprint == c.Fingerprint {
			g.projects = append(g.projects, old)
			continue
		}
		p, err := newProject(c, s.denylist, s.logger)
		if err != nil {
			g.stopBegun()
			return nil, err
		}
		if old != nil {
			p.keys.Inherit(old.keys)
			if p.config.API.BaseURL == old.config.API.BaseURL {
				p.clock.Inherit(old.clock)
			}
			if p.rbac != nil {
				p.rbac.Inherit(old.rbac)
			}
		}
		g.projects, g.begun = append(g.projects, p), append(g.begun, p)
	}
	gate := cfg.Gate
	gate.Revocations, gate.Overloaded, gate.Logger, gate.Metrics = s.denylist, s.overloaded, s.logger, s.metrics
	gate.Projects = make(map[string]check.Project, len(g.projects))
	for _, p := range g.projects {
		gate.Projects[p.config.Name] = p.gate()
	}
	var err error
	if g.server, err = check.New(gate); err != nil {
		g.stopBegun()
		return nil, err
	}
	return g, nil
}

// start starts what the generation before had not.
func (g *generation) start(ctx context.Context, run func(func() error)) {
	for _, p := range g.begun {
		p.start(ctx, run)
	}
}

// stopBegun ends what the generation before had not, started or not.
func (g *generation) stopBegun() {
	for _, p := range g.begun {
		p.stop()
	}
}

const (
	// firstKeysLimit is how long a new configuration waits for keys that the one in use has, and it has not.
	firstKeysLimit = 10 * time.Second
	firstKeysPoll  = 20 * time.Millisecond
)

// catchUp waits until each project can prove what it could prove in the generation before. Its error says what is still missing once
// that has taken too long.
func (g *generation) catchUp(ctx context.Context, before *generation) error {
	ctx, cancel := context.WithTimeout(ctx, firstKeysLimit)
	defer cancel()
	for _, p := range g.begun {
		old := before.projects.like(p.config)
		if old == nil || old.missing() != "" {
			continue
		}
		for p.missing() != "" {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s, and the configuration in use has it", p.missing())
			case <-time.After(firstKeysPoll):
			}
		}
	}
	return nil
}

// left are the projects of the generation before that this one has not.
func (g *generation) left(before *generation) projects {
	var left projects
	for _, p := range before.projects {
		if !slices.Contains(g.projects, p) {
			left = append(left, p)
		}
	}
	return left
}
