package envoylint

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

func failureModeAllow(f *filter, r report) {
	if !f.config.get("failure_mode_allow").isFalse() {
		r(at(f.config, "failure_mode_allow"),
			"whenever the sidecar gives no verdict (it is down, slow or restarting) every request passes, with whatever identity "+
				"headers it has",
			"write failure_mode_allow: false")
	}
}

func shadowMode(f *filter, r report) {
	if !f.config.get("shadow_mode").isFalse() {
		r(at(f.config, "shadow_mode"),
			"the sidecar's denials are recorded and every request passes, with the identity headers that the client sent",
			"delete it: the sidecar's own shadow: true passes what it would deny without identity headers")
	}
}

// percent is what a RuntimeFractionalPercent comes to, by the file's runtime.
func (e *envoy) percent(v *value) float64 {
	read := func(v *value) float64 {
		numerator, ok := v.get("numerator").number()
		if !ok {
			return 0
		}
		switch d := v.get("denominator"); {
		case d.isEnum("HUNDRED", 0):
			return numerator
		case d.isEnum("TEN_THOUSAND", 1):
			return numerator / 100
		}
		return numerator / 10_000
	}
	if override := e.runtime(v.get("runtime_key").str()); override != nil {
		if n, ok := override.number(); ok {
			return n
		}
		return read(override)
	}
	return read(v.get("default_value"))
}

// deniesAtDisable says whether requests that the filter leaves out are denied.
func (f *filter) deniesAtDisable() bool {
	deny := f.config.get("deny_at_disable")
	if override := f.manager.envoy.runtime(deny.get("runtime_key").str()); override != nil {
		return override.isTrue()
	}
	return deny.get("default_value").isTrue()
}

func filterEnabled(f *filter, r report) {
	const remedy = "delete it, or write deny_at_disable: { default_value: true, runtime_key: authz_sidecar.deny_at_disable }"
	if f.deniesAtDisable() {
		return
	}
	if enabled := f.config.get("filter_enabled"); enabled != nil && f.manager.envoy.percent(enabled) < 100 {
		r(at(enabled), "the requests that the percentage leaves out pass unasked, with the identity headers that the client sent",
			remedy)
	}
	if metadata := f.config.get("filter_enabled_metadata"); metadata != nil {
		r(at(metadata), "the requests whose metadata does not match pass unasked, with the identity headers that the client sent",
			remedy)
	}
}

func denyAtDisable(f *filter, r report) {
	enabled := f.config.get("filter_enabled")
	if enabled.get("runtime_key") != nil && f.manager.envoy.percent(enabled) >= 100 && !f.deniesAtDisable() {
		r(at(f.config, "deny_at_disable"), "whoever sets the runtime key of filter_enabled lets everyone pass",
			"write deny_at_disable: { default_value: true, runtime_key: authz_sidecar.deny_at_disable }, or delete "+
				"filter_enabled.runtime_key")
	}
}

func clearRouteCache(f *filter, r report) {
	if !f.config.get("clear_route_cache").isFalse() {
		r(at(f.config, "clear_route_cache"),
			"headers of an answer may lead the request to another route, whose rule and settings nobody has asked about",
			"write clear_route_cache: false")
	}
}

func hiddenHeaders(f *filter, r report) {
	allowed, disallowed := f.config.get("allowed_headers"), f.config.get("disallowed_headers")
	cfg := f.manager.envoy.cfg
	// Method, path and host have fields of their own in a CheckRequest, which no list hides.
	var names []string
	for _, name := range cfg.HeadersRead {
		if allowed != nil && !matches(allowed, name, false) || matches(disallowed, name, true) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		r(at(cmp.Or(allowed, disallowed)),
			strings.Join(names, ", ")+" hidden from the policy: rules that look there do not match, and credentials are not seen",
			"delete the list, or let these headers through")
	}
	if cfg.ReadsAny && allowed != nil {
		r(at(allowed, "patterns"), "an expression of the policy may read any header, and sees those of the list alone",
			"delete the list")
	}
}

// maxPattern is how long a regular expression may be that is tried; RE2 and this one's memory grow with it.
const maxPattern = 1 << 10

// matches says whether a ListStringMatcher matches a name; doubt is what is said of a pattern that cannot be tried.
func matches(matcher *value, name string, doubt bool) bool {
	return slices.ContainsFunc(matcher.get("patterns").items(), func(p *value) bool { return matchesPattern(p, name, doubt) })
}

func matchesPattern(p *value, name string, doubt bool) bool {
	for _, f := range p.fields() {
		text := f.text
		if p.get("ignore_case").isTrue() {
			text = strings.ToLower(text) // as names are, here and in Envoy
		}
		switch snake(f.key) {
		case "exact":
			return name == text
		case "prefix":
			return strings.HasPrefix(name, text)
		case "suffix":
			return strings.HasSuffix(name, text)
		case "contains":
			return strings.Contains(name, text)
		case "safe_regex":
			return matchesRegex(f, name, doubt)
		}
	}
	return doubt
}

// matchesRegex says whether a RegexMatcher matches a whole name.
func matchesRegex(matcher *value, name string, doubt bool) bool {
	pattern := matcher.get("regex").str()
	if len(pattern) > maxPattern {
		return doubt
	}
	if re, err := regexp.Compile(`^(?:` + pattern + `)$`); err == nil {
		return re.MatchString(name)
	}
	return doubt
}

func identityMutation(f *filter, r report) {
	m := f.config.get("decoder_header_mutation_rules")
	if all := m.get("disallow_all"); all != nil && !all.isFalse() {
		r(at(all), "the sidecar's identity headers are dropped, and the client's own stay", "write disallow_all: false")
	}
	disallowed := m.get("disallow_expression")
	if disallowed == nil {
		return
	}
	names := slices.Clone(f.manager.envoy.cfg.IdentityHeaders)
	names = append(names, "authorization", "cookie") // for a refreshed JWT
	names = slices.DeleteFunc(names, func(name string) bool { return !matchesRegex(disallowed, name, true) })
	if len(names) > 0 {
		r(at(disallowed), "what the sidecar sets or removes of "+strings.Join(names, ", ")+" is dropped, and the client's own stay",
			"leave them out of the expression")
	}
}

func routingMutation(f *filter, r report) {
	if routing := f.config.get("decoder_header_mutation_rules", "allow_all_routing"); routing != nil && !routing.isFalse() {
		r(at(routing), "an answer may change method, host and path after they were judged; the sidecar never does",
			"write allow_all_routing: false")
	}
}

func mutationRules(f *filter, r report) {
	if f.config.get("decoder_header_mutation_rules") == nil {
		r(at(f.config, "decoder_header_mutation_rules"),
			"an answer may change any header, those that route the request among them; the sidecar changes identity headers and "+
				"credentials alone",
			"write decoder_header_mutation_rules: { allow_all_routing: false, allow_envoy: false, disallow_system: true, "+
				"disallow_is_error: true }")
	}
}

func validateMutations(f *filter, r report) {
	if !f.config.get("validate_mutations").isTrue() {
		r(at(f.config, "validate_mutations"), "an answer with a broken header reaches the app as it is, not as an error",
			"write validate_mutations: true")
	}
}

func statusOnError(f *filter, r report) {
	if code := f.config.get("status_on_error", "code"); !code.isEnum("ServiceUnavailable", 503) {
		r(at(f.config, "status_on_error", "code"),
			"when the sidecar gives no verdict clients are told that they may not, where 503 has them try again",
			"write status_on_error: { code: ServiceUnavailable }")
	}
}

func requestBody(f *filter, r report) {
	bodies := []place{at(f.config, "with_request_body")}
	for _, o := range f.manager.overrides {
		if o.filter == f.name {
			bodies = append(bodies, at(o.entry, "check_settings", "with_request_body"))
		}
	}
	for _, p := range bodies {
		if p.missing == nil {
			r(p,
				"bodies are held back, up to max_request_bytes, and copied to the sidecar, which reads none; a Check beyond 16 MiB "+
					"gets no verdict",
				"delete with_request_body")
		}
	}
}

// answerMargin is what the sidecar keeps back of the filter's time-out to answer in.
const answerMargin = 100 * time.Millisecond

func checkTimeout(e *envoy, r report) {
	enough := e.cfg.SessionAPITimeout + answerMargin
	short := fmt.Sprintf("a call of the session API may take %v, and the answer to Envoy %v more: who needs a slow one is told 503",
		e.cfg.SessionAPITimeout, answerMargin)
	remedy := fmt.Sprintf("write timeout: %gs, or more, in grpc_service", (e.cfg.SessionAPITimeout + 500*time.Millisecond).Seconds())
	for _, s := range e.services {
		timeout := s.get("timeout")
		d, ok := timeout.duration()
		switch {
		case timeout == nil:
			r(at(s, "timeout"), "it is 200 ms where none is given; "+short, remedy)
		case !ok || d > 0 && d < enough:
			r(at(timeout), short, remedy)
		case d == 0:
			r(at(timeout), "0 is none at all: while the sidecar hangs, so does every request", remedy)
		}
	}
}

func routeService(m *manager, r report) {
	asked := func(service *value) string {
		return cmp.Or(clusterName(service), service.get("google_grpc", "target_uri")).str()
	}
	for _, o := range m.overrides {
		s := o.entry.get("check_settings", "grpc_service")
		if s != nil && slices.ContainsFunc(m.all, func(f *filter) bool {
			return f.name == o.filter && asked(f.config.get("grpc_service")) != asked(s)
		}) {
			r(at(s), "whoever answers here must remove the identity headers that a client sends, as the sidecar does",
				"delete it, unless that is another sidecar")
		}
	}
}

func unknownRule(m *manager, r report) {
	for _, o := range m.overrides {
		rule, names := o.rule(), m.envoy.cfg.Rules
		if names != nil && rule != nil && rule.text != redacted && !slices.Contains(names, rule.text) {
			r(at(rule), "the policy has no rule "+showName(rule.text)+", so that every request here is told 503",
				"name one of its rules, or add this one with match: { by_name: true }")
		}
	}
}

// redacted is what a dump has in place of the context extensions, among others.
const redacted = "[redacted]"

// unusedOverride looks at all managers together, since they may share routes.
func unusedOverride(e *envoy, r report) {
	names := map[string]bool{}
	for _, m := range e.managers {
		for _, f := range m.all {
			names[f.name] = true
		}
	}
	for _, m := range e.managers {
		for _, o := range m.overrides {
			if !names[o.filter] {
				r(at(o.entry), "no filter is called so, so that a rule that is named here does not decide",
					"write the name that the ext_authz filter has in http_filters")
			}
		}
	}
}
