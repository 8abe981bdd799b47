package rbac

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxNames bounds the roles, resources and actions of a project's policy, and maxOrganizationNames those that an organization
	// adds. Those that people write have some hundreds; 100,000 take about 10 MB. An organization has less, so that it cannot
	// crowd out the others.
	maxNames             = 100_000
	maxOrganizationNames = 10_000
	// nameSize is what a name takes in memory besides its text: measured, the most of several shapes of policy.
	nameSize = 150
	// maxName is the longest name, in bytes, that a session or a configuration can hold.
	maxName = 256
)

// policy is a list of roles made ready. It never changes.
type policy struct {
	roles map[string]permissions // by role id
	size  int                    // about how many bytes it takes
}

// permissions are what one role grants.
type permissions map[permission]struct{}

type permission struct{ resourceID, action string }

// allow says whether a permission is granted, itself or as one of all actions on its resource.
func (p permissions) allow(wanted permission) bool {
	if _, ok := p[wanted]; ok {
		return true
	}
	_, ok := p[permission{wanted.resourceID, "*"}]
	return ok
}

// readPolicy reads the roles of the policy that the answer has under the name member, with so many names at most. Roles of one id are added up, as the
// vendor does. Null is an empty list. A name that nobody can ask for (empty, too long, or with what stands for invalid Unicode) is passed
// over. The error is errMalformed or errTooLarge, and quotes nothing of the body.
//
// Members are matched exactly and must not come twice, unlike in encoding/json: it folds their case and lets the last win, so
// that two readers could see two policies.
func readPolicy(body []byte, member string, maxNames int) (policy, error) {
	if !json.Valid(body) {
		return policy{}, fmt.Errorf("%w: no JSON", errMalformed)
	}
	r := &reader{Decoder: json.NewDecoder(bytes.NewReader(body)), policy: policy{roles: make(map[string]permissions)}, left: maxNames}
	err := r.object(members{member: func() error {
		return r.object(members{"roles": func() error { return r.array(r.role) }})
	}})
	if err != nil {
		return policy{}, err
	}
	return r.policy, nil
}

// reader reads a policy from JSON whose syntax is good.
type reader struct {
	*json.Decoder
	policy policy
	left   int // names that may still come
}

func (r *reader) role() error {
	var id string
	granted := make(permissions)
	err := r.object(members{
		"role_id": func() error { return r.name(&id) },
		"permissions": func() error {
			return r.array(func() error { return r.permission(granted) })
		},
	})
	if err != nil || !usable(id) {
		return err
	}
	all, known := r.policy.roles[id]
	if !known {
		r.policy.roles[id] = granted
		return nil
	}
	for p := range granted {
		all[p] = struct{}{}
	}
	return nil
}

func (r *reader) permission(granted permissions) error {
	var resourceID string
	var actions []string
	err := r.object(members{
		"resource_id": func() error { return r.name(&resourceID) },
		"actions": func() error {
			return r.array(func() error {
				var action string
				err := r.name(&action)
				actions = append(actions, action)
				return err
			})
		},
	})
	if err != nil || !usable(resourceID) {
		return err
	}
	for _, action := range actions {
		if usable(action) {
			granted[permission{resourceID, action}] = struct{}{}
		}
	}
	return nil
}

func usable(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsRune(name, utf8.RuneError)
}

// name reads a name and counts it.
func (r *reader) name(into *string) error {
	if r.left--; r.left < 0 {
		return fmt.Errorf("%w: too many roles, resources and actions", errTooLarge)
	}
	err := r.text(into)
	r.policy.size += nameSize + len(*into)
	return err
}

func (r *reader) text(into *string) error {
	token, err := r.Token()
	if err != nil {
		return err
	}
	text, ok := token.(string)
	if !ok {
		return fmt.Errorf("%w: a name is no string", errMalformed)
	}
	*into = text
	return nil
}

// members are the members that an object must have, each with what reads its value. Others are passed over.
type members map[string]func() error

func (r *reader) object(wanted members) error {
	if token, err := r.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("%w: no object where one must be", errMalformed)
	}
	seen := make(map[string]bool, len(wanted))
	for r.More() {
		var name string
		if err := r.text(&name); err != nil {
			return err
		}
		read := wanted[name]
		switch {
		case read == nil:
			read = r.skip
		case seen[name]:
			return fmt.Errorf("%w: member %q occurs twice", errMalformed, name)
		default:
			seen[name] = true
		}
		if err := read(); err != nil {
			return err
		}
	}
	for name := range wanted {
		if !seen[name] {
			return fmt.Errorf("%w: no member %q", errMalformed, name)
		}
	}
	_, err := r.Token()
	return err
}

func (r *reader) array(item func() error) error {
	token, err := r.Token()
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('[') {
		return fmt.Errorf("%w: no list where one must be", errMalformed)
	}
	for r.More() {
		if err := item(); err != nil {
			return err
		}
	}
	_, err = r.Token()
	return err
}

func (r *reader) skip() error {
	var value json.RawMessage
	return r.Decode(&value)
}
