package config

import (
	"errors"
	"regexp"
	"strings"

	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

// require compiles what a rule requires, nil for nothing. project is the rule's, nil if it is not known; variables are those of
// the rule's path template, unless that cannot be read.
func (c *compiler) require(path string, m *configv1.Require, project *Project, variables []string, known bool) *requirement.Set {
	if m == nil {
		return nil
	}
	c.requireSomething(path, m)
	c.oneRoleEach(childPath(path, "any_role"), m.GetAnyRole())
	c.oneRoleEach(childPath(path, "all_roles"), m.GetAllRoles())
	if o := childPath(path, "organization"); m.GetOrganization() != nil && project != nil && project.Verifier.Product == session.Consumer {
		c.report(o, "of a consumer project, which has no organizations", `remove it, or set the project's product: b2b`)
	}
	cfg := requirement.Config{
		Organization: requirement.Organization{
			IDs:          m.GetOrganization().GetIds(),
			IDVariable:   m.GetOrganization().GetIdInPath(),
			SlugVariable: m.GetOrganization().GetSlugInPath(),
		},
		AnyRole:     m.GetAnyRole(),
		AllRoles:    m.GetAllRoles(),
		Expressions: m.GetCel(),
		Variables:   variables,
	}
	for _, claim := range m.GetClaims() {
		cfg.Claims = append(cfg.Claims, requirement.Claim{Name: claim.GetName(), Values: claim.GetValues()})
	}
	if p := m.GetPermission(); p != nil {
		cfg.Permission = &requirement.Permission{ResourceID: p.GetResourceId(), Action: p.GetAction(), AskAPI: p.GetEvaluate() == "api"}
	}
	for _, f := range m.GetFactors() {
		factors := requirement.Factors{
			MinCount: 1, Types: f.GetTypes(), DeliveryMethods: f.GetDeliveryMethods(), MaxAge: f.GetMaxAge().AsDuration(),
		}
		if f.MinCount != nil {
			factors.MinCount = int(f.GetMinCount())
		}
		cfg.Factors = append(cfg.Factors, factors)
	}
	if c.found[path] || c.within[path] || !known {
		return nil // what is wrong would only be told again
	}
	set, err := requirement.New(cfg)
	for _, e := range leaves(err) {
		if wrong, ok := errors.AsType[*requirement.FieldError](e); ok {
			field, remedy := childPath(path, wrong.Field), wrong.Remedy
			if lastName(field) == "cel" && strings.HasPrefix(wrong.Problem, "Syntax error") && singleEquals.MatchString(c.places[field].text) {
				remedy = `"==" compares; ` + remedy
			}
			c.reportOwn(field, wrong.Problem, remedy)
		} else {
			c.report(path, "cannot be used", "report this as a bug")
		}
	}
	return set
}

// singleEquals is "=" that is not part of another operator. Within a text it means nothing, but it is only a hint.
var singleEquals = regexp.MustCompile(`[^=!<>]=([^=]|$)`)

// oneRoleEach reports several roles in one text.
func (c *compiler) oneRoleEach(field string, roles []string) {
	for i, role := range roles {
		if strings.Contains(role, ",") {
			c.report(itemPath(field, i), "a comma, which no role has", "write each role as an item of its own: [owner, admin]")
		}
	}
}

// requireSomething reports what is given and asks for nothing, as a list does that a template left empty.
func (c *compiler) requireSomething(path string, m *configv1.Require) {
	const problem, remedy = "is empty, so that it requires nothing", "say what the session must have, or leave it out"
	c.notEmpty(childPath(path, "any_role"), len(m.GetAnyRole()), problem, remedy)
	c.notEmpty(childPath(path, "all_roles"), len(m.GetAllRoles()), problem, remedy)
	c.notEmpty(childPath(path, "claims"), len(m.GetClaims()), problem, remedy)
	c.notEmpty(childPath(path, "cel"), len(m.GetCel()), problem, remedy)
	c.notEmpty(childPath(path, "factors"), len(m.GetFactors()), problem, remedy)
	for i, claim := range m.GetClaims() {
		c.notEmpty(childPath(itemPath(childPath(path, "claims"), i), "values"), len(claim.GetValues()),
			"is empty, so that any value would do", "list values, or leave it out for any")
	}
	for i, f := range m.GetFactors() {
		item := itemPath(childPath(path, "factors"), i)
		const problem, remedy = "is empty, so that all would count", "list some, or leave it out for all"
		c.notEmpty(childPath(item, "types"), len(f.GetTypes()), problem, remedy)
		c.notEmpty(childPath(item, "delivery_methods"), len(f.GetDeliveryMethods()), problem, remedy)
	}
	if !c.within[path] && m.GetOrganization() == nil && m.GetPermission() == nil &&
		len(m.GetAnyRole())+len(m.GetAllRoles())+len(m.GetClaims())+len(m.GetCel())+len(m.GetFactors()) == 0 {
		c.report(path, problem, remedy)
	}
}

// notEmpty reports a list that is given without items.
func (c *compiler) notEmpty(field string, items int, problem, remedy string) {
	if items == 0 && c.has(field) {
		c.report(field, problem, remedy)
	}
}
