package config

import (
	"fmt"
	"strings"

	"authz-sidecar/internal/policy"
)

// maxNamed is how many rules a warning names; more make no better reading.
const maxNamed = 20

// Warnings are what a configuration does that its operators should know of whenever it is loaded, in sentences: nothing of it
// is wrong, but each lets requests pass that have not been judged by their own rule, or that were judged unfit.
func (c *Config) Warnings() []string {
	var warnings []string
	if c.Gate.Shadow {
		warnings = append(warnings, "shadow is on for the whole gate: every request passes, whatever it is judged; "+
			"only ambiguous paths and methods are refused.")
	} else if rules := c.named(func(r policy.Rule) bool { return r.Shadow }); rules != "" {
		warnings = append(warnings, "shadow is on for "+rules+": every request that matches passes, whatever the rules below say of "+
			"it; one that would be denied passes without identity.")
	}
	if rules := c.named(func(r policy.Rule) bool { return r.LeaveToEnvoy }); rules != "" {
		warnings = append(warnings, "on_unavailable is \"envoy\" for "+rules+": while the session API cannot be asked, the "+
			"failure_mode_allow of Envoy's filter decides; with that set, every request whose session needs the API passes, "+
			"with whatever identity headers it came with. A client that brings the API to limit our rate (429) can bring that about.")
	}
	if name := c.Gate.Rules.AmbiguousPathRule(); name != "" {
		warnings = append(warnings, "ambiguous_path_rule is "+showName(name)+": paths that can be read in two ways are decided by that "+
			"rule alone, whatever other rules say of the path.")
	}
	return warnings
}

// named names the rules that are so; it is empty if none is.
func (c *Config) named(is func(policy.Rule) bool) string {
	var names []string
	more := 0
	for _, r := range c.Gate.Rules.All() {
		switch {
		case !is(r):
		case len(names) < maxNamed:
			names = append(names, showName(r.Name))
		default:
			more++
		}
	}
	switch {
	case len(names) == 0:
		return ""
	case more > 0:
		return fmt.Sprintf("the rules %s and %d more", strings.Join(names, ", "), more)
	case len(names) == 1:
		return "the rule " + names[0]
	}
	return "the rules " + strings.Join(names, ", ")
}
