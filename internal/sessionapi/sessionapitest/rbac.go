package sessionapitest

import (
	"net/http"
	"slices"
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

// judge is the verdict of a passing check. In B2B the organization is compared before anything else.
func (s *Server) judge(sess *session, check authorizationCheck) (*verdict, *apiError) {
	if s.isB2B() && check.OrganizationID != sess.organizationID {
		return nil, &apiError{http.StatusForbidden, "session_authorization_tenancy_error", "The Member belongs to another Organization."}
	}
	granted := &verdict{Authorized: true}
	for _, role := range slices.Concat(s.config.Policy.Roles, s.config.OrganizationRoles[sess.organizationID]) {
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
	return &policyAnswer{Policy: s.config.Policy}, nil
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
	roles, configured := s.config.OrganizationRoles[id]
	if !configured && len(s.store.find(func(sess *session) bool { return sess.organizationID == id })) == 0 {
		return nil, errNoOrganization
	}
	if roles == nil {
		roles = []Role{}
	}
	return &organizationPolicyAnswer{Policy: organizationPolicy{roles}}, nil
}
