package sessionapitest

import (
	"errors"
	"net/http"
	"slices"
	"sync"
)

// Policy is a project's RBAC policy (https://stytch.com/docs/b2b/guides/rbac/overview).
type Policy struct {
	Roles     []Role     `json:"roles"`
	Resources []Resource `json:"resources"`
	Scopes    []Scope    `json:"scopes"`
}

// Role is a named list of permissions.
type Role struct {
	RoleID      string       `json:"role_id"`
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
}

// Resource is what permissions are about.
type Resource struct {
	ResourceID  string   `json:"resource_id"`
	Description string   `json:"description"`
	Actions     []string `json:"actions"`
}

// Scope is a role for connected apps.
type Scope struct {
	Scope       string       `json:"scope"`
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
}

// Permission allows actions on one resource; the action "*" is all of them.
type Permission struct {
	ResourceID string   `json:"resource_id"`
	Actions    []string `json:"actions"`
}

// DefaultPolicy is a project with documents: a viewer reads, an editor reads and writes, an admin does everything.
// Whoever merely logs in, stytch_user or stytch_member, may do nothing.
func DefaultPolicy() *Policy {
	role := func(id string, actions ...string) Role {
		r := Role{RoleID: id, Permissions: []Permission{}}
		if len(actions) > 0 {
			r.Permissions = append(r.Permissions, Permission{ResourceID: "documents", Actions: actions})
		}
		return r
	}
	return &Policy{
		Roles: []Role{
			role("stytch_user"), role("stytch_member"),
			role("viewer", "read"), role("editor", "read", "write"), role("admin", "*"),
		},
		Resources: []Resource{{ResourceID: "documents", Actions: []string{"read", "write", "delete"}}},
		Scopes:    []Scope{},
	}
}

type authorizationCheck struct {
	OrganizationID string `json:"organization_id"` // B2B only
	ResourceID     string `json:"resource_id"`
	Action         string `json:"action"`
}

type verdict struct {
	Authorized    bool     `json:"authorized"`
	GrantingRoles []string `json:"granting_roles"`
}

// rbac is the policy and the roles that organizations add to it. What they point to is replaced, never changed.
type rbac struct {
	mu     sync.Mutex
	policy *Policy
	roles  map[string][]Role // by organization id
}

// SetPolicy replaces the project's RBAC policy; nil is DefaultPolicy().
func (s *Server) SetPolicy(p *Policy) {
	if p == nil {
		p = DefaultPolicy()
	}
	p = p.clone()
	s.rbac.mu.Lock()
	defer s.rbac.mu.Unlock()
	s.rbac.policy = p
}

// SetOrganizationRoles replaces the roles that an organization adds to the policy.
func (s *Server) SetOrganizationRoles(organizationID string, roles []Role) error {
	switch {
	case !s.isB2B():
		return errors.New("organization_id: a consumer project has no organizations")
	case organizationID == "":
		return errors.New("organization_id: is missing")
	}
	roles = cloneRoles(roles)
	s.rbac.mu.Lock()
	defer s.rbac.mu.Unlock()
	s.rbac.roles[organizationID] = roles
	return nil
}

// rolesOf is the roles of an organization's own, if any were ever set.
func (r *rbac) rolesOf(organizationID string) (roles []Role, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	roles, known = r.roles[organizationID]
	return roles, known
}

func (r *rbac) getPolicy() *Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

// clone copies a policy; its lists are never nil, so that they are lists in JSON too.
func (p *Policy) clone() *Policy {
	c := &Policy{Roles: cloneRoles(p.Roles), Resources: list(p.Resources), Scopes: list(p.Scopes)}
	for i := range c.Resources {
		c.Resources[i].Actions = list(c.Resources[i].Actions)
	}
	for i := range c.Scopes {
		c.Scopes[i].Permissions = clonePermissions(c.Scopes[i].Permissions)
	}
	return c
}

func cloneRoles(roles []Role) []Role {
	roles = list(roles)
	for i := range roles {
		roles[i].Permissions = clonePermissions(roles[i].Permissions)
	}
	return roles
}

func clonePermissions(permissions []Permission) []Permission {
	permissions = list(permissions)
	for i := range permissions {
		permissions[i].Actions = list(permissions[i].Actions)
	}
	return permissions
}

// list copies a slice, a nil one too.
func list[E any](s []E) []E { return append([]E{}, s...) }

// judge is the verdict of a passing check. In B2B the organization is compared before anything else.
func (s *Server) judge(sess *session, check authorizationCheck) (*verdict, *apiError) {
	if s.isB2B() && check.OrganizationID != sess.organizationID {
		return nil, &apiError{http.StatusForbidden, "session_authorization_tenancy_error", "The Member belongs to another Organization."}
	}
	granted := &verdict{Authorized: true}
	own, _ := s.rbac.rolesOf(sess.organizationID)
	for _, role := range slices.Concat(s.rbac.getPolicy().Roles, own) {
		if slices.Contains(sess.roles, role.RoleID) && slices.ContainsFunc(role.Permissions, check.passes) {
			granted.GrantingRoles = append(granted.GrantingRoles, role.RoleID)
		}
	}
	if len(granted.GrantingRoles) == 0 {
		return nil, &apiError{http.StatusForbidden, "session_authorization_error", "Not authorized to perform the requested action on that resource."}
	}
	return granted, nil
}

func (c authorizationCheck) passes(p Permission) bool {
	return p.ResourceID == c.ResourceID && (slices.Contains(p.Actions, c.Action) || slices.Contains(p.Actions, "*"))
}

type policyAnswer struct {
	envelope
	Policy *Policy `json:"policy"`
}

func (s *Server) getPolicy(*http.Request) (answer, *apiError) {
	return &policyAnswer{Policy: s.rbac.getPolicy()}, nil
}

type organizationPolicyAnswer struct {
	envelope
	Policy organizationPolicy `json:"org_policy"`
}

type organizationPolicy struct {
	Roles []Role `json:"roles"`
}

// getOrganizationPolicy knows the organizations that have roles of their own and those of which somebody logged in.
func (s *Server) getOrganizationPolicy(r *http.Request) (answer, *apiError) {
	id := r.PathValue("organization_id")
	roles, known := s.rbac.rolesOf(id)
	if !known && len(s.store.find(func(sess *session) bool { return sess.organizationID == id })) == 0 {
		return nil, errNoOrganization
	}
	if roles == nil {
		roles = []Role{}
	}
	return &organizationPolicyAnswer{Policy: organizationPolicy{roles}}, nil
}
