package check_test

import (
	"slices"
	"strings"
	"testing"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// Who a client says it is goes in every spelling, unless Envoy is relied on to stop those with underscores; and by its own name
// always.
func TestUnderscoresAreLeftToEnvoyWhereItStopsThem(t *testing.T) {
	var spoofed []string
	for _, name := range []string{"x-auth-subject", "x-auth-session-id", "x-auth-organization-id", "x-auth-roles"} {
		spoofed = append(spoofed, everySpelling(name)...)
	}
	for name, stops := range map[string]bool{"removed": false, "left to Envoy": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, session.Consumer, func(c *check.Config) { c.EnvoyStopsUnderscores = stops })
			somebody := h.logIn(sessionapitest.LogIn{Roles: []string{"editor"}})
			for _, c := range []struct{ name, path, credential string }{
				{"no session is looked at", "/public", ""},
				{"nobody", "/optional", ""},
				{"somebody, of no organization", "/", "Bearer " + somebody.JWT},
				{"somebody with a new JWT", "/fresh", "Bearer " + somebody.JWT},
			} {
				var header []string
				for _, spelling := range spoofed {
					header = append(header, spelling, "spoofed")
				}
				if c.credential != "" {
					header = append(header, "authorization", c.credential)
				}
				a := h.check(c.path, header...)
				if !a.allowed() {
					t.Fatalf("%s: %s", c.name, a.reason)
				}
				for _, spelling := range spoofed {
					value, set := a.upstream()[spelling]
					underscored := strings.Contains(spelling, "_")
					switch removed := slices.Contains(a.removed(), spelling); {
					case underscored && (set || removed == stops):
						t.Errorf("%s: %s is set %t, removed %t", c.name, spelling, set, removed)
					case !underscored && (set == removed || value == "spoofed"):
						t.Errorf("%s: %s is %q, removed %t", c.name, spelling, value, removed)
					}
				}
			}
		})
	}
}

// everySpelling are the ways to write a name with "-" or "_".
func everySpelling(name string) []string {
	first, rest, ok := strings.Cut(name, "-")
	if !ok {
		return []string{name}
	}
	var all []string
	for _, tail := range everySpelling(rest) {
		all = append(all, first+"-"+tail, first+"_"+tail)
	}
	return all
}
