package config

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

// The vendor's own addresses of the session API.
const (
	liveURL = "https://api.stytch.com"
	testURL = "https://test.stytch.com"
)

func (c *compiler) projects(m *configv1.Config) []Project {
	projects := make([]Project, len(m.GetProjects()))
	names, ids := map[string]int{}, map[string]int{}
	stateDir := c.stateDir(m.GetStateDir())
	for i, p := range m.GetProjects() {
		path := itemPath("projects", i)
		projects[i] = c.project(path, p, m.GetVerification(), stateDir)
		c.once(ids, p.GetProjectId(), i, childPath(path, "project_id"), "projects", "list each project once")
		c.once(names, projects[i].Name, i, childPath(path, "name"), "projects", "give each project a name of its own")
	}
	return projects
}

// once reports a value that an earlier item of the list has already.
func (c *compiler) once(seen map[string]int, value string, i int, field, list, remedy string) {
	if value == "" {
		return
	}
	if first, ok := seen[value]; ok {
		c.report(field, "the same as that of "+itemPath(list, first), remedy)
		return
	}
	seen[value] = i
}

func (c *compiler) project(path string, m *configv1.Project, v *configv1.Verification, stateDir string) Project {
	name := cmp.Or(m.GetName(), m.GetProjectId())
	c.printable(childPath(path, "name"), m.GetName())
	product := session.Product(m.GetProduct())
	if c.found[childPath(path, "product")] {
		product = "" // nothing follows from what it was taken for
	}
	baseURL := c.baseURL(path, m)
	transport := c.transport(path, m)
	secret := c.secret(path, m)
	return Project{
		Name:   name,
		Secret: secret,
		Keys: c.keySet(childPath(path, "key_set"), m.GetKeySet(), jwkscache.Config{
			URL:       c.keySetURL(path, m, baseURL),
			ProjectID: m.GetProjectId(),
			File:      c.keySetFile(stateDir, m.GetProjectId()),
			Transport: transport,
		}),
		Verifier: session.Config{
			ProjectID:    m.GetProjectId(),
			Product:      product,
			Issuers:      c.issuers(path, m),
			ExpiryLeeway: v.GetExpiryLeeway().AsDuration(),
			IssueLeeway:  v.GetIssueLeeway().AsDuration(),
			MaxLifetime:  v.GetMaxLifetime().AsDuration(),
			CacheBytes:   int(v.GetCacheBytes()),
		},
		API: sessionapi.Config{
			Product:        product,
			ProjectID:      m.GetProjectId(),
			Secret:         secret,
			BaseURL:        baseURL,
			Transport:      transport,
			Timeout:        m.GetSessionApi().GetTimeout().AsDuration(),
			MaxCalls:       int(m.GetSessionApi().GetMaxCalls()),
			MaxQueued:      int(m.GetSessionApi().GetMaxQueuedCalls()),
			KeptExchanges:  int(m.GetSessionApi().GetKeptExchanges()),
			CallsPerSecond: int(m.GetSessionApi().GetMaxCallsPerSecond()),
		},
	}
}

// vendorURL is where the vendor serves projects of this kind.
func vendorURL(projectID string) string {
	if strings.HasPrefix(projectID, "project-live-") {
		return liveURL
	}
	return testURL
}

// customURL is the project's own domain as an address, or empty.
func customURL(m *configv1.Project) string {
	if m.GetCustomDomain() == "" {
		return ""
	}
	return "https://" + m.GetCustomDomain()
}

func (c *compiler) baseURL(path string, m *configv1.Project) string {
	if m.GetApiBaseUrl() == "" {
		return cmp.Or(customURL(m), vendorURL(m.GetProjectId()))
	}
	field, base := childPath(path, "api_base_url"), strings.TrimRight(m.GetApiBaseUrl(), "/")
	c.secureURL(field, m.GetApiBaseUrl())
	if strings.HasSuffix(base, "/v1") || strings.HasSuffix(base, "/v1/b2b") {
		c.report(field, "ends in what every call adds to it", "end it before /v1")
	}
	return base
}

func (c *compiler) keySetURL(path string, m *configv1.Project, baseURL string) string {
	if m.GetKeySetUrl() != "" {
		c.secureURL(childPath(path, "key_set_url"), m.GetKeySetUrl())
		return m.GetKeySetUrl()
	}
	if session.Product(m.GetProduct()) == session.B2B {
		return baseURL + "/v1/b2b/sessions/jwks/" + m.GetProjectId()
	}
	return baseURL + "/v1/sessions/jwks/" + m.GetProjectId()
}

// issuers are the ones given, or all that the vendor mints for the project.
func (c *compiler) issuers(path string, m *configv1.Project) []string {
	field := childPath(path, "issuers")
	if c.has(field) {
		if len(m.GetIssuers()) == 0 {
			c.report(field, "is empty, so that no session JWT would be accepted", "list an issuer, or leave it out for the vendor's")
		}
		return m.GetIssuers()
	}
	issuers := []string{"stytch.com/" + m.GetProjectId(), vendorURL(m.GetProjectId())}
	if custom := customURL(m); custom != "" {
		issuers = append(issuers, custom)
	}
	return issuers
}

// secureURL reports an address that a project's secret or key set must not travel to.
func (c *compiler) secureURL(field, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		c.reportGot(field, "", "not a URL", `write "https://host" and a path where there is one`)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#"):
		// Not shown: this is where passwords and tokens stand in a URL.
		c.reportGot(field, "", "a URL with user, query or fragment", "write scheme, host and path alone")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		c.report(field, "not https", "use https; plain http is for loopback addresses only")
	case isLinkLocal(u.Hostname()):
		c.report(field, "a link-local address, where clouds keep their metadata", "name the service's own host")
	}
}

func isLinkLocal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLinkLocalUnicast()
}

// transport is shared by a project's key set and session API, and by nothing else. Callers set deadlines and do not
// follow redirects.
func (c *compiler) transport(path string, m *configv1.Project) *http.Transport {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if m.GetCaFile() != "" {
		config.RootCAs = c.authorities(childPath(path, "ca_file"), m.GetCaFile())
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: time.Minute, // the most that a configured time-out may be: theirs ends first
		// One host, and HTTP/2 needs one connection; 32 keep HTTP/1.1 from dialling at every burst.
		MaxIdleConns:           32,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// A connection that a network device has dropped in silence is noticed by pings, not by one time-out after another.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
}

func (c *compiler) keySet(path string, m *configv1.KeySet, k jwkscache.Config) jwkscache.Config {
	k.RefreshInterval = m.GetRefreshInterval().AsDuration()
	k.MinRefreshInterval = m.GetMinRefreshInterval().AsDuration()
	k.MaxRefreshInterval = m.GetMaxRefreshInterval().AsDuration()
	k.FetchTimeout = m.GetFetchTimeout().AsDuration()
	k.MaxStale = m.GetMaxStale().AsDuration()
	k.UnknownKeyWait = max(m.GetUnknownKeyWait().AsDuration(), 1) // 0s is no wait here, and the default there
	k.UnknownKeyInterval = m.GetUnknownKeyInterval().AsDuration()

	c.atMost(path, "min_refresh_interval", k.MinRefreshInterval, "max_refresh_interval", k.MaxRefreshInterval)
	c.atMost(path, "min_refresh_interval", k.MinRefreshInterval, "refresh_interval", k.RefreshInterval)
	c.atMost(path, "refresh_interval", k.RefreshInterval, "max_refresh_interval", k.MaxRefreshInterval)
	return k
}

// atMost reports that one field is more than another, at whichever of the two the file gives.
func (c *compiler) atMost(parent, field string, value time.Duration, limitField string, limit time.Duration) {
	path, limitPath := childPath(parent, field), childPath(parent, limitField)
	switch {
	case value <= limit || c.found[path] || c.found[limitPath]:
	case c.has(path):
		c.report(path, fmt.Sprintf("more than %s, which is %s%s", limitField, shortDuration(limit), c.byDefault(limitPath)),
			"lower it, or raise "+limitField)
	default:
		c.report(limitPath, fmt.Sprintf("less than %s, which is %s%s", field, shortDuration(value), c.byDefault(path)),
			"raise it, or lower "+field)
	}
}

func (c *compiler) byDefault(path string) string {
	if c.has(path) {
		return ""
	}
	return " by default"
}
