package check

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// isPreflight says whether the request is a CORS preflight (https://fetch.spec.whatwg.org/#cors-preflight-request).
func (r *request) isPreflight() bool {
	if r.method != "OPTIONS" {
		return false
	}
	_, origin := r.header("origin")
	_, method := r.header("access-control-request-method")
	return origin && method
}

// navigates says whether a browser asks for a page, so that somebody will see the answer.
func (r *request) navigates() bool {
	if r.method != "GET" {
		return false
	}
	if mode, ok := r.header("sec-fetch-mode"); ok {
		return mode == "navigate"
	}
	accept, _ := r.header("accept")
	return strings.Contains(accept, "text/html")
}

// crossSite says whether a page of another site makes the user's browser send an unsafe request, or open a WebSocket: by
// Sec-Fetch-Site, which no page can forge, else by Origin. A client that sends neither is no browser of today, and no page makes
// it do anything.
func (s *Server) crossSite(r *request, host string) bool {
	if r.isSafe() && !r.upgrades() {
		return false
	}
	origin, hasOrigin := r.header("origin")
	if hasOrigin && s.trustedOrigins[origin] {
		return false
	}
	switch site, _ := r.header("sec-fetch-site"); site {
	case "same-origin", "same-site", "none":
		return false
	case "":
		return hasOrigin && !isOriginOf(origin, host)
	}
	return true
}

// isOriginOf says whether an Origin header names the host that was asked, whatever the port. "null" names none.
func isOriginOf(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Hostname() == "" {
		return false
	}
	name := strings.ToLower(u.Hostname())
	if ip, err := netip.ParseAddr(name); err == nil && ip.Is6() {
		name = "[" + name + "]"
	}
	return name == host
}

// maxReturnPath keeps the redirect within what browsers and proxies take for a URL. What is longer is not returned to.
const maxReturnPath = 2048

// newLogIn checks the page's URL once, so that location cannot fail.
func newLogIn(l LogIn) (LogIn, error) {
	u, err := url.Parse(l.URL)
	if l.URL == "" {
		return l, nil
	}
	isPath := strings.HasPrefix(l.URL, "/") && !strings.HasPrefix(l.URL, "//")
	if err != nil || u.Fragment != "" || !isPath && (u.Scheme == "" || u.Host == "") || l.ReturnParameter == "" {
		return LogIn{}, fmt.Errorf("check: log-in page %q is neither a path nor a URL without a fragment, or has no return parameter", l.URL)
	}
	return l, nil
}

// location is where the browser goes to log in, with the way back: always a path of the host that was asked, and one that has been
// read, so that it is no other host's ("//evil.example", "/\evil.example").
func (l LogIn) location(r *request, d *decision) string {
	way := d.found.Path
	if _, query, ok := strings.Cut(r.path, "?"); ok {
		way += "?" + query
	}
	if d.found.Ambiguous || len(way) > maxReturnPath {
		way = "/"
	}
	parameters := url.Values{l.ReturnParameter: {way}}
	if d.reason == StepUp {
		parameters.Set("reason", reasons[StepUp].public)
	}
	separator := "?"
	if strings.Contains(l.URL, "?") {
		separator = "&"
	}
	return l.URL + separator + parameters.Encode()
}
