package check

import (
	"fmt"
	"slices"
	"strings"

	"authz-sidecar/internal/session"
)

// IdentityHeader is one header that tells the upstream who is calling.
type IdentityHeader struct {
	// Name is in lower case.
	Name string
	// Value is what it says: "subject", "session_id", "organization_id", "organization_slug", "roles" or "project".
	Value string
}

// identityHeader is an IdentityHeader made ready.
type identityHeader struct {
	name  string
	value identityValue
	// others are the other spellings of the name, with "_" for "-": many upstreams (CGI, WSGI, Rack) take both for one
	// header, so a client's own must go in every spelling.
	others []string
}

// identityValue is what a header says of a session, "" for nothing; false if it cannot be said in a header.
type identityValue func(project string, s *session.Session) (string, bool)

var identityValues = map[string]identityValue{
	"subject":           func(_ string, s *session.Session) (string, bool) { return s.Subject, true },
	"session_id":        func(_ string, s *session.Session) (string, bool) { return s.ID, true },
	"organization_id":   func(_ string, s *session.Session) (string, bool) { return s.OrganizationID, true },
	"organization_slug": func(_ string, s *session.Session) (string, bool) { return s.OrganizationSlug, true },
	"project":           func(project string, _ *session.Session) (string, bool) { return project, true },
	// An upstream would read a role with a comma as two, and one that is empty as none or one.
	"roles": func(_ string, s *session.Session) (string, bool) {
		bad := func(role string) bool { return role == "" || strings.Contains(role, ",") }
		return strings.Join(s.Roles, ","), !slices.ContainsFunc(s.Roles, bad)
	},
}

// maxIdentityHyphens bounds the spellings of a name, 2 to the power of its hyphens.
const maxIdentityHyphens = 6

func newIdentityHeader(h IdentityHeader) (identityHeader, error) {
	value, ok := identityValues[h.Value]
	if !ok {
		return identityHeader{}, fmt.Errorf("check: identity header %s: unknown value %q", h.Name, h.Value)
	}
	if h.Name == "" || h.Name != strings.ToLower(h.Name) || strings.Count(h.Name, "-") > maxIdentityHyphens {
		return identityHeader{}, fmt.Errorf("check: identity header %q: not a lower-case name with at most %d hyphens", h.Name, maxIdentityHyphens)
	}
	return identityHeader{name: h.Name, value: value, others: spellings(h.Name)[1:]}, nil
}

// spellings are all the ways to write name with "-" or "_", name itself first.
func spellings(name string) []string {
	before, after, ok := strings.Cut(name, "-")
	if !ok {
		return []string{name}
	}
	tails := spellings(after)
	all := make([]string, 0, 2*len(tails))
	for _, separator := range []string{"-", "_"} {
		for _, tail := range tails {
			all = append(all, before+separator+tail)
		}
	}
	return all
}

// checkIdentity refuses a session of which a claim is no clean header value: Envoy would answer 500 to a line break.
func (a *answers) checkIdentity(s *session.Session) error {
	for _, h := range a.identity {
		if value, ok := h.value("", s); !ok || !cleanHeaderValue(value) {
			return fmt.Errorf("%w: no clean value for header %s", session.ErrClaims, h.name)
		}
	}
	return nil
}

// maxIdentityValue is the longest identity header, so that no session can outgrow an upstream's header limit, 8 KiB in
// most servers.
const maxIdentityValue = 4096

func cleanHeaderValue(v string) bool {
	if len(v) > maxIdentityValue || v != strings.TrimSpace(v) {
		return false
	}
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return false
		}
	}
	return true
}
