package rbac

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"authz-sidecar/internal/panics"
)

const (
	// maxOrganizations bounds the organizations that are remembered: more than are active at once before one Envoy.
	maxOrganizations = 10_000
	// maxOrganizationBytes bounds the memory that the roles of all of them take together, about: a small part of what a sidecar
	// is given, and 1.6 KB for each if there are so many.
	maxOrganizationBytes = 16 << 20
	// maxOrganizationFetches bounds the fetches of organizations' roles that are under way: few enough for the API's rate limits,
	// and enough for hundreds of new organizations a second.
	maxOrganizationFetches = 16
	// organizationRetry is the time from a failed fetch of an organization's roles to the next, jittered.
	organizationRetry = 10 * time.Second
	// announceInterval is the least time between two log lines about organizations whose roles cannot be fetched.
	announceInterval = time.Minute
)

// organization is what is known of one. Cache.mu guards it.
type organization struct {
	id      string
	own     *policy       // the roles that it has added; nil before the first good fetch
	fetched time.Time     // when that fetch began
	err     error         // why the last fetch failed; nil if it did not
	next    time.Time     // no fetch before
	done    chan struct{} // closed when the fetch that is under way has ended; nil if none is
}

// organizations remembers organizations; the one that nobody has asked for the longest goes first. Cache.mu guards it.
type organizations struct {
	byID            map[string]*list.Element // of *organization
	line            list.List                // the one last asked for first
	size            int                      // of all, in bytes
	most, mostBytes int                      // maxOrganizations and maxOrganizationBytes, less in tests
}

// get returns nil for an organization that is not remembered.
func (os *organizations) get(id string) *organization {
	e := os.byID[id]
	if e == nil {
		return nil
	}
	os.line.MoveToFront(e)
	return e.Value.(*organization)
}

func (os *organizations) add(id string) *organization {
	o := &organization{id: strings.Clone(id)} // it may be a piece of a whole token, or of what is reused
	if os.byID == nil {
		os.byID = make(map[string]*list.Element)
	}
	os.byID[o.id] = os.line.PushFront(o)
	os.trim()
	return o
}

// set replaces what an organization has, be it remembered or not.
func (os *organizations) set(o *organization, own *policy) {
	if e := os.byID[o.id]; e != nil && e.Value == o {
		os.size += own.size - o.size()
	}
	o.own = own
	os.trim()
}

func (os *organizations) trim() {
	for os.line.Len() > os.most || os.size > os.mostBytes {
		o := os.line.Remove(os.line.Back()).(*organization)
		os.size -= o.size()
		delete(os.byID, o.id)
	}
}

func (o *organization) size() int {
	if o.own == nil {
		return 0
	}
	return o.own.size
}

// organizationRoles returns the roles that an organization has added to the project's.
func (c *Cache) organizationRoles(ctx context.Context, id string) (map[string]permissions, error) {
	if strings.Trim(id, ".") == "" { // it would be another path
		return nil, fmt.Errorf("%w: the session has no organization's id", ErrUnavailable)
	}
	o, done, err := c.ask(id)
	if err != nil {
		return nil, err
	}
	if done != nil {
		timeout := time.NewTimer(c.cfg.OrganizationWait)
		defer timeout.Stop()
		select {
		case <-done:
		case <-c.ended:
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.serves(o):
		return o.own.roles, nil
	case o.err != nil:
		return nil, fmt.Errorf("%w: organization's roles: %w", ErrUnavailable, o.err)
	}
	return nil, errUnanswered
}

// serves says whether what is known of an organization may be used. c.mu is held.
func (c *Cache) serves(o *organization) bool {
	return o.own != nil && time.Since(o.fetched) <= c.cfg.MaxStale
}

// ask returns an organization, and sees to it that its roles are fetched if they are not fresh. The channel is nil unless the
// caller had better wait for it to be closed: nothing that is known serves, or it is older than it would be had anybody asked
// lately, and there is no failure that makes it the best there is.
func (c *Cache) ask(id string) (*organization, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.organizations.get(id)
	if o == nil || o.done == nil && !time.Now().Before(o.next) {
		err := c.mayFetch()
		switch {
		case err != nil && o == nil:
			return nil, nil, err
		case err != nil:
			return o, nil, nil
		case o == nil:
			o = c.organizations.add(id)
		}
		o.done = make(chan struct{})
		c.fetching++
		c.asked <- o
	}
	if c.serves(o) && (o.err != nil || time.Since(o.fetched) < 2*c.cfg.RefreshInterval) {
		return o, nil, nil
	}
	return o, o.done, nil
}

// mayFetch says why no fetch may begin. c.mu is held.
func (c *Cache) mayFetch() error {
	select {
	case <-c.ended:
		return errEnded
	default:
	}
	if time.Now().Before(c.held) {
		c.metrics.organizationFetches.WithLabelValues(fetchHeldBack).Inc()
		return errHeldBack
	}
	if c.fetching >= maxOrganizationFetches {
		c.metrics.organizationFetches.WithLabelValues(fetchShed).Inc()
		return errBusy
	}
	return nil
}

// learn fetches an organization's roles and wakes who waits for them. An organization that the vendor does not know has none.
func (c *Cache) learn(ctx context.Context, o *organization) {
	defer c.survive()
	started := time.Now()
	own, err := c.fetch(ctx, c.paths.organization(o.id), "org_policy", maxOrganizationNames)
	if ctx.Err() != nil {
		return // Run ends, which wakes them
	}
	result := outcome(err)
	if errors.Is(err, errNoOrganization) {
		own, err = policy{}, nil
	}
	announce := c.endFetch(o, &own, err, started)
	c.metrics.organizationFetches.WithLabelValues(result).Inc() // once what it brought can be seen
	if announce {
		c.cfg.Logger.With("organization_id", o.id, "error", err).Warn("RBAC roles of an organization cannot be fetched", panics.Stack(err)...)
	}
}

// endFetch keeps what a fetch brought and says whether its failure is to be announced.
func (c *Cache) endFetch(o *organization, own *policy, err error, started time.Time) (announce bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if err != nil {
		announce = o.err == nil && now.Sub(c.announced) >= announceInterval
		if announce {
			c.announced = now
		}
		c.noteError(err, now)
		o.next = now.Add(jitter(organizationRetry))
	} else {
		c.organizations.set(o, own)
		o.fetched = started
		o.next = started.Add(jitter(c.cfg.RefreshInterval))
	}
	o.err = err
	c.fetching--
	close(o.done)
	o.done = nil
	return announce
}
