package envoylint

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// envoy is what a file says, sorted by what rules are about.
type envoy struct {
	cfg Config
	// absent are the listeners of cfg that the file does not have.
	absent []string
	// twice are the fields that stand in one message more than once.
	twice []*value

	admin []*value
	// layers are those of the runtime, the last one first.
	layers []*value
	// listeners are those that are judged; outbound are not, being ways out.
	listeners, outbound []*value
	managers            []*manager
	// resources are found by message and name, in each of their versions.
	resources map[resource][]*value
	scopes    []*value

	// services are what ext_authz filters ask, and routes in their place; sidecars are the clusters of those.
	services, sidecars []*value
}

type resource struct{ message, name string }

// manager is an HTTP connection manager.
type manager struct {
	envoy  *envoy
	config *value
	// filters are those of usual requests; all has those of upgrades, too.
	filters, all []*filter
	// routeConfigs are those that it uses; unseen are the fields that name one that is not in the file.
	routeConfigs, unseen []*value
	routes               []route
	overrides            []override
}

// filter is an HTTP filter.
type filter struct {
	manager *manager
	// entry is its place in the list, config its message, nil if it is not in the file.
	entry, config *value
	name          string
	// kind is the extension: "ext_authz".
	kind string
	// off says that only routes can turn it on.
	off bool
}

// route is a way of a request: the route, and with weighted clusters one of them.
type route struct {
	*value
	manager *manager
	// levels are what has settings for it, from the route configuration to the weighted cluster.
	levels []*value
}

// override is an ExtAuthzPerRoute in a typed_per_filter_config, and the name of the filter that it is for.
type override struct {
	filter string
	entry  *value
}

// rule is the policy's rule that the entry names, if it does.
func (o override) rule() *value {
	return mapEntry(o.entry.get("check_settings", "context_extensions"), "rule")
}

func newEnvoy(root *value, cfg Config) *envoy {
	if cfg.IdentityHeaders == nil {
		cfg.IdentityHeaders = defaultIdentityHeaders
	}
	if cfg.HeadersRead == nil {
		cfg.HeadersRead = defaultHeadersRead
	}
	cfg.SessionAPITimeout = cmp.Or(cfg.SessionAPITimeout, defaultSessionAPITimeout)
	e := &envoy{cfg: cfg, absent: slices.Clone(cfg.Listeners), resources: map[resource][]*value{}}
	var listeners []*value
	root.walk(func(v *value) bool {
		switch snake(v.key) {
		case "error_state", "draining_state": // not in use, or soon no more
			return false
		case "static_resources":
			listeners = append(listeners, v.get("listeners").items()...)
			for _, c := range v.get("clusters").items() {
				e.add("Cluster", c)
			}
		case "admin":
			if v.get("address") != nil {
				e.admin = append(e.admin, v)
			}
		case "layered_runtime":
			e.layers = append(e.layers, v.get("layers").items()...)
		}
		switch message, in := v.message(); message {
		case "Listener":
			listeners = append(listeners, in)
		case "ScopedRouteConfiguration":
			e.scopes = append(e.scopes, in)
		case "Cluster", "ClusterLoadAssignment", "RouteConfiguration", "TypedExtensionConfig":
			e.add(message, in)
		}
		return true
	})
	slices.Reverse(e.layers)
	e.judge(listeners)
	e.findServices()
	return e
}

// add puts a resource with its name, but for what a dump repeats: the static resources are in its bootstrap, too.
func (e *envoy) add(message string, v *value) {
	key := resource{message, cmp.Or(v.get("cluster_name").str(), v.get("name").str())}
	if len(e.resources[key]) == 0 || !isStatic(v) {
		e.resources[key] = append(e.resources[key], v)
	}
}

func isStatic(v *value) bool {
	return v.beneath("static_resources", "static_listeners", "static_clusters", "static_route_configs", "static_endpoint_configs")
}

// judge sorts the listeners, and finds their managers.
func (e *envoy) judge(listeners []*value) {
	static := map[string]bool{}
	for _, l := range listeners {
		name := l.get("name").str()
		if e.cfg.Listeners != nil {
			if !slices.Contains(e.cfg.Listeners, name) {
				continue
			}
			e.absent = slices.DeleteFunc(e.absent, func(absent string) bool { return absent == name })
		}
		if isStatic(l) && name != "" {
			if static[name] {
				continue
			}
			static[name] = true
		}
		if l.get("traffic_direction").isEnum("OUTBOUND", 2) {
			e.outbound = append(e.outbound, l)
			continue
		}
		e.listeners = append(e.listeners, l)
		for _, config := range l.find("HttpConnectionManager") {
			e.managers = append(e.managers, e.newManager(config))
		}
	}
}

func (e *envoy) newManager(config *value) *manager {
	m := &manager{envoy: e, config: config}
	m.filters = m.readFilters(config.get("http_filters"))
	m.all = slices.Clone(m.filters)
	for _, u := range config.get("upgrade_configs").items() {
		m.all = append(m.all, m.readFilters(u.get("filters"))...)
	}
	if inline := config.get("route_config"); inline != nil {
		m.routeConfigs = append(m.routeConfigs, inline)
	}
	m.addRouteConfig(config.get("rds", "route_config_name"))
	scopes := config.get("scoped_routes", "scoped_route_configurations_list", "scoped_route_configurations").items()
	if rds := config.get("scoped_routes", "scoped_rds"); rds != nil {
		if len(e.scopes) == 0 {
			m.unseen = append(m.unseen, rds)
		}
		scopes = e.scopes // of any name: the dump's set has the name of the manager's, the scopes their own
	}
	for _, scope := range scopes {
		m.addRouteConfig(scope.get("route_configuration_name"))
		if inline := scope.get("route_configuration"); inline != nil {
			m.routeConfigs = append(m.routeConfigs, inline)
		}
	}
	slices.SortFunc(m.routeConfigs, func(a, b *value) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	m.routeConfigs = slices.Compact(m.routeConfigs)
	for _, rc := range m.routeConfigs {
		if vhds := rc.get("vhds"); vhds != nil {
			m.unseen = append(m.unseen, vhds)
		}
		m.readRoutes(rc)
	}
	return m
}

// addRouteConfig adds the route configurations of a name.
func (m *manager) addRouteConfig(name *value) {
	if name == nil {
		return
	}
	found := slices.DeleteFunc(slices.Clone(m.envoy.resources[resource{"RouteConfiguration", name.str()}]), func(rc *value) bool {
		return rc.beneath("static_route_configs") // a manager's own
	})
	if len(found) == 0 {
		m.unseen = append(m.unseen, name)
	}
	m.routeConfigs = append(m.routeConfigs, found...)
}

func (m *manager) readRoutes(rc *value) {
	for _, host := range rc.get("virtual_hosts").items() {
		routes := slices.Clone(host.get("routes").items())
		routes = append(routes, host.get("matcher").find("Route")...)
		for _, list := range host.get("matcher").find("RouteList") {
			routes = append(routes, list.get("routes").items()...)
		}
		for _, r := range routes {
			levels := []*value{rc, host, r}
			weighted := r.get("route", "weighted_clusters", "clusters").items()
			for _, cluster := range weighted {
				m.routes = append(m.routes, route{r, m, append(slices.Clone(levels), cluster)})
			}
			if weighted == nil {
				m.routes = append(m.routes, route{r, m, levels})
			}
		}
	}
	rc.walk(func(v *value) bool {
		if v.parent != nil && snake(v.parent.key) == "typed_per_filter_config" {
			if _, entry := unwrapOverride(v); entry != nil {
				m.overrides = append(m.overrides, override{v.key, entry})
			}
		}
		return true
	})
}

// httpFilter is how the types of HTTP filters are named.
var httpFilter = regexp.MustCompile(`filters?\.http\.(\w+)\.`)

func (m *manager) readFilters(entries *value) []*filter {
	var filters []*filter
	for _, entry := range entries.items() {
		f := &filter{manager: m, entry: entry, name: entry.get("name").str(), off: !entry.get("disabled").isFalse()}
		config := entry.get("typed_config")
		var url string
		if discovery := entry.get("config_discovery"); discovery != nil {
			config = discovery.get("default_config")
			if found := m.envoy.resources[resource{"TypedExtensionConfig", f.name}]; found != nil {
				config = found[len(found)-1].get("typed_config") // what a dump has last is the newest
			}
			url = strings.Join(discovery.get("type_urls").texts(), " ")
		}
		if config != nil {
			url, f.config = config.typeURL()
		}
		f.kind = kindOf(url, f.name)
		filters = append(filters, f)
	}
	return filters
}

// kindOf is the extension that a filter is, by its type, or else by its name.
func kindOf(url, name string) string {
	if found := httpFilter.FindStringSubmatch(url); found != nil {
		return found[1]
	}
	if url == "" {
		return strings.TrimPrefix(name, "envoy.filters.http.")
	}
	return url[strings.LastIndexAny(url, "./")+1:]
}

// findServices finds the services, and the clusters of them.
func (e *envoy) findServices() {
	for _, m := range e.managers {
		for _, f := range m.all {
			if s := f.config.get("grpc_service"); f.isExtAuthz() && s != nil {
				e.services = append(e.services, s)
			}
		}
		for _, o := range m.overrides {
			if s := o.entry.get("check_settings", "grpc_service"); s != nil {
				e.services = append(e.services, s)
			}
		}
	}
	for _, s := range e.services {
		for _, c := range e.resources[resource{"Cluster", clusterName(s).str()}] {
			if !slices.Contains(e.sidecars, c) {
				e.sidecars = append(e.sidecars, c)
			}
		}
	}
}

// clusterName is that of the cluster which a GrpcService is.
func clusterName(service *value) *value { return service.get("envoy_grpc", "cluster_name") }

// isExtAuthz says whether the filter asks a gRPC service, as the sidecar is.
func (f *filter) isExtAuthz() bool {
	return f.kind == "ext_authz" && f.config.get("http_service") == nil
}

// isConditional says whether the filter is another, and has such a one in it.
func (f *filter) isConditional() bool {
	return f.kind != "ext_authz" && slices.ContainsFunc(f.config.find("ExtAuthz"), func(config *value) bool {
		return config.get("http_service") == nil
	})
}

// extAuthz are the ext_authz filters of usual requests, whether their settings are in the file or not.
func (m *manager) extAuthz() []*filter {
	return slices.DeleteFunc(slices.Clone(m.filters), func(f *filter) bool { return !f.isExtAuthz() })
}

// goesUpstream says whether the manager may send any request to an upstream.
func (m *manager) goesUpstream() bool {
	return len(m.unseen) > 0 || slices.ContainsFunc(m.routes, route.goesUpstream)
}

// goesUpstream says whether Envoy does not answer by itself.
func (r route) goesUpstream() bool {
	return r.get("direct_response") == nil && r.get("redirect") == nil
}

// unwrapOverride reads an entry of a typed_per_filter_config: whether it turns its filter off, and the ExtAuthzPerRoute in it.
func unwrapOverride(v *value) (off bool, entry *value) {
	message, in := v.message()
	if message == "FilterConfig" {
		if !in.get("disabled").isFalse() {
			return true, nil
		}
		message, in = in.get("config").message()
	}
	if message != "ExtAuthzPerRoute" {
		return false, nil
	}
	return !in.get("disabled").isFalse(), in
}

// turnsOff says whether the filter is not asked about this route's requests. What is most specific decides.
func (r route) turnsOff(f *filter) bool {
	for _, level := range slices.Backward(r.levels) {
		if v := mapEntry(level.get("typed_per_filter_config"), f.name); v != nil {
			off, entry := unwrapOverride(v)
			return off || entry.get("check_settings", "http_service") != nil
		}
	}
	return f.off
}

// off are the names of the ext_authz filters that are not asked, in any chain. Which one is the sidecar's the file does not say,
// so that a route is checked where all of them are on.
func (r route) off() []string {
	var names []string
	for _, f := range r.manager.all {
		if name := showName(f.name); f.isExtAuthz() && r.turnsOff(f) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// mapEntry is the entry of a map, whose keys are no field names.
func mapEntry(v *value, key string) *value {
	for _, child := range v.fields() {
		if child.key == key {
			return child
		}
	}
	return nil
}

// runtime is what the bootstrap's static layers say of a key; the last one counts.
func (e *envoy) runtime(key string) *value {
	if key == "" || strings.Count(key, ".") > 16 { // each dot doubles the ways to look
		return nil
	}
	for _, layer := range e.layers {
		if v := deepEntry(layer.get("static_layer"), key); v != nil {
			return v
		}
	}
	return nil
}

// deepEntry finds a.b.c, be it one field or three within one another.
func deepEntry(v *value, key string) *value {
	if found := mapEntry(v, key); found != nil {
		return found
	}
	for i, r := range key {
		if r == '.' {
			if found := deepEntry(mapEntry(v, key[:i]), key[i+1:]); found != nil {
				return found
			}
		}
	}
	return nil
}
