package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

var requirements = map[string]policy.Requirement{"required": policy.Required, "optional": policy.Optional, "none": policy.None}

func (c *compiler) rules(m *configv1.Config, projects []Project) (rules []policy.Rule, fallback policy.Rule) {
	list := m.GetRules()
	if c.found["rules"] {
		list = nil // longer than is worth looking through
	}
	names := map[string]int{}
	earlier := map[string][]earlierRule{}
	for i, r := range list {
		path := itemPath("rules", i)
		rule := c.rule(path, r, projects)
		rule.Name = cmp.Or(rule.Name, path)
		c.once(names, rule.Name, i, childPath(path, "name"), "rules", "give each rule a name of its own")
		if r.GetMatch() == nil {
			c.report(childPath(path, "match"), "is missing", `say which requests the rule is for: "match: {path_prefix: /admin}"`)
		} else {
			rule.PathPrefix, rule.Methods = c.match(childPath(path, "match"), r.GetMatch())
			c.reachable(path, i, rule, earlier)
		}
		rules = append(rules, rule)
	}
	fallback = c.rule("default_rule", m.GetDefaultRule(), projects)
	fallback.Name = cmp.Or(fallback.Name, "default")
	c.once(names, fallback.Name, 0, "default_rule.name", "rules", "give each rule a name of its own")
	return rules, fallback
}

// rule is what a rule requires, without what it matches.
func (c *compiler) rule(path string, m *configv1.Rule, projects []Project) policy.Rule {
	rule := policy.Rule{
		Name:        m.GetName(),
		Session:     requirements[m.GetSession()],
		MaxTokenAge: session.NoMaxAge,
		Project:     m.GetProject(),
	}
	c.printable(childPath(path, "name"), m.GetName())
	if m.GetMaxTokenAge() != nil {
		rule.MaxTokenAge = m.GetMaxTokenAge().AsDuration()
		if rule.Session == policy.None {
			c.report(childPath(path, "max_token_age"), `without effect where session is "none", which looks at no credential`,
				"remove it, or let session be \"required\"")
		}
	}
	known := make([]string, len(projects))
	for i, p := range projects {
		known[i] = p.Name
	}
	field := childPath(path, "project")
	slices.Sort(known)
	known = slices.Compact(known)
	switch {
	case len(known) == 0 || c.found[childPath(path, "session")]:
		// Reported already.
	case rule.Project != "" && !slices.Contains(known, rule.Project):
		c.report(field, "there is no such project", "known: "+quoteAll(known))
	case rule.Project == "" && rule.Session != policy.None && len(projects) == 1:
		rule.Project = known[0]
	case rule.Project == "" && rule.Session != policy.None:
		c.report(field, "is missing where there are several projects", "name the one whose sessions are accepted: "+quoteAll(known))
	}
	return rule
}

// match reads the prefix as a request's path is read, so that the two compare.
func (c *compiler) match(path string, m *configv1.Match) (prefix string, methods []string) {
	field := childPath(path, "path_prefix")
	prefix, err := policy.ReadPath(m.GetPathPrefix())
	switch {
	case strings.Contains(m.GetPathPrefix(), "?"):
		c.report(field, "a path with a query, which no rule looks at", "end it before the \"?\"")
	case strings.ContainsAny(m.GetPathPrefix(), "*{}"):
		c.report(field, "a wildcard, which a prefix has not", `write what the paths begin with: "/admin" is for /admin/users, too`)
	case err != nil:
		c.report(field, "matches no request: "+reason(err), "write it as a normal path, without \"//\", \".\", \"..\", \";\" and encoded slashes")
	}
	if methods := childPath(path, "methods"); c.has(methods) && len(m.GetMethods()) == 0 {
		c.report(methods, "is empty, so that no request would match", "list methods, or leave it out for all")
	}
	return prefix, m.GetMethods()
}

// reason is what policy found ambiguous.
func reason(err error) string {
	if !errors.Is(err, policy.ErrAmbiguousPath) {
		return "unreadable"
	}
	return strings.TrimPrefix(err.Error(), policy.ErrAmbiguousPath.Error()+": ")
}

// earlierRule is a rule of one prefix that comes before another rule.
type earlierRule struct {
	path    string
	name    string
	methods []string
}

// reachable reports a rule all of whose requests an earlier one takes, and adds it to the earlier ones. Several that take
// them between them are not noticed.
func (c *compiler) reachable(path string, i int, rule policy.Rule, earlier map[string][]earlierRule) {
	if match := path + ".match"; c.found[match] || c.within[match] {
		return
	}
	prefix := strings.TrimSuffix(rule.PathPrefix, "/")
	for above := prefix; ; above = above[:strings.LastIndexByte(above, '/')] {
		for _, e := range earlier[above] {
			if takes(e.methods, rule.Methods) {
				c.report(path, fmt.Sprintf("unreachable, because %s takes all of its requests", describe(e)),
					"move it before that one, or remove it")
				return
			}
		}
		if above == "" {
			break
		}
	}
	earlier[prefix] = append(earlier[prefix], earlierRule{path: path, name: rule.Name, methods: rule.Methods})
}

// takes says whether a rule for some methods is for all of others; none is every method, and GET covers HEAD.
func takes(some, others []string) bool {
	if len(some) == 0 {
		return true
	}
	return len(others) > 0 && !slices.ContainsFunc(others, func(method string) bool {
		return !slices.Contains(some, method) && (method != "HEAD" || !slices.Contains(some, "GET"))
	})
}

func describe(e earlierRule) string {
	if e.name == e.path {
		return e.path
	}
	return e.path + " (" + showName(e.name) + ")"
}

// printable reports a name that would break a line of a log or a header.
func (c *compiler) printable(field, name string) {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r > unicode.MaxASCII }) {
		c.report(field, "a name with characters beyond printable ASCII", "use letters, digits, spaces and punctuation")
	}
}

func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = showName(name)
	}
	return strings.Join(quoted, ", ")
}
