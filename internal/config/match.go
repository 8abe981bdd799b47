package config

import (
	"errors"
	"slices"
	"strings"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

// match is which requests a rule is for, and the variables of its path template; known says that they could be read. What
// policy.Compile reports is left to it.
func (c *compiler) match(path string, m *configv1.Match) (match policy.Match, variables []string, known bool) {
	if m == nil {
		c.report(path, "is missing", saySomething)
		return match, nil, true
	}
	c.patterns(path, m)
	c.notEmpty(childPath(path, "methods"), len(m.GetMethods()), "is empty, so that no request would match", "list methods, or leave it out for all")
	c.notEmpty(childPath(path, "hosts"), len(m.GetHosts()), "is empty, so that no request would match", "list hosts, or leave it out for all")
	match = policy.Match{
		ByName: m.GetByName(), Methods: m.GetMethods(), ExactTrailingSlash: m.GetExactTrailingSlash(),
		Path: m.GetPath(), PathPrefix: m.GetPathPrefix(), PathTemplate: m.GetPathTemplate(), PathRegex: m.GetPathRegex(),
	}
	seen := map[string]int{}
	for i, host := range m.GetHosts() {
		host = strings.ToLower(host)
		match.Hosts = append(match.Hosts, host)
		field := childPath(path, "hosts")
		c.once(seen, host, i, itemPath(field, i), field, "list each once")
	}
	clear(seen)
	for i, h := range m.GetHeaders() {
		match.Headers = append(match.Headers, policy.HeaderMatch{Name: h.GetName(), Value: h.GetValue(), Any: h.Value == nil})
		field := childPath(path, "headers")
		name := childPath(itemPath(field, i), "name")
		c.once(seen, h.GetName(), i, name, field, "name each once: several lines are one value, joined by commas")
		if h.GetName() == "host" {
			c.report(name, "matches no request: Envoy gives the host apart", "use hosts")
		}
	}
	if !c.within[path] && !match.ByName && !isGiven(match) {
		c.report(path, "says nothing", saySomething+`, and "path_prefix: /" for every request`)
	}
	if match.PathTemplate == "" {
		return match, nil, true
	}
	variables, err := policy.TemplateVariables(match.PathTemplate)
	return match, variables, err == nil
}

const saySomething = `say which requests the rule is for: "match: {path_prefix: /admin}"`

// isGiven says whether a match says anything but that it is by name.
func isGiven(m policy.Match) bool {
	return m.Path+m.PathPrefix+m.PathTemplate+m.PathRegex != "" || len(m.Hosts)+len(m.Methods)+len(m.Headers) > 0
}

// patterns reports wildcards in fields that have none, and says which have.
func (c *compiler) patterns(path string, m *configv1.Match) {
	for _, literal := range []struct{ field, value string }{{"path", m.GetPath()}, {"path_prefix", m.GetPathPrefix()}} {
		if strings.ContainsAny(literal.value, "*{}") {
			c.report(childPath(path, literal.field), "a wildcard or variable, which "+literal.field+" has not",
				`write path_prefix: "/admin" for all below /admin, path_template: "/orgs/{org}" for variables, or path_regex`)
		}
	}
}

// ruleErrors reports every *policy.RuleError in an error.
func (c *compiler) ruleErrors(err error) {
	for _, e := range leaves(err) {
		wrong, ok := errors.AsType[*policy.RuleError](e)
		switch {
		case !ok:
			c.report("rules", "cannot be compiled", "report this as a bug")
		case wrong.Index >= 0:
			c.reportOwn(childPath(itemPath("rules", wrong.Index), wrong.Field), wrong.Problem, wrong.Remedy)
		case wrong.Field == "ambiguous_path_rule":
			c.reportOwn(wrong.Field, wrong.Problem, wrong.Remedy)
		default:
			c.reportOwn(childPath("default_rule", wrong.Field), wrong.Problem, wrong.Remedy)
		}
	}
}

// reportOwn is report in another package's words, which may quote the value or a piece of it.
func (c *compiler) reportOwn(field, problem, remedy string) {
	if holdsSecret(problem + remedy + c.places[field].text) {
		problem, remedy = "cannot be used", "see the field's comment in config.proto"
	}
	c.report(field, strings.Join(strings.Fields(problem), " "), remedy)
}

// leaves are the errors that errors.Join joined.
func leaves(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// reachable reports each rule all of whose requests an earlier one takes.
func (c *compiler) reachable(rules []policy.Rule) {
	known := slices.Clone(rules)
	for i := range known {
		if match := childPath(itemPath("rules", i), "match"); c.found[match] || c.within[match] {
			known[i].Match = policy.Match{ByName: true} // which takes nothing
		}
	}
	for _, rule := range policy.Unreachable(known) {
		by := itemPath("rules", rule.By)
		if name := rules[rule.By].Name; name != by {
			by += " (" + showName(name) + ")"
		}
		c.report(itemPath("rules", rule.Index), "unreachable, because "+by+" takes all of its requests",
			"move it before that one, remove it, or let it match by_name")
	}
}

// readNoIdentity reports rules that look at an identity header: of a request it is the client's own, whatever it says.
func (c *compiler) readNoIdentity(rules policy.Config, identity []check.IdentityHeader) {
	const problem = "an identity header, which a client can send as it likes"
	const remedy = "require it of the session instead, as in require.any_role"
	isIdentity := func(name string) bool {
		return slices.ContainsFunc(identity, func(h check.IdentityHeader) bool { return fold(h.Name) == fold(name) })
	}
	look := func(path string, rule policy.Rule) {
		for i, h := range rule.Match.Headers {
			if isIdentity(h.Name) {
				c.report(childPath(itemPath(childPath(path, "match.headers"), i), "name"), problem, remedy)
			}
		}
		if names, _ := rule.Require.Headers(); slices.ContainsFunc(names, isIdentity) {
			c.report(childPath(path, "require.cel"), "reads "+problem, remedy)
		}
	}
	for i, rule := range rules.Rules {
		look(itemPath("rules", i), rule)
	}
	look("default_rule", rules.Default)
}
