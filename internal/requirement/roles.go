package requirement

import (
	"context"
	"slices"
)

// anyRole wants one of the roles, allRoles all of them.
type (
	anyRole  []string
	allRoles []string
)

func (r anyRole) met(_ context.Context, e Evidence) (bool, error) {
	for _, role := range r {
		if slices.Contains(e.Session.Roles, role) {
			return true, nil
		}
	}
	return false, nil
}

func (r anyRole) wants() string                 { return "at least one of the roles " + words(r) }
func (r anyRole) saw(e Evidence, _ bool) string { return sawRoles(e) }

func (r allRoles) met(_ context.Context, e Evidence) (bool, error) {
	for _, role := range r {
		if !slices.Contains(e.Session.Roles, role) {
			return false, nil
		}
	}
	return true, nil
}

func (r allRoles) wants() string                 { return "all of the roles " + words(r) }
func (r allRoles) saw(e Evidence, _ bool) string { return sawRoles(e) }

func sawRoles(e Evidence) string {
	if len(e.Session.Roles) == 0 {
		return "no roles"
	}
	return words(e.Session.Roles)
}
