package requirement

import (
	"context"
	"slices"

	"authz-sidecar/internal/session"
)

// validate finds names that no custom claim has.
func (c Claim) validate(field string) error {
	switch {
	case c.Name == "":
		return &FieldError{field + ".name", "is empty", "name a custom claim of the session JWT"}
	case !session.IsCustomClaim(c.Name):
		return &FieldError{field + ".name", "no custom claim has this name: it is reserved",
			"for what every session JWT holds, use the other requirements, or cel"}
	}
	return nil
}

func (c Claim) met(_ context.Context, e Evidence) (bool, error) {
	value, ok := e.Session.Claims.Get(c.Name)
	switch {
	case !ok:
		return false, nil
	case len(c.Values) == 0:
		return value != nil && value != false, nil
	}
	members, ok := value.([]any)
	if !ok {
		return c.has(value), nil
	}
	return slices.ContainsFunc(members, c.has), nil
}

// has reports whether a value is among those that are wanted; null, an object and a list in a list never are.
func (c Claim) has(value any) bool {
	text, ok := session.ClaimText(value)
	return ok && slices.Contains(c.Values, text)
}

func (c Claim) wants() string {
	switch name := word(c.Name); len(c.Values) {
	case 0:
		return "the claim " + name + ", neither null nor false"
	case 1:
		return "the claim " + name + " to be " + quote(c.Values[0])
	default:
		return "the claim " + name + " to be one of " + list(c.Values, quote)
	}
}

func (c Claim) saw(e Evidence, _ bool) string {
	value, ok := e.Session.Claims.Get(c.Name)
	if !ok {
		return "no such claim"
	}
	members, ok := value.([]any)
	if !ok {
		return shown(value)
	}
	if len(members) == 0 {
		return "an empty list"
	}
	texts := make([]string, len(members))
	for i, m := range members {
		texts[i] = shown(m)
	}
	return "a list of " + list(texts, func(s string) string { return s })
}

// shown returns a value for a log.
func shown(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return quote(v)
	}
	text, _ := session.ClaimText(value)
	return text
}
