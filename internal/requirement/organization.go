package requirement

import (
	"context"
	"slices"
)

// validate finds path variables that the rule's template does not have.
func (o Organization) validate(variables []string) (mistakes []error) {
	for _, v := range [...]struct{ field, name string }{
		{"organization.id_in_path", o.IDVariable},
		{"organization.slug_in_path", o.SlugVariable},
	} {
		if v.name != "" && !slices.Contains(variables, v.name) {
			mistakes = append(mistakes, &FieldError{v.field, "no path variable is named " + word(v.name), whichVariables(variables)})
		}
	}
	return mistakes
}

// whichVariables is the remedy for a path variable that there is not.
func whichVariables(names []string) string {
	if len(names) == 0 {
		return "give the rule a path_template that has it, such as /orgs/{org}"
	}
	return "the rule's path_template has " + words(names)
}

// met reports whether all that is given names the member's own organization. No organization is nobody's own, whatever an id or
// a variable may hold.
func (o Organization) met(_ context.Context, e Evidence) (bool, error) {
	id, slug := e.Session.OrganizationID, e.Session.OrganizationSlug
	if id == "" {
		return false, nil
	}
	if len(o.IDs) > 0 && !slices.Contains(o.IDs, id) {
		return false, nil
	}
	if o.IDVariable != "" {
		if value, ok := e.Variables.Get(o.IDVariable); !ok || value != id {
			return false, nil
		}
	}
	if o.SlugVariable != "" {
		if value, ok := e.Variables.Get(o.SlugVariable); !ok || slug == "" || value != slug {
			return false, nil
		}
	}
	return true, nil
}

func (o Organization) wants() string {
	switch {
	case o.IDVariable != "":
		return "the organization whose id is in the path as " + word(o.IDVariable)
	case o.SlugVariable != "":
		return "the organization whose slug is in the path as " + word(o.SlugVariable)
	case len(o.IDs) == 1:
		return "the organization " + word(o.IDs[0])
	}
	return "one of the organizations " + words(o.IDs)
}

func (o Organization) saw(e Evidence, _ bool) string {
	s := "no organization"
	if id := e.Session.OrganizationID; id != "" {
		s = "organization " + word(id)
		if slug := e.Session.OrganizationSlug; slug != "" {
			s += " (" + word(slug) + ")"
		}
	}
	for _, name := range [...]string{o.IDVariable, o.SlugVariable} {
		if name == "" {
			continue
		}
		if value, ok := e.Variables.Get(name); ok {
			s += ", in the path " + word(value)
		} else {
			s += ", and no " + word(name) + " in the path"
		}
	}
	return s
}
