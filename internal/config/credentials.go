package config

import (
	"encoding/json"
	"strings"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

func (c *compiler) credentials(m *configv1.Credentials) session.Names {
	if strings.EqualFold(m.GetJwtCookie(), m.GetTokenCookie()) { // some servers read names without case
		field := "credentials.token_cookie"
		if !c.has(field) {
			field = "credentials.jwt_cookie"
		}
		c.report(field, "one cookie for the session JWT and the opaque token", "give each a cookie of its own")
	}
	return session.Names{JWTCookie: m.GetJwtCookie(), TokenCookie: m.GetTokenCookie(), TokenHeader: m.GetTokenHeader()}
}

func (c *compiler) jwtCookie(m *configv1.Credentials) check.CookieAttributes {
	const path = "credentials.jwt_cookie_attributes"
	a := m.GetJwtCookieAttributes()
	cookie := check.CookieAttributes{
		Domain: a.GetDomain(), Path: a.GetPath(), SameSite: a.GetSameSite(), Secure: a.GetSecure(), HTTPOnly: a.GetHttpOnly(),
	}
	// Browsers drop what is reported here without a word (draft-ietf-httpbis-rfc6265bis, sections 4.1.2.7 and 4.1.3).
	switch name := m.GetJwtCookie(); {
	case cookie.SameSite == "None" && !cookie.Secure:
		c.report(path+".same_site", `"None" without secure, which browsers refuse`, "set secure: true")
	case hasPrefixFold(name, "__Secure-") && !cookie.Secure:
		c.report(path+".secure", "must be true for a cookie whose name begins with __Secure-", "set it to true, or rename the cookie")
	case hasPrefixFold(name, "__Host-") && (!cookie.Secure || cookie.Path != "/" || cookie.Domain != ""):
		c.report(path, "a cookie whose name begins with __Host- must be secure, with path / and no domain", "correct them, or rename the cookie")
	}
	return cookie
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// identityHeaders are those given, be it an empty list, or the default ones.
func (c *compiler) identityHeaders(m *configv1.Config) []check.IdentityHeader {
	list := m.GetIdentityHeaders()
	if !c.has("identity_headers") {
		list = defaults().GetIdentityHeaders()
	}
	headers := make([]check.IdentityHeader, len(list))
	names := map[string]int{}
	for i, h := range list {
		item := itemPath("identity_headers", i)
		headers[i] = check.IdentityHeader{Name: h.GetName(), Value: h.GetValue(), Claim: h.GetClaim(), JSON: h.GetFormat() == "json"}
		c.once(names, h.GetName(), i, childPath(item, "name"), "identity_headers", "give each header a name of its own")
		if h.GetClaim() != "" && !isCustomClaim(h.GetClaim()) {
			c.report(childPath(item, "claim"), "not the name of a custom claim", `for what every session JWT holds, set value`)
		}
	}
	if _, ok := names[m.GetCredentials().GetTokenHeader()]; ok {
		c.report("credentials.token_header", "the name of an identity header, which is removed from every request", "use another name")
	}
	if _, ok := names[m.GetCredentials().GetRefreshedJwtHeader()]; ok {
		c.report("credentials.refreshed_jwt_header", "the name of an identity header", "use another name")
	}
	return headers
}

// isCustomClaim says whether a session JWT may have a custom claim of that name.
func isCustomClaim(name string) bool {
	text, err := json.Marshal(map[string]bool{name: true})
	if err == nil {
		_, err = session.ParseClaims(string(text))
	}
	return err == nil
}
