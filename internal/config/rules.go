package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

var needs = map[string]policy.Need{
	"required": policy.Required, "optional": policy.Optional, "none": policy.None, "refused": policy.Refused,
}

// looksAtSession says whether a rule looks at credentials at all.
func looksAtSession(m *configv1.Rule) bool {
	need := needs[m.GetSession()]
	return need == policy.Required || need == policy.Optional
}

// rules compiles all rules. It gives those projects an RBAC policy whose permissions a rule judges locally.
func (c *compiler) rules(m *configv1.Config, projects []Project) policy.Config {
	list := m.GetRules()
	if c.found["rules"] {
		list = nil // longer than is worth looking through
	}
	one := ruleCompiler{
		compiler: c, projects: projects,
		logIn: m.GetLogIn().GetUrl() != "", maxLifetime: m.GetVerification().GetMaxLifetime().AsDuration(),
	}
	for _, p := range projects {
		one.known = append(one.known, p.Name)
	}
	slices.Sort(one.known)
	one.known = slices.Compact(one.known)

	var cfg policy.Config
	for i, r := range list {
		path := itemPath("rules", i)
		match, variables, known := c.match(childPath(path, "match"), r.GetMatch())
		rule := one.rule(path, r, variables, known)
		rule.Name, rule.Match = cmp.Or(rule.Name, path), match
		if match.ByName && r.GetName() == "" {
			c.report(childPath(path, "name"), "is missing of a rule that matches by name", "give it the name that Envoy's route says")
		}
		cfg.Rules = append(cfg.Rules, rule)
	}
	cfg.Default = one.rule("default_rule", m.GetDefaultRule(), nil, true)
	cfg.Default.Name = cmp.Or(cfg.Default.Name, "default")
	cfg.AmbiguousPathRule = m.GetAmbiguousPathRule()
	c.requireOfAmbiguousPaths(m, list)
	return cfg
}

// requireOfAmbiguousPaths reports what the rule for ambiguous paths lacks of what others have: whoever writes their paths in two
// ways is judged by it alone. Whether what it requires is as strict, nobody can tell.
func (c *compiler) requireOfAmbiguousPaths(m *configv1.Config, list []*configv1.Rule) {
	i := slices.IndexFunc(list, func(r *configv1.Rule) bool { return r.GetName() == m.GetAmbiguousPathRule() })
	if m.GetAmbiguousPathRule() == "" || i < 0 {
		return
	}
	ours, path := list[i], itemPath("rules", i)
	for k, other := range append(slices.Clone(list), m.GetDefaultRule()) {
		strict := "default_rule"
		if k < len(list) {
			strict = itemPath("rules", k)
		}
		lacks := func(field, remedy string) {
			c.report(childPath(path, field), "the rule for ambiguous paths is laxer here than "+strict+", whose paths may be written in two ways", remedy)
		}
		if k < len(list) && other.GetSession() == "refused" {
			lacks("name", "do without ambiguous_path_rule, or refuse those paths in Envoy or the app")
		}
		if other.GetRequire() != nil && ours.GetRequire() == nil {
			lacks("require", "require there what the strictest rule does")
		}
		if other.GetMaxTokenAge() != nil && (ours.GetMaxTokenAge() == nil || ours.GetMaxTokenAge().AsDuration() > other.GetMaxTokenAge().AsDuration()) {
			lacks("max_token_age", "give it the least of all rules")
		}
		if other.GetRefuseCrossSite() && !ours.GetRefuseCrossSite() {
			lacks("refuse_cross_site", "set it to true")
		}
	}
}

func hasMaxAge(f *configv1.Factors) bool { return f.GetMaxAge() != nil }

// ruleCompiler is a compiler with what rules need of the rest of the configuration.
type ruleCompiler struct {
	*compiler
	projects []Project
	// known are the names of the projects, in order.
	known []string
	// logIn says that there is a log-in page.
	logIn bool
	// maxLifetime is that of a JWT.
	maxLifetime time.Duration
}

// rule is what a rule requires, without what it matches. variables and known are as match returns them.
func (c ruleCompiler) rule(path string, m *configv1.Rule, variables []string, known bool) policy.Rule {
	c.printable(childPath(path, "name"), m.GetName())
	c.contradictions(path, m)
	rule := policy.Rule{
		Name:                   m.GetName(),
		Session:                needs[m.GetSession()],
		MaxTokenAge:            session.NoMaxAge,
		TokenReuse:             m.GetTokenReuse().AsDuration(),
		DenyExpired:            m.GetOnExpired() == "deny",
		RefreshAhead:           m.GetRefreshAhead().AsDuration(),
		SessionDurationMinutes: int(m.GetSessionDurationMinutes()),
		Grace:                  m.GetGrace().AsDuration(),
		GraceSafeMethodsOnly:   m.GetGraceSafeMethodsOnly(),
		LeaveToEnvoy:           m.GetOnUnavailable() == "envoy",
		Preflight:              m.GetPreflight(),
		RefuseCrossSite:        m.GetRefuseCrossSite(),
		RedirectToLogIn:        m.GetRedirectToLogIn(),
		Shadow:                 m.GetShadow(),
	}
	if m.GetMaxTokenAge() != nil {
		rule.MaxTokenAge = m.GetMaxTokenAge().AsDuration()
	}
	project := c.project(path, m)
	if project != nil {
		rule.Project = project.Name
	}
	rule.Require = c.require(childPath(path, "require"), m.GetRequire(), project, variables, known)
	if p := m.GetRequire().GetPermission(); p != nil && p.GetEvaluate() != "api" && project != nil && project.RBAC == nil {
		project.RBAC = &rbac.Config{
			Product: project.API.Product, ProjectID: project.API.ProjectID, Secret: project.Secret,
			BaseURL: project.API.BaseURL, Transport: project.API.Transport,
		}
	}
	return rule
}

// project is the one whose sessions a rule accepts; nil if it accepts none, or that is not known.
func (c ruleCompiler) project(path string, m *configv1.Rule) *Project {
	field := childPath(path, "project")
	switch name := m.GetProject(); {
	case len(c.known) == 0 || c.found[childPath(path, "session")]:
		return nil // reported already
	case name != "":
		i := slices.IndexFunc(c.projects, func(p Project) bool { return p.Name == name })
		if i >= 0 {
			return &c.projects[i]
		}
		c.report(field, "there is no such project", "known: "+quoteAll(c.known))
	case !looksAtSession(m):
	case len(c.projects) == 1:
		return &c.projects[0]
	default:
		c.report(field, "is missing where there are several projects", "name the one whose sessions are accepted: "+quoteAll(c.known))
	}
	return nil
}

// contradictions reports what a rule says that comes to nothing beside what else it says: whoever wrote it expects something
// that would not happen.
func (c ruleCompiler) contradictions(path string, m *configv1.Rule) {
	asksAlways := m.GetMaxTokenAge() != nil && m.GetMaxTokenAge().AsDuration() == 0
	deny := m.GetOnExpired() == "deny"
	ahead := m.GetRefreshAhead().AsDuration() > 0
	grace := m.GetGrace().AsDuration() > 0
	asksPermission := m.GetRequire().GetPermission().GetEvaluate() == "api"

	if !looksAtSession(m) {
		for _, field := range []struct {
			name  string
			given bool
		}{
			{"max_token_age", m.GetMaxTokenAge() != nil},
			{"token_reuse", m.GetTokenReuse().AsDuration() > 0},
			{"on_expired", deny},
			{"refresh_ahead", ahead},
			{"session_duration_minutes", m.SessionDurationMinutes != nil},
			{"require", m.GetRequire() != nil},
			{"grace", grace},
			{"on_unavailable", m.GetOnUnavailable() == "envoy"},
			{"refuse_cross_site", m.GetRefuseCrossSite()},
			{"redirect_to_log_in", m.GetRedirectToLogIn()},
			{"preflight", m.GetPreflight() && m.GetSession() == "refused"},
		} {
			if field.given {
				c.report(childPath(path, field.name),
					fmt.Sprintf("without effect where session is %q, which looks at no credential", m.GetSession()),
					`remove it, or let session be "required"`)
			}
		}
		return
	}
	const alwaysAsks = "max_token_age is 0s, which asks the session API every time"
	const asksForEach = `require.permission.evaluate is "api", which asks the session API about each JWT`
	const neverAsks = `on_expired is "deny", which asks nothing about a JWT`
	for _, wrong := range []struct {
		is                     bool
		field, problem, remedy string
	}{
		{needs[m.GetSession()] == policy.Optional && m.GetRequire() != nil, "require",
			`where session is "optional", whoever sends no credential passes all the same`, `let session be "required"`},
		{asksAlways && deny, "on_expired", `"deny" where max_token_age is 0s lets no JWT pass`, "remove one of the two"},
		{asksAlways && ahead, "refresh_ahead", "without effect where " + alwaysAsks, "remove one of the two"},
		{asksAlways && grace, "grace", "contradictory where " + alwaysAsks, `remove it, or let max_token_age be "1s" or more`},
		{deny && ahead, "refresh_ahead", `contradictory where on_expired is "deny", which leaves the refresh to the client`, "remove one of the two"},
		{deny && grace, "grace", "without effect where " + neverAsks, "remove one of the two"},
		{deny && asksPermission, "require.permission.evaluate",
			`"api" where ` + neverAsks, `let it be "local", or remove on_expired`},
		{asksPermission && !deny && ahead, "refresh_ahead", "without effect where " + asksForEach,
			`remove it, or let evaluate be "local"`},
		{asksPermission && !deny && grace, "grace", "without effect where " + asksForEach + ": while that cannot be asked, nobody knows",
			`remove it, or let evaluate be "local"`},
		{m.GetTokenReuse().AsDuration() > 0 && slices.ContainsFunc(m.GetRequire().GetFactors(), hasMaxAge), "token_reuse",
			"contradictory beside require.factors: whoever has just added a factor would be refused until it is over",
			"leave it out of rules with factors"},
		{ahead && m.GetRefreshAhead().AsDuration() >= c.maxLifetime, "refresh_ahead",
			"not less than verification.max_lifetime, so that every JWT would be traded at once",
			"let it be less than " + shortDuration(c.maxLifetime)},
		{m.GetGraceSafeMethodsOnly() && !grace, "grace_safe_methods_only", "without effect without grace", "set grace, or remove it"},
		{m.GetRedirectToLogIn() && !c.logIn, "redirect_to_log_in", "needs a log-in page", "set log_in.url"},
	} {
		if wrong.is {
			c.report(childPath(path, wrong.field), wrong.problem, wrong.remedy)
		}
	}
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
