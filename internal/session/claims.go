package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The claims that a session JWT has beyond the registered ones (RFC 7519, section 4.1).
const (
	sessionClaim      = "https://stytch.com/session"
	organizationClaim = "https://stytch.com/organization"
)

const (
	// maxHeaderLength bounds the JSON that is read before any signature is checked; the vendor's is about 100 bytes.
	maxHeaderLength = 1024
	// maxTextLength bounds each id and name, the key id too; the vendor's ids are below 80 bytes.
	maxTextLength = 256
	// maxRoles bounds what the upstream may be handed.
	maxRoles = 256
	// maxFactors bounds what is judged on every request; the vendor knows about a dozen types.
	maxFactors = 32
	// maxFactorLength bounds a factor's type and delivery method; the vendor's are below 30 bytes.
	maxFactorLength = 64
)

// maxUsualMembers is how many members an object may have before their list is allocated; the vendor's have ten at most.
const maxUsualMembers = 16

// The names whose meaning the verifier knows, of each object.
var (
	headerNames       = [...]string{"crit", "b64", "zip", "cty", "jku", "jwk", "x5u", "x5c", "alg", "kid", "typ"}
	organizationNames = [...]string{"organization_id", "slug"}
	sessionNames      = [...]string{"id", "expires_at", "roles", "authentication_factors"}
	factorNames       = [...]string{"type", "delivery_method", "last_authenticated_at"}
)

// readHeader returns the kid of a JOSE header (RFC 7515, section 4) that is the vendor's. What would change how the token
// is to be read, or bring a key along, is refused whatever it says.
func readHeader(text string) (kid string, err error) {
	if len(text) > maxHeaderLength {
		return "", errors.New("longer than 1024 bytes")
	}
	var members [maxUsualMembers]member
	o, err := readObject(members[:0], text, headerNames[:])
	if err != nil {
		return "", err
	}
	for _, m := range o {
		switch m.name {
		case "crit", "b64", "zip", "cty", "jku", "jwk", "x5u", "x5c":
			return "", fmt.Errorf("%s is not accepted", m.name)
		case "x5t", "x5t#S256": // tolerated if they are what the RFC says
			if _, ok := m.value.string(); !ok {
				return "", fmt.Errorf("%s is not a string", m.name)
			}
		}
	}
	if alg, _ := o.get("alg").string(); alg != "RS256" {
		return "", errors.New("alg is not RS256")
	}
	if typ, _ := o.get("typ").string(); o.get("typ") != "" && !strings.EqualFold(typ, "JWT") {
		return "", errors.New("typ is not JWT")
	}
	kid, _ = o.get("kid").string()
	if !isID(kid) {
		return "", errors.New("kid is not an id")
	}
	return kid, nil
}

// claims are what a payload says.
type claims struct {
	session   Session
	notBefore time.Time // zero if it does not say
}

// readClaims reads a payload whose signature is good. What it does not know is a custom claim and tolerated. Not checked
// here: whether now is within its times.
func (v *Verifier) readClaims(c *claims, payload string) error {
	var members [maxUsualMembers]member
	o, err := readObject(members[:0], payload, reserved[:])
	if err != nil {
		return err
	}
	if iss, _ := o.get("iss").string(); !slices.Contains(v.config.Issuers, iss) {
		return errors.New("iss is not an issuer of the project")
	}
	if !isAudience(o.get("aud"), v.config.ProjectID) {
		return errors.New("aud is not the project")
	}
	if _, ok := o.get("jti").string(); o.get("jti") != "" && !ok {
		return errors.New("jti is not a string")
	}
	c.session.Product = v.config.Product
	if err := c.readTimes(o, v.config.MaxLifetime); err != nil {
		return err
	}
	if err := c.readSubject(o); err != nil {
		return err
	}
	if err := c.readSession(o.get(sessionClaim)); err != nil {
		return fmt.Errorf("session: %w", err)
	}
	c.session.Claims = customClaims(o)
	return nil
}

// isAudience reports whether aud is the project, alone or among other strings.
func isAudience(aud value, project string) bool {
	if one, ok := aud.string(); ok {
		return one == project
	}
	found, all := false, true
	isArray := aud.each(func(item value) {
		one, ok := item.string()
		found, all = found || ok && one == project, all && ok
	})
	return isArray && all && found
}

func (c *claims) readTimes(o object, maxLifetime time.Duration) error {
	iat, ok := o.get("iat").seconds()
	if !ok {
		return errors.New("iat is not a time")
	}
	exp, ok := o.get("exp").seconds()
	if !ok {
		return errors.New("exp is not a time")
	}
	if exp <= iat || exp-iat > int64(maxLifetime/time.Second) {
		return errors.New("exp is not after iat, or too long after it")
	}
	c.session.IssuedAt, c.session.Expires = time.Unix(iat, 0).UTC(), time.Unix(exp, 0).UTC()
	if o.get("nbf") == "" {
		return nil
	}
	nbf, ok := o.get("nbf").seconds()
	if !ok {
		return errors.New("nbf is not a time")
	}
	c.notBefore = time.Unix(nbf, 0).UTC()
	return nil
}

// readSubject reads whose session it is. The subject's prefix tells users and members from machines, whose tokens
// have the same keys, issuer and audience.
func (c *claims) readSubject(o object) error {
	s := &c.session
	prefix := "user-"
	if s.Product == B2B {
		prefix = "member-"
	}
	s.Subject, _ = o.get("sub").string()
	if !strings.HasPrefix(s.Subject, prefix) || s.Subject == prefix || !isID(s.Subject) {
		return fmt.Errorf("sub is not a %s id", strings.TrimSuffix(prefix, "-"))
	}
	text := o.get(organizationClaim)
	if s.Product == Consumer {
		if text != "" {
			return errors.New("a consumer session has no organization")
		}
		return nil
	}
	var members [maxUsualMembers]member
	organization, err := text.object(members[:0], organizationNames[:])
	if err != nil {
		return fmt.Errorf("organization: %w", err)
	}
	if s.OrganizationID, _ = organization.get("organization_id").string(); !isID(s.OrganizationID) {
		return errors.New("organization_id is not an id")
	}
	if slug := organization.get("slug"); slug != "" {
		var ok bool
		if s.OrganizationSlug, ok = slug.string(); !ok || len(s.OrganizationSlug) > maxTextLength {
			return errors.New("slug is not a string, or too long")
		}
	}
	return nil
}

func (c *claims) readSession(text value) error {
	s := &c.session
	var members [maxUsualMembers]member
	o, err := text.object(members[:0], sessionNames[:])
	if err != nil {
		return err
	}
	var ok bool
	if s.ID, _ = o.get("id").string(); !isID(s.ID) {
		return errors.New("id is not an id")
	}
	if expires := o.get("expires_at"); expires != "" {
		if s.EndsAt, ok = parseTime(expires); !ok {
			return errors.New("expires_at is not a time")
		}
	}
	if roles := o.get("roles"); !roles.isNone() {
		if s.Roles, ok = roles.strings(); !ok || len(s.Roles) > maxRoles || slices.ContainsFunc(s.Roles, isTooLong) {
			return errors.New("roles are not strings, too many or too long")
		}
	}
	if factors := o.get("authentication_factors"); !factors.isNone() {
		if s.Factors, err = readFactors(factors); err != nil {
			return fmt.Errorf("authentication_factors: %w", err)
		}
	}
	return nil
}

func readFactors(text value) (factors []Factor, err error) {
	isArray := text.each(func(item value) {
		if err != nil || len(factors) > maxFactors {
			return
		}
		var f Factor
		f, err = readFactor(item)
		factors = append(factors, f)
	})
	if !isArray || len(factors) > maxFactors {
		return nil, errors.New("not an array, or too many")
	}
	return factors, err
}

// readFactor takes null for absent where absent is fine: what a factor does not say only makes it count for less.
func readFactor(text value) (f Factor, err error) {
	var members [maxUsualMembers]member
	o, err := text.object(members[:0], factorNames[:])
	if err != nil {
		return f, err
	}
	var ok bool
	if f.Type, _ = o.get("type").string(); !isID(f.Type) || len(f.Type) > maxFactorLength {
		return f, errors.New("type is not a name")
	}
	if method := o.get("delivery_method"); !method.isNone() {
		if f.DeliveryMethod, ok = method.string(); !ok || len(f.DeliveryMethod) > maxFactorLength || !isGraphic(f.DeliveryMethod) {
			return f, errors.New("delivery_method is not a name")
		}
	}
	if at := o.get("last_authenticated_at"); !at.isNone() {
		if f.AuthenticatedAt, ok = parseTime(at); !ok {
			return f, errors.New("last_authenticated_at is not a time")
		}
	}
	return f, nil
}

// parseTime reads a time of RFC 3339 and of our time: before 1970 is somebody's zero. The shapes that it checks are those that
// package time takes though the RFC has them not (https://go.dev/issue/54580).
func parseTime(v value) (time.Time, bool) {
	text, _ := v.string()
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Unix() < 1 || text[13] != ':' || strings.Contains(text, ",") {
		return time.Time{}, false
	}
	if zone := text[len(text)-len("07:00"):]; text[len(text)-1] != 'Z' && (zone[:2] > "23" || zone[3:] > "59") {
		return time.Time{}, false
	}
	return t.UTC(), true
}

func isTooLong(s string) bool { return len(s) > maxTextLength }

// isID reports whether s may name something: printable ASCII without spaces, which any log and any header can hold.
func isID(s string) bool {
	return s != "" && len(s) <= maxTextLength && isGraphic(s)
}

func isGraphic(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
