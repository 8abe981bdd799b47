package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"authz-sidecar/internal/session"
)

// IdentityHeader is one header that tells the upstream who is calling.
type IdentityHeader struct {
	// Name is in lower case.
	Name string
	// Value is what it says: "subject", "session_id", "organization_id", "organization_slug", "roles", "project", "factors"
	// or "session_expires_at". This or Claim.
	Value string
	// Claim is the custom claim that it holds.
	Claim string
	// JSON writes it as JSON in ASCII, not as text.
	JSON bool
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

// identityTexts are the values that have one text, identityLists those that have several.
var (
	identityTexts = map[string]func(project string, s *session.Session) string{
		"subject":           func(_ string, s *session.Session) string { return s.Subject },
		"session_id":        func(_ string, s *session.Session) string { return s.ID },
		"organization_id":   func(_ string, s *session.Session) string { return s.OrganizationID },
		"organization_slug": func(_ string, s *session.Session) string { return s.OrganizationSlug },
		"project":           func(project string, _ *session.Session) string { return project },
		"session_expires_at": func(_ string, s *session.Session) string {
			if s.EndsAt.IsZero() {
				return ""
			}
			return s.EndsAt.UTC().Format(time.RFC3339)
		},
	}
	identityLists = map[string]func(s *session.Session) []string{
		"roles": func(s *session.Session) []string { return s.Roles },
		"factors": func(s *session.Session) []string {
			types := make([]string, len(s.Factors))
			for i, f := range s.Factors {
				types[i] = f.Type
			}
			return types
		},
	}
)

// valueOf finds what a header says; nil if there is no such value.
func valueOf(h IdentityHeader) identityValue {
	if h.Claim != "" {
		if h.Value != "" {
			return nil
		}
		return claimValue(h.Claim, h.JSON)
	}
	if text, ok := identityTexts[h.Value]; ok {
		return func(project string, s *session.Session) (string, bool) {
			value := text(project, s)
			if h.JSON && value != "" {
				return asciiJSON(value)
			}
			return value, true
		}
	}
	if list, ok := identityLists[h.Value]; ok {
		return func(_ string, s *session.Session) (string, bool) {
			if h.JSON {
				return asciiJSON(list(s))
			}
			return commaList(list(s))
		}
	}
	return nil
}

// claimValue says a custom claim: a text, number or boolean as it is, a list of them joined by commas. An object can only be said in
// JSON; null is nothing.
func claimValue(name string, inJSON bool) identityValue {
	return func(_ string, s *session.Session) (string, bool) {
		value, ok := s.Claims.Get(name)
		if !ok || value == nil {
			return "", true
		}
		if inJSON {
			return s.Claims.JSON(name)
		}
		list, isList := value.([]any)
		if !isList {
			return session.ClaimText(value)
		}
		texts := make([]string, len(list))
		for i, item := range list {
			if texts[i], ok = session.ClaimText(item); !ok {
				return "", false
			}
		}
		return commaList(texts)
	}
}

// commaList joins texts. An upstream would read one with a comma as two, and one that is empty as none or one.
func commaList(texts []string) (string, bool) {
	bad := func(text string) bool { return text == "" || strings.Contains(text, ",") }
	return strings.Join(texts, ","), !slices.ContainsFunc(texts, bad)
}

// asciiJSON is JSON that any header can hold.
func asciiJSON(value any) (string, bool) {
	text, err := json.Marshal(value)
	if err != nil {
		return "", false
	}
	var ascii strings.Builder
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf:
			ascii.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&ascii, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&ascii, `\u%04x`, r)
		}
	}
	return ascii.String(), true
}

// maxIdentityHyphens bounds the spellings of a name, 2 to the power of its hyphens.
const maxIdentityHyphens = 6

func newIdentityHeader(h IdentityHeader) (identityHeader, error) {
	value := valueOf(h)
	if value == nil {
		return identityHeader{}, fmt.Errorf("check: identity header %s: neither a known value (%q) nor a claim, or both", h.Name, h.Value)
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
