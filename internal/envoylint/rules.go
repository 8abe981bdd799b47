package envoylint

import (
	"fmt"
	"slices"
	"strings"
)

// Rule is one thing that is looked for.
type Rule struct {
	// ID is its name in findings, Doc what it is about in one line.
	ID       string
	Severity Severity
	Doc      string

	check func(*envoy, report)
}

// report is told of a finding.
type report func(p place, problem, remedy string)

// Rules are all, in the order in which they are listed for operators.
func Rules() []Rule { return slices.Clone(rules) }

// rules is the table. What each is about is in the functions beneath, and in extauthz.go and clusters.go.
var rules = []Rule{
	{"missing-ext-authz", Error, "an HTTP listener sends requests upstream and asks nobody", ofManagers(missingExtAuthz)},
	{"conditional-ext-authz", Error, "a matcher picks the requests that the sidecar is asked about", ofManagers(conditionalExtAuthz)},
	{"ext-authz-after-router", Error, "the filter stands behind the router, which ends the chain", ofManagers(extAuthzAfterRouter)},
	{"open-route", Error, "a route without ext_authz keeps the identity headers that clients send", ofRoutes(openRoute)},
	{"open-route-path", Error, "a route without ext_authz is found by a path that the app may read differently", ofRoutes(openRoutePath)},
	{"upgrade-without-ext-authz", Error, "upgraded requests have filters of their own, without ext_authz", ofManagers(upgradeWithoutExtAuthz)},
	{"connect-upgrade", Warning, "CONNECT opens a tunnel for bytes that nobody looks at", ofManagers(connectUpgrade)},
	{"tcp-bypass", Error, "a TCP proxy leads to a cluster that ext_authz protects elsewhere", tcpBypass},

	{"failure-mode-allow", Error, "requests pass when the sidecar gives no verdict", ofExtAuthz(failureModeAllow)},
	{"shadow-mode", Error, "denials are recorded and not enforced", ofExtAuthz(shadowMode)},
	{"filter-enabled", Error, "a share of the requests passes without being asked about", ofExtAuthz(filterEnabled)},
	{"deny-at-disable", Warning, "a runtime key can turn the filter off, and everyone passes", ofExtAuthz(denyAtDisable)},
	{"clear-route-cache", Error, "the request gets another route after the decision about this one", ofExtAuthz(clearRouteCache)},
	{"hidden-headers", Error, "a header list hides what the policy reads", ofExtAuthz(hiddenHeaders)},
	{"identity-mutation", Error, "the sidecar may not set or remove the headers that it must", ofExtAuthz(identityMutation)},
	{"routing-mutation", Warning, "an answer may change method, host and path", ofExtAuthz(routingMutation)},
	{"mutation-rules", Note, "no rules for the headers that an answer may change", ofExtAuthz(mutationRules)},
	{"validate-mutations", Warning, "headers of an answer are not validated", ofExtAuthz(validateMutations)},
	{"status-on-error", Warning, "clients are told 403 when the sidecar gives no verdict", ofExtAuthz(statusOnError)},
	{"request-body", Warning, "bodies are buffered and sent to the sidecar, which reads none", ofExtAuthz(requestBody)},
	{"check-timeout", Warning, "the filter's time-out is shorter than a call of the session API may take, or none", checkTimeout},
	{"route-service", Warning, "a route asks another service than the filter does", ofManagers(routeService)},
	{"unknown-rule", Error, "a route names a rule that the policy does not have", ofManagers(unknownRule)},
	{"unused-override", Warning, "settings for a filter of a name that no filter has", unusedOverride},

	{"normalize-path", Warning, "/a/../b and /%61 reach the sidecar and the app as they are", ofChecking(normalizePath)},
	{"merge-slashes", Warning, "//a and /a are one path to many apps, and two to Envoy", ofChecking(mergeSlashes)},
	{"escaped-slashes", Warning, "%2F is a slash to some apps", ofChecking(escapedSlashes)},
	{"underscore-headers", Warning, "x_auth_subject is x-auth-subject to many apps", ofChecking(underscoreHeaders)},
	{"unstopped-underscores", Error, "the sidecar relies on it that no x_auth_subject passes, and it does", ofManagers(unstoppedUnderscores)},
	{"stopped-underscores", Note, "the sidecar removes headers that never reach it", stoppedUnderscores},
	{"client-address", Note, "clients choose the address that Envoy takes for theirs", ofChecking(clientAddress)},
	{"filter-before", Note, "a filter before ext_authz may change who the client seems to be, or answer by itself", ofChecking(filterBefore)},
	{"answer-before", Warning, "a filter before ext_authz answers with what is stored", ofChecking(answerBefore)},
	{"filter-after", Note, "a filter behind ext_authz may change the request that was let pass", ofChecking(filterAfter)},
	{"identity-rewritten", Warning, "a checked route changes the identity headers again", ofRoutes(identityRewritten)},
	{"internal-redirect", Note, "Envoy follows redirects of the app, each through the filters once more", ofRoutes(internalRedirect)},

	{"sidecar-plaintext", Error, "requests, with their credentials, go to the sidecar over the network in plain text", sidecarPlaintext},
	{"sidecar-unverified", Error, "any server may answer in the sidecar's place", ofSidecars(sidecarUnverified)},
	{"sidecar-http2", Error, "the sidecar's cluster does not speak HTTP/2, which gRPC needs", ofSidecars(sidecarHTTP2)},
	{"sidecar-keepalive", Error, "pings come faster than the sidecar allows, and it closes the connection", ofSidecars(sidecarKeepalive)},
	{"admin-exposed", Warning, "the admin interface is open to the network", adminExposed},

	{"duplicate-field", Error, "a field stands in one message twice", duplicateField},
	{"unseen", Note, "something that decides is not in this file", unseen},
	{"outbound", Note, "a listener for the way out is not judged", outbound},
}

func ofManagers(check func(*manager, report)) func(*envoy, report) {
	return func(e *envoy, r report) {
		for _, m := range e.managers {
			check(m, r)
		}
	}
}

// ofChecking is for managers that have an ext_authz filter: without one, that is what is to be mended.
func ofChecking(check func(*manager, report)) func(*envoy, report) {
	return ofManagers(func(m *manager, r report) {
		if len(m.extAuthz()) > 0 {
			check(m, r)
		}
	})
}

func ofRoutes(check func(route, report)) func(*envoy, report) {
	return ofChecking(func(m *manager, r report) {
		for _, route := range m.routes {
			check(route, r)
		}
	})
}

// ofExtAuthz is for the ext_authz filters whose settings are in the file.
func ofExtAuthz(check func(*filter, report)) func(*envoy, report) {
	return ofManagers(func(m *manager, r report) {
		for _, f := range m.all {
			if f.isExtAuthz() && f.config != nil {
				check(f, r)
			}
		}
	})
}

func ofSidecars(check func(*value, report)) func(*envoy, report) {
	return func(e *envoy, r report) {
		for _, c := range e.sidecars {
			check(c, r)
		}
	}
}

func missingExtAuthz(m *manager, r report) {
	if len(m.extAuthz()) == 0 && !slices.ContainsFunc(m.filters, (*filter).isConditional) && m.goesUpstream() {
		r(at(m.config, "http_filters"), "no ext_authz filter that asks a gRPC service, so requests reach the upstream unasked",
			"add the ext_authz filter before the router, or judge the other listeners alone (--listener)")
	}
}

func conditionalExtAuthz(m *manager, r report) {
	for _, f := range m.all {
		if f.isConditional() {
			r(at(f.entry),
				"ext_authz within a matcher: what it does not pick passes unasked, with the identity headers that the client sent",
				"list ext_authz by itself, and exempt by the sidecar's own rules (session: none)")
		}
	}
}

func extAuthzAfterRouter(m *manager, r report) {
	ended := map[*value]bool{}
	for _, f := range m.all {
		chain := f.entry.parent
		if f.isExtAuthz() && ended[chain] {
			r(at(f.entry), "the router before it sends the request upstream", "move it before envoy.filters.http.router")
		}
		ended[chain] = ended[chain] || f.kind == "router"
	}
}

func openRoute(route route, r report) {
	m, off := route.manager, route.off()
	if len(off) == 0 || !route.goesUpstream() {
		return
	}
	var removed []string
	for _, level := range route.levels {
		for _, name := range level.get("request_headers_to_remove").texts() {
			removed = append(removed, strings.ToLower(name))
		}
	}
	identity := m.envoy.cfg.IdentityHeaders
	for _, name := range identity {
		reaches := "identity headers reach the app"
		if slices.Contains(removed, name) {
			// Envoy removes whole names, and each "-" of one may be an underscore.
			if !strings.ContainsAny(name, "-_") || m.stopsUnderscores() {
				continue
			}
			reaches = strings.ReplaceAll(name, "-", "_") + " reaches apps that read it as " + name
		}
		r(at(route.value, "request_headers_to_remove"),
			"ext_authz is off here ("+strings.Join(off, ", ")+"), so a client's own "+reaches,
			"leave it on and give the sidecar a rule with session: none, or write request_headers_to_remove: ["+
				strings.Join(identity, ", ")+"] and headers_with_underscores_action: REJECT_REQUEST")
		return
	}
}

func openRoutePath(route route, r report) {
	off := route.off()
	if len(off) == 0 || !route.goesUpstream() || route.get("match", "path") != nil || route.manager.pathIsPlain() {
		return
	}
	r(at(route.value, "match"),
		"ext_authz is off here ("+strings.Join(off, ", ")+"), and a path like /open/..%2fadmin or /open//../admin takes this route and "+
			"is another one to the app",
		"write normalize_path: true, merge_slashes: true and path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT, or match "+
			"a whole path")
}

// pathIsPlain says whether a path means to the app what it means to Envoy's routes.
func (m *manager) pathIsPlain() bool {
	return m.config.get("normalize_path").isTrue() && m.config.get("merge_slashes").isTrue() &&
		(m.rejectsEscapedSlashes() || m.escapedSlashes().isEnum("UNESCAPE_AND_FORWARD", 4))
}

func (m *manager) escapedSlashes() *value { return m.config.get("path_with_escaped_slashes_action") }

func (m *manager) rejectsEscapedSlashes() bool {
	action := m.escapedSlashes()
	return action.isEnum("REJECT_REQUEST", 2) || action.isEnum("UNESCAPE_AND_REDIRECT", 3)
}

func upgradeWithoutExtAuthz(m *manager, r report) {
	for _, u := range m.config.get("upgrade_configs").items() {
		chain := u.get("filters")
		for _, usual := range m.extAuthz() {
			if len(chain.items()) > 0 && !slices.ContainsFunc(m.all, func(f *filter) bool {
				return f.entry.parent == chain && f.name == usual.name && f.isExtAuthz()
			}) {
				r(at(chain), "requests that ask for this upgrade take these filters, and not "+showName(usual.name),
					"delete filters here, so that they take http_filters, or list the same ext_authz among them, by the same name")
			}
		}
	}
}

func connectUpgrade(m *manager, r report) {
	entries := slices.Clone(m.config.get("upgrade_configs").items())
	for _, route := range m.routes {
		entries = append(entries, route.get("route", "upgrade_configs").items()...)
	}
	for _, u := range entries {
		enabled := u.get("enabled")
		if strings.HasPrefix(strings.ToUpper(u.get("upgrade_type").str()), "CONNECT") && (enabled == nil || !enabled.isFalse()) {
			r(at(u), "after one checked CONNECT a client talks to the upstream, and nobody is asked about what it sends",
				"delete the entry, unless the upstream is no part of the app")
		}
	}
}

func tcpBypass(e *envoy, r report) {
	protected := map[string]bool{}
	for _, m := range e.managers {
		for _, route := range m.routes {
			if !slices.ContainsFunc(m.extAuthz(), func(f *filter) bool { return !route.turnsOff(f) }) {
				continue
			}
			protected[route.get("route", "cluster").str()] = true
			for _, c := range route.get("route", "weighted_clusters", "clusters").items() {
				protected[c.get("name").str()] = true
			}
		}
	}
	for _, l := range e.listeners {
		for _, proxy := range l.find("TcpProxy") {
			targets := []*value{proxy.get("cluster")}
			for _, c := range proxy.get("weighted_clusters", "clusters").items() {
				targets = append(targets, c.get("name"))
			}
			for _, target := range targets {
				if target != nil && protected[target.str()] {
					r(at(target), "whoever connects here reaches what ext_authz protects elsewhere",
						"delete this filter chain, or give the app a cluster that only checked routes use")
				}
			}
		}
	}
}

func normalizePath(m *manager, r report) {
	if !m.config.get("normalize_path").isTrue() {
		r(at(m.config, "normalize_path"),
			"/a/../b and /%61 are passed on as they came: the sidecar answers 400 where a path has two readings, routes without it "+
				"do not",
			"write normalize_path: true")
	}
}

func mergeSlashes(m *manager, r report) {
	if !m.config.get("merge_slashes").isTrue() {
		r(at(m.config, "merge_slashes"), "//a is passed on as it came: the sidecar answers 400, routes without it do not",
			"write merge_slashes: true")
	}
}

func escapedSlashes(m *manager, r report) {
	const remedy = "write path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT, or REJECT_REQUEST"
	p := at(m.config, "path_with_escaped_slashes_action")
	switch {
	case m.rejectsEscapedSlashes():
	case m.escapedSlashes().isEnum("UNESCAPE_AND_FORWARD", 4):
		r(p, "%2F becomes a slash without the client being told: what judged the path before Envoy (a CDN, a firewall) judged "+
			"another one",
			remedy)
	default:
		r(p, "%2F and %5C are passed on as they came: the sidecar answers 400, routes without it do not", remedy)
	}
}

func underscoreHeaders(m *manager, r report) {
	if !m.stopsUnderscores() && !m.envoy.relied() {
		r(at(m.config, "common_http_protocol_options", "headers_with_underscores_action"),
			"CGI, WSGI and Rack read x_auth_subject as x-auth-subject: only the sidecar removes such headers, and not on routes "+
				"without it",
			"write common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }")
	}
}

func unstoppedUnderscores(m *manager, r report) {
	if m.asks() && !m.stopsUnderscores() && m.envoy.relied() {
		r(at(m.config, "common_http_protocol_options", "headers_with_underscores_action"),
			"the sidecar's envoy_stops_underscores is true, so a client's own x_auth_subject reaches apps that read it as x-auth-subject",
			"write common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }, or take "+
				"envoy_stops_underscores out of the sidecar's configuration")
	}
}

// relied says whether the sidecar leaves headers with underscores to Envoy.
func (e *envoy) relied() bool {
	return e.cfg.EnvoyStopsUnderscores != nil && *e.cfg.EnvoyStopsUnderscores
}

func stoppedUnderscores(e *envoy, r report) {
	if e.cfg.EnvoyStopsUnderscores == nil || e.relied() ||
		!slices.ContainsFunc(e.cfg.IdentityHeaders, func(name string) bool { return strings.Contains(name, "-") }) {
		return
	}
	asking := slices.DeleteFunc(slices.Clone(e.managers), func(m *manager) bool { return !m.asks() })
	if len(asking) == 0 || slices.ContainsFunc(asking, func(m *manager) bool { return !m.stopsUnderscores() }) {
		return
	}
	r(at(asking[0].config, "common_http_protocol_options", "headers_with_underscores_action"),
		"headers with underscores are stopped here, and the sidecar's answers remove them all the same",
		"write envoy_stops_underscores: true in the sidecar's configuration, if every Envoy that asks it stops them")
}

// asks says whether the sidecar may be asked about any of the manager's requests.
func (m *manager) asks() bool {
	return slices.ContainsFunc(m.all, func(f *filter) bool { return f.isExtAuthz() || f.isConditional() })
}

// stopsUnderscores says whether no header with an underscore in its name reaches the app.
func (m *manager) stopsUnderscores() bool {
	action := m.config.get("common_http_protocol_options", "headers_with_underscores_action")
	return action.isEnum("REJECT_REQUEST", 1) || action.isEnum("DROP_HEADER", 2)
}

func clientAddress(m *manager, r report) {
	hops, _ := m.config.get("xff_num_trusted_hops").number()
	if m.config.get("use_remote_address").isTrue() || hops > 0 || len(m.config.get("original_ip_detection_extensions").items()) > 0 {
		return
	}
	r(at(m.config, "use_remote_address"),
		"a client's own x-forwarded-for is believed, and with an internal address its x-envoy- headers are, too",
		"write use_remote_address: true, or behind a trusted proxy xff_num_trusted_hops")
}

var (
	// rewriters are the filters that may change the headers or the path of a request.
	rewriters = []string{
		"lua", "header_mutation", "ext_proc", "wasm", "golang", "dynamic_modules", "transform", "grpc_json_transcoder",
		"grpc_json_reverse_transcoder", "set_filter_state", "composite",
	}
	// authenticators set headers that say who the client is.
	authenticators = []string{"jwt_authn", "oauth2", "basic_auth", "api_key_auth", "credential_injector", "gcp_authn"}
	// answerers answer with what is stored.
	answerers = []string{"cache", "cache_v2", "file_server"}
)

// around are the filters before the last ext_authz filter, and those behind the first: any may be the sidecar's.
func (m *manager) around() (before, after []*filter) {
	authz := m.extAuthz()
	return m.filters[:slices.Index(m.filters, authz[len(authz)-1])], m.filters[slices.Index(m.filters, authz[0])+1:]
}

func filterBefore(m *manager, r report) {
	const remedy = "make sure that no credential or path is set from what a client sends, and that nothing is answered from the app"
	before, _ := m.around()
	for _, f := range before {
		if slices.Contains(rewriters, f.kind) || slices.Contains(authenticators, f.kind) {
			r(at(f.entry), "the sidecar judges the request as this filter leaves it, and is not asked where it answers by itself", remedy)
		}
	}
	if early := m.config.get("early_header_mutation_extensions"); len(early.items()) > 0 {
		r(at(early), "the sidecar judges the request as these extensions leave it", remedy)
	}
}

func answerBefore(m *manager, r report) {
	before, _ := m.around()
	for _, f := range before {
		if slices.Contains(answerers, f.kind) {
			r(at(f.entry), "what it has stored is answered to anyone, without the sidecar being asked", "move it behind ext_authz")
		}
	}
}

func filterAfter(m *manager, r report) {
	_, after := m.around()
	for _, f := range after {
		reroutes := false
		if f.kind == "jwt_authn" {
			f.config.walk(func(v *value) bool {
				reroutes = reroutes || snake(v.key) == "clear_route_cache" && !v.isFalse()
				return true
			})
		}
		if slices.Contains(rewriters, f.kind) || reroutes {
			r(at(f.entry), "it can change identity headers, path or route of a request that was let pass as it was",
				"make sure that it touches none of them, or move it before ext_authz")
		}
	}
}

func identityRewritten(route route, r report) {
	if len(route.off()) > 0 {
		return
	}
	identity := route.manager.envoy.cfg.IdentityHeaders
	for _, level := range route.levels {
		for _, name := range level.get("request_headers_to_remove").items() {
			if slices.Contains(identity, strings.ToLower(name.text)) {
				r(at(name), "Envoy removes the header after the sidecar has set it: the app is not told who is calling",
					"remove it only on routes without ext_authz")
			}
		}
		for _, add := range level.get("request_headers_to_add").items() {
			if slices.Contains(identity, strings.ToLower(add.get("header", "key").str())) {
				r(at(add), "Envoy adds to an identity header, or overwrites it, after the sidecar has set it", "use another header")
			}
		}
	}
}

func internalRedirect(route route, r report) {
	if policy := route.get("route", "internal_redirect_policy"); policy != nil {
		r(at(policy),
			"a path that the app names in a Location header is requested by Envoy, with the client's credential, and judged as a "+
				"new request",
			"delete it, unless every redirect of the app may be followed so")
	}
}

func adminExposed(e *envoy, r report) {
	for _, admin := range e.admin {
		if address := admin.get("address", "socket_address", "address"); address != nil && !isLoopback(address.str()) {
			r(at(address), "whoever reaches it can read this configuration, change the runtime and stop Envoy",
				"write address: 127.0.0.1")
		}
	}
}

func duplicateField(e *envoy, r report) {
	for _, v := range e.twice {
		r(at(v), "the field is there twice, of which Envoy takes one and this check the first", "delete one of them")
	}
}

func unseen(e *envoy, r report) {
	const remedy = "judge a dump: curl http://127.0.0.1:9901/config_dump?include_eds"
	for _, m := range e.managers {
		for _, v := range m.unseen {
			r(at(v), "the routes that it names are not in this file", remedy)
		}
		for _, f := range m.all {
			if f.config == nil && f.kind == "ext_authz" {
				r(at(f.entry), "the filter's settings are not in this file", remedy)
			}
		}
		for _, o := range m.overrides {
			if rule := o.rule(); e.cfg.Rules != nil && rule.str() == redacted {
				r(at(rule), "a dump does not say which rule it is", "judge the file or the resource that the route comes from, too")
			}
		}
	}
	for _, s := range e.services {
		if name := clusterName(s); name != nil && len(e.resources[resource{"Cluster", name.str()}]) == 0 {
			r(at(name), "the cluster that it names is not in this file", remedy)
		}
	}
	for _, c := range e.sidecars {
		if len(e.endpoints(c)) == 0 && tlsContexts(c) == nil {
			r(at(c), "the addresses of the sidecar's cluster are not in this file, and its connections are in plain text", remedy)
		}
	}
}

func outbound(e *envoy, r report) {
	if len(e.outbound) > 0 {
		r(at(e.outbound[0], "traffic_direction"),
			fmt.Sprintf("listeners for the way out are not judged: this and %d more", len(e.outbound)-1),
			"delete traffic_direction where clients come in")
	}
}
