// Package rbac keeps a project's RBAC policy at hand and judges permissions by it.
//
// What it keeps true: a role grants what the policy of its project, or of its own organization, says, and nothing more; a
// judgement by the project's policy never waits; a good policy is only ever replaced by another good one; and what could not
// be learnt is an error, never a yes or a no.
//
// How: the project's policy is an immutable snapshot behind an atomic pointer, which Run replaces on a jittered schedule, with
// growing delays after a failure, and no sooner than the service's Retry-After says. The roles that an organization of a B2B project has added are fetched when a session first
// needs them, by Run too: one fetch for all who wait, a bounded number at once, a bounded number of organizations remembered.
//
// The rule is the vendor's (https://stytch.com/docs/b2b/guides/rbac/overview): a permission is granted if some role of the
// session has one of that very resource with that very action, or with the action "*". There is no wildcard for resources. In
// one place it is stricter: a role id that the project's policy has is never looked up in an organization's roles, so that an
// organization cannot widen what the project defined.
package rbac

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/session"
)

// ErrUnavailable says that it could not be learnt whether a permission is granted.
var ErrUnavailable = errors.New("RBAC policy unavailable")

var (
	errNotLoaded  = fmt.Errorf("%w: none has been loaded yet", ErrUnavailable)
	errUnanswered = fmt.Errorf("%w: the organization's roles are not known yet", ErrUnavailable)
	errBusy       = fmt.Errorf("%w: too many organizations' roles are being fetched", ErrUnavailable)
	errHeldBack   = fmt.Errorf("%w: the session API wants no request yet", ErrUnavailable)
	errEnded      = fmt.Errorf("%w: it is no longer refreshed", ErrUnavailable)
)

// Config says whose policy is kept, and how. A duration of 0 means its default.
type Config struct {
	// Product and ProjectID say which project. Required.
	Product   session.Product
	ProjectID string
	// Secret is where the project's secret is got for each fetch, and once more when it is refused. Required.
	Secret session.SecretSource
	// BaseURL is where the session API is: https, or http on loopback. Required.
	BaseURL string
	// Transport makes the calls and must obey a request's context; redirects are never followed. Default
	// http.DefaultTransport.
	Transport http.RoundTripper
	// RefreshInterval is the time from one fetch to the next, jittered, and so how late a change is seen. Default 5m. Whatever it
	// says, it is at most half of MaxStale: a policy that can be fetched does not go stale. An organization's roles are fetched
	// again when they are that old and somebody needs them.
	RefreshInterval time.Duration
	// FetchTimeout is how long one fetch may take, from the request to the end of the body. Default 5s.
	FetchTimeout time.Duration
	// OrganizationWait is how long a caller waits for an organization's roles. Default 1s.
	OrganizationWait time.Duration
	// MaxStale is how long a policy serves after its last good fetch began. Default 24h.
	MaxStale time.Duration
	// Logger gets changes of state. Default: discard.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Cache holds the policy of one project and the roles of its organizations. Its methods may be called concurrently.
type Cache struct {
	cfg      Config
	paths    paths
	metrics  *metrics
	errStale error

	// current is written by Run only; nil until the first good fetch.
	current atomic.Pointer[snapshot]
	started atomic.Bool // Run was called
	// asked hands Run the organizations whose roles are to be fetched. Whoever sends holds mu and has counted itself in
	// fetching, which its capacity bounds; so sending never waits.
	asked chan *organization
	ended chan struct{} // closed, under mu, when Run has returned

	// mu guards what follows, and every organization. It is held for map and field accesses only.
	mu            sync.Mutex
	organizations organizations
	fetching      int       // organizations whose roles are being fetched, or are about to be
	announced     time.Time // when a failing organization was last logged
	held          time.Time // until when the session API wants no request
	status        Status    // what failed last

	survived sync.Once
}

// snapshot is what one good fetch brought. It never changes.
type snapshot struct {
	policy
	started time.Time // when it began, with the monotonic reading that its age is measured by
}

// New makes an empty Cache; Run fills it.
func New(cfg Config) (*Cache, error) {
	p, err := newPaths(cfg.BaseURL, cfg.Product)
	switch {
	case err != nil:
		return nil, fmt.Errorf("RBAC policy: %w", err)
	case cfg.ProjectID == "":
		return nil, errors.New("RBAC policy: no project id")
	case cfg.Secret == nil || cfg.Secret.Secret() == "":
		return nil, errors.New("RBAC policy: no secret")
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"refresh interval", &cfg.RefreshInterval, 5 * time.Minute},
		{"fetch timeout", &cfg.FetchTimeout, 5 * time.Second},
		{"organization wait", &cfg.OrganizationWait, time.Second},
		{"maximum staleness", &cfg.MaxStale, 24 * time.Hour},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("RBAC policy: %s %v is negative", d.name, *d.value)
		}
		*d.value = cmp.Or(*d.value, d.fallback)
	}
	cfg.RefreshInterval = min(cfg.RefreshInterval, cfg.MaxStale/2)
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		cfg:           cfg,
		paths:         p,
		errStale:      fmt.Errorf("%w: last fetched more than %v ago", ErrUnavailable, cfg.MaxStale),
		asked:         make(chan *organization, maxOrganizationFetches),
		ended:         make(chan struct{}),
		organizations: organizations{most: maxOrganizations, mostBytes: maxOrganizationBytes},
	}
	c.metrics = newMetrics(cfg.Registerer, c.age, func() float64 { return float64(c.Status().Organizations) })
	return c, nil
}

// Allowed says whether the session's roles grant the action on the resource. The session must have been verified. Every error
// is ErrUnavailable, wrapped with why: it could not be learnt.
//
// It waits only where the project's policy does not grant it and the session of a B2B project has a role that the policy does
// not know: at most OrganizationWait, until ctx is done or until Run has ended, and only if nothing recent is remembered of the
// organization. The fetch goes on without the caller.
func (c *Cache) Allowed(ctx context.Context, s *session.Session, resourceID, action string) (bool, error) {
	project := c.current.Load()
	switch {
	case project == nil:
		return false, errNotLoaded
	case time.Since(project.started) > c.cfg.MaxStale:
		return false, c.errStale
	case s.ProjectID != c.cfg.ProjectID:
		return false, fmt.Errorf("%w: the session is of another project", ErrUnavailable)
	}
	wanted := permission{resourceID, action}
	unknown := false
	for _, id := range s.Roles {
		granted, known := project.roles[id]
		if granted.allow(wanted) {
			return true, nil
		}
		unknown = unknown || !known
	}
	if !unknown || c.cfg.Product != session.B2B {
		return false, nil
	}
	own, err := c.organizationRoles(ctx, s.OrganizationID)
	if err != nil {
		return false, err
	}
	for _, id := range s.Roles {
		if _, known := project.roles[id]; !known && own[id].allow(wanted) {
			return true, nil
		}
	}
	return false, nil
}

// Inherit takes over the policy that another Cache of the same project and URL has, so that who replaces that one by this has it from the
// start; organizations' own roles are fetched anew. It is to be called before Run.
func (c *Cache) Inherit(from *Cache) {
	if from == nil || from.paths.policy != c.paths.policy || from.cfg.ProjectID != c.cfg.ProjectID {
		return
	}
	c.current.Store(from.current.Load())
}

// Ready says whether the project's policy has ever been loaded.
func (c *Cache) Ready() bool { return c.current.Load() != nil }

// Status is the present state.
type Status struct {
	// LastOKAt is when the last good fetch of the project's policy began; zero before the first.
	LastOKAt time.Time `json:"last_ok_at,omitzero"`
	// LastError is why the last fetch that failed did, be it of the policy or of an organization's roles. Empty: none has.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// Roles is the number of the policy's roles, Organizations that of the organizations that are remembered.
	Roles         int `json:"roles"`
	Organizations int `json:"organizations"`
}

// Status returns the present state.
func (c *Cache) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Organizations = c.organizations.line.Len()
	if project := c.current.Load(); project != nil {
		s.LastOKAt, s.Roles = project.started, len(project.roles)
	}
	return s
}
