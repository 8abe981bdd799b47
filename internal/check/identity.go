package check

import (
	"encoding/json"
	"fmt"
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

// identityValue appends to b what a header says of a session, nothing for nothing; false if it cannot be said in a header.
type identityValue func(b []byte, project string, s *session.Session) ([]byte, bool)

// identityTexts are the values that have one text.
var identityTexts = map[string]func(b []byte, project string, s *session.Session) []byte{
	"subject":           func(b []byte, _ string, s *session.Session) []byte { return append(b, s.Subject...) },
	"session_id":        func(b []byte, _ string, s *session.Session) []byte { return append(b, s.ID...) },
	"organization_id":   func(b []byte, _ string, s *session.Session) []byte { return append(b, s.OrganizationID...) },
	"organization_slug": func(b []byte, _ string, s *session.Session) []byte { return append(b, s.OrganizationSlug...) },
	"project":           func(b []byte, project string, _ *session.Session) []byte { return append(b, project...) },
	"session_expires_at": func(b []byte, _ string, s *session.Session) []byte {
		if s.EndsAt.IsZero() {
			return b
		}
		return s.EndsAt.UTC().AppendFormat(b, time.RFC3339)
	},
}

// identityLists are the values that have several texts.
var identityLists = map[string]struct {
	length func(s *session.Session) int
	item   func(s *session.Session, i int) string
}{
	"roles": {
		func(s *session.Session) int { return len(s.Roles) },
		func(s *session.Session, i int) string { return s.Roles[i] },
	},
	"factors": {
		func(s *session.Session) int { return len(s.Factors) },
		func(s *session.Session, i int) string { return s.Factors[i].Type },
	},
}

// valueOf finds what a header says; nil if there is no such value.
func valueOf(h IdentityHeader) identityValue {
	if h.Claim != "" {
		if h.Value != "" {
			return nil
		}
		return claimValue(h.Claim, h.JSON)
	}
	if text, ok := identityTexts[h.Value]; ok {
		return func(b []byte, project string, s *session.Session) ([]byte, bool) {
			if !h.JSON {
				return text(b, project, s), true
			}
			value := string(text(nil, project, s))
			if value == "" {
				return b, true
			}
			return appendJSON(b, value)
		}
	}
	if list, ok := identityLists[h.Value]; ok {
		return func(b []byte, _ string, s *session.Session) ([]byte, bool) {
			if h.JSON {
				texts := make([]string, list.length(s))
				for i := range texts {
					texts[i] = list.item(s, i)
				}
				return appendJSON(b, texts)
			}
			ok := true
			for i := 0; ok && i < list.length(s); i++ {
				b, ok = appendItem(b, i, list.item(s, i))
			}
			return b, ok
		}
	}
	return nil
}

// claimValue says a custom claim: a text, number or boolean as it is, a list of them joined by commas. An object can only be said in
// JSON; null is nothing.
func claimValue(name string, inJSON bool) identityValue {
	return func(b []byte, _ string, s *session.Session) ([]byte, bool) {
		value, ok := s.Claims.Get(name)
		if !ok || value == nil {
			return b, true
		}
		if inJSON {
			text, ok := s.Claims.JSON(name)
			return append(b, text...), ok
		}
		list, isList := value.([]any)
		if !isList {
			text, ok := session.ClaimText(value)
			return append(b, text...), ok
		}
		ok = true
		for i := 0; ok && i < len(list); i++ {
			text, isText := session.ClaimText(list[i])
			b, ok = appendItem(b, i, text)
			ok = ok && isText
		}
		return b, ok
	}
}

// appendItem appends the i-th item of a list that is joined by commas. An upstream would read one with a comma as two, and one that is
// empty as none or one.
func appendItem(b []byte, i int, text string) ([]byte, bool) {
	if text == "" || strings.Contains(text, ",") {
		return b, false
	}
	if i > 0 {
		b = append(b, ',')
	}
	return append(b, text...), true
}

// appendJSON appends JSON that any header can hold.
func appendJSON(b []byte, value any) ([]byte, bool) {
	text, err := json.Marshal(value)
	if err != nil {
		return b, false
	}
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf:
			b = append(b, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b, true
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

// identify appends what the upstream is told of a session, fields of OkHttpResponse. It refuses a session of which a value is no
// clean header value: Envoy would answer 500 to a line break. An empty value would leave the client's own header in place, so the
// header is removed instead.
func (a *answers) identify(m *message, project string, s *session.Session) error {
	m.piece(a.removeAsSomebody)
	for i := range a.identity {
		h := &a.identity[i]
		start := len(m.b)
		option := m.begin(okHeaders)
		header := m.begin(optionHeader)
		m.text(headerKey, h.name)
		at := m.begin(headerValue)
		var ok bool
		m.b, ok = h.value(m.b, project, s)
		switch {
		case !ok || !cleanHeaderValue(m.b[at:]):
			return fmt.Errorf("%w: no clean value for header %s", session.ErrClaims, h.name)
		case len(m.b) == at:
			m.b = m.b[:start]
			m.text(okHeadersToRemove, h.name)
			continue
		}
		m.end(at)
		m.end(header)
		m.number(optionAction, uint64(overwriteOrAdd))
		m.end(option)
	}
	return nil
}

// maxIdentityValue is the longest identity header, so that no session can outgrow an upstream's header limit, 8 KiB in
// most servers.
const maxIdentityValue = 4096

func cleanHeaderValue(v []byte) bool {
	if len(v) > maxIdentityValue || len(v) > 0 && (v[0] == ' ' || v[len(v)-1] == ' ') {
		return false
	}
	for _, b := range v {
		if b < 0x20 || b > 0x7e {
			return false
		}
	}
	return true
}
