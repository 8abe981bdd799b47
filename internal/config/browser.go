package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

const logInField = "log_in.url"

// logIn is where browsers are sent to log in. It becomes a Location header, to which a return parameter is added.
func (c *compiler) logIn(m *configv1.LogIn) check.LogIn {
	logIn := check.LogIn{URL: m.GetUrl(), ReturnParameter: m.GetReturnParameter()}
	if logIn.URL == "" || c.found[logInField] {
		return logIn
	}
	problem, remedy := "", `write a path of the same host, "/login", or "https://host/path"`
	u, err := url.Parse(logIn.URL)
	if err != nil || strings.ContainsFunc(logIn.URL, func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.reportGot(logInField, "", "not a URL", remedy)
		return logIn
	}
	path, pathErr := policy.ReadPath(logIn.URL)
	query, queryErr := url.ParseQuery(u.RawQuery)
	switch isPath := strings.HasPrefix(logIn.URL, "/"); {
	case u.User != nil || strings.Contains(logIn.URL, "#"):
		problem, remedy = "a URL with user or fragment", "leave them out"
	case isPath && pathErr != nil:
		problem = "not a path of the same host: " + strings.TrimPrefix(pathErr.Error(), policy.ErrAmbiguousPath.Error()+": ")
	case !isPath && u.Hostname() == "":
		problem = "neither a path nor a URL"
	case !isPath && u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		problem, remedy = "not https", "use https; plain http is for loopback addresses only"
	case queryErr != nil:
		problem, remedy = "a URL whose query cannot be read", `write it as "name=value", joined by "&"`
	case query.Has(logIn.ReturnParameter):
		problem = fmt.Sprintf("has the parameter %q already", logIn.ReturnParameter)
		remedy = "leave that out, or set another log_in.return_parameter"
	case isPath:
		if u.RawQuery != "" {
			path += "?" + u.RawQuery
		}
		logIn.URL = path
	}
	switch {
	case problem == "":
	case strings.ContainsAny(logIn.URL, "?#@"): // not shown: this is where passwords and tokens stand in a URL
		c.reportGot(logInField, "", problem, remedy)
	default:
		c.report(logInField, problem, remedy)
	}
	return logIn
}

// logInIsOpen reports a log-in page that is itself behind a rule which would send the browser there again.
func (c *compiler) logInIsOpen(rules *policy.Set, logIn check.LogIn) {
	if !strings.HasPrefix(logIn.URL, "/") {
		return
	}
	asked := map[string]bool{}
	for _, redirecting := range rules.All() {
		if !redirecting.RedirectToLogIn {
			continue
		}
		hosts := redirecting.Match.Hosts
		if len(hosts) == 0 {
			hosts = []string{""} // one that no rule names
		}
		for _, host := range hosts {
			if asked[host] {
				continue
			}
			asked[host] = true
			// Any host will do for a wildcard.
			found, err := rules.Match(policy.Request{Method: "GET", Host: strings.Replace(host, "*", "www", 1), Path: logIn.URL})
			if err != nil || found.Rule.Session == policy.None || found.Rule.Session == policy.Optional && !found.Rule.RedirectToLogIn {
				continue
			}
			page := "this page"
			if host != "" {
				page += " at " + showName(host)
			}
			does := "would send browsers in circles"
			if found.Rule.Session == policy.Refused {
				does = "refuses every request"
			}
			c.report(logInField, "the rule "+showName(found.Rule.Name)+" is for "+page+", and "+does,
				"put a rule for the page before it, with session: none")
			return
		}
	}
}

// trustedOrigins are compared with the Origin header, so they must be spelt as browsers do (RFC 6454, section 6.2).
func (c *compiler) trustedOrigins(m *configv1.Config) []string {
	seen := map[string]int{}
	for i, origin := range m.GetTrustedOrigins() {
		field := itemPath("trusted_origins", i)
		switch canonical, ok := canonicalOrigin(origin); {
		case c.found[field]:
		case !ok:
			want := wanted["authz.config.v1.Config.trusted_origins"]
			c.report(field, want.problem, want.remedy)
		case canonical != origin:
			c.report(field, "not as browsers write it", fmt.Sprintf("write %q", canonical))
		}
		c.once(seen, origin, i, field, "trusted_origins", "list each once")
	}
	return slices.Clone(m.GetTrustedOrigins())
}

// canonicalOrigin is a URL of scheme, host and port alone as an Origin header has it: the scheme's default port left out.
func canonicalOrigin(origin string) (string, bool) {
	u, err := url.Parse(origin)
	if err != nil || strings.HasPrefix(u.Hostname(), ".") || strings.Contains(u.Hostname(), "..") {
		return "", false
	}
	host, port := u.Hostname(), u.Port()
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + ip.String() + "]"
	}
	switch {
	case host == "" || port != "" && !isPort(port):
		return "", false
	case port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80":
		return u.Scheme + "://" + host, true
	}
	return u.Scheme + "://" + host + ":" + port, true
}
