package main

import (
	"time"

	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/sessionapi"
)

// status is what GET /v1/status of the admin listener tells.
type status struct {
	Version       string            `json:"version"`
	Configuration configStatus      `json:"configuration"`
	Waiting       string            `json:"waiting_for,omitempty"`
	Overloaded    bool              `json:"overloaded"`
	Revocations   revocation.Status `json:"revocations"`
	Projects      []projectStatus   `json:"projects"`
}

type configStatus struct {
	File     string    `json:"file"`
	LoadedAt time.Time `json:"loaded_at"`
	Rules    int       `json:"rules"`
	// LastError is why the last reload failed; empty if the file is what is in use.
	LastError    string    `json:"last_error,omitempty"`
	FailedAt     time.Time `json:"failed_at,omitzero"`
	NeedsRestart []string  `json:"needs_restart,omitempty"`
}

type projectStatus struct {
	Name       string            `json:"name"`
	KeySet     jwkscache.Status  `json:"key_set"`
	SessionAPI sessionapi.Status `json:"session_api"`
	RBAC       *rbac.Status      `json:"rbac,omitempty"`
	Clock      clockStatus       `json:"clock"`
}

// clockStatus is a clock.Status in seconds.
type clockStatus struct {
	Heard       bool    `json:"heard"`
	Ahead       float64 `json:"ahead_seconds"`
	Uncertainty float64 `json:"uncertainty_seconds"`
}

// describe is the present state.
func (r *reloader) describe() any {
	g := r.current.Load()
	s := status{
		Version:       version,
		Configuration: r.configStatus(g),
		Waiting:       r.missing(),
		Overloaded:    r.overloaded(),
		Revocations:   r.denylist.Status(),
	}
	for _, p := range g.projects {
		one := projectStatus{Name: p.config.Name, KeySet: p.keys.Status(), SessionAPI: p.api.Status(), Clock: describeClock(p.clock)}
		if p.rbac != nil {
			policy := p.rbac.Status()
			one.RBAC = &policy
		}
		s.Projects = append(s.Projects, one)
	}
	return s
}

func describeClock(c *clock.Clock) clockStatus {
	s := c.Status()
	return clockStatus{s.Heard, s.Skew.Seconds(), s.Uncertainty.Seconds()}
}

func (r *reloader) configStatus(g *generation) configStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return configStatus{
		File: r.file, LoadedAt: g.loadedAt, Rules: ruleCount(g.config),
		LastError: r.status.lastError, FailedAt: r.status.failedAt, NeedsRestart: r.status.needsRestart,
	}
}
