package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"authz-sidecar/internal/jws"
)

// reserved are the claims that are not custom: the registered ones (RFC 7519, section 4.1) and the vendor's.
var reserved = [...]string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", sessionClaim, organizationClaim}

// Claims are the custom claims of a session JWT: those that are neither registered (RFC 7519, section 4.1) nor the vendor's.
// Two whose names differ by case are two claims. The zero Claims are none.
//
// They are kept as JSON text and decoded when asked for, since most requests ask for none. The vendor allows 4 KB of them;
// what bounds them here is the length of the JWT.
type Claims struct {
	packed string // of each claim name and value, as texts
}

// ParseClaims reads a JSON object as the claims of a JWT are read, for those who have claims without a JWT. Its error names a
// reserved claim, and quotes nothing of the text.
func ParseClaims(text string) (Claims, error) {
	if len(text) > jws.MaxLength {
		return Claims{}, errors.New("custom claims: longer than 8192 bytes")
	}
	o, err := readObject(nil, text, nil)
	if err != nil {
		return Claims{}, fmt.Errorf("custom claims: %w", err)
	}
	for _, m := range o {
		for _, name := range reserved {
			if strings.EqualFold(fold(m.name), name) { // as a JWT with it in another case is refused
				return Claims{}, fmt.Errorf("custom claims: %s is reserved", name)
			}
		}
	}
	return customClaims(o), nil
}

// IsCustomClaim says whether a custom claim may have this name.
func IsCustomClaim(name string) bool {
	folded := fold(name)
	return name != "" && !slices.ContainsFunc(reserved[:], func(r string) bool { return strings.EqualFold(r, folded) })
}

// customClaims are the members of a payload that are custom claims.
func customClaims(o object) Claims {
	var buffer [512]byte // what is longer is rare, and grows it
	packed := buffer[:0]
	for _, m := range o {
		if !slices.Contains(reserved[:], m.name) {
			packed = appendText(appendText(packed, m.name), string(m.value))
		}
	}
	return Claims{string(packed)}
}

// each calls f with the claims in order until it returns false.
func (c Claims) each(f func(name string, v value) bool) {
	for u := (unpacker{c.packed}); u.rest != ""; {
		if name, v := u.text(), value(u.text()); !f(name, v) {
			return
		}
	}
}

// Names are the names of the claims, in the JWT's order.
func (c Claims) Names() []string {
	names := []string{}
	c.each(func(name string, _ value) bool {
		names = append(names, name)
		return true
	})
	return names
}

// get returns the value of a claim; empty if there is none.
func (c Claims) get(name string) (found value) {
	c.each(func(n string, v value) bool {
		if n == name {
			found = v
		}
		return n != name
	})
	return found
}

// Get returns a claim as string, bool, int64 (a plain integer that fits), float64, nil, []any or map[string]any. It is decoded
// anew each time, and the caller's to change.
func (c Claims) Get(name string) (any, bool) {
	v := c.get(name)
	if v == "" {
		return nil, false
	}
	return v.decode(), true
}

// ClaimText is the text of what Get returned, or of a member of it: a text as it is, a number or boolean as JSON writes it in its
// shortest form. null, lists and objects have none.
func ClaimText(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case bool, int64, float64:
		text, err := json.Marshal(v)
		return string(text), err == nil
	}
	return "", false
}

// JSON returns a claim's own JSON text, without white space between tokens and in printable ASCII: what is beyond it is
// escaped, so that a header can hold it.
func (c Claims) JSON(name string) (string, bool) {
	v := c.get(name)
	return v.ascii(), v != ""
}

// ascii returns the text without white space outside of strings, and with \u escapes for what in them is not printable ASCII:
// DEL too, which JSON allows and headers do not.
func (v value) ascii() string {
	if isGraphic(string(v)) {
		return string(v)
	}
	b := make([]byte, 0, len(v)+len(v)/2)
	inString, escaped := false, false
	for _, c := range string(v) {
		switch {
		case !inString && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			continue
		case c == '"' && !escaped:
			inString = !inString
		case c > '~':
			for _, unit := range utf16.AppendRune(nil, c) {
				b = fmt.Appendf(b, `\u%04x`, unit)
			}
			continue
		}
		escaped = c == '\\' && !escaped
		b = append(b, byte(c))
	}
	return string(b)
}
