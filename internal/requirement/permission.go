package requirement

import (
	"context"
	"errors"
	"fmt"
)

func (p *Permission) met(ctx context.Context, e Evidence) (bool, error) {
	if p.AskAPI {
		return e.Granted, nil
	}
	if e.Permissions == nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, errNoPolicy)
	}
	allowed, err := e.Permissions.Allowed(ctx, e.Session, p.ResourceID, p.Action)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return allowed, nil
}

var errNoPolicy = errors.New("there is no RBAC policy to judge by")

func (p *Permission) wants() string {
	return "the permission " + word(p.Action) + " on " + word(p.ResourceID)
}

func (p *Permission) saw(e Evidence, met bool) string {
	switch {
	case p.AskAPI && met:
		return "granted: the session API is asked, and has said yes"
	case p.AskAPI:
		return "not granted yet: the session API is asked"
	case met:
		return "granted by the session's roles: " + sawRoles(e)
	}
	return "not granted by the session's roles: " + sawRoles(e)
}
